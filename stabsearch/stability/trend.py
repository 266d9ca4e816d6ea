"""A straight line through the last points of a series, at a cost that does not grow with it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

MIN_POINTS = 3
"""Two points are always on a line, and leave no error to speak of."""

_Sums = tuple[float, float, float, float, float]


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
        self._sums: list[_Sums] = [(0.0, 0.0, 0.0, 0.0, 0.0)]
        self._origin: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self._sums) - 1

    def add(self, x: float, y: float) -> None:
        """Both must be finite."""
        # Sums about the first point: differences of large sums would lose the small ones.
        self._origin = self._origin or (x, y)
        u, v = x - self._origin[0], y - self._origin[1]
        a, b, c, d, e = self._sums[-1]
        self._sums.append((a + u, b + v, c + u * u, d + u * v, e + v * v))

    def line(self, count: int) -> Line | None:
        """Through the last ``count`` points; None without so many, or with fewer than three."""
        if count < MIN_POINTS or count > len(self) or self._origin is None:
            return None
        last, before = self._sums[-1], self._sums[-1 - count]
        x, y, xx, xy, yy = (new - old for new, old in zip(last, before, strict=True))
        spread = xx - x * x / count
        if spread <= 0:
            return None
        slope = (xy - x * y / count) / spread
        rest = max(0.0, yy - y * y / count - slope * slope * spread)
        deviation = math.sqrt(rest / (count - 2))
        return Line(
            slope=slope,
            slope_error=deviation / math.sqrt(spread),
            mean_x=self._origin[0] + x / count,
            mean_y=self._origin[1] + y / count,
            num_points=count,
            deviation=deviation,
        )

    def state_dict(self) -> dict[str, Any]:
        return {"sums": list(self._sums), "origin": self._origin}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums = [(a, b, c, d, e) for a, b, c, d, e in state["sums"]]
        origin = state["origin"]
        self._origin = None if origin is None else (origin[0], origin[1])
