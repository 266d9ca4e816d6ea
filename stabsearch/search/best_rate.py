"""Where the best rate lies, from short trials: the gauge and early scores together.

Two things point to the best rate after a tenth to a quarter of the budget. The rate with the
best score by then: under a constant rate too high, because what trains faster is ahead at first.
And the gauge: its zero depends on the model so early, and of some models (UNets) it hardly changes
with the rate. Each is a measurement with an error of its own, and the estimate weighs them by it:
a steep gauge decides, a flat one leaves it to the scores.

    minimise over x   ((x - offset) / SCORE_ERROR)^2 + ((g(x) - reading) / GAUGE_ERROR)^2

x in octaves from the rate with the best early score, g the straight line through the readings.
Offsets and errors: the tuning grids in benchmarks/truth (docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stabsearch.recommend.space import Floats

SCORE_ERROR = 0.5
"""Octaves."""
GAUGE_ERROR = 0.4
"""Octaves as the gauge reads them."""
USUAL_SLOPE, SLOPE_PRIOR = 0.6, 1.0
"""Octaves that the gauge reads for one, where the readings do not say; as much as readings whose
rates have this sum of squares around their mean, in octaves squared."""
STEEPEST = 1.8
FADING = 4.0
"""A trial with twice the lowest score has the weight of 2 to the power of minus this."""
LEAST_WEIGHT = 1e-6
"""With less a trial would be missing, and three are needed for a parabola."""

SAME_RATE = 0.06
"""Octaves: closer rates are one, to a parabola."""
NO_CURVATURE = 1e-6
"""Equal scores have that much by rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What short trials show at the rate whose worst score within an octave ends best."""

    offset: float
    """Octaves from the best early score to it."""
    reading: float
    """Octaves that the gauge reads there."""


CONSTANT = Expected(offset=-0.8, reading=0.0)
DECAYED = Expected(offset=-0.1, reading=-0.7)
AT_THE_END = Expected(offset=0.0, reading=0.0)
"""Of trials that were not short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyTrial:
    """A stable short trial that was long enough to read the gauge."""

    rate: float
    """log2 of the learning rate."""
    score: float
    octaves: float | None
    """As the gauge reads it; None where there is none."""


def best_rate(trials: Sequence[EarlyTrial], expected: Expected) -> float:
    """log2 of the rate whose worst score within an octave will be lowest; ``trials`` not empty."""
    best = best_score_rate(trials)
    read = [trial for trial in trials if trial.octaves is not None]
    if not read:
        return best + expected.offset
    weights = _weights(read)
    rates, octaves = np.array([(trial.rate - best, trial.octaves) for trial in read]).T
    middle = np.average(rates, weights=weights)
    spread = (rates - middle) * weights
    slope = (spread @ octaves + SLOPE_PRIOR * USUAL_SLOPE) / (
        spread @ (rates - middle) + SLOPE_PRIOR
    )
    slope = min(max(float(slope), 0.0), STEEPEST)
    at_best = float(np.average(octaves, weights=weights) - slope * middle)
    of_score, of_gauge = SCORE_ERROR**-2, GAUGE_ERROR**-2
    weighted = expected.offset * of_score + slope * (expected.reading - at_best) * of_gauge
    return best + weighted / (of_score + slope**2 * of_gauge)


def best_score_rate(trials: Sequence[EarlyTrial]) -> float:
    """log2 of the rate with the best score: the vertex of a parabola through the logarithms,
    because neighbours differ by less than seeds do."""
    lowest = min(trials, key=lambda trial: trial.score).rate
    rates = np.array([trial.rate - lowest for trial in trials])
    if len({round(rate / SAME_RATE) for rate in rates}) < 3:
        return lowest
    logs = np.log([trial.score for trial in trials])
    curvature, slope, _ = np.polyfit(rates, logs, 2, w=np.sqrt(_weights(trials)))
    if curvature <= NO_CURVATURE:
        return lowest
    return lowest + float(np.clip(-slope / (2 * curvature), rates.min(), rates.max()))


def _weights(trials: Sequence[EarlyTrial]) -> Floats:
    """A trial counts for less the worse it is: far from the best rate neither scores nor readings
    lie on the curves that are drawn through them."""
    scores: Floats = np.array([trial.score for trial in trials], dtype=np.float64)
    weights: Floats = np.maximum((scores.min() / scores) ** FADING, LEAST_WEIGHT)
    return weights
