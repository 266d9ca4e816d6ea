"""Weighted points that stand for a posterior: sums in the place of integrals, no random numbers.

Three parameters fill a box that is zoomed in on where the weight is. More of them would leave a
box empty: there, points follow a normal distribution that is fitted to the posterior in rounds
(adaptive importance sampling, Cappe et al. 2004), with quasi-random numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from stabsearch.recommend.space import Floats

NUM_ZOOMS, POINTS_PER_ZOOM, NUM_POINTS, MAX_POINTS = 4, 2048, 32768, 8192

NEGLIGIBLE = 10.0
"""Points are left out whose log weight is this far below the largest."""

NUM_ROUNDS, MOST_ROUNDS, POINTS_PER_ROUND, WIDE = 7, 40, 8192, 2.5
"""Every second point of a round is drawn from a distribution that is WIDE times as wide."""

MIN_EFFECTIVE = 250
"""Weights are flattened in the early rounds until this many points count, and there are more
rounds until as many do without: the more trials, the narrower the posterior, and the longer the
way."""

Weigh = Callable[[Floats], Floats]
"""Log weights ``[k]`` of points ``[k, parameters]``."""


def boxed_points(weigh: Weigh, lowest: Floats, highest: Floats) -> tuple[Floats, Floats]:
    """Points ``[k, 3]`` between ``lowest[3]`` and ``highest[3]``, and weights that sum to 1."""
    low, high = lowest, highest
    for _ in range(NUM_ZOOMS):
        points: Floats = low + (high - low) * evenly(POINTS_PER_ZOOM, 3)
        log_weights = weigh(points)
        # With many trials few points lie near the peak: the best hundred show where it is.
        bar = min(log_weights.max() - NEGLIGIBLE, np.sort(log_weights)[-100])
        kept, step = points[log_weights >= bar], (high - low) / POINTS_PER_ZOOM ** (1 / 3)
        low = np.maximum(kept.min(axis=0) - step, lowest)
        high = np.minimum(kept.max(axis=0) + step, highest)
    points = low + (high - low) * evenly(NUM_POINTS, 3)
    return _weighty(points, weigh(points))


def adapted_points(weigh: Weigh, centre: Floats, spread: Floats) -> tuple[Floats, Floats]:
    """Points ``[k, d]`` and weights that sum to 1, from a prior of that centre and spread."""
    mean, root = centre, np.diag(spread)
    for number in range(MOST_ROUNDS):
        z, log_density = _wide_normal(len(centre))
        points = mean + z @ root.T
        log_weights = weigh(points) - log_density
        if number >= NUM_ROUNDS - 1 and _effective(log_weights) >= MIN_EFFECTIVE:
            break
        weights = _flattened(log_weights)
        mean = weights @ points
        apart = points - mean
        covariance = (apart * weights[:, None]).T @ apart + 1e-6 * np.diag(spread**2)
        root = np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
    return _weighty(points, log_weights)


def evenly(count: int, dimensions: int) -> Floats:
    """Points ``[count, dimensions]`` that fill the unit cube evenly: the additive sequence of
    powers of 1/g with g^(d+1) = g + 1, the golden ratio's relative in d dimensions."""
    g = 2.0
    for _ in range(60):
        g = (1 + g) ** (1 / (dimensions + 1))
    steps = g ** -np.arange(1.0, dimensions + 1)
    points: Floats = (0.5 + np.arange(count)[:, None] * steps) % 1.0
    return points


def quantiles(values: Floats, weights: Floats, shares: tuple[float, ...]) -> list[float]:
    """The values below which those shares of the weight lie."""
    order = np.argsort(values)
    sorted_weights = weights[order]
    below = np.cumsum(sorted_weights) - sorted_weights / 2
    return [float(np.interp(share, below, values[order])) for share in shares]


@lru_cache(maxsize=8)
def _wide_normal(dimensions: int) -> tuple[Floats, Floats]:
    """Points ``[k, d]`` of a mixture of two normal distributions, and its log density up to a
    constant."""
    quantile = np.vectorize(NormalDist().inv_cdf)
    z = quantile(np.clip(evenly(POINTS_PER_ROUND, dimensions), 1e-9, 1 - 1e-9))
    z[1::2] *= WIDE
    square = (z**2).sum(axis=1)
    narrow, wide = -0.5 * square, -0.5 * square / WIDE**2 - dimensions * np.log(WIDE)
    return z, np.logaddexp(narrow, wide)


def _effective(log_weights: Floats) -> float:
    """How many points of equal weight would say as much (Kish 1965)."""
    weights = np.exp(log_weights - log_weights.max())
    return float(weights.sum() ** 2 / (weights**2).sum())


def _flattened(log_weights: Floats) -> Floats:
    """Weights that sum to 1, to the largest power at which enough points count."""
    for power in 2.0 ** -np.arange(0, 9):
        if _effective(power * log_weights) >= MIN_EFFECTIVE:
            break
    weights: Floats = np.exp(power * (log_weights - log_weights.max()))
    weights /= weights.sum()
    return weights


def _weighty(points: Floats, log_weights: Floats) -> tuple[Floats, Floats]:
    """The points that have weight. With few trials nearly all have; the first of them are spread
    evenly, too."""
    kept = np.flatnonzero(log_weights > log_weights.max() - NEGLIGIBLE)[:MAX_POINTS]
    weights = np.exp(log_weights[kept] - log_weights.max())
    return points[kept], weights / weights.sum()
