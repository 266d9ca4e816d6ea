from __future__ import annotations

import math

import pytest

from stabsearch.cli.plot import bars, curve

LINES = {"C0": 1.0, "L_iso": 0.2}
FALLING = [(25 * i, 2.0 ** (-i / 4)) for i in range(1, 20)]


def drawn(points, **options):
    return "\n".join(curve(points, LINES, width=60, **options))


def test_a_curve_falls_from_the_upper_left_to_the_lower_right():
    rows = curve(FALLING, LINES, width=60, height=8, ascii_only=True)[:8]
    columns = [row.find("*") for row in rows]

    assert len(rows) == 8
    assert [c for c in columns if c >= 0] == sorted(c for c in columns if c >= 0)


def test_reference_lines_carry_their_name_and_value():
    text = drawn(FALLING, ascii_only=True)

    assert "C0 1 |---" in text
    assert "L_iso 0.2 |---" in text


def test_the_axis_begins_at_0_and_ends_with_the_last_point():
    assert curve(FALLING, LINES, width=60)[-1].split() == ["0", "475"]


def test_a_mark_stands_at_its_step_and_its_neighbour_beside_it():
    axis = curve(FALLING, LINES, [(250, "1"), (475, "2"), (475, "3")], width=60, ascii_only=True)[
        -2
    ]

    assert axis.endswith("23")
    assert abs(axis.index("1") - axis.index("+") - 0.53 * (len(axis) - axis.index("+"))) < 2


def test_every_width_is_kept():
    for width in range(40, 120):
        assert max(map(len, curve(FALLING, LINES, width=width))) <= width


def test_ascii_is_ascii():
    marks = [(100, "1"), (200, "2")]
    for points in (FALLING, [(1, math.nan), (2, math.inf), (3, 1e9), (4, 1e-9)]):
        assert "\n".join(curve(points, LINES, marks, ascii_only=True)).isascii()
    assert "".join(bars([0.1, math.nan, 3.0], ascii_only=True)).isascii()


def test_braille_joins_the_points():
    rows = curve([(1, 1.0), (100, 0.2)], {}, width=60, height=6)[:6]

    assert all(any("\u2800" < sign <= "\u28ff" for sign in row) for row in rows)


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize(
    ("value", "sign"),
    [(math.nan, "!"), (math.inf, "!"), (1e300, "^"), (1e-300, "v"), (0.0, "v"), (-1.0, "v")],
)
def test_what_cannot_be_drawn_is_marked_at_the_border(value, sign, ascii_only):
    rows = curve([*FALLING, (500, value)], LINES, width=60, ascii_only=ascii_only)

    assert rows[-3 if sign == "v" else 0].endswith(sign)


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize(
    "points",
    [
        [],
        [(25, 0.5)],
        [(0, 0.5)],
        [(25, math.nan)],
        [(25, 0.0)],
        [(25, 1.0), (50, 1.0)],
        [(25, -math.inf), (50, math.inf)],
    ],
)
@pytest.mark.parametrize(
    "lines", [{}, LINES, {"C0": 0.0, "L_iso": math.nan}, {"C0": 1.0, "L": 1.0}]
)
def test_few_or_strange_points_are_no_error(points, lines, ascii_only):
    rows = curve(points, lines, [(25, "1")], width=10, ascii_only=ascii_only)

    assert bool(rows) == bool(points)


def test_bars_rise_with_their_share_and_stay_within_0_and_1():
    heights = bars([-5.0, 0.0, 0.5, 1.0, 7.0, math.nan])

    assert heights[0] == heights[1] == "▁"
    assert heights[3] == heights[4] == "█"
    assert heights[1] < heights[2] < heights[3]
    assert heights[5] == "?"
