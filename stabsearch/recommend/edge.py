"""Where the stability edge lies: the posterior of a logistic boundary in log2 learning rate.

    logit P(unstable) = slope * (log2 lr - (intercept + tilt * c))

with c = min(log2 clip, log2 of 4 x the typical gradient norm), minus its maximum over the trials:
a threshold above the gradients is no clipping, so there the edge no longer moves. The priors are
wide (intercept: sd 4 octaves around the middle of the searched range; log slope: sd 0.8 around
log 3; tilt: sd 0.4 around 0), the posterior is a sum over a grid: no sampling, no iteration.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stabsearch.recommend.space import (
    LEARNING_RATE,
    MAX_GRAD_NORM,
    Axis,
    Floats,
    gradient_ceiling,
)
from stabsearch.records import Edge, Outcome, Params, TrialRecord

MIN_BUDGET_SHARE = 0.5
"""A trial that ended early without diverging says "stable here" only if it went this far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgePosterior:
    """Grid posterior over intercept, slope and tilt; ``weights`` sums to 1."""

    intercepts: Floats
    slopes: Floats
    tilts: Floats
    weights: Floats
    """``[intercepts, slopes, tilts]``"""
    clip: ClipScale

    def edge(self, params: Params) -> Edge:
        """The edge along the learning rate, all other parameters as in ``params``."""
        c = self.clip.position(params)
        half = self.intercepts[:, None, None] + self.tilts[None, None, :] * c
        half = np.broadcast_to(half, self.weights.shape)
        safe = half + _logit(0.05) / self.slopes[None, :, None]
        low, middle, high = _quantiles(half, self.weights, (0.05, 0.5, 0.95))
        (safe_middle,) = _quantiles(safe, self.weights, (0.5,))
        return Edge(
            learning_rate=2.0**middle,
            learning_rate_low=2.0**low,
            learning_rate_high=2.0**high,
            learning_rate_safe=2.0**safe_middle,
        )

    def probability(self, learning_rates: Floats, params: Params) -> Floats:
        """P(unstable) at each of ``learning_rates[n]``, averaged over the posterior."""
        c = self.clip.position(params)
        half = self.intercepts[:, None, None] + self.tilts[None, None, :] * c
        result = [
            float((self.weights * _sigmoid(self.slopes[None, :, None] * (lr - half))).sum())
            for lr in np.log2(learning_rates)
        ]
        return np.array(result, dtype=np.float64)


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
        value = params[MAX_GRAD_NORM]
        clip = math.inf if value is None else math.log2(float(value))
        clip = min(clip, self.ceiling)
        return min(clip, self.highest) - self.highest


def evidence(record: TrialRecord) -> bool | None:
    """True beyond the edge, False within it, None if the trial cannot tell.

    Stopped by rank, not learning, or still running: evidence of stability once half of the budget
    passed without divergence. Failed trials say nothing: the machine failed, not the setting.
    """
    if record.outcome is Outcome.FAILED:
        return None
    if record.is_unstable:
        return True
    is_long = record.steps >= MIN_BUDGET_SHARE * record.max_train_steps
    return False if record.outcome is Outcome.COMPLETED or is_long else None


def fit_edge(records: Sequence[TrialRecord], learning_rate: Axis | None) -> EdgePosterior | None:
    """The edge's posterior; None unless both sides of it were seen along a searched rate."""
    if learning_rate is None:
        return None
    known = [(record, told) for record in records if (told := evidence(record)) is not None]
    if not any(told for _, told in known) or all(told for _, told in known):
        return None
    clip = _clip_scale([record for record, _ in known])
    rates = [float(record.params[LEARNING_RATE] or 0.0) for record, _ in known]
    log_rates = np.log2(np.array(rates, dtype=np.float64))
    cs = np.array([clip.position(record.params) for record, _ in known])
    unstable = np.array([told for _, told in known], dtype=bool)

    low, high = math.log2(learning_rate.low), math.log2(learning_rate.high)
    middle = (low + high) / 2
    intercepts = np.linspace(low - 6, high + 6, 81)
    log_slopes = np.linspace(math.log(3) - 2.0, math.log(3) + 2.0, 12)
    tilts = np.linspace(-1.0, 1.0, 9) if np.ptp(cs) > 0 else np.zeros(1)

    def weigh() -> Floats:
        log_weights = _log_likelihood(
            intercepts, np.exp(log_slopes), tilts, log_rates, cs, unstable
        )
        log_weights += -0.5 * ((intercepts[:, None, None] - middle) / 4.0) ** 2
        log_weights += -0.5 * ((log_slopes[None, :, None] - math.log(3)) / 0.8) ** 2
        log_weights += -0.5 * (tilts[None, None, :] / 0.4) ** 2
        weights: Floats = np.exp(log_weights - log_weights.max())
        weights /= weights.sum()
        return weights

    # Once over everything that the priors allow, once over where the weight was found: with many
    # trials the posterior is narrower than the steps of the first grid.
    weights = weigh()
    intercepts = _narrowed(intercepts, weights.sum(axis=(1, 2)))
    log_slopes = _narrowed(log_slopes, weights.sum(axis=(0, 2)))
    tilts = _narrowed(tilts, weights.sum(axis=(0, 1)))
    return EdgePosterior(
        intercepts=intercepts,
        slopes=np.exp(log_slopes),
        tilts=tilts,
        weights=weigh(),
        clip=clip,
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


def _log_likelihood(
    intercepts: Floats,
    slopes: Floats,
    tilts: Floats,
    log_rates: Floats,
    cs: Floats,
    unstable: Floats,
) -> Floats:
    total = np.zeros((len(intercepts), len(slopes), len(tilts)))
    for log_rate, c, failed in zip(log_rates, cs, unstable, strict=True):
        half = intercepts[:, None, None] + tilts[None, None, :] * c
        logit = slopes[None, :, None] * (log_rate - half)
        total -= np.logaddexp(0.0, -logit if failed else logit)
    return total


def _narrowed(grid: Floats, marginal: Floats) -> Floats:
    """As many steps over the part of ``grid`` that holds all but 1e-5 of the weight."""
    if len(grid) == 1:
        return grid
    cumulative = np.cumsum(marginal)
    first = max(int(np.searchsorted(cumulative, 1e-5)) - 1, 0)
    last = min(int(np.searchsorted(cumulative, 1 - 1e-5)) + 1, len(grid) - 1)
    return np.linspace(grid[first], grid[last], len(grid))


def _quantiles(values: Floats, weights: Floats, shares: tuple[float, ...]) -> list[float]:
    flat = values.ravel()
    order = np.argsort(flat)
    cumulative = np.cumsum(weights.ravel()[order])
    return [float(np.interp(share, cumulative, flat[order])) for share in shares]


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def _sigmoid(x: Floats) -> Floats:
    result: Floats = 0.5 * (1.0 + np.tanh(0.5 * x))
    return result
