"""Where short trials say that the best rate is."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from stabsearch.search.best_rate import (
    AT_THE_END,
    CONSTANT,
    DECAYED,
    GAUGE_ERROR,
    LATE_ERROR,
    SCORE_ERROR,
    EarlyTrial,
    Expected,
    best_rate,
    best_score_rate,
    sharpness,
)

NOTHING_EXPECTED = Expected(offset=0.0, reading=0.0, late_offset=0.0)


def trials(rates, *, best=-8.0, slope=1.0, reading=0.0, curvature=0.08):
    """Scores on a parabola around ``best``, and a gauge that is a straight line through it."""
    return [
        EarlyTrial(
            rate=rate,
            score=math.exp(curvature * (rate - best) ** 2),
            octaves=None if slope is None else reading + slope * (rate - best),
        )
        for rate in rates
    ]


@pytest.mark.parametrize("rates", [(-9, -8, -7), (-9.5, -8.5, -7.5, -6.5), (-11, -9, -7.7, -7)])
def test_exact_scores_have_their_vertex_where_the_best_rate_is(rates):
    assert best_score_rate(trials(rates)) == pytest.approx(-8.0)


def test_how_sharp_scores_are_is_their_curvature():
    assert sharpness(trials([-9.5, -8.8, -8.0, -7.1], curvature=0.1)) == pytest.approx(0.1)
    assert sharpness(trials([-9.0, -8.5])) == 0.0
    assert sharpness([]) == 0.0


def test_one_or_two_trials_have_no_vertex():
    assert best_score_rate(trials([-9.0])) == -9.0
    assert best_score_rate(trials([-9.0, -8.5])) == -8.5


@pytest.mark.parametrize(
    ("best", "end", "found"),
    [
        (-6.5, -7.0, -6.5),  # the parabola says where
        (-3.0, -7.0, -6.0),  # no farther than an octave
        (-8.0, -7.0, -8.0),
        (-6.5, -5.0, -7.0),  # higher rates can be tried
        (-6.5, None, -7.0),  # they fail
    ],
)
def test_at_the_end_of_the_range_the_best_score_may_lie_above_it(best, end, found):
    assert best_score_rate(trials((-9, -8, -7), best=best), end) == pytest.approx(found)


def test_two_rates_that_still_fall_at_the_end_of_the_range_point_above_it():
    assert best_score_rate(trials([-9.0, -8.0], best=-3.0), -8.0) == -7.0
    assert best_score_rate(trials([-9.0, -8.0], best=-12.0), -8.0) == -9.0


def test_equal_scores_have_no_vertex():
    flat = [EarlyTrial(rate=r, score=3.3, octaves=None) for r in (-9.0, -8.1, -7.2, -6.3)]
    close = trials((-9.0, -8.99999, -7.0), best=-9.0)

    assert best_score_rate(flat) == -9.0
    assert best_score_rate(close) == pytest.approx(-9.0)


@pytest.mark.filterwarnings("error")
def test_a_score_out_of_all_proportion_is_no_trouble():
    wild = [EarlyTrial(rate=-7.0, score=1e12, octaves=-6.0), *trials((-9.0, -8.5), best=-8.6)]

    assert -9.0 <= best_score_rate(wild) <= -8.0
    assert math.isfinite(best_rate(wild, CONSTANT))


def test_scores_that_only_fall_are_best_at_the_last_one():
    steps = [EarlyTrial(rate=r, score=2.0**-r, octaves=None) for r in (1.0, 2.0, 3.0)]
    slower = [EarlyTrial(rate=r, score=s, octaves=None) for r, s in ((1, 9), (2, 5), (3, 4.5))]

    assert best_score_rate(steps) == 3.0
    assert 2.0 < best_score_rate(slower) <= 3.0


def test_a_trial_that_is_much_worse_does_not_bend_the_parabola():
    near = trials((-9.0, -8.0, -7.0, -8.4))
    wild = EarlyTrial(rate=-4.0, score=40.0, octaves=6.0)

    assert best_score_rate([*near, wild]) == pytest.approx(-8.0, abs=0.02)


@pytest.mark.parametrize("slope", [0.1, 0.5, 1.0, 1.7])
@pytest.mark.parametrize("reading", [-1.2, 0.0, 0.9])
@pytest.mark.parametrize("expected", [CONSTANT, DECAYED, NOTHING_EXPECTED])
def test_the_estimate_weighs_both_by_their_errors(slope, reading, expected):
    """Against the definition: the lowest sum of squares, looked for on a fine grid."""
    many = trials(np.arange(-8.8, -7.1, 0.05), slope=slope, reading=reading, curvature=0.001)
    x = np.arange(-6.0, 6.0, 1e-3)
    error = ((x - expected.offset) / SCORE_ERROR) ** 2
    error += ((reading + slope * x - expected.reading) / GAUGE_ERROR) ** 2

    assert best_rate(many, expected) + 8.0 == pytest.approx(x[error.argmin()], abs=0.12)


def test_a_steep_gauge_decides_and_a_flat_one_does_not():
    rates = (-9.0, -8.0, -7.0, -6.0)
    steep = best_rate(trials(rates, slope=1.8, reading=1.8), NOTHING_EXPECTED)
    flat = best_rate(trials(rates, slope=-0.5, reading=1.8), NOTHING_EXPECTED)

    assert steep == pytest.approx(-9.0, abs=0.15)
    assert flat == pytest.approx(-8.0, abs=0.3)


def test_without_a_gauge_the_scores_decide():
    assert best_rate(trials((-9, -8, -7), slope=None), CONSTANT) == pytest.approx(
        -8.0 + CONSTANT.offset
    )
    assert best_rate(trials((-9, -8, -7), slope=None), AT_THE_END) == pytest.approx(-8.0)


@pytest.mark.parametrize("schedule", [CONSTANT, DECAYED])
def test_it_does_not_matter_where_the_rates_lie_nor_what_a_score_is_measured_in(schedule):
    some = trials((-9.0, -8.2, -7.0, -5.5), slope=0.7, reading=0.4)
    there = best_rate(some, schedule)
    moved = [replace(t, rate=t.rate + 5, score=t.score * 30) for t in some]

    assert best_rate(moved, schedule) == pytest.approx(there + 5)
    for order in itertools.permutations(some):
        assert best_rate(order, schedule) == pytest.approx(there)


def test_a_reading_more_moves_the_estimate_smoothly():
    """None is left out for being one hundredth of an octave farther."""
    some = trials((-9.0, -8.0, -7.0), slope=0.3, reading=-0.5)
    estimates = [
        best_rate([*some, *trials([rate], slope=0.3, reading=0.5)], DECAYED)
        for rate in np.arange(-7.0, -3.0, 0.02)
    ]

    assert max(abs(np.diff(estimates))) < 0.02


LATE_ONLY = Expected(offset=0.0, reading=0.0, late_offset=0.25)


def test_later_scores_pull_by_their_error():
    early = trials((-9, -8, -7), best=-8.0, slope=None)
    late = trials((-8.5, -7.5, -6.5), best=-7.0, slope=None)
    of_early, of_late = SCORE_ERROR**-2, LATE_ERROR**-2
    expected = (of_early * -8.0 + of_late * (-7.0 + 0.25)) / (of_early + of_late)

    assert best_rate(early, LATE_ONLY, late) == pytest.approx(expected)


def test_two_later_rates_say_nothing():
    early = trials((-9, -8, -7), best=-8.0, slope=None)
    late = trials((-8.5, -7.5, -7.5), best=-7.0, slope=None)

    assert best_rate(early, LATE_ONLY, late) == best_rate(early, LATE_ONLY)
