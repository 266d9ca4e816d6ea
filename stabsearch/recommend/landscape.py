"""What was learned of one combination of categorical values: its surface and its edge."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stabsearch.recommend.asked import asked_of
from stabsearch.recommend.edge import EdgePosterior, fit_edge
from stabsearch.recommend.edge_process import EdgeProcess
from stabsearch.recommend.evidence import evidence, is_sound, unstable_trials
from stabsearch.recommend.space import (
    LEARNING_RATE,
    MAX_GRAD_NORM,
    Floats,
    SearchSpace,
    learning_rate_of,
)
from stabsearch.recommend.surface import Surface, constant_score_of, fit_surface
from stabsearch.records import Edge, Outcome, Params, ParamValue, Purpose, TrialRecord

MAX_FAILURE_PROBABILITY = 0.10
"""Inside the stable region, and up to ``safety_octaves`` above the recommended learning rate."""

MARGIN_OCTAVES = 1.0
"""The margin of a study that does not say."""

PLATEAU_SCORE_RATIO = 1.10
"""A setting is nearly as good up to this many times the predicted score of the pick."""

REGION_STEPS_PER_OCTAVE = 16

RISKS_PER_OCTAVE = 8
"""Rates above a setting at which its risk is asked for."""

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Landscape:
    """One combination of categorical values; all there is if none were searched."""

    space: SearchSpace
    records: tuple[TrialRecord, ...]
    unstable: frozenset[str]
    """Ids of the trials that are evidence of lying beyond the edge."""
    surface: Surface | None
    """None with too few trials."""
    edge: EdgePosterior | EdgeProcess | None
    """None if only one side of the edge was seen, or the learning rate was not searched."""
    octaves: float
    """The study's margin: how far around a setting its worst score counts."""
    safety_octaves: float
    """How far above a setting few runs may fail."""

    def is_unstable(self, record: TrialRecord) -> bool:
        """The trial's own verdict, or that of its neighbours: see ``unstable_trials``."""
        return record.trial_id in self.unstable

    @property
    def fails_by_rate(self) -> bool:
        """Whether failure grows with the learning rate, as far as is known."""
        return not isinstance(self.edge, EdgeProcess)

    def middle(self) -> Params:
        """The setting in the middle of the searched space, with the landscape's categories."""
        params = dict(self.records[0].params)
        for axis in self.space.axes:
            ends = axis.position(axis.low) + axis.position(axis.high)
            params[axis.name] = axis.value(ends / 2)
        return params

    def worst_scores(self, settings: Sequence[Params]) -> Sequence[float | None]:
        """The highest predicted score within the study's margin of each setting."""
        if self.surface is None or not settings:
            return [None] * len(settings)
        worst = self.surface.worst_nearby(self.space.points(settings), self.octaves)
        return [float(score) for score in worst]

    def edge_at(self, params: Params) -> Edge | None:
        """The edge along the learning rate, all other parameters as in ``params``; None if none
        was seen there."""
        return self.edge.edge(params) if self.edge is not None else None

    def p_unstable(self, params: Params, factor: float = 1.0) -> float | None:
        """P(unstable) at ``factor`` times the setting's learning rate; None where nothing says."""
        rate = factor * learning_rate_of(params)
        if self.edge is None:
            return None
        if isinstance(self.edge, EdgeProcess) and not self.edge.is_known(rate, params):
            return None
        return float(self.edge.probability(np.array([rate]), params)[0])

    def p_beyond(self, params: Params) -> float | None:
        """P(unstable) at the study's margin above the setting's learning rate."""
        return self.p_unstable(params, factor=2.0**self.octaves)

    def risk(self, params: Params) -> float:
        """The highest P(unstable) from the setting's learning rate to ``safety_octaves`` above it;
        0 without an edge. Beyond the rates that were tried the last of them counts, where nothing
        says what follows."""
        if self.edge is None:
            return 0.0
        steps = math.ceil(RISKS_PER_OCTAVE * self.safety_octaves)
        octaves = np.linspace(0.0, self.safety_octaves, steps + 1)
        rates = learning_rate_of(params) * 2.0**octaves
        return float(self.edge.probability(rates, params).max())

    def margin(self, params: Params) -> float | None:
        """Octaves from the setting up to where 5% of runs fail, negative if that is lower; None
        without an edge, and where as many fail at every tried rate below the setting."""
        edge = self.edge_at(params)
        if edge is None or edge.learning_rate_safe == 0:
            return None
        return float(np.log2(edge.learning_rate_safe / learning_rate_of(params)))

    def height(self, params: Params) -> float:
        """Octaves above the middle of the edge; without a logistic one, above the rate 1."""
        own = float(np.log2(learning_rate_of(params)))
        if not isinstance(self.edge, EdgePosterior):
            return own
        return own - float(self.edge.weights @ self.edge.half(params))

    def is_as_near(self, params: Params, other: Params) -> bool:
        """Whether a setting is at least as near to the edge as another one.

        Without a logistic edge that is so if neither its learning rate is lower nor its clip
        tighter; nothing says how the one makes up for the other.
        """
        if isinstance(self.edge, EdgePosterior):
            return self.height(params) >= self.height(other)
        searched = [self.space.axis(name) for name in (LEARNING_RATE, MAX_GRAD_NORM)]
        axes = [axis for axis in searched if axis is not None]
        return bool(axes) and all(
            axis.position(params[axis.name]) >= axis.position(other[axis.name]) for axis in axes
        )

    @property
    def sound(self) -> list[TrialRecord]:
        """The trials that were within the edge, and learned, for as long as they trained."""
        return [record for record in self.records if is_sound(record)]

    def stable_region(self, params: Params) -> Interval | None:
        """The learning rates around the setting at which few runs fail, its other params kept.

        Bounded by the searched range, and by what was seen: below the lowest sound trial networks
        may not learn, and where nothing failed, or not for its rate, nobody knows what lies above
        the highest.
        """
        extrapolates = isinstance(self.edge, EdgePosterior)
        axis = self.space.axis(LEARNING_RATE)
        rates = [learning_rate_of(r.params) for r in self.sound]
        if axis is None or not rates:
            return None
        return _around(
            learning_rate_of(params),
            (max(axis.low, min(rates)), axis.high if extrapolates else max(rates)),
            lambda rates: (
                np.ones(len(rates), dtype=bool)
                if self.edge is None
                else self.edge.probability(rates, params) <= MAX_FAILURE_PROBABILITY
            ),
        )

    def plateau(self, params: Params, region: Interval) -> Interval | None:
        """The part of a stable region where the predicted score is nearly the setting's, as far as
        rates were tried."""
        axis, surface = self.space.axis(LEARNING_RATE), self.surface
        if axis is None or surface is None:
            return None
        own = self.space.points([params])
        limit = PLATEAU_SCORE_RATIO * float(surface.predict(own)[0])
        index = self.space.axes.index(axis)

        def is_good(rates: Floats) -> np.ndarray:
            points = np.repeat(own, len(rates), axis=0)
            points[:, index] = [axis.position(float(rate)) for rate in rates]
            found: np.ndarray = surface.predict(points) <= limit
            return found & surface.is_measured(points, (LEARNING_RATE,))

        return _around(learning_rate_of(params), region, is_good)


def landscapes_of(
    space: SearchSpace,
    records: Sequence[TrialRecord],
    study: Mapping[str, Any],
    *,
    with_surface: bool = True,
) -> dict[tuple[ParamValue, ...], Landscape]:
    """One landscape per combination of categorical values, fitted to its trials alone.

    ``with_surface`` costs a tenth of a second and more: without it no score is predicted.
    """
    has_rate = space.axis(LEARNING_RATE) is not None
    groups: dict[tuple[ParamValue, ...], list[TrialRecord]] = {}
    for record in records:
        if has_rate or record.purpose is not Purpose.STRESS:  # else it would be the setting itself
            groups.setdefault(space.category(record.params), []).append(record)
    return {
        category: _landscape(space, group, study, with_surface=with_surface)
        for category, group in groups.items()
    }


def margin_octaves(study: Mapping[str, Any]) -> float:
    return float(study.get("margin_octaves") or MARGIN_OCTAVES)


def safety_octaves(study: Mapping[str, Any]) -> float:
    """How far above a setting few runs may fail: the study's margin, or as far as its stress test
    goes. A setting that is likely to fail there is not worth a round of confirmation."""
    asked = asked_of(study)
    return max(margin_octaves(study), asked.stress_octaves if asked else 0.0)


def _landscape(
    space: SearchSpace,
    records: Sequence[TrialRecord],
    study: Mapping[str, Any],
    *,
    with_surface: bool,
) -> Landscape:
    unstable = unstable_trials(records, study)
    # A short trial that the machine failed while it went on is there twice, under one id.
    alive = [record for record in records if record.outcome is not Outcome.FAILED]
    told = {r.trial_id: evidence(r, is_unstable=r.trial_id in unstable) for r in alive}
    dead = constant_score_of(records) if with_surface else None
    return Landscape(
        space=space,
        records=tuple(records),
        unstable=unstable,
        surface=fit_surface(space, records, dead, unstable) if dead else None,
        edge=fit_edge(alive, told, space, study),
        octaves=margin_octaves(study),
        safety_octaves=safety_octaves(study),
    )


def _around(
    start: float, bounds: Interval, is_good: Callable[[Floats], np.ndarray]
) -> Interval | None:
    """The longest interval within ``bounds`` that holds ``start`` and is good throughout."""
    own = np.log2(start)
    low, high = np.log2(bounds[0]), np.log2(bounds[1])
    step = 1.0 / REGION_STEPS_PER_OCTAVE
    below, above = int((own - low) / step + 1e-9), int((high - own) / step + 1e-9)
    octaves = np.unique([low, *(own + step * np.arange(-below, above + 1)), high])
    rates = 2.0**octaves
    good = is_good(rates)
    first = last = int(np.argmin(np.abs(octaves - own)))
    if not good[first]:
        return None
    while first > 0 and good[first - 1]:
        first -= 1
    while last < len(rates) - 1 and good[last + 1]:
        last += 1
    return float(rates[first]), float(rates[last])
