"""The settings that may be recommended, and the choice among them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stabsearch.recommend.edge_process import SAFE
from stabsearch.recommend.landscape import MAX_FAILURE_PROBABILITY, Landscape
from stabsearch.recommend.space import (
    LEARNING_RATE,
    is_guarded,
    learning_rate_of,
    norm_threshold,
)
from stabsearch.records import Outcome, Params, Purpose, TrialRecord

TIE_RATIO = 1.05
"""Worst scores within this ratio are equal. On the demo the ratio of two settings' scores changes
by 4 to 6% (standard deviation) from one seed to another."""

TIE_OCTAVES = 0.5
"""Margins that differ by less are equal when a guard is at stake: unclipped, half an octave takes
the odds of failure down by 2 only; clipped, by 80 (slopes of 1.4 and 8.7 per octave)."""

FAR_ENOUGH = 0.25
"""Octaves between two settings from which on their scores say where the score goes."""

OWN_PURPOSES = (Purpose.SEARCH, Purpose.CONFIRM)
"""Trials that say what a setting does over the whole budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A setting whose finished trials were all stable."""

    params: Params
    trials: tuple[TrialRecord, ...]
    """The stable trials, one per seed."""
    num_seeds: int
    """How many the study asks for; more, where more were trained."""
    num_missing: int
    """Replicates that the search asks for and that have no result: failed, running, or not
    begun."""
    num_failed: int
    landscape: Landscape
    worst_score: float | None
    score_around: float
    """The highest measured score of stable settings within the study's margin, its own included:
    what stands in for a prediction."""
    p_doubled: float | None
    """P(unstable) the study's margin above the learning rate: at twice it, unless asked else."""
    risk: float
    """The highest P(unstable) from its learning rate to the landscape's ``safety_octaves`` above,
    as far as is known."""
    margin: float | None
    num_unstable: int
    """Seeds of it that failed: not 0 for one that is not sound."""
    is_guarded: bool
    """Clipping is there for large gradients, in every seed."""
    is_sound: bool = True
    """False for a setting of which some trial was not stable: it is listed only because it was
    recommended once."""

    @property
    def setting(self) -> int:
        return self.trials[0].setting

    @property
    def score(self) -> float:
        """Worst over seeds."""
        return max(trial.score for trial in self.trials if trial.score is not None)

    @property
    def best_trial(self) -> TrialRecord:
        """Of the search's own trials: those that confirmed it would give it more chances."""
        own = [trial for trial in self.trials if trial.purpose.is_search]
        return min(own or self.trials, key=lambda trial: trial.score or math.inf)

    @property
    def margin_at_least(self) -> float:
        """The margin; without one, octaves up to the highest rate that was stable. Where more
        than 5% of runs fail already here, nobody knows how far below zero it is."""
        if self.margin is not None:
            return self.margin
        p = self.landscape.p_unstable(self.params)
        if p is not None and p > SAFE:
            return -math.inf
        own = learning_rate_of(self.params)
        sound = (learning_rate_of(r.params) for r in self.landscape.sound)
        return max((math.log2(rate / own) for rate in sound if rate > own), default=0.0)

    @property
    def is_safe(self) -> bool:
        return self.risk <= MAX_FAILURE_PROBABILITY

    @property
    def rank(self) -> tuple[bool, float]:
        """Settings without a prediction come last, by what was measured around them."""
        return (self.worst_score is None, self.worst_score or self.score_around)


def candidates_of(
    landscape: Landscape,
    num_seeds: int,
    study: Mapping[str, Any],
    also: Collection[int] = (),
) -> list[Candidate]:
    """The landscape's settings that were stable whenever they trained to the end.

    Settings that are named in ``also`` need one stable trial only.
    """
    found = [
        (trials, [t for t in trials if _is_scored(t)], _is_sound(trials, landscape))
        for trials in _settings(landscape.records).values()
    ]
    kept = [(t, s, ok) for t, s, ok in found if s and (ok or s[0].setting in also)]
    worst = landscape.worst_scores([stable[0].params for _, stable, _ in kept])
    candidates = []
    for (trials, stable, is_sound), worst_score in zip(kept, worst, strict=True):
        params = stable[0].params
        num_trained = sum(t.outcome is not Outcome.RUNNING for t in trials)
        candidates.append(
            Candidate(
                params=params,
                trials=tuple(stable),
                num_seeds=max(num_seeds, num_trained),
                num_missing=max(0, num_seeds - len(stable)),
                num_failed=sum(t.outcome is Outcome.FAILED for t in trials),
                landscape=landscape,
                worst_score=worst_score,
                score_around=_score_around(params, kept, landscape),
                p_doubled=landscape.p_beyond(params),
                risk=landscape.risk(params),
                margin=landscape.margin(params),
                num_unstable=sum(landscape.is_unstable(t) for t in trials),
                is_guarded=all(is_guarded(t, norm_threshold(study, t.params)) for t in stable),
                is_sound=is_sound,
            )
        )
    return candidates


def _score_around(
    params: Params,
    kept: Sequence[tuple[list[TrialRecord], list[TrialRecord], bool]],
    landscape: Landscape,
) -> float:
    """The highest score within the margin, as far as stable settings were measured there.

    On a side of the learning rate where none was, the score goes on as it does between the setting
    and its nearest neighbour on the other side, of those that are not so near that only seeds tell
    them apart: the last one of a row is not the safest for that.
    """
    axes = landscape.space.axes
    rate = next((i for i, axis in enumerate(axes) if axis.name == LEARNING_RATE), None)
    reach = np.array([landscape.octaves + 0.05 if axis.is_log else 0.1 for axis in axes])
    own = landscape.space.points([params])[0]
    found: dict[float, float] = {}
    for trial in (trial for _, stable, _ in kept for trial in stable):
        apart = landscape.space.points([trial.params])[0] - own
        if bool((np.abs(apart) <= reach).all()):
            at = 0.0 if rate is None else float(apart[rate])
            found[at] = max(found.get(at, 0.0), trial.score or 0.0)
    return max((*found.values(), *_beyond(found, landscape.octaves)))


def _beyond(found: Mapping[float, float], octaves: float) -> Iterator[float]:
    """Scores ``octaves`` away on the sides where ``found``, by octaves from 0, has none."""
    own = found[0.0]
    for side in (-1.0, 1.0):
        others = [at for at in found if at * side < 0 and abs(at) >= FAR_ENOUGH]
        if others and not any(at * side > 0 for at in found):
            nearest = min(others, key=abs)
            rise = (own / found[nearest]) ** (octaves / abs(nearest))
            yield own * rise


def first_choice(candidates: Sequence[Candidate]) -> Candidate:
    """The lowest worst score of the safe candidates; the least risky candidate if none is safe.

    Without a prediction the measured score decides. Those with fewer seeds than others come after
    them.
    """
    complete = _most_seeds(candidates)
    safe = [candidate for candidate in complete if candidate.is_safe]
    return min(safe, key=lambda candidate: candidate.rank) if safe else least_risky(complete)


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """The first choice, or of the safe ones that tie with it the one with more in hand.

    That is: of those whose own scores tie, too, the larger margin; between nearly equal margins,
    the one whose gradients are clipped when they are large, because without clipping failures come
    late and at moderate rates too; then the better score.
    """
    first = first_choice(candidates)
    if not first.is_safe:
        return first
    is_measured, score = first.rank
    tied = [
        c
        for c in _most_seeds(candidates)
        if c.is_safe and c.rank[0] is is_measured and c.rank[1] <= TIE_RATIO * score
    ]
    lowest = min(c.score for c in tied)
    tied = [c for c in tied if c.score <= TIE_RATIO * lowest]
    if any(c.margin is not None for c in tied):
        largest = max(c.margin_at_least for c in tied)
        tied = [c for c in tied if c.margin_at_least >= largest - TIE_OCTAVES]
    return min(tied, key=lambda c: (not c.is_guarded, c.score))


def least_risky(candidates: Sequence[Candidate]) -> Candidate:
    """By the highest P(unstable) above its learning rate, then by the score."""
    return min(candidates, key=lambda candidate: (candidate.risk, *candidate.rank))


def _settings(records: Sequence[TrialRecord]) -> dict[int, list[TrialRecord]]:
    settings: dict[int, list[TrialRecord]] = {}
    for record in records:
        if record.purpose in OWN_PURPOSES:
            settings.setdefault(record.setting, []).append(record)
    return settings


def _is_scored(trial: TrialRecord) -> bool:
    return trial.is_stable and trial.score is not None


def _is_sound(trials: Sequence[TrialRecord], landscape: Landscape) -> bool:
    ended = [t for t in trials if t.has_result]
    is_unstable = any(landscape.is_unstable(trial) for trial in trials)
    return bool(ended) and not is_unstable and all(_is_scored(trial) for trial in ended)


def _most_seeds(candidates: Sequence[Candidate]) -> list[Candidate]:
    fewest = min(candidate.num_missing for candidate in candidates)
    return [candidate for candidate in candidates if candidate.num_missing == fewest]
