"""A study's results in, its Recommendation out.

The pick is the stable setting whose *worst* predicted score within one octave is lowest, among
those that are unlikely to fail at twice their learning rate. A tuner's answer, the setting with
the best score, tends to lie next to the edge, where the loss is lowest until it is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from stabsearch.recommend.edge import EdgePosterior, fit_edge
from stabsearch.recommend.space import (
    LEARNING_RATE,
    MAX_GRAD_NORM,
    Axis,
    Floats,
    SearchSpace,
    gradient_ceiling,
    search_space,
)
from stabsearch.recommend.surface import Surface, constant_score_of, fit_surface
from stabsearch.records import Edge, Outcome, Params, Recommendation, TrialRecord
from stabsearch.results.frames import Results

MAX_FAILURE_PROBABILITY = 0.10
"""At twice the recommended learning rate, and inside the stable region."""

REGION_SCORE_RATIO = 1.10
"""The stable region ends where the predicted score is this many times the pick's."""

TIE_RATIO = 1.01
"""Worst scores within this ratio are equal: then the larger margin wins."""

MAX_EDGE_TRIALS = 4

REGION_STEPS_PER_OCTAVE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Landscape:
    """What was learned of one combination of categorical values; all there is without any."""

    space: SearchSpace
    records: tuple[TrialRecord, ...]
    surface: Surface | None
    """None with too few trials."""
    edge: EdgePosterior | None
    """None if only one side of the edge was seen, or the learning rate was not searched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A setting whose finished trials were all stable."""

    params: Params
    trials: tuple[TrialRecord, ...]
    landscape: Landscape
    score: float
    """Worst over seeds."""
    worst_score: float | None
    failure_probability: float | None
    """At twice the learning rate."""
    margin: float | None

    @property
    def is_safe(self) -> bool:
        return (
            self.failure_probability is None or self.failure_probability <= MAX_FAILURE_PROBABILITY
        )

    @property
    def rank(self) -> tuple[bool, float]:
        """Settings without a prediction come last, by what they measured."""
        return (self.worst_score is None, self.worst_score or self.score)


def recommend(results: Results) -> Recommendation:
    """The answer of a study as far as its trials go; of a running study, so far."""
    records = results.records()
    space = search_space(results.study, records)
    landscapes = list(landscapes_of(space, records).values())
    candidates = [c for landscape in landscapes for c in _candidates(landscape)]
    pick = _pick(candidates)
    notes = [*_notes_on_trials(space, records), *_notes_on_stability(records, candidates)]
    finished = [r for r in records if r.outcome not in (Outcome.RUNNING, Outcome.FAILED)]
    answer = Recommendation(
        params=None,
        trial_id=None,
        num_trials=len(records),
        num_unstable=sum(r.is_unstable for r in records),
        steps_spent=sum(r.steps for r in finished),
        steps_budgeted=sum(r.max_train_steps for r in finished),
        notes=tuple(notes),
    )
    if pick is None:
        return answer

    best = min(candidates, key=lambda candidate: candidate.score)
    edge = pick.landscape.edge.edge(pick.params) if pick.landscape.edge else None
    region = _region(pick)
    notes += _notes_on_pick(pick, candidates, edge, region)
    return replace(
        answer,
        params=pick.params,
        trial_id=_best_trial(pick).trial_id,
        num_stable_seeds=len(pick.trials),
        num_seeds=len(pick.trials),
        score=pick.score,
        worst_score=pick.worst_score,
        best_trial_id=_best_trial(best).trial_id,
        best_score=best.score,
        best_worst_score=best.worst_score,
        region_low=region[0] if region else None,
        region_high=region[1] if region else None,
        edge=edge,
        margin_octaves=pick.margin,
        edge_trial_ids=_edge_trials(pick),
        notes=tuple(notes),
    )


def landscapes_of(
    space: SearchSpace, records: Sequence[TrialRecord]
) -> dict[tuple[object, ...], Landscape]:
    """One landscape per combination of categorical values, fitted to its trials alone."""
    constant_score = constant_score_of(records)
    groups: dict[tuple[object, ...], list[TrialRecord]] = {}
    for record in records:
        groups.setdefault(space.category(record.params), []).append(record)
    return {
        category: Landscape(
            space=space,
            records=tuple(group),
            surface=fit_surface(space, group, constant_score) if constant_score else None,
            edge=fit_edge(group, space.axis(LEARNING_RATE)),
        )
        for category, group in groups.items()
    }


# --- choosing ---------------------------------------------------------------------------------


def _candidates(landscape: Landscape) -> list[_Candidate]:
    settings: dict[int, list[TrialRecord]] = {}
    for record in landscape.records:
        if record.outcome not in (Outcome.RUNNING, Outcome.FAILED):
            settings.setdefault(record.setting, []).append(record)
    stable = [
        trials
        for trials in settings.values()
        if all(trial.is_stable and trial.score is not None for trial in trials)
    ]
    if not stable:
        return []
    worst: Sequence[float | None] = [None] * len(stable)
    if landscape.surface:
        points = landscape.space.points([trials[0].params for trials in stable])
        worst = [float(score) for score in landscape.surface.worst_nearby(points)]
    return [
        _candidate(landscape, trials, worst_score)
        for trials, worst_score in zip(stable, worst, strict=True)
    ]


def _candidate(
    landscape: Landscape, trials: list[TrialRecord], worst_score: float | None
) -> _Candidate:
    params = trials[0].params
    failure_probability = margin = None
    if landscape.edge:
        learning_rate = _learning_rate(params)
        doubled = np.array([2.0 * learning_rate])
        failure_probability = float(landscape.edge.probability(doubled, params)[0])
        margin = math.log2(landscape.edge.edge(params).learning_rate / learning_rate)
    return _Candidate(
        params=params,
        trials=tuple(trials),
        landscape=landscape,
        score=max(trial.score for trial in trials if trial.score is not None),
        worst_score=worst_score,
        failure_probability=failure_probability,
        margin=margin,
    )


def _pick(candidates: list[_Candidate]) -> _Candidate | None:
    """The best of the safe candidates; the least risky if none is safe."""
    if not candidates:
        return None
    safe = [candidate for candidate in candidates if candidate.is_safe]
    if not safe:
        return min(candidates, key=lambda c: (c.failure_probability or 0.0, *c.rank))
    first = min(safe, key=lambda candidate: candidate.rank)
    if first.worst_score is None:
        return first
    tied = [c for c in safe if c.worst_score and c.worst_score <= TIE_RATIO * first.worst_score]
    return max(tied, key=lambda c: (c.margin or 0.0, -c.rank[1]))


def _best_trial(candidate: _Candidate) -> TrialRecord:
    return min(candidate.trials, key=lambda trial: trial.score or math.inf)


def _region(pick: _Candidate) -> tuple[float, float] | None:
    """The interval of learning rates around the pick that is likely stable and nearly as good."""
    landscape = pick.landscape
    axis = landscape.space.axis(LEARNING_RATE)
    if axis is None or landscape.surface is None:
        return None
    own = math.log2(_learning_rate(pick.params))
    low, high = math.log2(axis.low), math.log2(axis.high)
    step = 1.0 / REGION_STEPS_PER_OCTAVE
    below, above = int((own - low) / step + 1e-9), int((high - own) / step + 1e-9)
    rates = 2.0 ** np.unique(
        np.concatenate([[low, high], own + step * np.arange(-below, above + 1)])
    )
    is_good = _is_good(pick, axis, rates)
    at_pick = int(np.argmin(np.abs(np.log2(rates) - own)))
    if not is_good[at_pick]:
        return None
    first = last = at_pick
    while first > 0 and is_good[first - 1]:
        first -= 1
    while last < len(rates) - 1 and is_good[last + 1]:
        last += 1
    return float(rates[first]), float(rates[last])


def _is_good(pick: _Candidate, axis: Axis, rates: Floats) -> np.ndarray:
    """Whether each of ``rates[n]``, the pick's other params kept, is inside the stable region."""
    landscape = pick.landscape
    assert landscape.surface is not None
    own = landscape.space.points([pick.params])
    points = np.repeat(own, len(rates), axis=0)
    points[:, landscape.space.axes.index(axis)] = [axis.position(float(rate)) for rate in rates]
    limit = REGION_SCORE_RATIO * float(landscape.surface.predict(own)[0])
    is_good = landscape.surface.predict(points) <= limit
    if landscape.edge:
        is_good &= landscape.edge.probability(rates, pick.params) <= MAX_FAILURE_PROBABILITY
    return is_good


def _edge_trials(pick: _Candidate) -> tuple[str, ...]:
    """Unstable trials at higher learning rates, nearest first."""
    space = pick.landscape.space
    axis = space.axis(LEARNING_RATE)
    if axis is None:
        return ()
    above = [
        record
        for record in pick.landscape.records
        if record.is_unstable and _learning_rate(record.params) > _learning_rate(pick.params)
    ]
    # An octave of learning rate is as far as two of any other: scores and edge change slower.
    reach = np.array([1.0 if a is axis else 2.0 if a.is_log else 0.25 for a in space.axes])
    distances = (space.points([r.params for r in above]) - space.points([pick.params])) / reach
    order = np.argsort((distances**2).sum(axis=1), kind="stable")
    return tuple(above[index].trial_id for index in order[:MAX_EDGE_TRIALS])


def _learning_rate(params: Params) -> float:
    return float(params[LEARNING_RATE] or math.nan)


# --- notes ------------------------------------------------------------------------------------


def _notes_on_trials(space: SearchSpace, records: Sequence[TrialRecord]) -> list[str]:
    notes = []
    running = sum(r.outcome is Outcome.RUNNING for r in records)
    failed = sum(r.outcome is Outcome.FAILED for r in records)
    if not records:
        return ["No trial has reported yet."]
    if running:
        notes.append(f"{_trials(running)} not finished: this is the answer so far.")
    if failed:
        notes.append(
            f"{_trials(failed)} failed for reasons of the machine or the code, and are not "
            "counted for or against their setting."
        )
    if space.axis(LEARNING_RATE) is None:
        notes.append("The learning rate was not searched: there is no edge and no margin.")
    if space.categories:
        names = ", ".join(space.categories)
        notes.append(f"Each combination of {names} was judged by its own trials alone.")
    return notes


def _notes_on_stability(
    records: Sequence[TrialRecord], candidates: Sequence[_Candidate]
) -> list[str]:
    ended = [r for r in records if r.outcome not in (Outcome.RUNNING, Outcome.FAILED)]
    if not ended:
        return []
    if not any(record.is_unstable for record in ended):
        return [
            "No trial was unstable: the edge lies above the searched range, or beyond what was "
            "tried. Search higher learning rates to find it."
        ]
    if candidates:
        return []
    notes = ["No setting was stable in all its seeds."]
    stable = [record for record in ended if record.is_stable]
    if stable:
        shares: dict[int, list[bool]] = {}
        for record in ended:
            shares.setdefault(record.setting, []).append(record.is_stable)
        setting, seeds = max(shares.items(), key=lambda item: sum(item[1]) / len(item[1]))
        notes.append(f"Setting {setting} came nearest: stable in {sum(seeds)} of {len(seeds)}.")
    elif all(record.is_unstable for record in ended):
        notes.append("Every trial was unstable: search lower learning rates.")
    return notes


def _notes_on_pick(
    pick: _Candidate,
    candidates: Sequence[_Candidate],
    edge: Edge | None,
    region: tuple[float, float] | None,
) -> list[str]:
    notes = []
    space, surface = pick.landscape.space, pick.landscape.surface
    axis = space.axis(LEARNING_RATE)
    if space.categories:
        chosen = ", ".join(f"{name} = {pick.params[name]}" for name in space.categories)
        notes.append(f"The recommendation has {chosen}.")
    if surface is None:
        notes.append(
            f"Too few trials ({len(pick.landscape.records)}) to predict scores between them: the "
            "recommendation is the stable setting with the best measured score."
        )
    elif any(candidate.worst_score is None for candidate in candidates):
        notes.append("Combinations with fewer than 4 usable trials were passed over.")
    if not pick.is_safe and pick.failure_probability is not None:
        notes.append(
            "No stable setting is likely to survive twice its learning rate (P(unstable) <= "
            f"{MAX_FAILURE_PROBABILITY:.0%}): this one is the least risky, with "
            f"{pick.failure_probability:.0%}. Use the margin with care."
        )
    if edge and axis and not axis.low <= edge.learning_rate <= axis.high:
        side = "above" if edge.learning_rate > axis.high else "below"
        notes.append(f"The edge is an extrapolation: it lies {side} the searched range.")
    if region and axis:
        ends = [
            name
            for name, value, end in (("low", region[0], axis.low), ("high", region[1], axis.high))
            if math.isclose(value, end, rel_tol=1e-6)
        ]
        if ends:
            notes.append(
                f"The stable region reaches the {' and the '.join(ends)} end of the searched "
                "range, and may go on."
            )
    notes += _notes_on_confidence(pick)
    return notes


def _notes_on_confidence(pick: _Candidate) -> list[str]:
    seeds = len(pick.trials)
    bound = 1 - 0.05 ** (1 / seeds)
    steps = pick.trials[0].max_train_steps
    notes = [
        f"{seeds} clean {'seed' if seeds == 1 else 'seeds'} over {steps} steps: taken alone, that "
        f"only says that fewer than {bound:.0%} of such runs fail. A longer training, or more "
        "seeds, may show more."
    ]
    if MAX_GRAD_NORM in pick.params and pick.landscape.edge:
        clip = pick.params[MAX_GRAD_NORM]
        ceiling = gradient_ceiling(pick.landscape.records)
        if clip is None or (ceiling is not None and float(clip) > ceiling):
            notes.append(
                "Its gradients are hardly ever clipped: without clipping a failure may come late, "
                "and at a moderate learning rate too."
            )
    return notes


def _trials(count: int) -> str:
    return "1 trial" if count == 1 else f"{count} trials"
