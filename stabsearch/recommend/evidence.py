"""What every trial says of the stability edge: beyond it, within it, or nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stabsearch.recommend.space import (
    Floats,
    field_value,
    gradient_ceiling,
    learning_rate_of,
    norm_threshold,
)
from stabsearch.records import Outcome, Severity, Symptom, TrialRecord

MIN_BUDGET_SHARE = 0.5
"""A trial that ended early without diverging says "stable here" only if it went this far."""

CLEARLY_BELOW = 1.0
"""Octaves. Where clipping guards, one octave takes the failure odds from even to 1 in 6000."""

MIN_STABLE_ABOVE = 3
"""One or two stable trials above an unstable one may be luck."""


def unstable_trials(records: Sequence[TrialRecord], study: Mapping[str, Any]) -> frozenset[str]:
    """The trials beyond the edge, of ``records`` that share their categorical values.

    Beside those with a divergence of their own, the ones that never learned at a learning rate
    above that of a stable trial: a rate that is too high kills a network from the first step, and
    by itself such a trial looks as one whose rate is too low.
    """
    stable = [record for record in records if record.is_stable]
    ceiling = gradient_ceiling(stable) or math.inf

    def reach(record: TrialRecord) -> tuple[float, float]:
        """Learning rate, and under SGD the largest step: AdamW undoes the scale of gradients."""
        learning_rate = learning_rate_of(record.params)
        if field_value(study, record.params, "optimizer") != "sgd":
            return learning_rate, learning_rate
        clip = norm_threshold(study, record.params)
        return learning_rate, learning_rate * min(
            math.inf if clip is None else float(clip), ceiling
        )

    def is_killed(record: TrialRecord) -> bool:
        rate, step = reach(record)
        return never_learned(record) and any(
            rate > stable_rate and step > stable_step for stable_rate, stable_step in reaches
        )

    reaches = [reach(record) for record in stable]
    return frozenset(
        record.trial_id
        for record in records
        if record.outcome is not Outcome.FAILED and (record.is_unstable or is_killed(record))
    )


def never_learned(record: TrialRecord) -> bool:
    """Whether the trial ended as it began; by itself that says nothing about the edge."""
    return (
        record.symptom == Symptom.NOT_LEARNING
        and record.severity >= Severity.PENALISE
        and record.outcome not in (Outcome.RUNNING, Outcome.FAILED)
    )


def evidence(record: TrialRecord, *, is_unstable: bool) -> bool | None:
    """True beyond the edge, False within it, None if the trial cannot tell.

    A trial that was stopped by rank or still runs is evidence of stability once half of its budget
    passed without divergence. Failed trials say nothing: the machine failed, not the setting.
    """
    if is_unstable:
        return True
    if record.outcome is Outcome.FAILED or never_learned(record):
        return None
    is_long = record.steps >= MIN_BUDGET_SHARE * record.max_train_steps
    return False if record.outcome is Outcome.COMPLETED or is_long else None


def out_of_order(octaves: Floats, unstable: np.ndarray) -> np.ndarray:
    """Which of the trials ``[n]`` are unstable with several stable ones clearly above them.

    ``octaves`` is the learning rate in log2, corrected for how the edge moves with clipping. Where
    failure is a matter of the learning rate there are none; unclipped Adam may show some.
    """
    higher = octaves[None, :] >= octaves[:, None] + CLEARLY_BELOW
    num_stable_above = (higher & ~unstable[None, :]).sum(axis=1)
    found: np.ndarray = unstable & (num_stable_above >= MIN_STABLE_ABOVE)
    return found
