"""What every trial says of the stability edge: beyond it, within it, or nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stabsearch.recommend.space import (
    Floats,
    gradient_ceiling,
    learning_rate_of,
    norm_threshold,
    steps_with_gradient,
)
from stabsearch.records import Outcome, Severity, StoppedBy, Symptom, TrialRecord

DETECTION = ((0.05, 0.0), (0.075, 0.50), (0.10, 0.87), (0.20, 0.92), (0.50, 0.95), (1.0, 1.0))
"""(share of the budget, share of the trials that end unstable which the rules have called by
then), linear in between; measured on 135 unstable trials (docs/benchmarks.md, section truth)."""

CLEARLY_BELOW = 1.0
"""Octaves. Where clipping guards, one octave takes the failure odds from even to 1 in 6000."""

MIN_STABLE_ABOVE = 3
"""One or two stable trials above an unstable one may be luck."""

LEARNED = 0.05
"""Share of the way down from the best constant prediction to no error at all, by which a trial is
ahead of one that has not begun it. All 27 trials of the logged grids that had learned nothing by a
tenth of the budget, where a lower rate had, failed in the end; of the five that had made up to
three tenths of the other's progress, two (docs/decisions.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What one trial adds to the likelihood of an edge.

    P(unstable) of a trial that was unstable, 1 - detection x P(unstable) of one that was not: had
    it been going to fail, it would have shown it by then with that probability.
    """

    is_unstable: bool
    detection: float = 1.0


def unstable_trials(records: Sequence[TrialRecord], study: Mapping[str, Any]) -> frozenset[str]:
    """The trials beyond the edge, of ``records`` that share their categorical values: those with a
    divergence of their own, and the ones that their rate killed."""
    own = (r.trial_id for r in records if r.outcome is not Outcome.FAILED and r.is_unstable)
    return frozenset((*own, *killed_trials(records, study)))


def killed_trials(
    records: Sequence[TrialRecord], study: Mapping[str, Any]
) -> dict[str, tuple[TrialRecord, ...]]:
    """The trials that never learned although no fewer stable trials lie below their learning rate
    than above it, and the ones below: a rate that is too high kills a network from the first step,
    and by itself such a trial looks as one whose rate is too low.

    A short trial is held against what the others had learned by the step at which it ended, which
    is too early for a verdict of its own.
    """
    stable = [record for record in records if is_sound(record)]
    ceiling = gradient_ceiling(stable) or math.inf

    def reach(record: TrialRecord) -> tuple[float, float]:
        """Learning rate, and under SGD the largest step: AdamW undoes the scale of gradients."""
        learning_rate = learning_rate_of(record.params)
        if not steps_with_gradient(study, record.params):
            return learning_rate, learning_rate
        clip = norm_threshold(study, record.params)
        return learning_rate, learning_rate * min(
            math.inf if clip is None else float(clip), ceiling
        )

    reaches = {record.trial_id: reach(record) for record in stable}

    def killed_beside(record: TrialRecord) -> tuple[TrialRecord, ...]:
        """The stable trials below; none where they do not say that it was killed."""
        rate, step = reach(record)
        ahead = [(one, reaches[one.trial_id]) for one in _ahead_of(record, stable)]
        below = [one for one, (its, its_step) in ahead if rate > its and step > its_step]
        above = sum(rate < its and step < its_step for _, (its, its_step) in ahead)
        return tuple(below) if len(below) >= above else ()

    return {
        record.trial_id: below
        for record in records
        if record.outcome is not Outcome.FAILED and (below := killed_beside(record))
    }


def _ahead_of(record: TrialRecord, stable: Sequence[TrialRecord]) -> Sequence[TrialRecord]:
    """The stable trials that had learned where this one had not; none where it had."""
    if never_learned(record):
        return stable
    if is_idle(record):
        return [one for one in stable if _progress_by(record.steps, one) >= LEARNED]
    return ()


def is_sound(record: TrialRecord) -> bool:
    """Whether the trial was within the edge, and learned, for as long as it trained."""
    return record.ending.is_sound and not is_idle(record)


def is_idle(record: TrialRecord) -> bool:
    """Whether a short trial was no better than the best constant by its end."""
    return record.stopped_by is StoppedBy.PROBE and not has_begun(record, record.steps)


def has_begun(record: TrialRecord, step: int) -> bool:
    """Whether the trial was better than the best constant at a look, as far as it was scored."""
    return not _progress_by(step, record) <= 0


def learned_nothing(record: TrialRecord) -> bool:
    """Whether the trial ended hardly better than the best constant, as far as it has a score."""
    return _progress(record.score, record.constant_score) < LEARNED


def _progress_by(step: int, record: TrialRecord) -> float:
    """By a step; NaN where nobody looked."""
    score = next((look.score for look in record.looks if look.step == step), None)
    return _progress(score, record.constant_score)


def _progress(score: float | None, constant_score: float | None) -> float:
    """How far a score has come down from the best constant's, 0, to no error, 1; NaN where one of
    them is not known."""
    if score is None or not constant_score:
        return math.nan
    return 1.0 - score / constant_score


def never_learned(record: TrialRecord) -> bool:
    """Whether the trial ended as it began; by itself that says nothing about the edge."""
    return (
        record.symptom == Symptom.NOT_LEARNING
        and record.severity >= Severity.PENALISE
        and record.has_result
    )


def evidence(record: TrialRecord, *, is_unstable: bool) -> Evidence | None:
    """None if the trial cannot tell.

    A trial that ended early without divergence, or still runs, is evidence of stability in the
    measure of how many failures show by then. Failed trials say nothing: the machine failed, not
    the setting.
    """
    if is_unstable:
        return Evidence(is_unstable=True)
    if record.outcome is Outcome.FAILED or never_learned(record):
        return None
    if record.outcome is Outcome.COMPLETED:
        return Evidence(is_unstable=False)
    detection = detected_by(record.steps / record.max_train_steps)
    return Evidence(is_unstable=False, detection=detection) if detection > 0 else None


def detected_by(share: float) -> float:
    """The share of failing trials that have failed visibly by a share of their budget."""
    shares, detected = zip(*DETECTION, strict=True)
    return float(np.interp(share, shares, detected))


def out_of_order(octaves: Floats, unstable: np.ndarray) -> np.ndarray:
    """Which of the trials ``[n]`` are unstable with several stable ones clearly above them.

    ``octaves`` is the learning rate in log2, corrected for how the edge moves with clipping. Where
    failure is a matter of the learning rate there are none; unclipped Adam may show some.
    """
    higher = octaves[None, :] >= octaves[:, None] + CLEARLY_BELOW
    num_stable_above = (higher & ~unstable[None, :]).sum(axis=1)
    found: np.ndarray = unstable & (num_stable_above >= MIN_STABLE_ABOVE)
    return found
