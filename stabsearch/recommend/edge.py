"""Where the stability edge lies: the posterior of a logistic boundary in log2 learning rate.

    logit P(unstable) = slope * (log2 lr - log2 lr50)

with log2 lr50 = intercept + tilts . columns - log2 E[coef] (``coordinates``). The priors are wide
(``prior``; tilts around 0). The posterior is a sum over weighted points (``quadrature``): no
sampling, and no two points share a value, so that quantiles are smooth in clip.

Where failure clearly does not grow with the learning rate (``monotone``), the edge is that of a
Gaussian process instead (``edge_process``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stabsearch.recommend.coordinates import Coordinates, coordinates_of
from stabsearch.recommend.edge_process import SAFE, SAFE_LOGIT, EdgeProcess, fit_process
from stabsearch.recommend.evidence import Evidence, out_of_order
from stabsearch.recommend.monotone import NUM_SIMULATIONS, is_not_logistic
from stabsearch.recommend.prior import INTERCEPT_SPREAD, LOG_SLOPE, LOG_SLOPE_SPREAD
from stabsearch.recommend.quadrature import Weigh, adapted_points, boxed_points, quantiles
from stabsearch.recommend.space import LEARNING_RATE, Floats, SearchSpace, learning_rate_of
from stabsearch.records import Edge, EdgeModel, Params, Purpose, TrialRecord

INTERVAL = (0.05, 0.5, 0.95)
"""The ends and the middle of a 90% interval."""

CLEARLY_STABLE = 0.5
"""Stability was seen when this many failures would have shown, in one trial or in several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgePosterior:
    """Weighted points ``[k]`` of intercept and slope, ``[k, columns]`` of tilts; ``weights`` sums
    to 1."""

    intercepts: Floats
    slopes: Floats
    tilts: Floats
    weights: Floats
    coordinates: Coordinates
    out_of_order: tuple[str, ...]
    """Unstable trials with stable ones clearly above them: signs that no such boundary exists."""
    remarks: tuple[str, ...]
    """Sentences on how the edge was fitted."""

    def half(self, params: Params) -> Floats:
        """log2 lr50 ``[k]``, all other parameters as in ``params``."""
        columns = self.coordinates.columns(params)
        result: Floats = (
            self.intercepts + self.tilts @ columns - self.coordinates.log_coefficient(params)
        )
        return result

    def edge(self, params: Params) -> Edge:
        """The edge along the learning rate, all other parameters as in ``params``."""
        half = self.half(params)
        low, middle, high = quantiles(half, self.weights, INTERVAL)
        safe = half + SAFE_LOGIT / self.slopes
        safe_low, _, safe_high = quantiles(safe, self.weights, INTERVAL)
        slope_low, slope, _ = quantiles(self.slopes, self.weights, INTERVAL)
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
        logits = self.slopes * (np.log2(learning_rates)[:, None] - self.half(params))
        result: Floats = _sigmoid(logits) @ self.weights
        return result


def fit_edge(
    records: Sequence[TrialRecord],
    told: Mapping[str, Evidence | None],
    space: SearchSpace,
    study: Mapping[str, Any],
) -> EdgePosterior | EdgeProcess | None:
    """The edge; None unless both sides of it were seen along a searched rate.

    ``told`` is the evidence of every trial, by its id.
    """
    axis = space.axis(LEARNING_RATE)
    pairs = [(r, found) for r in records if (found := told[r.trial_id]) is not None]
    unstable = np.array([found.is_unstable for _, found in pairs], dtype=bool)
    detection = np.array([found.detection for _, found in pairs], dtype=np.float64)
    if axis is None or not unstable.any() or detection[~unstable].sum() < CLEARLY_STABLE:
        return None
    known = [record for record, _ in pairs]
    coordinates = coordinates_of(space, known, study)
    shifts = np.array([coordinates.log_coefficient(r.params) for r in known], dtype=np.float64)
    octaves = np.log2(np.array([learning_rate_of(r.params) for r in known])) + shifts
    columns = np.array([coordinates.columns(record.params) for record in known])
    ends = np.log2([axis.low, axis.high]) + np.array([shifts.min(), shifts.max()])
    points, weights = _posterior(ends, coordinates, octaves, columns, unstable, detection)
    level = octaves - columns @ (weights @ points[:, 2:])
    is_odd = out_of_order(level, unstable)
    odd = tuple(record.trial_id for record, yes in zip(known, is_odd, strict=True) if yes)
    remarks = _remarks(coordinates)
    if odd:
        drawn = points[_resampled(weights, NUM_SIMULATIONS)]
        logits = np.exp(drawn[:, 1:2]) * (octaves - drawn[:, :1] - drawn[:, 2:] @ columns.T)
        predicted = _sigmoid(logits) * _would_show(known, unstable, detection)
        clear = unstable | (detection >= CLEARLY_STABLE)
        is_seen = not unstable[clear].all()  # several together may have shown stability
        if is_seen and is_not_logistic(level, unstable, predicted):
            sound = [record for record, yes in zip(known, clear, strict=True) if yes]
            return fit_process(sound, unstable[clear], coordinates, odd, remarks)
    return EdgePosterior(
        intercepts=points[:, 0],
        slopes=np.exp(points[:, 1]),
        tilts=points[:, 2:],
        weights=weights,
        coordinates=coordinates,
        out_of_order=odd,
        remarks=remarks,
    )


def _resampled(weights: Floats, count: int) -> np.ndarray:
    """Indices of ``count`` points that stand for all of them, with equal weights."""
    shares = (np.arange(count) + 0.5) / count
    found: np.ndarray = np.searchsorted(np.cumsum(weights), shares).clip(max=len(weights) - 1)
    return found


def _would_show(records: Sequence[TrialRecord], unstable: np.ndarray, detection: Floats) -> Floats:
    """How likely a failure of each trial was to show in the time that the trial was given.

    An unstable probe would have been stopped where the stable ones were.
    """
    is_probe = np.array([record.purpose is Purpose.PROBE for record in records])
    typical = detection[is_probe & ~unstable]
    shown = detection.copy()
    shown[is_probe & unstable] = float(np.median(typical)) if len(typical) else 1.0
    return shown


def _posterior(
    ends: Floats,
    coordinates: Coordinates,
    octaves: Floats,
    columns: Floats,
    unstable: np.ndarray,
    detection: Floats,
) -> tuple[Floats, Floats]:
    """Weighted points ``[k, 2 + columns]``: intercept, log slope, tilts.

    ``ends`` of the searched range, in log2.
    """
    centre = np.array([ends.mean(), LOG_SLOPE, *np.zeros(columns.shape[1])])
    spread = np.array([INTERCEPT_SPREAD, LOG_SLOPE_SPREAD, *coordinates.spreads])
    weigh = _weigher(octaves, columns, unstable, detection, centre, spread)
    if coordinates.others:
        return adapted_points(weigh, centre, spread)
    has_tilt = bool(np.ptp(columns[:, 0]) > 0)
    reach = (ends[1] - ends[0]) / 2 + 6
    width = np.array([reach, 2.5 * LOG_SLOPE_SPREAD, 2.5 * spread[2] if has_tilt else 0.0])
    return boxed_points(weigh, centre - width, centre + width)


def _weigher(
    octaves: Floats,
    columns: Floats,
    unstable: np.ndarray,
    detection: Floats,
    centre: Floats,
    spread: Floats,
) -> Weigh:
    """Log posterior density of points, up to a constant."""
    with np.errstate(divide="ignore"):
        missed = np.log1p(-detection)  # -inf where every failure would have shown

    def weigh(points: Floats) -> Floats:
        slopes = np.exp(points[:, 1])
        log_weights: Floats = -0.5 * (((points - centre) / spread) ** 2).sum(axis=1)
        for octave, column, failed, log_missed in zip(
            octaves, columns, unstable, missed, strict=True
        ):
            logits = slopes * (octave - points[:, 0] - points[:, 2:] @ column)
            if failed:
                log_weights -= np.logaddexp(0.0, -logits)
            else:  # 1 - F p = (1 + (1 - F) exp(logit)) / (1 + exp(logit))
                log_weights -= np.logaddexp(0.0, logits)
                if log_missed > -math.inf:
                    log_weights += np.logaddexp(0.0, logits + log_missed)
        return log_weights

    return weigh


def _remarks(coordinates: Coordinates) -> tuple[str, ...]:
    if coordinates.curve is not None:
        return (
            "The edge is one of the effective learning rate, the rate times what clipping leaves "
            "of the gradient: under this optimizer the clip is part of the step.",
        )
    if coordinates.lacks_curve:
        return (
            "Under this optimizer the clip is part of the step, but too few stable trials say "
            "what clipping left of their gradients: the edge was fitted in the learning rate.",
        )
    return ()


def _sigmoid(x: Floats) -> Floats:
    result: Floats = 0.5 * (1.0 + np.tanh(0.5 * x))
    return result
