"""Trials that count as unstable for what others did, and are not by their own verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stabsearch.recommend.choice import merged
from stabsearch.recommend.evidence import killed_trials, never_learned
from stabsearch.recommend.space import LEARNING_RATE, learning_rate_of, search_space
from stabsearch.recommend.words import count, number
from stabsearch.records import ParamValue, TrialRecord

MAX_NAMED = 3
"""Neighbours that a sentence names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A trial that learned nothing, where others had at lower rates."""

    record: TrialRecord
    learned: tuple[TrialRecord, ...]
    """Those others, the nearest rate first."""

    def __str__(self) -> str:
        """Why the answer counts it as unstable, with the numbers."""
        shown = [_shown(self.record, one) for one in self.learned[:MAX_NAMED]]
        if len(shown) < len(self.learned):
            shown.append("...")
        rates = "a lower rate" if len(self.learned) == 1 else "lower rates"
        return (
            f"counts as unstable in the answer: {_fate(self.record)}, where "
            f"{count(len(self.learned), 'trial')} at {rates} had learned: {'; '.join(shown)}"
        )


def comparisons_of(
    records: Sequence[TrialRecord], study: Mapping[str, Any]
) -> dict[str, Comparison]:
    """By trial_id, of the trials whose own ending is another."""
    kept = merged(records)
    space = search_space(study, kept)
    if space.axis(LEARNING_RATE) is None:
        return {}
    groups: dict[tuple[ParamValue, ...], list[TrialRecord]] = {}
    for record in kept:
        groups.setdefault(space.category(record.params), []).append(record)
    by_id = {record.trial_id: record for record in kept}
    return {
        trial_id: Comparison(record=by_id[trial_id], learned=tuple(sorted(below, key=_descending)))
        for group in groups.values()
        for trial_id, below in killed_trials(group, study).items()
        if not by_id[trial_id].is_unstable
    }


def _descending(record: TrialRecord) -> float:
    return -learning_rate_of(record.params)


def _fate(record: TrialRecord) -> str:
    """What such a trial did, by its score or, later, by a rule."""
    if never_learned(record):
        return f"it never learned ({record.rule} {record.symptom})"
    return (
        f"by step {record.steps} its score was {number(record.score)}, no better than the "
        f"{number(record.constant_score)} of a constant prediction"
    )


def _shown(record: TrialRecord, other: TrialRecord) -> str:
    """``0002-0, learning_rate 2.9e-3, score 19.2 by then``; the score where it decided."""
    text = f"{other.trial_id}, {LEARNING_RATE} {number(learning_rate_of(other.params))}"
    if never_learned(record):
        return text
    scores = {look.step: look.score for look in other.looks}
    return f"{text}, score {number(scores.get(record.steps))} by then"
