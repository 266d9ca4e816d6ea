"""Does failure grow with the learning rate? The fitted logistic against what may only rise, or
only fall.

The statistic is the deviance of a logistic fit minus that of an isotonic one (science.md 4.1-1),
the better one of a rising and a falling curve: of failures that all lie below what is stable the
best rising curve is flat, and so is the logistic.
Its bar is calibrated for every study: trials are drawn again at the same settings, each time from
another point of the edge's posterior, and both are fitted to them.
"""

from __future__ import annotations

import numpy as np

from stabsearch.recommend.prior import INTERCEPT_SPREAD, LOG_SLOPE, LOG_SLOPE_SPREAD
from stabsearch.recommend.space import Floats

MAX_CHANCE = 1 / 50
"""Share of simulated studies that may lack as much fit: as many false alarms are tolerated."""

NUM_SIMULATIONS = 199

NUM_STEPS = 40


def is_not_logistic(octaves: Floats, unstable: np.ndarray, predicted: Floats) -> bool:
    """Whether trials ``[n]`` at log2 learning rates ``octaves`` deny a logistic edge.

    ``predicted[studies, n]`` is how likely each trial was to be called unstable, by as many points
    of the edge's posterior.
    """
    order = np.argsort(octaves, kind="stable")
    draws = np.random.default_rng(0).random(predicted.shape)
    simulated = (draws < predicted)[:, order].astype(np.float64)
    own = unstable[order].astype(np.float64)[None]
    lack = lack_of_fit(octaves[order], own)[0]
    as_large = int((lack_of_fit(octaves[order], simulated) >= lack - 1e-9).sum())
    return (1 + as_large) / (1 + len(predicted)) <= MAX_CHANCE


def lack_of_fit(octaves: Floats, outcomes: Floats) -> Floats:
    """Deviance of a logistic fit minus that of the better isotonic one, for
    ``outcomes[studies, n]`` (1 is a failure) at ``octaves[n]`` in rising order."""
    intercepts, slopes = _logistic(octaves, outcomes)
    logits = slopes[:, None] * (octaves - intercepts[:, None])
    logistic = np.logaddexp(0.0, np.where(outcomes > 0, -logits, logits)).sum(axis=1)
    isotonic = np.array([_isotonic_loss(outcome) for outcome in outcomes])
    result: Floats = 2 * (logistic - isotonic)
    return result


def _isotonic_loss(outcome: Floats) -> float:
    # Imported when it is needed: the search of a new study should not wait a second for it.
    from sklearn.isotonic import isotonic_regression

    def loss(increasing: bool) -> float:
        p = isotonic_regression(outcome, y_min=1e-9, y_max=1 - 1e-9, increasing=increasing)
        return float(-np.log(np.where(outcome > 0, p, 1 - p)).sum())

    return min(loss(increasing=True), loss(increasing=False))


def _logistic(octaves: Floats, outcomes: Floats) -> tuple[Floats, Floats]:
    """Intercepts and slopes ``[studies]`` of the largest posterior density, by Newton's method.

    Half a step at a time: of outcomes that are out of order, whole steps oscillate.
    """
    middle = (octaves[0] + octaves[-1]) / 2
    intercepts = np.full(len(outcomes), middle)
    log_slopes = np.full(len(outcomes), LOG_SLOPE)
    for _ in range(NUM_STEPS):
        slopes = np.exp(log_slopes)[:, None]
        logits = slopes * (octaves - intercepts[:, None])
        p = 1 / (1 + np.exp(-np.clip(logits, -50, 50)))
        off, weight = outcomes - p, p * (1 - p)
        towards_b = (-slopes * off).sum(1) - (intercepts - middle) / INTERCEPT_SPREAD**2
        towards_s = (logits * off).sum(1) - (log_slopes - LOG_SLOPE) / LOG_SLOPE_SPREAD**2
        bb = (slopes**2 * weight).sum(1) + INTERCEPT_SPREAD**-2
        ss = (logits**2 * weight).sum(1) + LOG_SLOPE_SPREAD**-2
        bs = (-slopes * logits * weight).sum(1)
        determinant = bb * ss - bs**2
        step_b = (ss * towards_b - bs * towards_s) / determinant
        step_s = (bb * towards_s - bs * towards_b) / determinant
        intercepts = intercepts + 0.5 * np.clip(step_b, -1.0, 1.0)
        log_slopes = np.clip(log_slopes + 0.5 * np.clip(step_s, -1.0, 1.0), -2.0, 4.0)
    return intercepts, np.exp(log_slopes)
