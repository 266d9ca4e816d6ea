"""The rules: one function and one row of ``RULES`` each.

A rule looks at the report and the trial's window and returns what it found, or None. It knows
numbers, not actions: severity, words and advice stand in its row. To add a rule, write its
function and its row; docs/rules.md explains the thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stabsearch.records import Report, Severity, Symptom
from stabsearch.stability.window import TrialWindow


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a rule saw."""

    value: float
    threshold: float
    symptom: Symptom
    severity: Severity
    step: int
    timestep_bin: int | None
    bar: str = ""
    """What the threshold is, in words, for a rule that has more than one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A row of the table."""

    id: str
    find: Callable[[Report, TrialWindow], Finding | None]
    reason: str
    """Template over the finding's numbers and ``bar``, ``share`` (the value as a part of a whole,
    in words) and ``where`` (the timesteps in words)."""
    advice: dict[Symptom, str]
    needs_window: bool = False
    """Compares windows: judged only when a report completes one."""


LOST_PROGRESS_PRUNE = 0.5
LOST_PROGRESS_PENALISE = 0.2
NOT_FALLING_T = -2.0
"""Above this t statistic of the slope of log loss, the loss is not falling."""
SLOPE_SHARE = 0.4
SLOPE_MIN_WINDOWS = 4
STANDING_SHARE = 0.5
"""Above this share of skipped steps, training has stopped in fact."""
SCALER_GRACE_STEPS = 25
LATEST_START = 0.5
"""Every rule judges from this share of the budget on, however long warm-up is."""
HOPELESS_RATIO = 1.5
EXCURSION_RATIO = 3.0
EXCURSION_SIGMAS = 3.0
"""Standard deviations of a mean of squared normal numbers."""
ALIVE_SHARE = 0.25
"""A trial that came down by this share of the possible progress C0 - L_iso is learning."""
EXCURSION_GRACE_STEPS = 100
"""Steps after warm-up in which a high batch loss is not yet an excursion."""
LOOSE_CLIP_RATIO = 4.0
"""A max_grad_norm above this many times the typical norm clips nothing but the excursion itself,
too late."""


def find_non_finite(report: Report, window: TrialWindow) -> Finding | None:
    """R1a: any step, or evaluation, that is not finite. Adam rarely gets there; SGD does.

    A trial that is told to skip such steps gets a warning, until most of its steps are so.
    fp16 loss scaling skips steps as part of its work; where it skips most, the training stands.
    """
    is_evaluation_bad = report.evaluation is not None and not math.isfinite(
        report.evaluation.loss_raw
    )
    lost_steps = report.nonfinite_steps
    is_standing = (
        window.skipped_share > STANDING_SHARE
        and report.step > SCALER_GRACE_STEPS  # a new loss scaler begins with skips
    )
    if not (lost_steps or is_standing or is_evaluation_bad):
        return None
    is_tolerated = window.facts.skips_nonfinite and not (is_standing or is_evaluation_bad)
    return Finding(
        value=max(1, lost_steps + (report.scaler_skips if is_standing else 0)),
        threshold=0,
        symptom=Symptom.NON_FINITE,
        severity=Severity.WARN if is_tolerated else Severity.PRUNE,
        step=report.first_nonfinite_step or report.step,
        timestep_bin=max(report.first_nonfinite_bins, default=None),
        bar=(
            "loss or gradient became NaN or Inf"
            if lost_steps or is_evaluation_bad
            else "loss scaling skips most steps, because scaled gradients overflow,"
        ),
    )


def find_lost_progress(report: Report, window: TrialWindow) -> Finding | None:
    """R1b: the trial had come down and went up again, for two windows on average."""
    start = min(window.facts.lr_warmup_steps, LATEST_START * window.facts.max_train_steps)
    if report.step < start + 2 * window.window_steps or not window.has_progress_to_make:
        return None
    lost = window.lost_progress
    if not lost > LOST_PROGRESS_PENALISE:
        return None
    is_prune = lost > LOST_PROGRESS_PRUNE
    return Finding(
        value=lost,
        threshold=LOST_PROGRESS_PRUNE if is_prune else LOST_PROGRESS_PENALISE,
        symptom=Symptom.LOST_PROGRESS,
        severity=Severity.PRUNE if is_prune else Severity.PENALISE,
        step=report.step,
        timestep_bin=window.worst_judged_bin(window.bin_lost_progress),
    )


def find_worse_than_trivial(report: Report, window: TrialWindow) -> Finding | None:
    """R1c: no better than a trivial denoiser and not on the way down.

    The bar is half-way between the best scalar gain (L_iso) and the best constant prediction
    (C0). A trial that once did better, or is far above what the output 0 gives, has diverged. One
    that never moved is not learning. One that came down part of the way and stays there is alive:
    it may be as good as its model can be, so it only gets a warning.
    """
    facts, reference = window.facts, window.facts.reference
    start = min(2 * facts.lr_warmup_steps, LATEST_START * facts.max_train_steps)
    if report.step < max(start, 0.1 * facts.max_train_steps):
        return None
    current = window.current_loss
    possible = window.constant - window.isotropic
    bar = window.constant - 0.5 * possible
    hopeless = HOPELESS_RATIO * window.zero
    is_hopeless = current > hopeless
    is_stuck = (
        current > bar
        and window.has_progress_to_make
        and window.log_loss_slope_t(SLOPE_SHARE, SLOPE_MIN_WINDOWS) > NOT_FALLING_T
    )
    if not (is_stuck or is_hopeless):
        return None
    has_diverged = is_hopeless or window.max_lost_progress > LOST_PROGRESS_PENALISE
    is_alive = not has_diverged and current < window.constant - ALIVE_SHARE * possible
    bin_bar = (np.array(reference.bin_constant) + np.array(reference.bin_isotropic)) / 2
    return Finding(
        value=current,
        threshold=hopeless if is_hopeless else bar,
        symptom=Symptom.WORSE_THAN_TRIVIAL if has_diverged else Symptom.NOT_LEARNING,
        severity=Severity.WARN if is_alive else Severity.PRUNE,
        step=report.step,
        timestep_bin=window.worst_judged_bin(window.current_bin_loss / bin_bar),
        bar=(
            "1.5 times that of a model that outputs 0"
            if is_hopeless
            else "half-way to a constant prediction, and not falling"
        ),
    )


def find_catastrophic_excursion(report: Report, window: TrialWindow) -> Finding | None:
    """R1d: one batch far above what the output 0 gives, long after warm-up.

    Without clipping it was fatal in 13 of 13 cases, with clipping in 0 of 6: there the trial may
    go on, but its setting is not called stable. A clip far above the usual norms is none.
    """
    facts = window.facts
    report_start = report.step - facts.report_every
    start = min(facts.lr_warmup_steps, LATEST_START * facts.max_train_steps)
    if report_start < start + EXCURSION_GRACE_STEPS:
        return None
    # A batch of few numbers is far from its mean without any fault of the model's.
    noise = EXCURSION_SIGMAS * math.sqrt(2 / facts.batch_numbers)
    threshold = EXCURSION_RATIO * window.zero * (1 + noise)
    if not report.max_batch_loss > threshold:
        return None
    return Finding(
        value=report.max_batch_loss,
        threshold=threshold,
        symptom=Symptom.CATASTROPHIC_EXCURSION,
        severity=Severity.PENALISE if is_guarded(report, window) else Severity.PRUNE,
        step=report.step,
        timestep_bin=window.worst_judged_bin(
            np.array(report.bin_loss) / np.array(window.min_bin_loss)
        ),
    )


def is_guarded(report: Report, window: TrialWindow) -> bool:
    """Whether clipping holds an excursion down.

    A norm far above the usual ones clips nothing but the excursion itself, too late. The other
    strategies follow the run; they guard it if they clipped anything in the report's window.
    """
    facts = window.facts
    if facts.max_grad_norm is None:
        return facts.clipping != "none" and report.clip_rate > 0
    return facts.max_grad_norm <= LOOSE_CLIP_RATIO * window.typical_grad_norm


LOWER_LR = "Lower the learning rate: it is above the largest stable one for this clipping."

RULES: tuple[Rule, ...] = (
    Rule(
        id="R1a",
        find=find_non_finite,
        reason="{bar} at step {step}{where}",
        advice={
            Symptom.NON_FINITE: "Lower the learning rate 4 times and clip with max_grad_norm 1."
        },
    ),
    Rule(
        id="R1b",
        find=find_lost_progress,
        needs_window=True,
        reason="lost {share} of its progress by step {step}{where}",
        advice={Symptom.LOST_PROGRESS: LOWER_LR},
    ),
    Rule(
        id="R1c",
        find=find_worse_than_trivial,
        needs_window=True,
        reason="loss {value:.3g} at step {step} is above {threshold:.3g}, {bar}{where}",
        advice={
            Symptom.WORSE_THAN_TRIVIAL: LOWER_LR,
            Symptom.NOT_LEARNING: "If settings with a higher learning rate learn, raise it or "
            "train longer; if those with a lower one do, it is far too high. If none learns, the "
            "model is too small, or it or the data is broken.",
        },
    ),
    Rule(
        id="R1d",
        find=find_catastrophic_excursion,
        reason="a batch loss of {value:.3g} by step {step}, above {threshold:.3g}, three times "
        "that of a model that outputs 0{where}",
        advice={
            Symptom.CATASTROPHIC_EXCURSION: "Clip with max_grad_norm 1 and lower the learning "
            "rate."
        },
    ),
)
