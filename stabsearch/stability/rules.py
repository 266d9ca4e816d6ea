"""The rules: one function and one row of ``RULES`` each.

A rule looks at the report and the trial's window and returns what it found, or None. It knows
numbers, not actions: severity, words and advice stand in its row; its thresholds stand in
``stabsearch.thresholds``, and a study may change them. To add a rule, write its function, its row
and its thresholds; docs/rules.md explains them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from stabsearch.records import Evaluation, Report, Severity, Symptom
from stabsearch.stability.window import SETTLED, News, TrialWindow
from stabsearch.stability.words import gauge_distance

Limits = Mapping[str, float]
"""Thresholds by name, as ``stabsearch.thresholds.resolve`` gives them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a rule saw."""

    value: float
    threshold: float
    limit: str
    """Name of the threshold."""
    symptom: Symptom
    severity: Severity
    step: int
    timestep_bin: int | None = None
    words: Mapping[str, str] = field(default_factory=dict)
    """What else the row's templates name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A row of the table."""

    id: str
    find: Callable[[Report, TrialWindow, Limits], Finding | None]
    reason: str
    """Template over the finding's numbers and words, ``share`` (the value as a part of a whole,
    in words) and ``where`` (the timesteps in words)."""
    advice: dict[Symptom, str]
    """Templates over the finding's words."""
    on: News = News.REPORT
    """What a report must bring for the rule to look at it: any of these."""
    times: int = 1
    """How often in a row the rule must find something before it speaks."""


SLOPE_SHARE = 0.4
SLOPE_MIN_WINDOWS = 4
SCALER_GRACE_STEPS = 25
RISEN_RATE = 2.0
"""A learning rate that has grown this much since the lowest loss is the first suspect."""
EXCURSION_GRACE_STEPS = 100
"""Steps after warm-up in which a high batch loss is not yet an excursion."""
EXTRAPOLATED_FROM = 0.15
EXTRAPOLATED_SHARE = 0.6
EXTRAPOLATED_MIN_WINDOWS = 6
STILL_FALLING_T = -2.0
MIN_UNIT = 0.01
"""Smallest u, as a share of C0 - L_iso: data of equal variance in all directions have none."""
MIN_ROWS_PER_BIN = 64
LEARNED_SOMETHING = 0.5
"""Of the way from C0 down to the trivial loss: from there on the timestep should matter."""
RISING_SENSITIVITY = 2.0
"""Times that at the look before: from there on a model is learning to use the timestep."""
NOISY_SENSITIVITY = 0.25
"""Share of R6's threshold below which a rise is noise."""
GRADIENT_START = 0.05
MIN_GRADIENT_BINS = 4
"""Among fewer, one bin always has a large share."""
MEDIAN_IMPROVEMENT = 0.5
"""A bin is only called dead where the others have come this far."""
DEAD_GRADIENT_SHARE = 1e-4
"""Of the median share: a norm below 1% of the median norm."""


# --- R1: unstable -----------------------------------------------------------------------------


def find_non_finite(report: Report, window: TrialWindow, limits: Limits) -> Finding | None:
    """R1a: any step, or evaluation, that is not finite. Adam rarely gets there; SGD does.

    A trial that is told to skip such steps gets a warning, until most of its steps are so.
    fp16 loss scaling skips steps as part of its work; where it skips most, the training stands.
    """
    is_evaluation_bad = report.evaluation is not None and not math.isfinite(
        report.evaluation.loss_raw
    )
    lost_steps = report.nonfinite_steps
    is_standing = (
        window.skipped_share > limits["R1a.standing_share"]
        and report.step > SCALER_GRACE_STEPS  # a new loss scaler begins with skips
    )
    if not (lost_steps or is_standing or is_evaluation_bad):
        return None
    is_bad = is_evaluation_bad or (lost_steps > 0 and not window.facts.skips_nonfinite)
    is_share = is_standing and not is_bad
    return Finding(
        value=window.skipped_share if is_share else max(1, lost_steps),
        threshold=limits["R1a.standing_share"] if is_share else 0,
        limit="R1a.standing_share" if is_share else "",
        symptom=Symptom.NON_FINITE,
        severity=Severity.PRUNE if is_bad or is_standing else Severity.WARN,
        step=report.first_nonfinite_step or report.step,
        timestep_bin=max(report.first_nonfinite_bins, default=None),
        words={
            "what": "loss or gradient became NaN or Inf"
            if lost_steps or is_evaluation_bad
            else "loss scaling skips most steps, because scaled gradients overflow,",
            "remedy": BROKEN_FROM_THE_START
            if report.first_nonfinite_step == 1
            else _risen_rate(report, window)
            or (BROKEN_BATCH if _is_sound(report, window) else LOWER_LR_AND_CLIP),
        },
    )


def _risen_rate(report: Report, window: TrialWindow) -> str:
    """Advice for a trial whose learning rate has gone up since it was at its best, other than by
    warm-up; else empty."""
    times = report.learning_rate / window.best_learning_rate
    is_warmed_up = window.best_step >= window.facts.lr_warmup_steps
    if not (is_warmed_up and RISEN_RATE <= times < math.inf):
        return ""
    return (
        f"The learning rate is {times:.2g} times what it was at step {window.best_step}, where "
        "the loss was lowest: check its schedule, or lower its peak."
    )


def _is_sound(report: Report, window: TrialWindow) -> bool:
    """Whether a model that learns met something that is not finite: its other batches are as ever,
    where a learning rate that is too high lets the loss rise first."""
    usual = 2 * window.current_loss
    return report.nonfinite_steps > 0 and window.is_learning and report.max_batch_loss <= usual


def find_lost_progress(report: Report, window: TrialWindow, limits: Limits) -> Finding | None:
    """R1b: the trial had come down and went up again, for two windows on average."""
    if report.step < window.warmup_end + 2 * window.window_steps:
        return None
    lost = window.lost_progress
    if not (lost > limits["R1b.penalise"] and window.has_progress_to_make):
        return None
    is_prune = lost > limits["R1b.prune"]
    limit = "R1b.prune" if is_prune else "R1b.penalise"
    return Finding(
        value=lost,
        threshold=limits[limit],
        limit=limit,
        symptom=Symptom.LOST_PROGRESS,
        severity=Severity.PRUNE if is_prune else Severity.PENALISE,
        step=report.step,
        timestep_bin=window.worst_judged_bin(window.bin_lost_progress),
        words={"remedy": _risen_rate(report, window) or LOWER_LR},
    )


def find_worse_than_trivial(report: Report, window: TrialWindow, limits: Limits) -> Finding | None:
    """R1c: no better than a trivial denoiser and not on the way down.

    The bar is half-way between the best constant prediction (C0) and the trivial loss: that of
    the best scalar gain (L_iso), where it is well below C0. A trial that once did better, or is
    far above what the output 0 gives and did not begin there, has diverged. One that never moved
    is not learning. One that came down part of the way and stays there is alive: it may be as good
    as its model can be, so it only gets a warning.
    """
    facts = window.facts
    if report.step < max(window.settled_warmup_end, 0.1 * facts.max_train_steps):
        return None
    current = window.current_loss
    bar = trivial_bar(window, limits["R1c.midpoint"])
    hopeless = limits["R1c.hopeless"] * window.zero
    if not current > min(bar, hopeless):
        return None
    slope_t = window.log_loss_slope_t(SLOPE_SHARE, SLOPE_MIN_WINDOWS)
    has_risen = window.rise > limits["R1d.excursion"] * window.batch_noise
    began_there = window.first_batch_loss > hopeless and not has_risen
    is_falling = began_there and slope_t < limits["R1c.falling_t"]
    is_hopeless = current > hopeless and not is_falling
    is_stuck = current > bar and window.has_progress_to_make and slope_t > limits["R1c.falling_t"]
    if not (is_stuck or is_hopeless):
        return None
    has_lost = window.max_lost_progress > limits["R1b.penalise"]
    has_diverged = has_lost or (is_hopeless and not began_there)
    is_alive = not has_diverged and current < window.alive_bar
    # One that blew up in its first steps and fell back to the output 0 has lost no window's worth.
    has_diverged |= has_risen and not is_alive
    reference = facts.reference
    relative = [
        loss / max((constant + isotropic) / 2, 1e-300)
        for loss, constant, isotropic in zip(
            window.current_bin_loss, reference.bin_constant, reference.bin_isotropic, strict=True
        )
    ]
    return Finding(
        value=current,
        threshold=hopeless if is_hopeless else bar,
        limit="R1c.hopeless" if is_hopeless else "R1c.midpoint",
        symptom=Symptom.WORSE_THAN_TRIVIAL if has_diverged else Symptom.NOT_LEARNING,
        severity=Severity.WARN if is_alive else Severity.PRUNE,
        step=report.step,
        timestep_bin=window.worst_judged_bin(relative),
        words={
            "bar": f"{limits['R1c.hopeless']:g} times that of a model that outputs 0"
            if is_hopeless
            else f"{_bar_words(window)}, and not falling",
            "remedy": _risen_rate(report, window) or LOWER_LR,
        },
    )


def _bar_words(window: TrialWindow) -> str:
    """What ``trivial_bar`` is, after "above"."""
    sound = window.reachable(window.last_step)
    if sound >= window.constant:
        return "that of a constant prediction"
    if sound > window.trivial:
        return "half-way from what other trials had by then to a constant prediction"
    return "half-way to a constant prediction"


def trivial_bar(window: TrialWindow, share: float) -> float:
    """The loss above which nothing has been learned yet: ``share`` of the way down from C0.

    Down to the trivial loss, or to what a sound trial of this model has by now, if that is more.
    """
    sound = min(window.reachable(window.last_step), window.constant)
    return window.constant - share * (window.constant - sound)


def find_catastrophic_excursion(
    report: Report, window: TrialWindow, limits: Limits
) -> Finding | None:
    """R1d: one batch far above what the output 0 gives, long after warm-up.

    Without clipping it was fatal in 13 of 13 cases, with clipping in 0 of 6: there the trial may
    go on, but its setting is not called stable. A clip far above the usual norms is none.
    """
    facts = window.facts
    report_start = report.step - facts.report_every
    if report_start < window.warmup_end + EXCURSION_GRACE_STEPS:
        return None
    threshold = limits["R1d.excursion"] * window.zero * window.batch_noise
    if not report.max_batch_loss > threshold:
        return None
    rise = [
        loss / low if low > 0 else math.inf
        for loss, low in zip(report.bin_loss, window.min_bin_loss, strict=True)
    ]
    return Finding(
        value=report.max_batch_loss,
        threshold=threshold,
        limit="R1d.excursion",
        symptom=Symptom.CATASTROPHIC_EXCURSION,
        severity=Severity.PENALISE if is_guarded(report, window, limits) else Severity.PRUNE,
        step=report.step,
        timestep_bin=window.worst_judged_bin(rise),
        words={
            "times": f"{limits['R1d.excursion']:g}",
            "remedy": _risen_rate(report, window)
            or (BROKEN_EXAMPLES if window.is_passing(report) else CLIP_AND_LOWER_LR),
        },
    )


def is_guarded(report: Report, window: TrialWindow, limits: Limits) -> bool:
    """Whether clipping holds an excursion down.

    A norm far above the usual ones clips nothing but the excursion itself, too late. The other
    strategies follow the run; they guard it if they clipped anything in the report's window.
    """
    facts = window.facts
    if facts.max_grad_norm is None:
        return facts.clipping != "none" and report.clip_rate > 0
    return facts.max_grad_norm <= limits["R1d.loose_clip"] * window.typical_grad_norm


# --- R2, R3, R12: how fast it learns ----------------------------------------------------------


def find_loss_stuck(report: Report, window: TrialWindow, limits: Limits) -> Finding | None:
    """R2: at its pace the loss will not come below a trivial denoiser's within the budget.

    The line of loss over log step is drawn on to the end. A learning rate that decays bends it
    down in time, so such a trial is not judged. Without another trial of the same model to compare
    with, the model may simply be too small: then it is a warning.
    """
    facts = window.facts
    share = report.step / facts.max_train_steps
    if share < EXTRAPOLATED_FROM or facts.lr_schedule != "constant":
        return None
    line = window.loss_line(EXTRAPOLATED_SHARE, EXTRAPOLATED_MIN_WINDOWS)
    if line is None or not window.has_progress_to_make:
        return None
    end = math.log2(facts.max_train_steps)
    expected = line.at(end) - limits["R2.errors"] * line.error_at(end)
    sound = window.reachable(facts.max_train_steps)
    bar = limits["R2.ratio"] * sound
    if not expected > bar:
        return None
    return Finding(
        value=expected,
        threshold=bar,
        limit="R2.ratio",
        symptom=Symptom.LOSS_STUCK,
        severity=Severity.PENALISE if window.has_peers else Severity.WARN,
        step=report.step,
        words={
            "bar": f"another trial of this model reached about {sound:.3g}"
            if sound > window.trivial
            else f"the best single gain per timestep gives {sound:.3g}",
            "remedy": _pace_remedy(window),
        },
    )


def _pace_remedy(window: TrialWindow) -> str:
    """What kappa says of a loss that is too high."""
    gauge = window.lr_gauge
    if gauge is None or abs(gauge) < 0.5:
        return "Train longer, or use a larger model."
    if gauge < 0:
        return f"Raise the learning rate {_factor(gauge)} times, or train longer."
    return f"Lower the learning rate {_factor(gauge)} times, or let it decay."


def _factor(octaves: float) -> str:
    """What to change the learning rate by: at most 8 times at once."""
    return f"{2 ** min(3.0, abs(octaves)):.2g}"


def find_lr_off(report: Report, window: TrialWindow, limits: Limits) -> Finding | None:
    """R3: kappa says that the learning rate is far from the best one."""
    gauge = window.lr_gauge
    if gauge is None or abs(gauge) <= limits["R3.octaves"]:
        return None
    is_high = gauge > 0
    return Finding(
        value=gauge,
        threshold=limits["R3.octaves"] if is_high else -limits["R3.octaves"],
        limit="R3.octaves",
        symptom=Symptom.LEARNING_RATE_HIGH if is_high else Symptom.LEARNING_RATE_LOW,
        severity=Severity.STEER,
        step=report.step,
        words={
            "kappa": f"{window.kappa:.3f}",
            "distance": gauge_distance(gauge),
            "side": "above" if is_high else "below",
            "factor": _factor(gauge),
        },
    )


def find_undertrained(report: Report, window: TrialWindow, limits: Limits) -> Finding | None:
    """R12: at the end, the averaged weights still lag behind, or the loss still falls."""
    facts = window.facts
    if facts.lr_schedule != "constant" or not window.is_learning:
        return None
    is_lagging = window.lr_gauge is not None and window.kappa > limits["R12.kappa"]
    line = window.loss_line(SLOPE_SHARE, SLOPE_MIN_WINDOWS)
    fall = math.nan
    if line is not None and line.slope_t < STILL_FALLING_T:
        possible = window.constant - window.isotropic
        fall = -line.slope / max(window.isotropic - window.linear, MIN_UNIT * possible)
    if not (is_lagging or fall > limits["R12.slope"]):
        return None
    words = {
        "what": "the loss of the averaged weights is still {value:.3g} times that of the raw ones"
        if is_lagging
        else "the loss still falls by {value:.2g} u with every doubling of the steps"
    }
    limit = "R12.kappa" if is_lagging else "R12.slope"
    value = window.kappa if is_lagging else fall
    return Finding(
        value=value,
        threshold=limits[limit],
        limit=limit,
        symptom=Symptom.UNDERTRAINED,
        severity=Severity.WARN,
        step=report.step,
        words={"what": words["what"].format(value=value)},
    )


# --- R4 to R8: single timesteps ---------------------------------------------------------------


def find_clean_timesteps_high(
    report: Report, window: TrialWindow, limits: Limits
) -> Finding | None:
    """R4: at the least noisy timesteps, worse than the best single gain."""
    evaluation = _settled_evaluation(report, window)
    if evaluation is None or 0 not in window.judged_bins or window.num_bins == 1:
        return None
    threshold = limits["R4.ratio"] * window.peer_ratio
    ratio = _ratio(evaluation.bin_loss_raw[0], window.facts.reference.bin_isotropic[0])
    if not ratio > threshold:
        return None
    return Finding(
        value=ratio,
        threshold=threshold,
        limit="R4.ratio",
        symptom=Symptom.CLEAN_TIMESTEPS_HIGH,
        severity=Severity.WARN,
        step=report.step,
        timestep_bin=0,
        words={
            "remedy": "Predict v or epsilon, or weight the clean timesteps more: predicting the "
            "sample loses precision there."
            if window.facts.prediction_type == "sample"
            else "Check the noise schedule and the time embedding near timestep 0."
        },
    )


def find_noisy_timesteps_high(
    report: Report, window: TrialWindow, limits: Limits
) -> Finding | None:
    """R5: at the noisiest timesteps, worse than the best single gain.

    For epsilon that gain is out of every network's reach (the loss it leaves is that of 4 digits),
    so the last bin is compared with the best of the others: it should be the easiest.
    """
    evaluation = _settled_evaluation(report, window)
    last = window.num_bins - 1
    if evaluation is None or last not in window.judged_bins or window.num_bins == 1:
        return None
    losses = evaluation.bin_loss_raw
    if window.facts.prediction_type == "epsilon":
        ratio, limit = _ratio(losses[last], min(losses)), "R5.epsilon_ratio"
        threshold = limits[limit]
    else:
        ratio = _ratio(losses[last], window.facts.reference.bin_isotropic[last])
        # A velocity holds the whole noise, as epsilon does: a network copies it with some error.
        limit = "R5.flow_ratio" if window.facts.prediction_type == "flow" else "R5.ratio"
        threshold = limits[limit] * window.peer_ratio
    if not ratio > threshold:
        return None
    return Finding(
        value=ratio,
        threshold=threshold,
        limit=limit,
        symptom=Symptom.NOISY_TIMESTEPS_HIGH,
        severity=Severity.PENALISE,
        step=report.step,
        timestep_bin=last,
        words={
            "than": "the lowest bin's"
            if limit == "R5.epsilon_ratio"
            else "that of the best single gain"
        },
    )


def find_noisy_timesteps_amplified(
    report: Report, window: TrialWindow, limits: Limits
) -> Finding | None:
    """R5b: an error of epsilon at the noisiest timesteps, read as an image, is a large one.

    True of every healthy epsilon model too, and of many flow models: it is said once, for it is
    the sampler that must know.
    """
    evaluation = _settled_evaluation(report, window)
    if evaluation is None or window.facts.prediction_type not in ("epsilon", "flow"):
        return None
    error = evaluation.bin_x0_error[-1]
    if not error > limits["R5.x0_error"]:
        return None
    return Finding(
        value=error,
        threshold=limits["R5.x0_error"],
        limit="R5.x0_error",
        symptom=Symptom.NOISY_TIMESTEPS_AMPLIFIED,
        severity=Severity.WARN,
        step=report.step,
        timestep_bin=window.num_bins - 1,
    )


def find_time_blind(report: Report, window: TrialWindow, limits: Limits) -> Finding | None:
    """R6: wrong timesteps hardly raise the loss of a model that has learned something.

    Not of one that is still learning to use them: a blind model stays blind.
    """
    evaluation = _settled_evaluation(report, window)
    if evaluation is None or evaluation.shuffled_loss is None:
        return None
    bar = max(trivial_bar(window, LEARNED_SOMETHING), window.reachable(report.step))
    sensitivity, threshold = window.time_sensitivity, limits["R6.sensitivity"]
    is_rising = sensitivity > max(
        RISING_SENSITIVITY * window.earlier_sensitivity, NOISY_SENSITIVITY * threshold
    )
    if is_rising or not (sensitivity < threshold and evaluation.loss_raw < bar):
        return None
    is_epsilon = window.facts.prediction_type == "epsilon"
    return Finding(
        value=sensitivity,
        threshold=threshold,
        limit="R6.sensitivity",
        symptom=Symptom.TIME_BLIND,
        words={"percent": f"{max(0.0, sensitivity):.1%}"},
        # v and flow models without a timestep sample about as well (Sun et al. 2025)
        severity=Severity.PENALISE if is_epsilon else Severity.WARN,
        step=report.step,
    )


DOMINATION = {
    "first": Symptom.EARLY_TIMESTEP_DOMINATION,
    "last": Symptom.LATE_TIMESTEP_DOMINATION,
}


def find_timestep_domination(
    report: Report, window: TrialWindow, limits: Limits
) -> Finding | None:
    """R7: the gradient comes from one timestep bin."""
    if report.step < GRADIENT_START * window.facts.max_train_steps:
        return None
    known = [(share, i) for i, share in enumerate(window.grad_share) if not math.isnan(share)]
    if len(known) < MIN_GRADIENT_BINS:
        return None
    share, worst = max(known)
    effective_bins = 1 / sum(s * s for s, _ in known)
    if share > limits["R7.share"]:
        value, limit = share, "R7.share"
    elif effective_bins < limits["R7.effective_bins"]:
        value, limit = effective_bins, "R7.effective_bins"
    else:
        return None
    place = {0: "first", window.num_bins - 1: "last"}.get(worst, "")
    return Finding(
        value=value,
        threshold=limits[limit],
        limit=limit,
        symptom=DOMINATION.get(place, Symptom.TIMESTEP_DOMINATION),
        severity=Severity.PENALISE,
        step=report.step,
        timestep_bin=worst,
        words={"percent": f"{share:.0%}", "bins": f"{effective_bins:.1f}"},
    )


def find_dead_timesteps(report: Report, window: TrialWindow, limits: Limits) -> Finding | None:
    """R8: one bin has not improved while the others have, or stands out above its neighbours."""
    evaluation = _settled_evaluation(report, window)
    if evaluation is None:
        return None
    losses, judged = evaluation.bin_loss_raw, window.judged_bins
    reference = window.facts.reference
    improvement = {
        i: (reference.bin_zero[i] - losses[i])
        / max(reference.bin_zero[i] - reference.bin_linear[i], 1e-12)
        for i in judged
        # where the best linear denoiser is hardly better than nothing there is nothing to gain
        if reference.bin_zero[i] - reference.bin_linear[i] > 0.05 * reference.bin_zero[i]
    }
    ordered = sorted(improvement.values())
    if ordered and ordered[len(ordered) // 2] > MEDIAN_IMPROVEMENT:
        worst = min(improvement, key=lambda i: improvement[i])
        if improvement[worst] < limits["R8.improvement"] and _has_no_gradient(window, worst):
            return _dead(report, worst, improvement[worst], "R8.improvement", limits)
    bumps = {
        i: losses[i] / math.sqrt(losses[i - 1] * losses[i + 1])
        for i in judged
        if i - 1 in judged and i + 1 in judged and losses[i - 1] * losses[i + 1] > 0
    }
    worst_bump = max(bumps, key=lambda i: bumps[i], default=None)
    if worst_bump is None or not bumps[worst_bump] > limits["R8.bump"]:
        return None
    return _dead(report, worst_bump, bumps[worst_bump], "R8.bump", limits)


def _has_no_gradient(window: TrialWindow, timestep_bin: int) -> bool:
    """Whether a bin's samples do not move the weights: a slow bin's do. True if not measured."""
    shares = sorted(share for share in window.grad_share if not math.isnan(share))
    if not shares:
        return True
    typical = shares[len(shares) // 2]
    return not window.grad_share[timestep_bin] > DEAD_GRADIENT_SHARE * typical


def _dead(report: Report, timestep_bin: int, value: float, limit: str, limits: Limits) -> Finding:
    is_bump = limit == "R8.bump"
    return Finding(
        value=value,
        threshold=limits[limit],
        limit=limit,
        symptom=Symptom.DEAD_TIMESTEPS,
        severity=Severity.PENALISE,
        step=report.step,
        timestep_bin=timestep_bin,
        words={
            "what": f"the loss of one bin is {value:.2g} times its neighbours'"
            if is_bump
            else f"one bin has made {max(value, 0):.0%} of its possible progress, most others "
            "over half"
        },
    )


# --- the rest ---------------------------------------------------------------------------------


def find_gradient_outliers(report: Report, window: TrialWindow, limits: Limits) -> Finding | None:
    """R9: many gradient norms far above the usual. The clip rate alone is never a symptom."""
    if not window.outlier_rate > limits["R9.outlier_rate"]:
        return None
    return Finding(
        value=window.outlier_rate,
        threshold=limits["R9.outlier_rate"],
        limit="R9.outlier_rate",
        symptom=Symptom.GRADIENT_OUTLIERS,
        severity=Severity.WARN,
        step=report.step,
    )


def find_ema_too_long(report: Report, window: TrialWindow, limits: Limits) -> Finding | None:
    """R10: an average of fixed decay that still holds the initial weights."""
    if window.facts.ema_schedule != "fixed" or not window.kappa > limits["R10.kappa"]:
        return None
    return Finding(
        value=window.kappa,
        threshold=limits["R10.kappa"],
        limit="R10.kappa",
        symptom=Symptom.EMA_TOO_LONG,
        severity=Severity.WARN,
        step=report.step,
    )


def find_sampler_mismatch(report: Report, window: TrialWindow, limits: Limits) -> Finding | None:
    """R11: the sampler does not return the data's mean or variance from the exact denoiser."""
    check = window.facts.sampler_check
    if check is None:
        return None
    is_mean_off = not check.mean_z2 <= limits["R11.mean_z2"]
    is_variance_off = not abs(check.log_variance) <= limits["R11.log_variance"]
    if not (is_mean_off or is_variance_off):
        return None
    limit = "R11.mean_z2" if is_mean_off else "R11.log_variance"
    value = check.mean_z2 if is_mean_off else check.log_variance
    return Finding(
        value=value,
        threshold=math.copysign(limits[limit], value),
        limit=limit,
        symptom=Symptom.SAMPLER_MISMATCH,
        severity=Severity.WARN,
        step=report.step,
        words={
            "name": check.name,
            "what": f"the mean of its samples is off (z^2 {check.mean_z2:.3g} per component)"
            if is_mean_off
            else f"the variance of its samples is {_exp(check.log_variance):.2g} times the "
            "data's in the largest components",
        },
    )


def find_memorising(report: Report, window: TrialWindow, limits: Limits) -> Finding | None:
    """R13: at the cleanest timesteps, training examples are denoised better than others."""
    evaluation = _settled_evaluation(report, window, start=0.5)
    if evaluation is None:
        return None
    train = window.long_bin_loss
    clean = [i for i in (0, 1) if i in window.judged_bins and not math.isnan(train[i])]
    held_out = sum(evaluation.bin_loss_raw[i] for i in clean)
    ratio = _ratio(sum(train[i] for i in clean), held_out)
    if not ratio < limits["R13.ratio"]:
        return None
    return Finding(
        value=ratio,
        threshold=limits["R13.ratio"],
        limit="R13.ratio",
        symptom=Symptom.MEMORISING,
        severity=Severity.WARN,
        step=report.step,
        timestep_bin=clean[0],
    )


def find_terminal_signal(report: Report, window: TrialWindow, limits: Limits) -> Finding | None:
    """R14: the noisiest x_t is not noise yet. (Betas outside (0, 1] are no schedule at all: they
    are refused before training.)"""
    value = window.facts.terminal_kl
    if not value > limits["R14.terminal_kl"]:
        return None
    return Finding(
        value=value,
        threshold=limits["R14.terminal_kl"],
        limit="R14.terminal_kl",
        symptom=Symptom.TERMINAL_SIGNAL,
        severity=Severity.WARN,
        step=report.step,
        timestep_bin=window.num_bins - 1,
    )


def find_imprecise_schedule(report: Report, window: TrialWindow, limits: Limits) -> Finding | None:
    """R14b: the noise levels that training used differ from the schedule's."""
    value = window.facts.schedule_error
    if value <= limits["R14.precision"]:  # a NaN is an error too
        return None
    return Finding(
        value=value,
        threshold=limits["R14.precision"],
        limit="R14.precision",
        symptom=Symptom.IMPRECISE_SCHEDULE,
        severity=Severity.WARN,
        step=report.step,
        timestep_bin=0,
    )


def find_frozen_parameters(report: Report, window: TrialWindow, limits: Limits) -> Finding | None:
    """R15: weights that are to be trained, and have never changed."""
    del window
    names = report.frozen_parameters
    if len(names) <= limits["R15.frozen"]:
        return None
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return Finding(
        value=len(names),
        threshold=limits["R15.frozen"],
        limit="R15.frozen",
        symptom=Symptom.FROZEN_PARAMETERS,
        severity=Severity.WARN,
        step=report.step,
        words={
            "matrices": "1 weight matrix has"
            if len(names) == 1
            else f"{len(names)} weight matrices have",
            "names": ", ".join(names[:3]) + more,
        },
    )


def _settled_evaluation(
    report: Report, window: TrialWindow, start: float = SETTLED
) -> Evaluation | None:
    """The report's evaluation, once a bin's loss says something, of a trial that is alive."""
    facts, evaluation = window.facts, report.evaluation
    if evaluation is None or not math.isfinite(evaluation.loss_raw):
        return None
    is_settled = report.step >= max(start * facts.max_train_steps, window.settled_warmup_end)
    is_precise = facts.eval_rows >= MIN_ROWS_PER_BIN
    return evaluation if is_settled and is_precise and window.is_learning else None


def _ratio(part: float, whole: float) -> float:
    """NaN, of which no rule speaks, where the whole is nothing."""
    return part / whole if whole > 0 else math.nan


def _exp(x: float) -> float:
    return math.exp(min(x, 700.0))


LOWER_LR_AND_CLIP = "Lower the learning rate 4 times and clip with max_grad_norm 1."
BROKEN_FROM_THE_START = (
    "No step had been taken, so that no learning rate is at fault: look for NaN or Inf in the "
    "model's output, its gradient or the data."
)
BROKEN_BATCH = (
    "The loss was sound until then: look for a broken example, or for an operation such as sqrt "
    "or log near 0. nonfinite_gradients skip passes over such steps."
)
BROKEN_EXAMPLES = (
    "The very next batch is as ever: look for broken examples in these batches. With sound data, "
    "clip with max_grad_norm 1 and lower the learning rate."
)
LOWER_LR = "Lower the learning rate: it is above the largest stable one for this clipping."
CLIP_AND_LOWER_LR = "Clip with max_grad_norm 1 and lower the learning rate."

RULES: tuple[Rule, ...] = (
    Rule(
        id="R1a",
        find=find_non_finite,
        reason="{what} at step {step}{where}",
        advice={Symptom.NON_FINITE: "{remedy}"},
    ),
    Rule(
        id="R1b",
        find=find_lost_progress,
        on=News.WINDOW,
        reason="lost {share} of its progress by step {step}{where}",
        advice={Symptom.LOST_PROGRESS: "{remedy}"},
    ),
    Rule(
        id="R1c",
        find=find_worse_than_trivial,
        on=News.WINDOW,
        reason="loss {value:.3g} at step {step} is above {threshold:.3g}, {bar}{where}",
        advice={
            Symptom.WORSE_THAN_TRIVIAL: "{remedy}",
            Symptom.NOT_LEARNING: "If settings with a higher learning rate learn, raise it or "
            "train longer; if those with a lower one do, it is far too high. If none learns, the "
            "model is too small, or it or the data is broken.",
        },
    ),
    Rule(
        id="R1d",
        find=find_catastrophic_excursion,
        reason="a batch loss of {value:.3g} by step {step}, above {threshold:.3g}, {times} times "
        "that of a model that outputs 0{where}",
        advice={Symptom.CATASTROPHIC_EXCURSION: "{remedy}"},
    ),
    Rule(
        id="R2",
        find=find_loss_stuck,
        on=News.WINDOW,
        times=2,
        reason="at its pace by step {step} the loss ends at {value:.3g} or more; {bar}",
        advice={Symptom.LOSS_STUCK: "{remedy}"},
    ),
    Rule(
        id="R3",
        find=find_lr_off,
        on=News.EVALUATION,
        times=2,
        reason="kappa {kappa} at step {step}: the learning rate is {distance} {side} the best",
        advice={
            Symptom.LEARNING_RATE_LOW: "Raise the learning rate about {factor} times.",
            Symptom.LEARNING_RATE_HIGH: "Lower the learning rate about {factor} times, or let it "
            "decay.",
        },
    ),
    Rule(
        id="R4",
        find=find_clean_timesteps_high,
        on=News.EVALUATION,
        times=2,
        reason="held-out loss {value:.2f} times that of the best single gain at step "
        "{step}{where}",
        advice={Symptom.CLEAN_TIMESTEPS_HIGH: "{remedy}"},
    ),
    Rule(
        id="R5",
        find=find_noisy_timesteps_high,
        on=News.EVALUATION,
        times=2,
        reason="held-out loss {value:.2f} times {than} at step {step}{where}",
        advice={
            Symptom.NOISY_TIMESTEPS_HIGH: "Check that training draws timesteps up to the last "
            "one, and weights them; v_prediction is easier there."
        },
    ),
    Rule(
        id="R5b",
        find=find_noisy_timesteps_amplified,
        on=News.EVALUATION,
        reason="read as an image, the error is {value:.3g} times the data's variance by step "
        "{step}{where}",
        advice={
            Symptom.NOISY_TIMESTEPS_AMPLIFIED: "Predict v_prediction, or clip x0 in the sampler: "
            "what is predicted at the noisiest timesteps says little about the image."
        },
    ),
    Rule(
        id="R6",
        find=find_time_blind,
        on=News.PROBE,
        times=2,
        reason="wrong timesteps raise the held-out loss by {percent} only at step {step}",
        advice={
            Symptom.TIME_BLIND: "Check that the timesteps reach the network as they were drawn; "
            "condition by scale and shift (FiLM, adaLN) in every block."
        },
    ),
    Rule(
        id="R7",
        find=find_timestep_domination,
        on=News.GRADIENTS,
        times=2,
        reason="{percent} of the squared gradient comes from one timestep bin by step {step}, as "
        "if there were {bins} bins{where}",
        advice={
            Symptom.EARLY_TIMESTEP_DOMINATION: "The least noisy timesteps drown the others: cap "
            "the loss weight (loss_weighting min_snr with snr_gamma 5), or use none.",
            Symptom.LATE_TIMESTEP_DOMINATION: "The noisiest timesteps drown the others: drop the "
            "weight that grows with noise (loss_weighting none), or predict v_prediction.",
            Symptom.TIMESTEP_DOMINATION: "Use another loss_weighting or timestep_sampling: the "
            "model learns a few timesteps only.",
        },
    ),
    Rule(
        id="R8",
        find=find_dead_timesteps,
        on=News.EVALUATION,
        times=2,
        reason="{what} at step {step}{where}",
        advice={
            Symptom.DEAD_TIMESTEPS: "Look for what treats these timesteps differently: a gate, a "
            "mask, an embedding index, or a sampler of timesteps that leaves them out."
        },
    ),
    Rule(
        id="R9",
        find=find_gradient_outliers,
        on=News.NORMS,
        times=2,
        reason="{share} of the gradient norms are above 3 times the usual one by step {step}",
        advice={
            Symptom.GRADIENT_OUTLIERS: "Clip with max_grad_norm near the usual norm; look for "
            "broken examples."
        },
    ),
    Rule(
        id="R10",
        find=find_ema_too_long,
        on=News.EVALUATION,
        reason="the averaged weights have {value:.3g} times the loss of the raw ones at step "
        "{step}: they still hold the initial weights",
        advice={
            Symptom.EMA_TOO_LONG: "Rank by the raw weights, or use ema_schedule ramped or power."
        },
    ),
    Rule(
        id="R11",
        find=find_sampler_mismatch,
        on=News.START,
        reason="sampler {name} with the exact denoiser of the data: {what}",
        advice={
            Symptom.SAMPLER_MISMATCH: "Compare the sampler's noise schedule, prediction type and "
            "timesteps with those of training; do not judge quality by its samples. If only the "
            "variance is off, take more steps. Clipping x0 to the range of bounded data is sound, "
            "and fails here all the same: `stabsearch check-sampler` tells it apart."
        },
    ),
    Rule(
        id="R12",
        find=find_undertrained,
        on=News.END,
        reason="at the end {what}",
        advice={Symptom.UNDERTRAINED: "Train longer, or raise the learning rate."},
    ),
    Rule(
        id="R13",
        find=find_memorising,
        on=News.EVALUATION,
        times=2,
        reason="training loss {value:.2f} of the held-out loss at step {step}{where}",
        advice={
            Symptom.MEMORISING: "Use more data, augmentation or a smaller model, or stop earlier."
        },
    ),
    Rule(
        id="R14",
        find=find_terminal_signal,
        on=News.START,
        reason="the noisiest x_t still holds {value:.3g} nats per dimension of the data{where}",
        advice={
            Symptom.TERMINAL_SIGNAL: "Set noise_schedule.rescale_betas_zero_snr (with "
            "v_prediction) or raise beta_end."
        },
    ),
    Rule(
        id="R14b",
        find=find_imprecise_schedule,
        on=News.START,
        reason="the noise levels of training are off by {value:.2g} (relative){where}",
        advice={
            Symptom.IMPRECISE_SCHEDULE: "Compute the noise schedule in float64 and keep its "
            "tables in float32, whatever the precision of the model."
        },
    ),
    Rule(
        id="R15",
        find=find_frozen_parameters,
        on=News.REPORT,
        reason="{matrices} not changed by step {step}: {names}",
        advice={
            Symptom.FROZEN_PARAMETERS: "Look for a detach, a missing optimizer parameter or a "
            "layer that is never called; set requires_grad false where it is on purpose."
        },
    ),
)
