"""Small plots of text: a curve with reference lines and marks, and a strip of bars.

Any numbers will do: what is not finite, or far outside, is drawn at the border and marked so. With
``ascii_only`` every character is one that any terminal, log file or mail shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MIN_WIDTH = 24
"""Columns of the drawing itself; a narrower terminal has to wrap."""
MAX_OUTSIDE = 100.0
"""A curve is drawn up to so many times the highest reference line, and down to as much below."""


@dataclass(frozen=True, slots=True)
class _Signs:
    point: str
    line: str
    wall: str
    corner: str
    floor: str
    bars: str


_UNICODE = _Signs("", "┄", "│", "└", "─", "▁▂▃▄▅▆▇█")
_ASCII = _Signs("*", "-", "|", "+", "-", "_.:-=+*#")
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bits of a braille character by column and row of its dots."""
_BRAILLE = 0x2800


def curve(
    points: Sequence[tuple[float, float]],
    lines: Mapping[str, float],
    marks: Sequence[tuple[float, str]] = (),
    *,
    width: int = 72,
    height: int = 10,
    ascii_only: bool = False,
) -> list[str]:
    """Rows of ``(x, y)`` points over a logarithmic y axis.

    ``lines`` are horizontal, by name; ``marks`` are short texts at an x of the axis below. A y
    that cannot be drawn shows as ``!`` (NaN, infinite) or ``^`` (too high) in the top row, or as
    ``v`` in the bottom row. No rows without a point.
    """
    if not points:
        return []
    signs = _ASCII if ascii_only else _UNICODE
    low, high = _range([y for _, y in points], list(lines.values()))
    label_width = max(len(_label(name, value)) for name, value in [*lines.items(), ("", high)])
    columns = max(MIN_WIDTH, width - label_width - 2)
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    first = min(first, 0.0)

    def column(x: float, resolution: int) -> int:
        share = (x - first) / (last - first) if last > first else 0.0
        return min(max(0, round(share * (resolution - 1))), resolution - 1)

    def row(y: float, resolution: int) -> int:
        share = (math.log(high) - math.log(y)) / (math.log(high) - math.log(low))
        return min(max(0, round(share * (resolution - 1))), resolution - 1)

    canvas = [[" "] * columns for _ in range(height)]
    labels = {0: _label("", high), height - 1: _label("", low)}
    for name, value in lines.items():
        if low <= value <= high:
            at = row(value, height)
            canvas[at] = [signs.line] * columns
            labels[at] = _label(name, value)
    if ascii_only:
        for x, y in points:
            if low <= y <= high:
                canvas[row(y, height)][column(x, columns)] = signs.point
    else:
        _draw_dots(
            canvas,
            [
                (column(x, 2 * columns), row(y, 4 * height)) if low <= y <= high else None
                for x, y in points
            ],
        )
    for x, y in points:
        at, sign = (-1, "v") if y < low else (0, "^" if math.isfinite(y) else "!")
        if not (math.isfinite(y) and low <= y <= high):
            canvas[at][column(x, columns)] = sign
    rows = [
        f"{labels.get(i, ''):>{label_width}} {signs.wall}{''.join(cells)}".rstrip()
        for i, cells in enumerate(canvas)
    ]
    floor = [signs.floor] * columns
    for x, text in reversed(marks):
        _put(floor, column(x, columns), text, signs.floor)
    margin = " " * label_width
    ends = f"{first:g}", f"{last:g}"
    gap = " " * (columns - len(ends[0]) - len(ends[1]))
    return [
        *rows,
        f"{margin} {signs.corner}{''.join(floor)}",
        f"{margin}  {ends[0]}{gap}{ends[1]}",
    ]


def bars(shares: Sequence[float], *, ascii_only: bool = False) -> list[str]:
    """One character per share, its height from 0 to 1; ``?`` for one that is not known (NaN)."""
    signs = (_ASCII if ascii_only else _UNICODE).bars
    return [
        "?" if math.isnan(share) else signs[round(min(max(share, 0.0), 1.0) * (len(signs) - 1))]
        for share in shares
    ]


def _put(floor: list[str], column: int, text: str, free: str) -> None:
    """Write a mark at a column, or as near to it as there is room."""
    starts = range(len(floor) - len(text) + 1)
    for at in sorted(starts, key=lambda start: (abs(start - column), start)):
        if all(sign == free for sign in floor[at : at + len(text)]):
            floor[at : at + len(text)] = text
            return


def _draw_dots(canvas: list[list[str]], dots: Sequence[tuple[int, int] | None]) -> None:
    """Braille, two by four dots to a character, joined by lines; a reference line gives way."""
    cells: dict[tuple[int, int], int] = {}
    last = None
    for dot in dots:
        for x, y in _between(last or dot, dot) if dot else ():
            cell = (y // 4, x // 2)
            cells[cell] = cells.get(cell, 0) | _DOTS[x % 2][y % 4]
        last = dot
    for (y, x), bits in cells.items():
        canvas[y][x] = chr(_BRAILLE + bits)


def _between(start: tuple[int, int], end: tuple[int, int]) -> list[tuple[int, int]]:
    """The dots of a straight line, both ends included."""
    steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    return [
        (
            round(start[0] + (end[0] - start[0]) * i / steps),
            round(start[1] + (end[1] - start[1]) * i / steps),
        )
        for i in range(steps + 1)
    ]


def _range(values: Sequence[float], lines: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest y of the drawing, both above 0 and apart."""
    references = [value for value in lines if 0 < value < math.inf]
    known = [value for value in values if 0 < value < math.inf]
    if references:
        top, bottom = MAX_OUTSIDE * max(references), min(references) / MAX_OUTSIDE
        known = [value for value in known if bottom <= value <= top]
    shown = [*known, *references] or [1.0]
    low, high = min(shown), max(shown)
    return (low, high) if high > 1.01 * low else (low / 1.5, high * 1.5)


def _label(name: str, value: float) -> str:
    return f"{name} {value:.3g}".lstrip()
