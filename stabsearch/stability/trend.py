"""A straight line through the last points of a series, at a cost that does not grow with it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

MIN_POINTS = 3
"""Two points are always on a line, and leave no error to speak of."""

BITS = 64
"""Behind the point. Sums are integers, hence exact: of floats, one huge value would leave no
digits for a line through those that follow."""

_Sums = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Line:
    """Least squares y = mean_y + slope (x - mean_x)."""

    slope: float
    slope_error: float
    """Standard error of the slope."""
    mean_x: float
    mean_y: float
    num_points: int
    deviation: float
    """Standard deviation of the residuals."""

    @property
    def slope_t(self) -> float:
        """t statistic of the slope; strongly negative means falling."""
        return self.slope / max(self.slope_error, 1e-12)

    def at(self, x: float) -> float:
        return self.mean_y + self.slope * (x - self.mean_x)

    def error_at(self, x: float) -> float:
        """Standard error of the line itself at ``x`` (not of a new point)."""
        from_mean = self.slope_error * (x - self.mean_x)
        return math.hypot(self.deviation / math.sqrt(self.num_points), from_mean)


class Trend:
    """Points in the order of time; prefix sums give any number of the last ones at once."""

    def __init__(self) -> None:
        self._sums: list[_Sums] = [(0, 0, 0, 0, 0)]

    def __len__(self) -> int:
        return len(self._sums) - 1

    def add(self, x: float, y: float) -> None:
        """Both must be finite."""
        u, v = _fixed(x), _fixed(y)
        a, b, c, d, e = self._sums[-1]
        self._sums.append((a + u, b + v, c + u * u, d + u * v, e + v * v))

    def line(self, count: int) -> Line | None:
        """Through the last ``count`` points; None without so many, or with fewer than three."""
        if count < MIN_POINTS or count > len(self):
            return None
        last, before = self._sums[-1], self._sums[-1 - count]
        x, y, xx, xy, yy = (new - old for new, old in zip(last, before, strict=True))
        # Each ``count`` times the sum of products of distances from the means.
        spread, cross, rest = count * xx - x * x, count * xy - x * y, count * yy - y * y
        if spread == 0:
            return None
        unexplained = rest * spread - cross * cross
        deviation = _root(unexplained // (spread * count * (count - 2)))
        return Line(
            slope=cross / spread,
            slope_error=deviation / _root(spread // count),
            mean_x=x / (count << BITS),
            mean_y=y / (count << BITS),
            num_points=count,
            deviation=deviation,
        )

    def state_dict(self) -> dict[str, Any]:
        return {"sums": list(self._sums)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums = [(a, b, c, d, e) for a, b, c, d, e in state["sums"]]


def _fixed(value: float) -> int:
    numerator, denominator = value.as_integer_ratio()
    return (numerator << BITS) // denominator


def _root(square: int) -> float:
    """Of a product of two numbers with ``BITS`` each."""
    return math.isqrt(square) / (1 << BITS)
