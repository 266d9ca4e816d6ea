"""The line through the last points, against numpy's own, which looks at all of them again."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from stabsearch.stability.trend import Trend


def filled(x, y):
    trend = Trend()
    for point in zip(x, y, strict=True):
        trend.add(*map(float, point))
    return trend


@pytest.mark.parametrize("count", [3, 7, 50])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_agrees_with_numpy(count, offset):
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.uniform(0.5, 2, 50))
    y = offset + 0.3 * x + rng.normal(size=50)
    line = filled(x, y).line(count)
    x, y = x[-count:], y[-count:]
    (slope, at_zero), residual = np.polyfit(x, y, 1), y - np.polyval(np.polyfit(x, y, 1), x)
    deviation = np.sqrt(residual @ residual / (count - 2))
    spread = ((x - x.mean()) ** 2).sum()

    assert line.slope == pytest.approx(slope, rel=1e-6)
    assert line.at(70.0) == pytest.approx(at_zero + slope * 70, rel=1e-9)
    assert line.slope_error == pytest.approx(deviation / np.sqrt(spread), rel=1e-4)
    expected = deviation * np.sqrt(1 / count + (70 - x.mean()) ** 2 / spread)
    assert line.error_at(70.0) == pytest.approx(expected, rel=1e-4)


def test_a_long_series_loses_no_digits():
    x = np.arange(100_000)
    y = 5.0 + 1e-4 * x

    assert filled(x, y).line(10).slope == pytest.approx(1e-4, rel=1e-4)


@pytest.mark.parametrize("huge", [1e12, 1e38, 1e300])
def test_a_huge_value_leaves_all_digits_for_what_follows(huge):
    rng = np.random.default_rng(0)
    x, y = np.arange(20.0), 0.4 + 1e-3 * rng.normal(size=20)

    assert filled([-1, *x], [huge, *y]).line(20) == filled(x, y).line(20)


def test_a_line_through_a_huge_value_is_as_far_off():
    line = filled(range(4), [1e300, 0, 0, 0]).line(4)

    assert line.slope == pytest.approx(-0.3e300)
    assert line.deviation == pytest.approx(math.sqrt(0.15) * 1e300)


def test_too_few_points_make_no_line():
    trend = filled([1, 2], [3, 4])

    assert trend.line(2) is None
    assert trend.line(3) is None


def test_points_at_one_place_make_no_line():
    assert filled([2, 2, 2], [1, 2, 3]).line(3) is None


def test_restored_through_json():
    whole = filled(range(20), np.sin(range(20)))
    half, other = filled(range(10), np.sin(range(10))), Trend()
    other.load_state_dict(json.loads(json.dumps(half.state_dict())))
    for x in range(10, 20):
        other.add(float(x), float(np.sin(x)))

    assert other.line(15) == whole.line(15)
