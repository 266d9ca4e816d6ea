"""Where the best rate lies, from short trials: the gauge and scores together.

Two things point to the best rate after a tenth to a quarter of the budget. The rate with the
best score by then: under a constant rate too high, because what trains faster is ahead at first.
And the gauge: its zero depends on the model so early, and of some models (UNets) it hardly changes
with the rate. At a quarter of the budget there is a third, the rate with the best score by then,
where that is later than the first look. Each is a measurement with an error of its own, and the
estimate weighs them by it: a steep gauge decides against early scores, a flat one leaves it to
them.

    minimise over x   ((x - offset) / SCORE_ERROR)^2 + ((g(x) - reading) / GAUGE_ERROR)^2
                      + ((x - late) / LATE_ERROR)^2

x in octaves from the rate with the best early score, g the straight line through the readings,
late what the later scores say. Offsets and errors: the tuning grids in benchmarks/truth
(docs/decisions.md).
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
LATE_ERROR = 0.25
"""Octaves."""
USUAL_SLOPE, SLOPE_PRIOR = 0.6, 1.0
"""Octaves that the gauge reads for one, where the readings do not say; as much as readings whose
rates have this sum of squares around their mean, in octaves squared."""
STEEPEST = 1.8
FADING = 4.0
"""A trial with twice the lowest score has the weight of 2 to the power of minus this."""
LEAST_WEIGHT = 1e-6
"""With less a trial would be missing, and three are needed for a parabola."""

BEYOND = 1.0
"""Octaves above the highest rate that can be tried at which the best score may be suspected."""
SAME_RATE = 0.06
"""Octaves: closer rates are one, to a parabola."""
ENOUGH_RATES = 3
"""For one."""
NO_CURVATURE = 1e-6
"""Equal scores have that much by rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What short trials show at the rate whose worst score within an octave ends best."""

    offset: float
    """Octaves from the best early score to it."""
    reading: float
    """Octaves that the gauge reads there."""
    late_offset: float
    """Octaves from the best late score to it."""


CONSTANT = Expected(offset=-0.8, reading=0.0, late_offset=-0.4)
DECAYED = Expected(offset=-0.1, reading=-0.7, late_offset=0.2)
AT_THE_END = Expected(offset=0.0, reading=0.0, late_offset=0.0)
"""Of trials that were not short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyTrial:
    """A stable short trial that was long enough to read the gauge."""

    rate: float
    """log2 of the learning rate."""
    score: float
    octaves: float | None
    """As the gauge reads it; None where there is none."""


def best_rate(
    trials: Sequence[EarlyTrial],
    expected: Expected,
    late: Sequence[EarlyTrial] = (),
    end: float | None = None,
) -> float:
    """log2 of the rate whose worst score within an octave will be lowest.

    ``trials`` as they looked early, not empty; ``late`` those that trained longer, as they looked
    later: they count when three rates of them are known. ``end``: see ``best_score_rate``.
    """
    best = best_score_rate(trials, end)
    pulls = [(SCORE_ERROR**-2, expected.offset), *_pull_of_gauge(trials, best, expected)]
    if num_rates(late) >= ENOUGH_RATES:
        later = best_score_rate(late, end) + expected.late_offset
        pulls.append((LATE_ERROR**-2, later - best))
    return best + sum(weight * x for weight, x in pulls) / sum(weight for weight, _ in pulls)


def _pull_of_gauge(
    trials: Sequence[EarlyTrial], best: float, expected: Expected
) -> list[tuple[float, float]]:
    """Weight and place of what the gauge says; nothing without a slope."""
    read = [trial for trial in trials if trial.octaves is not None]
    if not read:
        return []
    weights = _weights(read)
    rates, octaves = np.array([(trial.rate - best, trial.octaves) for trial in read]).T
    middle = np.average(rates, weights=weights)
    spread = (rates - middle) * weights
    slope = (spread @ octaves + SLOPE_PRIOR * USUAL_SLOPE) / (
        spread @ (rates - middle) + SLOPE_PRIOR
    )
    slope = min(max(float(slope), 0.0), STEEPEST)
    at_best = float(np.average(octaves, weights=weights) - slope * middle)
    if slope == 0:
        return []
    return [((slope / GAUGE_ERROR) ** 2, (expected.reading - at_best) / slope)]


def best_score_rate(trials: Sequence[EarlyTrial], end: float | None = None) -> float:
    """log2 of the rate with the best score: the vertex of a parabola through the logarithms,
    because neighbours differ by less than seeds do. It lies among the rates of ``trials``, or up
    to BEYOND above them where they reach ``end``, the highest rate that can be tried, and none
    failed: scores that still fall there say that it lies above."""
    is_at_end = end is not None and max(trial.rate for trial in trials) >= end - SAME_RATE
    return _parabola(trials, BEYOND if is_at_end else 0.0)[0]


def sharpness(trials: Sequence[EarlyTrial]) -> float:
    """By how much, in natural logarithms, the score rises an octave off the best rate: the
    curvature of that parabola; 0 where it has none."""
    return _parabola(trials)[1] if trials else 0.0


def _parabola(trials: Sequence[EarlyTrial], beyond: float = 0.0) -> tuple[float, float]:
    """Its vertex, among the rates of ``trials`` or so far above them, and its curvature."""
    lowest = min(trials, key=lambda trial: trial.score).rate
    rates = np.array([trial.rate - lowest for trial in trials])
    is_falling = num_rates(trials) > 1 and rates.max() <= 0
    unbent = lowest + beyond * is_falling, 0.0
    if num_rates(trials) < ENOUGH_RATES:
        return unbent
    logs = np.log([trial.score for trial in trials])
    curvature, slope, _ = np.polyfit(rates, logs, 2, w=np.sqrt(_weights(trials)))
    if curvature <= NO_CURVATURE:
        return unbent
    vertex = float(np.clip(-slope / (2 * curvature), rates.min(), rates.max() + beyond))
    return lowest + vertex, float(curvature)


def num_rates(trials: Sequence[EarlyTrial]) -> int:
    """How many different rates they have."""
    lowest = min((trial.rate for trial in trials), default=0.0)
    return len({round((trial.rate - lowest) / SAME_RATE) for trial in trials})


def _weights(trials: Sequence[EarlyTrial]) -> Floats:
    """A trial counts for less the worse it is: far from the best rate neither scores nor readings
    lie on the curves that are drawn through them."""
    scores: Floats = np.array([trial.score for trial in trials], dtype=np.float64)
    weights: Floats = np.maximum((scores.min() / scores) ** FADING, LEAST_WEIGHT)
    return weights
