"""Axes, ticks and positions of the map, from the searched parameters."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, LogNorm
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from stabsearch.recommend.space import Axis, Floats
from stabsearch.recommend.words import number
from stabsearch.records import Params, TrialRecord


def scale(axes: Axes, which: str, axis: Axis) -> None:
    """A log axis has its ticks at the decades, written ``1e-4``; a narrow one also between."""
    side = axes.xaxis if which == "x" else axes.yaxis
    if not axis.is_log:
        return
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    low, high = limits(axis)
    decades = math.log10(high / low)
    factors = (1.0,) if decades > 2.5 else (1.0, 3.0) if decades > 1.3 else (1.0, 2.0, 5.0)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [f * 10.0**e for e in exponents for f in factors if low <= f * 10.0**e <= high]
    labels = [_tick(tick, is_small=low < 1e-3) for tick in ticks]
    if axis.null_value is not None:
        near = 10 ** (decades / 12)  # a label that would be covered makes room
        kept = [
            (t, text)
            for t, text in zip(ticks, labels, strict=True)
            if not axis.null_value / near < t < axis.null_value * near
        ]
        ticks = [t for t, _ in kept] + [axis.null_value]
        labels = [text for _, text in kept] + [number(None)]
    side.set_major_locator(FixedLocator(ticks))
    side.set_major_formatter(FuncFormatter(lambda _, index: labels[index or 0]))
    side.set_minor_formatter(NullFormatter())


def _tick(value: float, *, is_small: bool) -> str:
    """``0.01``, or ``1e-2`` on an axis of small numbers."""
    if not is_small and 1e-3 <= value < 1e4:
        return f"{value:g}"
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def score_ticks(norm: LogNorm) -> list[float]:
    """Five round scores at most, evenly in the logarithm."""
    assert norm.vmin is not None
    assert norm.vmax is not None
    rounded = [f * 10.0**e for e in range(-4, 7) for f in (1, 1.5, 2, 3, 4, 5, 7)]
    inside = [value for value in rounded if norm.vmin <= value <= norm.vmax]
    if len(inside) < 2:
        return [float(f"{norm.vmin:.3g}"), float(f"{norm.vmax:.3g}")]
    step = math.ceil(len(inside) / 7)
    return inside[::step]


def limits(axis: Axis) -> tuple[float, float]:
    """The searched range with a little room, so that no marker is cut."""
    low, high = axis.position(axis.low), axis.position(axis.high)
    room = 0.03 * (high - low)
    return axis.value(low - room), axis.value(high + room)


def positions_across(axis: Axis, count: int) -> Floats:
    """Positions across the drawn range."""
    low, high = limits(axis)
    return np.linspace(axis.position(low), axis.position(high), count)


def values_at(axis: Axis, positions: Floats) -> Floats:
    return np.array([axis.value(float(position)) for position in positions], dtype=np.float64)


def value_of(axis: Axis, record: TrialRecord) -> float:
    return value_in(axis, record.params)


def value_in(axis: Axis, params: Params) -> float:
    return axis.value(axis.position(params[axis.name]))


def light(colours: Colormap) -> Colormap:
    """A colour map without its darkest part and mixed with white: markers stay legible on it."""
    return LinearSegmentedColormap.from_list(
        "light", 0.8 * colours(np.linspace(0.0, 0.75, 256)) + 0.2
    )
