"""What stabilises: how far each searched parameter moves the edge, from the trials.

Between the lowest and the highest tried value of a numeric parameter, by the tilts of the logistic
edge; between the two values that are farthest apart for a choice among words, each judged by its
own trials.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import numpy as np

from stabsearch.recommend.edge import INTERVAL, EdgePosterior
from stabsearch.recommend.landscape import Landscape
from stabsearch.recommend.quadrature import quantiles
from stabsearch.recommend.space import LEARNING_RATE, Floats
from stabsearch.records import Params, ParamValue, Stabiliser

NUM_SHARES = 200
"""Quantiles that stand for a posterior when two are compared."""


def stabilisers_of(
    landscapes: Mapping[tuple[ParamValue, ...], Landscape], landscape: Landscape, params: Params
) -> list[Stabiliser]:
    """Every searched parameter but the rate, the farthest first.

    ``landscape`` is that of ``params``; the parameters that are not compared are as in them.
    """
    found = [*_numeric(landscape, params), *_categorical(landscapes, landscape, params)]
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
    landscapes: Mapping[tuple[ParamValue, ...], Landscape], own: Landscape, params: Params
) -> Iterator[Stabiliser]:
    """Categories are compared where they differ in one parameter only."""
    for name in own.space.categories:
        alike = {
            value: landscape
            for category, landscape in landscapes.items()
            if (value := _differs_only_in(name, category, own, params)) is not None
        }
        halves = {
            value: _shares(landscape.edge, params | {name: value[0]})
            for value, landscape in alike.items()
            if isinstance(landscape.edge, EdgePosterior)
        }
        if len(halves) < 2:
            continue
        (low,), (high,) = max(
            itertools.permutations(halves, 2),
            key=lambda pair: float(np.median(halves[pair[1]]) - np.median(halves[pair[0]])),
        )
        moved = (halves[high,][:, None] - halves[low,]).ravel()
        weights = np.full(moved.size, 1 / moved.size)
        found = quantiles(moved, weights, INTERVAL)
        num_trials = sum(len(alike[each].records) for each in halves)
        yield _stabiliser(name, low, high, found, num_trials)


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
