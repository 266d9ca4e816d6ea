"""What travels between the stages of a study: one frozen record per arrow of the data flow.

Standard library only: every layer, with or without torch or Ray, can speak these words.

A *step* is an optimizer step. A *timestep* is diffusion time t, 0 to num_train_timesteps - 1.
Timesteps are grouped into bins of equal count; bin 0 holds the least noisy ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

ParamValue = float | int | str | bool | None
"""One sampled value. ``None`` is a value too: ``max_grad_norm: null`` means no clipping."""

Params = dict[str, ParamValue]
"""The sampled values of one setting, keyed by the trainer's (dotted) field name."""


class Severity(IntEnum):
    """What a verdict asks for. Ordered: a worse severity compares greater."""

    NONE = 0
    STEER = 1
    """Nothing is wrong: it says in which direction a better setting lies."""
    WARN = 2
    PENALISE = 3
    """Let the trial finish, but do not call its setting stable."""
    PRUNE = 4
    """Stop the trial now."""


class Symptom(StrEnum):
    """What went wrong, in one word. Stored in Parquet under this spelling."""

    NON_FINITE = "non_finite"
    LOST_PROGRESS = "lost_progress"
    WORSE_THAN_TRIVIAL = "worse_than_trivial"
    CATASTROPHIC_EXCURSION = "catastrophic_excursion"
    NOT_LEARNING = "not_learning"
    """Never moved: the setting is too timid or broken. It says nothing about the edge."""
    LOSS_STUCK = "loss_stuck"
    """Falls too slowly to reach a trivial denoiser within the budget."""
    LEARNING_RATE_LOW = "learning_rate_low"
    LEARNING_RATE_HIGH = "learning_rate_high"
    CLEAN_TIMESTEPS_HIGH = "clean_timesteps_high"
    """Worse than a trivial denoiser at the least noisy timesteps."""
    NOISY_TIMESTEPS_HIGH = "noisy_timesteps_high"
    """Worse than a trivial denoiser at the noisiest timesteps."""
    NOISY_TIMESTEPS_AMPLIFIED = "noisy_timesteps_amplified"
    """A small epsilon error at the noisiest timesteps is a large one of the image."""
    TIME_BLIND = "time_blind"
    EARLY_TIMESTEP_DOMINATION = "early_timestep_domination"
    LATE_TIMESTEP_DOMINATION = "late_timestep_domination"
    TIMESTEP_DOMINATION = "timestep_domination"
    DEAD_TIMESTEPS = "dead_timesteps"
    GRADIENT_OUTLIERS = "gradient_outliers"
    EMA_TOO_LONG = "ema_too_long"
    SAMPLER_MISMATCH = "sampler_mismatch"
    UNDERTRAINED = "undertrained"
    MEMORISING = "memorising"
    TERMINAL_SIGNAL = "terminal_signal"
    """The noisiest x_t still holds some of the image; sampling begins from pure noise."""
    IMPRECISE_SCHEDULE = "imprecise_schedule"
    FROZEN_PARAMETERS = "frozen_parameters"

    @property
    def is_divergence(self) -> bool:
        """Whether the symptom places the setting beyond the stability edge."""
        return self in DIVERGENCES


DIVERGENCES = frozenset(
    {
        Symptom.NON_FINITE,
        Symptom.LOST_PROGRESS,
        Symptom.WORSE_THAN_TRIVIAL,
        Symptom.CATASTROPHIC_EXCURSION,
    }
)
"""The other symptoms say that a setting is poor, or that something is broken; not that it is
unstable."""


class Outcome(StrEnum):
    """How a trial ended. DIVERGED is a finding; FAILED is the code's or the machine's fault."""

    RUNNING = "running"
    COMPLETED = "completed"
    """Trained its whole budget."""
    DIVERGED = "diverged"
    """Stopped by the gate for a symptom that is a divergence."""
    STOPPED = "stopped"
    """Stopped early without having diverged: see ``stopped_by``."""
    FAILED = "failed"


class StoppedBy(StrEnum):
    """Who ended a trial before its budget did."""

    NOBODY = ""
    GATE = "gate"
    """The stability gate, on a verdict of severity PRUNE."""
    RANK = "rank"
    """The inner scheduler, because other trials were ahead."""
    GAUGE = "gauge"
    """The scheduler: the learning-rate gauge said that its rate is far from the best."""
    PROBE = "probe"
    """The strategy that proposed it: a short trial that has answered its question."""


class Purpose(StrEnum):
    """Why a trial was started."""

    SEARCH = "search"
    """To find out how good and how stable its setting is, over the whole budget."""
    PROBE = "probe"
    """To find out, in the first part of the budget, on which side of the edge its setting lies
    and how far from the best learning rate."""
    CONFIRM = "confirm"
    """To see whether the recommended setting holds under another seed."""
    STRESS = "stress"
    """To see whether the recommended setting holds at a higher learning rate."""

    @property
    def is_search(self) -> bool:
        """Whether the search proposed it; the others confirm its answer."""
        return self in (Purpose.SEARCH, Purpose.PROBE)


class Ending(StrEnum):
    """What became of a trial, or would have, in one word."""

    STABLE = "stable"
    UNSTABLE = "unstable"
    """Trained as long as it was to, beyond the edge."""
    POOR = "poor"
    """Trained as long as it was to, and is not called stable for another symptom."""
    PRUNED = "pruned"
    """Stopped by the gate."""
    BEHIND = "behind"
    """Stopped because other trials were ahead."""
    FAR = "far"
    """Stopped because the gauge reads its learning rate as far from the best."""
    WITHIN = "within"
    """A short trial that was within the edge for as long as it was to train."""
    FAILED = "failed"
    RUNNING = "running"
    GOES_ON = "goes_on"
    """Was pruned, and would have gone on; what then is not known."""

    @property
    def is_sound(self) -> bool:
        """Within the edge for as long as the trial was to train, and nothing else was said."""
        return self in (Ending.STABLE, Ending.WITHIN)


class Action(StrEnum):
    CONTINUE = "continue"
    STOP = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceLoss:
    """Loss of three known denoisers per timestep bin; depends only on data and noise schedule.

    Same units as the unweighted training loss: mean squared error per dimension in the space of
    the prediction type, averaged over the timesteps of the bin.
    """

    bin_constant: tuple[float, ...]
    """C0: the best constant prediction."""
    bin_zero: tuple[float, ...]
    """A model that outputs 0, as a network does before it has learned anything. C0 for epsilon;
    above it where the target has a mean, as ``sample`` of data that is not centred."""
    bin_isotropic: tuple[float, ...]
    """L_iso: the best scalar-gain denoiser."""
    bin_linear: tuple[float, ...]
    """L_lin: the best linear denoiser (LMMSE)."""
    bin_posterior: tuple[float, ...] | None
    """L_post: the best denoiser of the training examples themselves, which has memorised them; a
    lower bound of the training loss. None where it was not computed."""
    constant_score: float
    """The score (see Evaluation) of the best constant prediction: what a dead network gets."""

    @property
    def constant(self) -> float:
        """C0 averaged over timesteps."""
        return sum(self.bin_constant) / len(self.bin_constant)

    @property
    def isotropic(self) -> float:
        """L_iso averaged over timesteps."""
        return sum(self.bin_isotropic) / len(self.bin_isotropic)

    @property
    def linear(self) -> float:
        """L_lin averaged over timesteps."""
        return sum(self.bin_linear) / len(self.bin_linear)

    @property
    def unit(self) -> float:
        """u = L_iso - L_lin, the natural unit of loss differences."""
        return self.isotropic - self.linear


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerCheck:
    """How a sampler did on the analytic denoiser of Gaussian data (rule R11)."""

    name: str
    mean_z2: float
    """Squared z score of the samples' mean, averaged over principal components. 1 is expected."""
    log_variance: float
    """Mean log of sample variance / data variance over the eight largest components."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialFacts:
    """What the analyzer must know of a trial before its first report."""

    max_train_steps: int
    lr_warmup_steps: int
    report_every: int
    clipping: str
    """The strategy, ``none`` included."""
    max_grad_norm: float | None
    """Total 2-norm above which gradients are scaled; None where that is not the threshold."""
    batch_numbers: int
    """Numbers that a batch loss is the mean of: batch size x numbers per example."""
    skips_nonfinite: bool
    """Whether a step with a non-finite gradient is passed over, or ends the trial."""
    bin_edges: tuple[int, ...]
    """First timestep of every bin, then ``num_train_timesteps``; length bins + 1."""
    bin_share: tuple[float, ...]
    """What part of the training is about every bin: share of the samples that are expected there
    at the start, times their weight in the loss."""
    reference: ReferenceLoss
    learning_rate: float
    """The peak, after warm-up."""
    lr_schedule: str
    optimizer: str
    prediction_type: str
    ema_schedule: str | None
    """None without EMA."""
    ema_decay: float | None
    """Largest decay of the ``ramped`` and decay of the ``fixed`` schedule; None without EMA."""
    ema_sigma_rel: float | None
    """Width of the ``power`` schedule's average; None without EMA."""
    eval_rows: int
    """Rows of the evaluation grid in every timestep bin."""
    terminal_kl: float
    """KL(q(x_T) || N(0, I)) per dimension, in nats: what the noisiest x_t still holds of x0."""
    schedule_error: float
    """Largest relative error of the noise level that training used, against float64."""
    reached: tuple[tuple[int, float], ...] = ()
    """(step, loss): the lowest training loss that an earlier trial of the same model had by that
    step. What the data allows may be out of this model's reach; this is not."""
    sampler_check: SamplerCheck | None = None
    """None where the study names no sampler."""
    remarks: tuple[str, ...] = ()
    """Sentences about how the trial was measured that its reader should know."""

    def timestep_range(self, timestep_bin: int) -> tuple[int, int]:
        """First and last timestep (both inclusive) of a bin."""
        return self.bin_edges[timestep_bin], self.bin_edges[timestep_bin + 1] - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Held-out loss on the study's fixed grid of (example, timestep, noise)."""

    bin_loss_raw: tuple[float, ...]
    """Mean squared error per timestep bin with the raw weights."""
    bin_loss_ema: tuple[float, ...]
    """The same with the EMA weights."""
    score_raw: float
    """Geometric mean over bins of loss / L_lin with the raw weights: 1 is the best linear
    denoiser, lower is better. May be non-finite."""
    score_ema: float
    """The same with the EMA weights."""
    bin_x0_error: tuple[float, ...]
    """Mean squared error of x0 as the prediction implies it, per dimension, over that of the
    best constant image; raw weights, per timestep bin."""
    shuffled_loss: float | None
    """``loss_raw`` when every row is given the timestep of another; None where not probed."""

    @property
    def loss_raw(self) -> float:
        return sum(self.bin_loss_raw) / len(self.bin_loss_raw)

    @property
    def loss_ema(self) -> float:
        return sum(self.bin_loss_ema) / len(self.bin_loss_ema)

    @property
    def kappa(self) -> float:
        """EMA loss over raw loss on the same grid: the trial-internal learning-rate gauge."""
        return self.loss_ema / self.loss_raw if self.loss_raw > 0 else float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a trial says every ``report_every`` steps. Means are over finite values only."""

    step: int
    """Optimizer steps taken so far; the window is the ``report_every`` steps that end here."""
    learning_rate: float
    """At the window's last step, warm-up included."""
    loss: float
    """Training loss, unweighted: mean of the means of the bins that drew a sample
    (post-stratified over timesteps)."""
    bin_loss: tuple[float, ...]
    """Mean training loss per timestep bin; NaN for a bin without a finite sample."""
    bin_count: tuple[int, ...]
    """Samples drawn per bin."""
    bin_nonfinite: tuple[int, ...]
    """Samples per bin whose loss was NaN or Inf."""
    max_batch_loss: float
    """Largest batch-mean loss of the window's finite steps."""
    grad_norm_median: float
    """Total 2-norm before clipping, over finite steps."""
    grad_norm_max: float
    clip_rate: float
    """Share of finite steps on which clipping changed the gradient."""
    clip_coef_mean: float
    """Mean over finite steps of what clipping left of the gradient, min(1, max_grad_norm /
    grad_norm) for ``global_norm``; 1 without clipping."""
    clip_coef_cv: float
    """Standard deviation over mean of the coefficient."""
    outlier_norm_rate: float
    """Share of finite steps whose norm was above 3 times the median of the norms before it."""
    clamped_fraction: float
    """Share of the loss's elements that were clamped, and so had no gradient; 0 unless the loss
    is ``clamped_mse``."""
    bin_grad_norm: tuple[float, ...]
    """Root mean square 2-norm of a single sample's gradient, of the loss that is optimised, per
    timestep bin; NaN for a bin without a measured sample."""
    bin_grad_count: tuple[int, ...]
    """Samples behind it."""
    bin_grad_cosine: tuple[tuple[float, ...], ...] | None
    """Cosine between the mean gradients of every two bins, where this report holds a probe."""
    nonfinite_steps: int
    """Steps whose loss or gradient norm was NaN or Inf. A gradient of that kind never reaches the
    weights."""
    scaler_skips: int
    """Steps that fp16 loss scaling skipped: the scaled gradient overflowed and the loss did not.
    They are part of its work, and not among ``nonfinite_steps``."""
    first_nonfinite_step: int | None
    first_nonfinite_bins: tuple[int, ...]
    """Bins that held a non-finite sample loss at that step; empty if only the gradient was."""
    train_seconds: float
    """Time spent in the training loop and evaluation since the trial began."""
    evaluation: Evaluation | None
    """Present on the reports that end on a multiple of ``eval_every``, and on the last."""
    batch_losses: tuple[float, ...]
    """Batch-mean loss of every step of the window; NaN or Inf as it was."""
    grad_norms: tuple[float, ...]
    """Total 2-norm before clipping of every step of the window; NaN or Inf as it was."""
    frozen_parameters: tuple[str, ...]
    """Names of the weight matrices that have not changed since training began, where checked."""
    lr_gauge_octaves: float | None = None
    """How many octaves the learning rate lies above (or, negative, below) the best one, by kappa
    (rule R3). Filled in by the analyzer; None where kappa says nothing."""

    @property
    def bin_grad_share(self) -> tuple[float, ...]:
        """Every bin's share of the squared per-sample gradient norm; NaN for an unseen bin."""
        squares = [norm * norm for norm in self.bin_grad_norm]
        total = sum(square for square in squares if not math.isnan(square))
        is_known = 0 < total < math.inf
        return tuple(square / total if is_known else math.nan for square in squares)

    @property
    def grad_effective_bins(self) -> float:
        """N_eff, the number of bins that the gradient effectively comes from: 1 / sum share^2."""
        seen = [share for share in self.bin_grad_share if not math.isnan(share)]
        return 1 / sum(share * share for share in seen) if seen else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One rule's finding about one report."""

    rule: str
    """Identifier of the rule, as in docs/rules.md: ``R1a``, ``R1b``, ..."""
    symptom: Symptom
    severity: Severity
    value: float
    """The number that was judged."""
    threshold: float
    """What it was judged against."""
    limit: str
    """Name of the threshold that decided, as in docs/rules.md: ``R1b.prune``."""
    step: int
    """The step at which the symptom showed."""
    timestep_bin: int | None
    """The bin where it shows most; None where the evidence is not tied to timesteps."""
    timestep_low: int | None
    timestep_high: int | None
    reason: str
    """One sentence with the numbers in it."""
    advice: str
    """What to try next."""


def deciding_verdict(verdicts: Iterable[Verdict]) -> Verdict | None:
    """The worst verdict; of equals a divergence first, then the earliest.

    None if nothing is wrong: a verdict that only steers decides nothing.
    """
    return min(
        (v for v in verdicts if v.severity >= Severity.WARN),
        key=lambda v: (-v.severity, not v.symptom.is_divergence, v.step, v.rule),
        default=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedReport:
    """A report and the verdicts that it added."""

    report: Report
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What becomes of a running trial, and why."""

    action: Action
    stopped_by: StoppedBy = StoppedBy.NOBODY
    reason: str = ""


_ENDINGS = {
    StoppedBy.GATE: Ending.PRUNED,
    StoppedBy.RANK: Ending.BEHIND,
    StoppedBy.GAUGE: Ending.FAR,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a trial had shown by the step at which a short trial would have ended."""

    step: int
    score: float | None
    """Last evaluated score by then, if finite."""
    lr_gauge_octaves: float | None
    """The last known one by then."""
    grad_norm_median: float | None
    grad_norm_late: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """One row of trials.parquet: a setting and a seed, and what became of it."""

    trial_id: str
    """``<setting>-<seed>``, e.g. ``0007-0``; sorts in the order of proposal."""
    setting: int
    """Number of the proposed setting, from 0; replicates share it."""
    seed: int
    params: Params
    outcome: Outcome
    stopped_by: StoppedBy
    severity: Severity
    """Worst severity of any verdict on the trial."""
    rule: str
    """Rule of the verdict that decided (the worst, the earliest of equals); empty if none."""
    symptom: str
    reason: str
    """Why the trial ended early or is not called stable, or what failed; empty otherwise."""
    advice: str
    verdict_step: int | None
    """Step at which the deciding symptom showed."""
    timestep_low: int | None
    timestep_high: int | None
    steps: int
    """Optimizer steps reported."""
    max_train_steps: int
    score: float | None
    """Last evaluated score if finite (EMA weights, or raw without EMA), else None."""
    score_raw: float | None
    eval_loss: float | None
    """Last evaluated held-out loss, same weights as ``score``."""
    kappa: float | None
    lr_gauge_octaves: float | None
    """The last known one: octaves that the learning rate lies above the best, by kappa."""
    constant_score: float | None
    """The score of the best constant prediction under the same data and schedule."""
    clip_rate: float | None
    """Share of clipped steps over the whole trial."""
    grad_norm_median: float | None
    """Median over reports of the window medians."""
    nonfinite_steps: int
    remarks: str
    """What a reader should know of how the trial was measured; empty if nothing."""
    attempts: int
    """Times the trial was started; more than 1 after a lost worker."""
    train_seconds: float
    started_at: float
    """Unix time, seconds."""
    ended_at: float | None
    purpose: Purpose = Purpose.SEARCH
    clip_coef_mean: float | None = None
    """What clipping left of the gradient, mean over the trial's steps; 1 where it never acted."""
    constant_loss: float | None = None
    """C0, the held-out loss of the best constant prediction, in the units of ``eval_loss``."""
    loss_unit: float | None = None
    """u = L_iso - L_lin, in the same units."""
    grad_norm_late: float | None = None
    """As ``grad_norm_median``, over the last quarter of the reports."""
    looks: tuple[Look, ...] = ()
    """At the steps where short trials end, as far as this one came: trials of different lengths
    compare there."""

    @property
    def has_result(self) -> bool:
        """Whether it ended for what it did: it does not run, and no machine failed it."""
        return self.outcome not in (Outcome.RUNNING, Outcome.FAILED)

    @property
    def is_stable(self) -> bool:
        """Trained its whole budget and nothing worse than a warning was said."""
        return self.outcome is Outcome.COMPLETED and self.severity < Severity.PENALISE

    @property
    def ending(self) -> Ending:
        """How it ended, by its row."""
        if self.outcome in (Outcome.FAILED, Outcome.RUNNING):
            return Ending(self.outcome.value)
        if self.outcome is Outcome.DIVERGED:
            return Ending.PRUNED
        if self.stopped_by in _ENDINGS:
            return _ENDINGS[self.stopped_by]
        if self.severity >= Severity.PENALISE:
            return Ending.UNSTABLE if self.is_unstable else Ending.POOR
        return Ending.STABLE if self.outcome is Outcome.COMPLETED else Ending.WITHIN

    @property
    def is_unstable(self) -> bool:
        """Evidence that the setting lies beyond the edge. A failed trial is none."""
        return self.outcome is Outcome.DIVERGED or (
            self.outcome is not Outcome.FAILED
            and self.severity >= Severity.PENALISE
            and self.symptom in DIVERGENCES
        )


class EdgeModel(StrEnum):
    """What was fitted to the trials to find the edge."""

    LOGISTIC = "logistic"
    GAUSSIAN_PROCESS = "gaussian_process"
    """Where failure does not grow with the learning rate: no slope, no extrapolation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """Where, along the learning rate at fixed other params, half of the runs fail."""

    learning_rate: float
    """lr50: posterior median of the learning rate at which P(unstable) = 0.5."""
    learning_rate_low: float
    """5% quantile of lr50."""
    learning_rate_high: float
    """95% quantile of lr50."""
    learning_rate_safe: float
    """lr05: the learning rate at which P(unstable), averaged over the posterior, is 0.05."""
    learning_rate_safe_low: float
    """5% quantile of the learning rate at which P(unstable) = 0.05."""
    learning_rate_safe_high: float
    """95% quantile of it."""
    slope: float | None
    """How fast the odds of failure grow: natural logarithm of their ratio per octave, posterior
    median. None where the edge is not logistic."""
    slope_low: float | None
    """5% quantile of the slope."""
    model: EdgeModel

    @property
    def half_width_octaves(self) -> float:
        """Half of the 90% interval of lr50."""
        return math.log2(self.learning_rate_high / self.learning_rate_low) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipEdge:
    """The edge at one value of max_grad_norm, other params as recommended."""

    max_grad_norm: float | None
    edge: Edge


@dataclass(frozen=True, slots=True, kw_only=True)
class Horizon:
    """What the trials say of a longer training of the recommended setting."""

    steps: int
    """The asked horizon."""
    clean_steps: int
    """Steps that trials of this setting, and of others between it and lr05, trained without a
    catastrophic event; of this setting alone where clipping does not guard it."""
    events: int
    """Catastrophic events in those trials, and in all at lower learning rates."""
    p_fail_bound: float
    """95% upper bound of P(fail by ``steps``) under a constant hazard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """The recommended setting on more seeds, and at a higher learning rate."""

    num_seeds: int
    """Seeds that trained the setting to the end, or became unstable in it."""
    num_stable: int
    stress_octaves: float
    stress_learning_rate: float
    num_stress_seeds: int
    num_stress_stable: int
    """Within the edge: neither unstable, nor did it never learn."""
    num_stress_poor: int
    """Those among them that are poor, as a trial above the best rate may be."""
    num_asked: int
    """Seeds that the study asks of each."""
    p_fail_bound: float | None
    """95% upper bound of P(unstable) of the setting, under monotonicity and the lower 5% quantile
    of the fitted slope; None if there is no such bound."""
    moved_from: tuple[int, ...]
    """Settings that were recommended before and did not hold, the first one first."""

    @property
    def is_complete(self) -> bool:
        return min(self.num_seeds, self.num_stress_seeds) >= self.num_asked

    @property
    def has_held(self) -> bool:
        """Everything that was asked for ended, and stable."""
        return (
            self.is_complete
            and self.num_stable == self.num_seeds
            and self.num_stress_stable == self.num_stress_seeds
        )

    def has_held_at(self, octaves: float) -> bool:
        """Whether it held, with a stress test so far above the learning rate, or farther."""
        return self.has_held and self.stress_octaves >= octaves


@dataclass(frozen=True, slots=True, kw_only=True)
class Stabiliser:
    """How far a searched parameter moves the edge, from the trials."""

    param: str
    value: ParamValue
    """The value that the edge is highest at."""
    against: ParamValue
    """The value that it is lowest at."""
    octaves: float
    """How far the edge is higher at ``value`` than at ``against``; with ``nothing_failed`` or
    ``nothing_stable`` at least so far."""
    octaves_low: float
    """5% quantile."""
    octaves_high: float
    """95% quantile."""
    num_trials: int
    nothing_failed: bool = False
    """No trial failed at ``value``: its highest stable rate stands for the edge."""
    nothing_stable: bool = False
    """No trial was stable at ``against``: its lowest failure stands for the edge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """The answer of a study. ``params`` is None when no setting was stable.

    Probabilities and intervals are predictions of the models that were fitted to the trials;
    scores are measured unless they are called predicted.
    """

    params: Params | None
    trial_id: str | None
    """The trial that the recommended params come from."""
    num_stable_seeds: int = 0
    num_failed_seeds: int = 0
    """Replicates that the machine or the code made fail."""
    num_seeds: int = 0
    """Replicates that the study asks of every setting; some may not have finished."""
    score: float | None = None
    """Score of the recommended setting (worst over seeds)."""
    trial_score: float | None = None
    """Score of ``trial_id`` alone."""
    worst_score: float | None = None
    """Highest predicted score within the study's margin in every searched scale parameter."""
    best_trial_id: str | None = None
    """The completed trial with the lowest score, stable or not: what a tuner returns."""
    best_params: Params | None = None
    best_score: float | None = None
    best_is_stable: bool | None = None
    """Whether that trial was stable; its setting may have failed under another seed."""
    best_judgement: str = ""
    """What is known of the stability of its setting, in words: ``stable``, or why it is not."""
    best_margin_octaves: float | None = None
    """As ``margin_octaves``, of that trial."""
    best_worst_score: float | None = None
    """Highest predicted score within the study's margin of that trial."""
    price_of_safety: float | None = None
    """(``trial_score`` - ``best_score``) / ``best_score``; None where that trial was passed over
    for another reason than that it is less safe."""
    region_low: float | None = None
    """The stable region: learning rates around the recommended one, its other params kept, at
    which at most 10% of runs fail. Not below the lowest rate of a stable trial; not above the
    highest one if no trial was unstable."""
    region_high: float | None = None
    plateau_low: float | None = None
    """The part of it in which the predicted score is within 10% of the recommended setting's."""
    plateau_high: float | None = None
    edge: Edge | None = None
    """None when no trial was unstable, or the learning rate was not searched."""
    margin_octaves: float | None = None
    """log2(lr05 / recommended learning rate): octaves below where 5% of runs fail. Negative: the
    recommended setting lies above that point."""
    p_unstable: float | None = None
    """Probability that a run of the recommended setting fails."""
    p_unstable_doubled: float | None = None
    """The same at the study's margin above its learning rate: at twice it for one octave."""
    is_safe: bool | None = None
    """Whether at most 10% of runs fail up to the study's margin above it, by the model; up to its
    stress test, where that goes further."""
    margin_asked: float = 1.0
    """The study's margin in octaves: how far around it a setting's worst score counts, and how
    far above it few runs may fail."""
    edge_trial_ids: tuple[str, ...] = ()
    """The unstable trials nearest to the recommendation: they mark the edge."""
    unstable_trial_ids: tuple[str, ...] = ()
    """All trials that count as beyond the edge: those with ``is_unstable``, and those that never
    learned at a learning rate above that of a stable trial."""
    edges: tuple[ClipEdge, ...] = ()
    """The edge at several clips, where clipping was searched."""
    lr_sensitivity: float | None = None
    """Wortsman et al. 2023, eq. of section 2, over the searched range: mean over log learning rate
    of min(loss, C0) - best loss, divided by u = L_iso - L_lin; predicted from the trials."""
    clip_meaning: str = ""
    """What clipping does at the recommended setting, in a sentence."""
    horizon: Horizon | None = None
    """Where the study names a horizon."""
    confirmation: Confirmation | None = None
    """Where the study asks for a confirmation and there is a setting to confirm."""
    stabilisers: tuple[Stabiliser, ...] = ()
    """Searched parameters by how far they move the edge, the farthest first."""
    is_precise: bool | None = None
    """Whether the edge is known as precisely as the study asks; None if it does not ask."""
    num_trials: int = 0
    num_unstable: int = 0
    num_unjudged: int = 0
    """Combinations of words to choose from that were not compared: of which nothing was tried, or
    nothing trained to its end."""
    steps_spent: int = 0
    steps_budgeted: int = 0
    """Steps that the same trials would have taken without pruning."""
    notes: tuple[str, ...] = field(default=())
    """Plain sentences: what the answer rests on, and what it does not cover."""
