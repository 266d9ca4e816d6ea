"""The settings that may be recommended, and the choice among them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stabsearch.recommend.landscape import MAX_FAILURE_PROBABILITY, Landscape
from stabsearch.recommend.space import is_guarded, norm_threshold
from stabsearch.records import Outcome, Params, TrialRecord

TIE_RATIO = 1.05
"""Worst scores within this ratio are equal. On the demo the ratio of two settings' scores changes
by 4 to 6% (standard deviation) from one seed to another."""

TIE_OCTAVES = 0.5
"""Margins that differ by less are equal when a guard is at stake: unclipped, half an octave takes
the odds of failure down by 2 only; clipped, by 80 (slopes of 1.4 and 8.7 per octave)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A setting whose finished trials were all stable."""

    params: Params
    trials: tuple[TrialRecord, ...]
    """The stable trials, one per seed."""
    num_seeds: int
    """How many the study asks for."""
    num_failed: int
    landscape: Landscape
    worst_score: float | None
    p_doubled: float | None
    """P(unstable) at twice the learning rate."""
    margin: float | None
    is_guarded: bool
    """Clipping is there for large gradients, in every seed."""

    @property
    def score(self) -> float:
        """Worst over seeds."""
        return max(trial.score for trial in self.trials if trial.score is not None)

    @property
    def best_trial(self) -> TrialRecord:
        return min(self.trials, key=lambda trial: trial.score or math.inf)

    @property
    def num_missing(self) -> int:
        """Replicates without a result: failed, running, or not begun."""
        return self.num_seeds - len(self.trials)

    @property
    def is_safe(self) -> bool:
        return self.p_doubled is None or self.p_doubled <= MAX_FAILURE_PROBABILITY

    @property
    def rank(self) -> tuple[bool, float]:
        """Settings without a prediction come last, by what they measured."""
        return (self.worst_score is None, self.worst_score or self.score)


def candidates_of(
    landscape: Landscape, num_seeds: int, study: Mapping[str, Any]
) -> list[Candidate]:
    """The landscape's settings that were stable whenever they trained to the end."""
    settings: dict[int, list[TrialRecord]] = {}
    for record in landscape.records:
        settings.setdefault(record.setting, []).append(record)
    stable: list[tuple[list[TrialRecord], int]] = []
    for trials in settings.values():
        ended = [t for t in trials if t.outcome not in (Outcome.RUNNING, Outcome.FAILED)]
        is_sound = not any(landscape.is_unstable(trial) for trial in trials)
        if ended and is_sound and all(t.is_stable and t.score is not None for t in ended):
            stable.append((ended, sum(t.outcome is Outcome.FAILED for t in trials)))
    worst = landscape.worst_scores([trials[0].params for trials, _ in stable])
    return [
        Candidate(
            params=trials[0].params,
            trials=tuple(trials),
            num_seeds=max(num_seeds, len(trials)),
            num_failed=num_failed,
            landscape=landscape,
            worst_score=worst_score,
            p_doubled=landscape.p_unstable(trials[0].params, factor=2.0),
            margin=landscape.margin(trials[0].params),
            is_guarded=all(
                is_guarded(trial, norm_threshold(study, trial.params)) for trial in trials
            ),
        )
        for (trials, num_failed), worst_score in zip(stable, worst, strict=True)
    ]


def first_choice(candidates: Sequence[Candidate]) -> Candidate:
    """The lowest worst score of the safe candidates; the least risky candidate if none is safe.

    Those with fewer seeds than others come after them.
    """
    complete = _most_seeds(candidates)
    safe = [candidate for candidate in complete if candidate.is_safe]
    if not safe:
        return min(complete, key=lambda c: (c.p_doubled or 0.0, *c.rank))
    return min(safe, key=lambda candidate: candidate.rank)


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """The first choice, or of the safe ones that tie with it the one with more in hand.

    That is: the larger margin; between nearly equal margins, the one whose gradients are clipped
    when they are large, because without clipping failures come late and at moderate rates too;
    then the better score.
    """
    first = first_choice(candidates)
    if first.worst_score is None or not first.is_safe:
        return first
    bar = TIE_RATIO * first.worst_score
    tied = [
        c
        for c in _most_seeds(candidates)
        if c.is_safe and c.worst_score is not None and c.worst_score <= bar
    ]
    largest = max(c.margin or 0.0 for c in tied)
    tied = [c for c in tied if (c.margin or 0.0) >= largest - TIE_OCTAVES]
    return min(tied, key=lambda c: (not c.is_guarded, c.score))


def _most_seeds(candidates: Sequence[Candidate]) -> list[Candidate]:
    fewest = min(candidate.num_missing for candidate in candidates)
    return [candidate for candidate in candidates if candidate.num_missing == fewest]
