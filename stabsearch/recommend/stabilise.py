"""What stabilises: how far each searched parameter moves the edge, from the trials.

Between the lowest and the highest tried value of a numeric parameter, by the tilts of the logistic
edge; between the two values that are farthest apart for a choice among words, each judged by its
own trials. A word under which nothing failed has its edge above its highest stable rate, one under
which nothing was stable below its lowest failure.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np

from stabsearch.recommend.coordinates import coordinates_of
from stabsearch.recommend.edge import INTERVAL, EdgePosterior
from stabsearch.recommend.evidence import evidence, learned_nothing
from stabsearch.recommend.landscape import Landscape
from stabsearch.recommend.quadrature import quantiles
from stabsearch.recommend.space import (
    LEARNING_RATE,
    Floats,
    learning_rate_of,
    steps_with_gradient,
)
from stabsearch.records import Params, ParamValue, Stabiliser, TrialRecord

MISSED = 0.05
"""Accepted chance that trials beyond the edge were all too short to fail."""

NUM_SHARES = 200
"""Quantiles that stand for a posterior when two are compared."""


def stabilisers_of(
    landscapes: Mapping[tuple[ParamValue, ...], Landscape],
    landscape: Landscape,
    params: Params,
    study: Mapping[str, Any],
) -> list[Stabiliser]:
    """Every searched parameter but the rate, the farthest first.

    ``landscape`` is that of ``params``; the parameters that are not compared are as in them.
    """
    found = [*_numeric(landscape, params), *_categorical(landscapes, landscape, params, study)]
    return sorted(found, key=lambda each: (-each.octaves, each.param))


def _numeric(landscape: Landscape, params: Params) -> Iterator[Stabiliser]:
    posterior = landscape.edge
    if not isinstance(posterior, EdgePosterior):
        return
    for axis in landscape.space.axes:
        values = {record.params[axis.name] for record in landscape.records}
        if axis.name == LEARNING_RATE:
            continue
        low, high = min(values, key=axis.position), max(values, key=axis.position)
        if axis.position(high) - axis.position(low) < (1.0 if axis.is_log else 0.1):
            continue  # as good as one value: it says nothing about others
        moved = posterior.half(params | {axis.name: high}) - posterior.half(
            params | {axis.name: low}
        )
        found = quantiles(moved, posterior.weights, INTERVAL)
        yield _stabiliser(axis.name, low, high, found, len(landscape.records))


def _categorical(
    landscapes: Mapping[tuple[ParamValue, ...], Landscape],
    own: Landscape,
    params: Params,
    study: Mapping[str, Any],
) -> Iterator[Stabiliser]:
    """Categories are compared where they differ in one parameter only, and where learning rates
    mean the same: one that steps with the gradient is no rate of one that undoes its scale."""
    is_step = steps_with_gradient(study, params)
    for name in own.space.categories:
        alike = {
            value: landscape
            for category, landscape in landscapes.items()
            if (value := _differs_only_in(name, category, own, params)) is not None
            and steps_with_gradient(study, params | {name: value[0]}) is is_step
        }
        known = {
            value: edge
            for value, landscape in alike.items()
            if (edge := _word_edge(landscape, params | {name: value[0]}, study)) is not None
        }
        pairs = [pair for pair in itertools.permutations(known, 2) if _compares(known, *pair)]
        if not pairs:
            continue
        against, value = max(pairs, key=lambda pair: _median_apart(known, *pair))
        low, high = known[against], known[value]
        moved = (high.octaves[:, None] - low.octaves).ravel()
        found = quantiles(moved, np.full(moved.size, 1 / moved.size), INTERVAL)
        num_trials = sum(len(alike[each].records) for each in known)
        yield replace(
            _stabiliser(name, against[0], value[0], found, num_trials),
            nothing_failed=high.side is Side.ABOVE,
            nothing_stable=low.side is Side.BELOW,
        )


class Side(Enum):
    """Where an edge lies of what is known of it."""

    AT = "at"
    ABOVE = "above"
    BELOW = "below"


@dataclass(frozen=True, slots=True, kw_only=True)
class WordEdge:
    """What is known of the edge under a word."""

    octaves: Floats
    """log2 of its learning rate, evenly spaced quantiles ``[NUM_SHARES]``; of a bound ``[1]``."""
    side: Side


def _word_edge(landscape: Landscape, params: Params, study: Mapping[str, Any]) -> WordEdge | None:
    if isinstance(landscape.edge, EdgePosterior):
        return WordEdge(octaves=_shares(landscape.edge, params), side=Side.AT)
    if landscape.space.axis(LEARNING_RATE) is None:
        return None
    coordinates = coordinates_of(landscape.space, landscape.records, study)

    def octaves(record: TrialRecord) -> float:
        own = math.log2(learning_rate_of(record.params))
        shift = coordinates.log_coefficient(record.params) - coordinates.log_coefficient(params)
        return own + shift

    told = [
        (octaves(record), found)
        for record in landscape.records
        if (found := evidence(record, is_unstable=landscape.is_unstable(record)))
        and (found.is_unstable or not learned_nothing(record))
    ]
    failed = [rate for rate, found in told if found.is_unstable]
    stable = [(rate, found.detection) for rate, found in told if not found.is_unstable]
    if failed and not stable:
        return WordEdge(octaves=np.array([min(failed)]), side=Side.BELOW)
    top = None if failed else _clean_up_to(stable)
    return None if top is None else WordEdge(octaves=np.array([top]), side=Side.ABOVE)


def _clean_up_to(stable: Sequence[tuple[float, float]]) -> float | None:
    """The highest rate that, with those above it, would hardly have been stable beyond the edge:
    one trial of the whole budget, or two short ones. ``stable``: (log2 rate, detection)."""
    missed = 1.0
    for rate, detection in sorted(stable, reverse=True):
        missed *= 1.0 - detection
        if missed <= MISSED:
            return rate
    return None


def _compares(
    known: Mapping[tuple[ParamValue], WordEdge],
    against: tuple[ParamValue],
    value: tuple[ParamValue],
) -> bool:
    """Whether the edge at ``value`` is known to be above, or below, that at ``against``."""
    low, high = known[against].side, known[value].side
    if low is high is Side.AT:
        return True
    is_bounded = low is not Side.ABOVE and high is not Side.BELOW
    return is_bounded and _median_apart(known, against, value) > 0


def _median_apart(
    known: Mapping[tuple[ParamValue], WordEdge],
    against: tuple[ParamValue],
    value: tuple[ParamValue],
) -> float:
    return float(np.median(known[value].octaves) - np.median(known[against].octaves))


def _differs_only_in(
    name: str, category: tuple[ParamValue, ...], own: Landscape, params: Params
) -> tuple[ParamValue] | None:
    """The category's value of ``name``, in a tuple, because None is a value."""
    values = dict(zip(own.space.categories, category, strict=True))
    is_alike = all(value == params[each] for each, value in values.items() if each != name)
    return (values[name],) if is_alike else None


def _shares(posterior: EdgePosterior, params: Params) -> Floats:
    """Evenly spaced quantiles of log2 lr50."""
    shares = tuple((np.arange(NUM_SHARES) + 0.5) / NUM_SHARES)
    return np.array(quantiles(posterior.half(params), posterior.weights, shares))


def _stabiliser(
    param: str,
    low: ParamValue,
    high: ParamValue,
    octaves: list[float],
    num_trials: int,
) -> Stabiliser:
    """``octaves`` are the quantiles of the edge at ``high`` minus that at ``low``."""
    is_higher = octaves[1] >= 0
    below, middle, above = octaves if is_higher else [-x for x in reversed(octaves)]
    return Stabiliser(
        param=param,
        value=high if is_higher else low,
        against=low if is_higher else high,
        octaves=middle,
        octaves_low=below,
        octaves_high=above,
        num_trials=num_trials,
    )
