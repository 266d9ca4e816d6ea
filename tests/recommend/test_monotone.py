import itertools
import math

import numpy as np
import pytest

from stabsearch.recommend.monotone import is_not_logistic, lack_of_fit
from stabsearch.recommend.prior import LOG_SLOPE, LOG_SLOPE_SPREAD


def brute_force_isotonic(outcome):
    """The smallest deviance of any rising step function, over all ways to cut into blocks."""
    n, best = len(outcome), math.inf
    for cuts in range(2 ** (n - 1)):
        edges = [0, *(i + 1 for i in range(n - 1) if cuts >> i & 1), n]
        blocks = [outcome[a:b] for a, b in itertools.pairwise(edges)]
        means = [sum(block) / len(block) for block in blocks]
        if means != sorted(means):
            continue
        loss = -sum(
            math.log(mean if y else 1 - mean)
            for block, mean in zip(blocks, means, strict=True)
            for y in block
            if 0 < mean < 1
        )
        best = min(best, 2 * loss)
    return best


def penalised_logistic(octaves, outcome):
    """Deviance at the largest posterior density, on a fine grid."""
    b, s = np.meshgrid(np.linspace(-8, 8, 801), np.exp(np.linspace(-2, 4, 401)), indexing="ij")
    middle = (octaves[0] + octaves[-1]) / 2
    deviance = np.zeros_like(b)
    for x, y in zip(octaves, outcome, strict=True):
        logit = s * (x - b)
        deviance += 2 * np.logaddexp(0, -logit if y else logit)
    penalty = ((b - middle) / 4) ** 2 + ((np.log(s) - LOG_SLOPE) / LOG_SLOPE_SPREAD) ** 2
    return deviance.ravel()[np.argmin(deviance + penalty)]


@pytest.mark.parametrize(
    "outcome",
    [
        [0, 0, 0, 1, 1, 1],
        [0, 1, 0, 1, 0, 1],
        [1, 1, 0, 0, 0, 1],
        [0, 0, 1, 0, 1, 1],
        [1, 1, 1, 0, 0, 0],
    ],
)
def test_the_statistic_is_logistic_minus_isotonic_deviance(outcome):
    octaves = np.array([-3.0, -1.5, -0.5, 0.2, 1.4, 3.0])

    lack = lack_of_fit(octaves, np.array([outcome], dtype=float))[0]

    isotonic = min(brute_force_isotonic(outcome), brute_force_isotonic(outcome[::-1]))
    expected = penalised_logistic(octaves, outcome) - isotonic
    assert lack == pytest.approx(expected, abs=0.12)  # the optimum is flat


def predicted(octaves, middle=0.0, slope=4.0):
    p = 1 / (1 + np.exp(-slope * (octaves - middle)))
    return np.tile(p, (199, 1))


@pytest.mark.parametrize(
    ("failing", "expected"),
    [
        (lambda x: x > 0, False),
        (lambda x: (x > 0) | (abs(x + 0.3) < 0.1), False),
        (lambda x: (x > 0) | (abs(x + 3) < 1), True),
        (lambda x: x < -2, True),
    ],
    ids=["a-step", "one-near-the-edge", "a-hump-below", "upside-down"],
)
def test_what_denies_a_logistic_edge(failing, expected):
    octaves = np.linspace(-6, 3, 40)

    assert is_not_logistic(octaves, failing(octaves), predicted(octaves)) is expected


def test_one_logistic_study_in_fifty_is_called_otherwise_at_most():
    rng = np.random.default_rng(1)
    octaves = np.sort(rng.uniform(-6, 4, 32))
    p = predicted(octaves, slope=2.0)
    alarms = sum(is_not_logistic(octaves, rng.random(32) < p[0], p) for _ in range(50))

    assert alarms <= 3  # 1 is expected; more than 3 have a chance of 2%
