"""Where the stability edge lies: the posterior of a logistic boundary in log2 learning rate.

    logit P(unstable) = slope * (log2 lr - (intercept + tilt * c))

with c = min(log2 clip, log2 of 4 x the typical gradient norm), minus its maximum over the trials:
a threshold above the gradients is no clipping, so there the edge no longer moves. The priors are
wide (intercept: sd 4 octaves around the middle of the searched range; log slope: sd 0.8 around
log 3; tilt: sd 0.4 around 0). The posterior is a sum over points that fill the box of the three
parameters evenly, zoomed in on where the weight is: no sampling, and no two points share a value,
so that quantiles are smooth in clip.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stabsearch.recommend.evidence import out_of_order
from stabsearch.recommend.space import (
    MAX_GRAD_NORM,
    Axis,
    Floats,
    gradient_ceiling,
    learning_rate_of,
)
from stabsearch.records import Edge, EdgeModel, Params, TrialRecord
from stabsearch.spec import MAX_GRAD_NORM_CLIPPINGS

SAFE = 0.05
"""The share of failing runs at ``Edge.learning_rate_safe``."""

SAFE_LOGIT = math.log(SAFE / (1 - SAFE))

INTERVAL = (0.05, 0.5, 0.95)
"""The ends and the middle of a 90% interval."""

NUM_ZOOMS, POINTS_PER_ZOOM, NUM_POINTS, MAX_POINTS = 4, 2048, 32768, 8192

NEGLIGIBLE = 10.0
"""Points are left out whose log weight is this far below the largest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgePosterior:
    """Weighted points ``[k]`` of intercept, slope and tilt; ``weights`` sums to 1."""

    intercepts: Floats
    slopes: Floats
    tilts: Floats
    weights: Floats
    clip: ClipScale
    out_of_order: tuple[str, ...]
    """Unstable trials with stable ones clearly above them: signs that no such boundary exists."""

    def edge(self, params: Params) -> Edge:
        """The edge along the learning rate, all other parameters as in ``params``."""
        half = self.intercepts + self.tilts * self.clip.position(params)
        low, middle, high = _quantiles(half, self.weights, INTERVAL)
        safe_low, _, safe_high = _quantiles(
            half + SAFE_LOGIT / self.slopes, self.weights, INTERVAL
        )
        slope_low, slope, _ = _quantiles(self.slopes, self.weights, INTERVAL)
        return Edge(
            learning_rate=2.0**middle,
            learning_rate_low=2.0**low,
            learning_rate_high=2.0**high,
            learning_rate_safe=2.0 ** self._safe(half, middle),
            learning_rate_safe_low=2.0**safe_low,
            learning_rate_safe_high=2.0**safe_high,
            slope=slope,
            slope_low=slope_low,
            model=EdgeModel.LOGISTIC,
        )

    def _safe(self, half: Floats, middle: float) -> float:
        """log2 of the learning rate at which P(unstable), as ``probability`` has it, is SAFE."""
        low, high = middle - 16.0, middle
        for _ in range(18):  # to 1e-4 octaves
            tried = (low + high) / 2
            if float(_sigmoid(self.slopes * (tried - half)) @ self.weights) > SAFE:
                high = tried
            else:
                low = tried
        return low

    def probability(self, learning_rates: Floats, params: Params) -> Floats:
        """P(unstable) at each of ``learning_rates[n]``, averaged over the posterior."""
        half = self.intercepts + self.tilts * self.clip.position(params)
        logits = self.slopes * (np.log2(learning_rates)[:, None] - half)
        result: Floats = _sigmoid(logits) @ self.weights
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipScale:
    """The coordinate c of the module's formula."""

    ceiling: float
    """log2 of 4 x the typical gradient norm; infinite where no trial told its norms."""
    highest: float
    """Maximum over the trials before it is subtracted; 0 if clipping was not searched."""
    is_searched: bool

    def position(self, params: Params) -> float:
        """0 with clipping that never acts, negative below."""
        if not self.is_searched:
            return 0.0
        is_used = params.get("clipping", "global_norm") in MAX_GRAD_NORM_CLIPPINGS
        value = params[MAX_GRAD_NORM] if is_used else None
        clip = math.inf if value is None else math.log2(float(value))
        clip = min(clip, self.ceiling)
        return min(clip, self.highest) - self.highest


def fit_edge(
    records: Sequence[TrialRecord], told: Mapping[str, bool | None], learning_rate: Axis | None
) -> EdgePosterior | None:
    """The edge's posterior; None unless both sides of it were seen along a searched rate.

    ``told`` is the evidence of every trial, by its id.
    """
    if learning_rate is None:
        return None
    known = [record for record in records if told[record.trial_id] is not None]
    unstable = np.array([bool(told[record.trial_id]) for record in known], dtype=bool)
    if not unstable.any() or unstable.all():
        return None
    clip = _clip_scale(known)
    log_rates = np.log2(np.array([learning_rate_of(r.params) for r in known], dtype=np.float64))
    cs = np.array([clip.position(record.params) for record in known], dtype=np.float64)

    middle = (math.log2(learning_rate.low) + math.log2(learning_rate.high)) / 2
    reach = (math.log2(learning_rate.high) - math.log2(learning_rate.low)) / 2 + 6
    has_tilt = bool(np.ptp(cs) > 0)
    centre = np.array([middle, math.log(3), 0.0])
    spread = np.array([4.0, 0.8, 0.4])  # standard deviations of the prior
    width = np.array([reach, 2.0, 1.0 if has_tilt else 0.0])

    def weigh(points: Floats) -> Floats:
        intercepts, log_slopes, tilts = points.T
        slopes, surprise = np.exp(log_slopes), np.zeros(len(points))
        for log_rate, c, failed in zip(log_rates, cs, unstable, strict=True):
            logits = slopes * (log_rate - intercepts - tilts * c)
            surprise += np.logaddexp(0.0, -logits if failed else logits)
        log_weights: Floats = -surprise - 0.5 * (((points - centre) / spread) ** 2).sum(axis=1)
        return log_weights

    points, weights = _weighted_points(weigh, centre - width, centre + width)
    tilt = float(points[:, 2] @ weights)
    odd = out_of_order(log_rates - tilt * cs, unstable)
    return EdgePosterior(
        intercepts=points[:, 0],
        slopes=np.exp(points[:, 1]),
        tilts=points[:, 2],
        weights=weights,
        clip=clip,
        out_of_order=tuple(r.trial_id for r, is_odd in zip(known, odd, strict=True) if is_odd),
    )


def _clip_scale(records: Sequence[TrialRecord]) -> ClipScale:
    ceiling = gradient_ceiling(records)
    log_ceiling = math.log2(ceiling) if ceiling else math.inf
    if not all(MAX_GRAD_NORM in record.params for record in records):
        return ClipScale(ceiling=log_ceiling, highest=0.0, is_searched=False)
    values = [record.params[MAX_GRAD_NORM] for record in records]
    thresholds = [math.log2(float(value)) for value in values if value is not None]
    if not thresholds:
        return ClipScale(ceiling=log_ceiling, highest=0.0, is_searched=False)
    is_unclipped = len(thresholds) < len(values)
    highest = math.inf if is_unclipped else max(thresholds)
    if math.isinf(log_ceiling) and is_unclipped:
        highest = max(thresholds) + 1.0  # nobody told the norms: one octave above, as a guess
    return ClipScale(ceiling=log_ceiling, highest=min(highest, log_ceiling), is_searched=True)


def _weighted_points(
    weigh: Callable[[Floats], Floats], lowest: Floats, highest: Floats
) -> tuple[Floats, Floats]:
    """Points ``[k, 3]`` between ``lowest[3]`` and ``highest[3]``, and weights that sum to 1.

    ``weigh`` gives the log weights of points.
    """
    low, high = lowest, highest
    for _ in range(NUM_ZOOMS):
        points = low + (high - low) * _evenly(POINTS_PER_ZOOM)
        log_weights = weigh(points)
        # With many trials few points lie near the peak: the best hundred show where it is.
        bar = min(log_weights.max() - NEGLIGIBLE, np.sort(log_weights)[-100])
        kept, step = points[log_weights >= bar], (high - low) / POINTS_PER_ZOOM ** (1 / 3)
        low = np.maximum(kept.min(axis=0) - step, lowest)
        high = np.minimum(kept.max(axis=0) + step, highest)
    points = low + (high - low) * _evenly(NUM_POINTS)
    log_weights = weigh(points)
    # With few trials nearly all have weight; the first of them fill the box evenly, too.
    kept_points = np.flatnonzero(log_weights > log_weights.max() - NEGLIGIBLE)[:MAX_POINTS]
    weights = np.exp(log_weights[kept_points] - log_weights.max())
    return points[kept_points], weights / weights.sum()


def _evenly(count: int) -> Floats:
    """Points ``[count, 3]`` that fill the unit cube evenly: the additive sequence of powers of
    1/g with g^4 = g + 1, the golden ratio's relative in three dimensions."""
    g = 1.2207440846057596
    points: Floats = (0.5 + np.arange(count)[:, None] / g ** np.arange(1, 4)) % 1.0
    return points


def _quantiles(values: Floats, weights: Floats, shares: tuple[float, ...]) -> list[float]:
    order = np.argsort(values)
    sorted_weights = weights[order]
    below = np.cumsum(sorted_weights) - sorted_weights / 2
    return [float(np.interp(share, below, values[order])) for share in shares]


def _sigmoid(x: Floats) -> Floats:
    result: Floats = 0.5 * (1.0 + np.tanh(0.5 * x))
    return result
