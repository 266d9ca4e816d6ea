"""What the rules may know of a trial so far: running extremes, trends and the last windows.

Rules compare windows. A window is one report, or as many as it takes to hold enough samples: a
mean over fewer is noise, and its rises and falls mean nothing. A NaN never enters: non-finite
samples are counted apart by the report.

Plain Python, because ten numbers are too few for numpy to be faster. A report costs the same
however many came before.
"""

# K = timestep bins

from __future__ import annotations

import copy
import itertools
import math
import statistics
from collections.abc import Sequence
from enum import Flag, auto
from typing import Any

from stabsearch.records import Evaluation, Report, TrialFacts
from stabsearch.stability.lr_gauge import lr_gauge_octaves
from stabsearch.stability.trend import Line, Trend
from stabsearch.thresholds import SAMPLES_PER_BIN

CURRENT_WINDOWS = 2
"""A trial's current loss is the mean of its last two windows."""
LONG_WINDOWS = 10
"""Windows behind ``long_bin_loss``."""

SPIKE = 3.0
"""A batch loss this many times that of the output 0 is a spike."""
BATCH_SIGMAS = 3.0
"""Standard deviations of a mean of squared normal numbers."""
STRETCH_STEPS = 10
"""Skipped steps are judged over at least this many."""
MIN_PROGRESS = 0.15
"""Smallest share of C0 at which a share of so much progress is more than a window's noise."""
JUDGED_SHARE = 0.2
"""A bin is judged if at least this part of an equal share of the training is about it: its loss
would otherwise only show what was never asked of the model."""
GRADIENT_SAMPLES = 512
"""Per-sample gradients behind ``grad_share``."""
OUTLIER_STEPS = 200
"""Steps behind ``outlier_rate``."""
REMEMBERED_NORMS = 200
"""Reports behind ``typical_grad_norm``."""
PEER_SLACK = 1.25
"""A trial is as good as another if its loss is at most this many times that one's."""
SETTLED = 0.25
"""Share of the budget after which a bin, a norm, or the use of the timestep can be judged."""
LATEST_START = 0.5
"""Every rule judges from this share of the budget on, however long warm-up is."""
ALIVE_SHARE = 0.25
"""A trial that came down by this share of the way from C0 to the trivial loss is learning, ..."""
LOST_SHARE = 0.2
"""... unless it has lost more than this share of its progress again."""
FAR_ABOVE = 1.5
"""Times the loss of the output 0: no first batch of a model that outputs next to nothing."""
MIN_WAY = 1e-12
"""Floor of what progress is measured by, in units of the loss."""


def judged_bins(facts: TrialFacts) -> list[int]:
    """The bins that the training is really about."""
    bar = JUDGED_SHARE / len(facts.bin_share)
    return [i for i, share in enumerate(facts.bin_share) if share >= bar]


class News(Flag):
    """What a report brought."""

    REPORT = auto()
    START = auto()
    """The trial's first report."""
    WINDOW = auto()
    """It completed a window."""
    EVALUATION = auto()
    PROBE = auto()
    """An evaluation that also asked with wrong timesteps."""
    NORMS = auto()
    """A stretch of 200 steps in the settled part of training is complete."""
    GRADIENTS = auto()
    """Enough per-sample gradients have come together since the last time."""
    END = auto()
    """The budget is used up."""


class TrialWindow:
    """The state of one trial's judgement.

    What ``_know`` sets follows from the facts; what ``_begin`` sets changes with every report, and
    is all that a checkpoint holds.
    """

    def __init__(self, facts: TrialFacts) -> None:
        self._know(facts)
        known = set(vars(self))
        self._begin()
        self._state = [name for name in vars(self) if name not in known]
        """Names of what changes."""

    def _know(self, facts: TrialFacts) -> None:
        self.facts = facts
        reference = facts.reference
        self.num_bins = len(facts.bin_edges) - 1
        self.judged_bins = judged_bins(facts)
        """The bins that the training is really about."""
        self.constant = self._judged_mean(reference.bin_constant)
        """C0, the loss of the best constant prediction, over the judged bins."""
        self.zero = self._judged_mean(reference.bin_zero)
        """The loss of a model that outputs 0, over the judged bins."""
        self.isotropic = self._judged_mean(reference.bin_isotropic)
        """L_iso over the judged bins."""
        self.linear = self._judged_mean(reference.bin_linear)
        """L_lin over the judged bins."""
        self.has_progress_to_make = self.constant - self.linear >= MIN_PROGRESS * self.constant
        """Whether a sound denoiser and a dead one differ enough to tell a trial's loss apart. They
        do not where training is about the cleanest or the noisiest timesteps alone."""
        self.trivial = self.isotropic
        """What a model that has learned anything comes below: L_iso. Where the numbers of an
        example go together, as pixels do, one gain for all of them may be hardly better than a
        constant; then MIN_PROGRESS below C0, where the best linear denoiser is at least."""
        if self.has_progress_to_make:
            self.trivial = min(self.isotropic, (1 - MIN_PROGRESS) * self.constant)
        self.alive_bar = self.constant - ALIVE_SHARE * (self.constant - self.trivial)
        """Only a model that learns comes below this loss."""
        self.settled_warmup_end = min(
            2 * facts.lr_warmup_steps, LATEST_START * facts.max_train_steps
        )
        """When the peak learning rate has worked for as long as warm-up took."""
        self.warmup_end = min(facts.lr_warmup_steps, LATEST_START * facts.max_train_steps)
        self.batch_noise = 1 + BATCH_SIGMAS * math.sqrt(2 / facts.batch_numbers)
        """How far above its mean a batch loss may be without any fault of the model's, as a
        factor: a batch of few numbers is far from it."""

    def _begin(self) -> None:
        bins = self.num_bins
        self.num_windows = 0
        self.window_steps = 0
        """Optimizer steps of the last window."""
        self.window_end = 0
        """Step at which the last window ended."""
        self.min_loss = math.inf
        """Lowest window so far."""
        self.best_step = 0
        """Step at which that window ended."""
        self.best_learning_rate = math.inf
        """Learning rate at that step."""
        self.max_lost_progress = 0.0
        """Largest share of progress that a window ever stood above the lowest, warm-up
        included."""
        self.first_batch_loss = math.nan
        """Before the first step: what the model does without any training."""
        self.max_batch_loss = 0.0
        """Largest finite one so far."""
        self.recent_losses: list[float] = []
        """Post-stratified training loss of the last two windows."""
        self.recent_bin_loss: list[list[float]] = []
        """Bin losses ``[K]`` of the last two windows."""
        self.min_bin_loss = [math.inf] * bins
        """Lowest window of every bin so far, ``[K]``."""
        self.latest_bin_loss = [math.nan] * bins
        """The last known mean of every bin, ``[K]``; NaN for a bin never seen."""
        self.long_losses: list[list[float]] = []
        """Bin losses ``[K]`` of the last ten windows."""
        self.grad_norms: list[float] = []
        """Median gradient norm of the last 200 reports that have one."""
        self.pending_sum = [0.0] * bins
        """Loss sums ``[K]`` of the reports that do not make a window yet."""
        self.pending_count = [0] * bins
        """Finite samples ``[K]`` behind those sums."""
        self.last_step = 0
        """Step of the last report."""
        self.stretch_steps = 0
        """Steps of the reports since skipped steps were last judged."""
        self.stretch_skips = 0
        """Skipped steps among them."""
        self.skipped_share = 0.0
        """Share of the last whole stretch that was skipped."""
        self.grad_square_sum = [0.0] * bins
        """Sum of squared per-sample gradient norms ``[K]`` since ``grad_share``."""
        self.grad_count = [0] * bins
        """Samples ``[K]`` behind it."""
        self.grad_share: list[float] = []
        """Every bin's share of the squared per-sample gradient norm, ``[K]``; empty before the
        first, NaN for a bin without samples."""
        self.outlier_steps = 0
        self.outliers = 0.0
        self.outlier_rate = math.nan
        """Share of outlier norms over the last whole stretch of 200 steps."""
        self.kappa = math.nan
        """Of the last evaluation."""
        self.time_sensitivity = math.nan
        """Relative rise of the held-out loss with wrong timesteps, when last asked."""
        self.earlier_sensitivity = math.nan
        """The time before."""
        self.lr_gauge: float | None = None
        """Octaves above the best learning rate, of the last evaluation; see lr_gauge."""
        self._log_loss = Trend()
        """log loss over the window's number."""
        self._loss = Trend()
        """Loss over log2 step, of the windows after warm-up."""

    # --- what came in -------------------------------------------------------------------------

    def observe(self, report: Report) -> News:
        """Take in a report, and say what it brought."""
        news = News.REPORT
        if self.last_step == 0:
            news |= News.START
            self.first_batch_loss = next(iter(report.batch_losses), math.nan)
        if math.isfinite(report.max_batch_loss):
            self.max_batch_loss = max(self.max_batch_loss, report.max_batch_loss)
        if report.step >= self.facts.max_train_steps:
            news |= News.END
        self._observe_skips(report)
        if self._observe_outliers(report):
            news |= News.NORMS
        if math.isfinite(report.grad_norm_median):
            self.grad_norms = [*self.grad_norms[1 - REMEMBERED_NORMS :], report.grad_norm_median]
        if self._observe_gradients(report):
            news |= News.GRADIENTS
        if not self.is_passing(report) and self._observe_losses(report):
            news |= News.WINDOW
        if report.evaluation is not None:
            self._observe_evaluation(report.step, report.evaluation)
            news |= News.EVALUATION
            if report.evaluation.shuffled_loss is not None:
                self._observe_probe(report.evaluation.shuffled_loss, report.evaluation.loss_raw)
                news |= News.PROBE
        return news

    def _observe_skips(self, report: Report) -> None:
        self.stretch_steps += report.step - self.last_step
        self.stretch_skips += report.nonfinite_steps + report.scaler_skips
        if self.stretch_steps >= STRETCH_STEPS:
            self.skipped_share = self.stretch_skips / self.stretch_steps
            self.stretch_steps = self.stretch_skips = 0

    def _observe_outliers(self, report: Report) -> bool:
        steps, self.last_step = report.step - self.last_step, report.step
        # Early norms are tiny and grow: nearly every one is an outlier to those before it.
        if report.step - steps < max(self.warmup_end, SETTLED * self.facts.max_train_steps):
            return False
        if math.isnan(report.outlier_norm_rate):
            return False  # nobody measured the norms
        self.outlier_steps += steps
        self.outliers += steps * report.outlier_norm_rate
        if self.outlier_steps >= OUTLIER_STEPS:
            self.outlier_rate = self.outliers / self.outlier_steps
            self.outlier_steps, self.outliers = 0, 0.0
            return True
        return False

    def _observe_gradients(self, report: Report) -> bool:
        for i, (norm, count) in enumerate(
            zip(report.bin_grad_norm, report.bin_grad_count, strict=True)
        ):
            if count and math.isfinite(norm):
                self.grad_square_sum[i] += norm * norm * count
                self.grad_count[i] += count
        if sum(self.grad_count) < GRADIENT_SAMPLES:
            return False
        squares = [
            total / n if n else math.nan
            for total, n in zip(self.grad_square_sum, self.grad_count, strict=True)
        ]
        whole = sum(square for square in squares if not math.isnan(square))
        self.grad_share = [
            square / whole if 0 < whole < math.inf else math.nan for square in squares
        ]
        self.grad_square_sum = [0.0] * self.num_bins
        self.grad_count = [0] * self.num_bins
        return True

    def _observe_losses(self, report: Report) -> bool:
        rows = zip(report.bin_loss, report.bin_count, report.bin_nonfinite, strict=True)
        for i, (loss, count, nonfinite) in enumerate(rows):
            if count > nonfinite:
                self.pending_sum[i] += loss * (count - nonfinite)
                self.pending_count[i] += count - nonfinite
        if sum(self.pending_count) < SAMPLES_PER_BIN * self.num_bins:
            return False
        self._close_window(report.step, report.learning_rate)
        return True

    def _observe_evaluation(self, step: int, evaluation: Evaluation) -> None:
        self.kappa = evaluation.kappa
        self.lr_gauge = (
            lr_gauge_octaves(self.facts, step, self.kappa) if self.is_learning else None
        )

    def _observe_probe(self, shuffled_loss: float, loss: float) -> None:
        self.earlier_sensitivity = self.time_sensitivity
        self.time_sensitivity = shuffled_loss / loss - 1 if loss > 0 else math.nan

    def _close_window(self, step: int, learning_rate: float) -> None:
        counts = zip(self.pending_sum, self.pending_count, strict=True)
        bin_loss = [total / n if n else math.nan for total, n in counts]
        # A bin that drew no sample keeps its last mean: the loss must not jump with the draw.
        self.latest_bin_loss = [
            old if math.isnan(new) else new
            for old, new in zip(self.latest_bin_loss, bin_loss, strict=True)
        ]
        loss = self._judged_mean(self.latest_bin_loss)
        self.num_windows += 1
        self.recent_losses = [*self.recent_losses[1 - CURRENT_WINDOWS :], loss]
        self.recent_bin_loss = [*self.recent_bin_loss[1 - CURRENT_WINDOWS :], bin_loss]
        self.long_losses = [*self.long_losses[1 - LONG_WINDOWS :], bin_loss]
        self.window_steps, self.window_end = step - self.window_end, step
        if loss < self.min_loss:
            self.min_loss, self.best_step, self.best_learning_rate = loss, step, learning_rate
        self.min_bin_loss = [
            low if math.isnan(value) else min(low, value)
            for low, value in zip(self.min_bin_loss, bin_loss, strict=True)
        ]
        self.max_lost_progress = max(self.max_lost_progress, self._lost_progress(loss))
        if math.isfinite(loss):
            # Cut off where training began: a loss that rose to 1e5, came down again, and stays,
            # would read as falling for ever.
            level = min(loss, self._start)
            self._log_loss.add(self.num_windows, math.log(max(level, 1e-300)))
            if step - self.window_steps >= self.warmup_end:
                self._loss.add(math.log2(step - self.window_steps / 2), level)
        self.pending_sum = [0.0] * self.num_bins
        self.pending_count = [0] * self.num_bins

    # --- what the rules ask -------------------------------------------------------------------

    def _judged_mean(self, values: Sequence[float]) -> float:
        """Mean over the judged bins whose value is known; NaN without any."""
        known = [values[i] for i in self.judged_bins if not math.isnan(values[i])]
        return sum(known) / len(known) if known else math.nan

    def is_passing(self, report: Report) -> bool:
        """Whether a report has spikes, and each was over with its batch.

        What is wrong is in the batch then, for weights that went astray do not come back within a
        step; and the report's mean says nothing of the model.
        """
        spike = SPIKE * self.zero * self.batch_noise
        if not report.max_batch_loss > spike:
            return False
        after = [then for loss, then in itertools.pairwise(report.batch_losses) if loss > spike]
        return bool(after) and all(then < self.alive_bar for then in after)

    @property
    def current_loss(self) -> float:
        """Mean of the last two windows; NaN before the first."""
        recent = self.recent_losses
        return sum(recent) / len(recent) if recent else math.nan

    @property
    def rise(self) -> float:
        """Largest batch loss so far, warm-up included, over that of the untrained model or that of
        the output 0, whichever is larger; NaN where the first batch's is not known."""
        start = self.first_batch_loss
        if not start < math.inf:
            return math.nan
        return self.max_batch_loss / max(self.zero, start, 1e-300)

    @property
    def _start(self) -> float:
        """Loss of the untrained model where that is far above the output 0's; else of the
        latter."""
        is_far = FAR_ABOVE * self.zero < self.first_batch_loss < math.inf
        return self.first_batch_loss if is_far else self.zero

    @property
    def is_learning(self) -> bool:
        """Whether the loss has come down to where only a model that learns can be, and stayed."""
        return self.current_loss < self.alive_bar and self.lost_progress <= LOST_SHARE

    @property
    def lost_progress(self) -> float:
        """Share of the progress below the constant prediction that is lost again.

        (current - min) / max(C0 - min, (C0 - trivial) / 2), see ``_lost_share``. Of the last
        window and the mean of the last two the lower one counts: a steeply falling loss is below
        its own mean. Until a trial has come down to C0, where it began stands in the place of C0,
        if that was far above.
        """
        if not self.recent_losses:
            return math.nan
        return self._lost_progress(min(self.current_loss, self.recent_losses[-1]))

    def _lost_progress(self, loss: float) -> float:
        began_above = self._start > self.zero and self.min_loss > self.constant
        top = self._start if began_above else self.constant
        return _lost_share(loss, self.min_loss, top, self.trivial)

    @property
    def bin_lost_progress(self) -> list[float]:
        """lost_progress of every bin on its own, ``[K]``; NaN for a bin without samples."""
        reference = self.facts.reference
        rows = zip(
            self.current_bin_loss,
            self.min_bin_loss,
            reference.bin_constant,
            reference.bin_isotropic,
            strict=True,
        )
        return [_lost_share(*row) for row in rows]

    @property
    def current_bin_loss(self) -> list[float]:
        """Mean of the last two windows per bin, ``[K]``; NaN for a bin without samples."""
        return _means(self.recent_bin_loss, self.num_bins)

    @property
    def long_bin_loss(self) -> list[float]:
        """Mean of the last ten windows per bin, ``[K]``; NaN for a bin without samples."""
        return _means(self.long_losses, self.num_bins)

    @property
    def typical_grad_norm(self) -> float:
        """Median over the last 200 reports of their median norm before clipping; NaN before."""
        return statistics.median(self.grad_norms) if self.grad_norms else math.nan

    @property
    def has_peers(self) -> bool:
        """Whether the study has told what other trials of the same model reached."""
        return bool(self.facts.reached)

    def reachable(self, step: float) -> float:
        """The loss that a sound trial has at most, in the end or after ``step`` steps: the trivial
        one, or what the best earlier trial of the same model had by then, if that is higher.

        Many models are too small for their data to come below L_iso.
        """
        peer = self.trivial
        for reached_step, loss in self.facts.reached:
            if reached_step > step:
                break
            peer = PEER_SLACK * loss
        return max(self.trivial, peer)

    @property
    def peer_ratio(self) -> float:
        """How many times L_iso counts as sound for this model so far, 1 at least."""
        return max(1.0, self.reachable(self.last_step) / self.isotropic)

    def log_loss_slope_t(self, share: float, min_windows: int) -> float:
        """t statistic of the slope of log loss over the last ``share`` of the windows.

        NaN with fewer than ``min_windows`` windows. Strongly negative means still falling.
        """
        line = self._log_loss.line(max(min_windows, math.ceil(share * len(self._log_loss))))
        return math.nan if line is None else line.slope_t

    def loss_line(self, share: float, min_windows: int) -> Line | None:
        """Loss over log2 step, through the last ``share`` of the windows after warm-up."""
        return self._loss.line(max(min_windows, math.ceil(share * len(self._loss))))

    def worst_judged_bin(self, badness: Sequence[float]) -> int | None:
        """Index of the largest finite value among the judged bins, the noisiest of equals."""
        usable = [(badness[i], i) for i in self.judged_bins if math.isfinite(badness[i])]
        return max(usable)[1] if usable else None

    # --- checkpoints --------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {name.lstrip("_"): _state_of(getattr(self, name)) for name in self._state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in self._state:
            known, mine = state[name.lstrip("_")], getattr(self, name)
            if isinstance(mine, Trend):
                mine.load_state_dict(known)
            else:
                setattr(self, name, copy.deepcopy(known))


def _state_of(value: Any) -> Any:
    """A copy: what is pending is added to in place."""
    return value.state_dict() if isinstance(value, Trend) else copy.deepcopy(value)


def _lost_share(loss: float, low: float, top: float, trivial: float) -> float:
    """Share of the way down from ``top`` to ``low`` that is lost again.

    Half of the way to ``trivial`` counts at least: a trial that has hardly moved does not lose
    "all" of nothing. White data under ``v_prediction`` has C0 = L_iso, and nothing to divide by.
    """
    return (loss - low) / max(top - low, 0.5 * (top - trivial), MIN_WAY)


def _means(rows: Sequence[Sequence[float]], num_bins: int) -> list[float]:
    """Column means of ``rows`` over known values; NaN for a column without any."""
    means = []
    for i in range(num_bins):
        known = [row[i] for row in rows if not math.isnan(row[i])]
        means.append(sum(known) / len(known) if known else math.nan)
    return means
