"""Figures of a study, from its files alone: the stability map.

Colours are cividis (the same to all kinds of colour vision); what is not a score is told apart by
the shape of its marker, and every shape is explained in words beside the axes.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator
from numpy.typing import NDArray

from stabsearch.errors import EnvironmentProblem, ResultsError
from stabsearch.recommend.evidence import never_learned
from stabsearch.recommend.landscape import Landscape, landscapes_of
from stabsearch.recommend.space import (
    LEARNING_RATE,
    MAX_GRAD_NORM,
    Axis,
    Floats,
    gradient_ceiling,
    search_space,
)
from stabsearch.recommend.surface import Surface
from stabsearch.recommend.words import count, number, octaves_words, params_text
from stabsearch.records import (
    Outcome,
    Params,
    Recommendation,
    TrialRecord,
)
from stabsearch.report.looks import INK, MARKER, RING, RINGS, Ringed, kinds_of, legend_marker
from stabsearch.report.scales import (
    light,
    limits,
    positions_across,
    scale,
    score_ticks,
    value_in,
    value_of,
    values_at,
)
from stabsearch.results.frames import Results

DPI = 150

# One seed for the ids inside the SVG, and text as text: the same study gives the same file.
STYLE: Any = {"font.size": 9, "svg.hashsalt": "stabsearch", "svg.fonttype": "none"}

TITLE_WIDTH = 60
"""Characters of a line; more would run into a wide legend."""

EDGE_INK, PICK_INK = "#b2182b", "#ffffff"

SAFE_LINE: dict[str, Any] = {
    "color": EDGE_INK, "linewidth": 1.3, "linestyle": (0, (4, 3)), "zorder": 2
}  # fmt: skip
GUESSED_LINE: dict[str, Any] = {
    "color": EDGE_INK, "linewidth": 1.2, "linestyle": (0, (1, 2.5)), "zorder": 1.9
}  # fmt: skip
EDGE_LABEL = "edge: half of the runs fail\n(band: 90% interval)"
VEIL: dict[str, Any] = {
    "levels": [0.5, 1.5],
    "colors": ["white"],
    "alpha": 0.7,
    "zorder": 0.5,
}
"""Over scores that are predicted where nothing was trained to its end."""
PALE: dict[str, Any] = {"facecolor": "#f3eeda", "edgecolor": "none"}
PALE_LABEL = "pale: a guess, no trial\nnear it ended"
GUESSED_LABEL = "the edge by the model,\nwhere nothing was tried"
NEAR_OCTAVES, NEAR_SHARE = 1.0, 0.1
"""So far from a trial, in octaves or in the share of a range, the edge is a guess."""
SAFE_LABEL = "5% of the runs fail"
SCORE_LABEL = "score: held-out loss / best linear denoiser (lower is better)"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plane:
    """What is drawn: the two axes (y is None in a line figure), and the trials of one category."""

    x: Axis
    y: Axis | None
    landscape: Landscape
    base: Params
    """Values of the parameters that are not drawn."""

    @property
    def surface(self) -> Surface | None:
        """The predicted score; None where no trial learned: through dead ones alone it is the
        score of a dead network everywhere, tried or not."""
        has_learned = any(
            record.has_result
            and not self.landscape.is_unstable(record)
            and not never_learned(record)
            for record in self.landscape.records
        )
        return self.landscape.surface if has_learned else None


def write_map(results: Results, recommendation: Recommendation, folder: Path) -> list[Path]:
    """Writes ``map.png`` and ``map.svg`` into ``folder`` and returns their paths."""
    with mpl.rc_context(STYLE):
        figure = draw_map(results, recommendation)
        png, svg = folder / "map.png", folder / "map.svg"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(png, dpi=DPI, metadata={"Software": None})
            figure.savefig(svg, dpi=DPI, metadata={"Date": None, "Creator": None})
        except OSError as error:
            raise EnvironmentProblem(
                f"The figures cannot be written to {folder}: {error.strerror or error}. "
                "Choose a folder that you may write to: stabsearch plot PATH map --out DIR."
            ) from error
    return [png, svg]


def draw_map(results: Results, recommendation: Recommendation) -> Figure:
    """The stability map: two searched parameters as a plane, or one against the score."""
    plane = _plane(results, recommendation)
    figure = Figure(figsize=(10.0, 6.2), layout="constrained")
    axes = figure.add_subplot()
    norm = _score_norm(plane.landscape.records)
    if plane.y is None:
        handles = _draw_line(axes, plane, recommendation, norm)
    else:
        handles = _draw_plane(figure, axes, plane, recommendation, norm)
    _decorate(axes, plane)
    figure.legend(
        handles=[handle for handle, _ in handles],
        labels=[label for _, label in handles],
        loc="outside right upper",
        frameon=False,
        handler_map={tuple: HandlerTuple(ndivide=None), Ringed: HandlerTuple(ndivide=1)},
        labelspacing=0.9,
        borderaxespad=0.3,
    )
    figure.suptitle(_title(results, recommendation, plane), x=0.01, ha="left", fontsize=11)
    return figure


# --- what is drawn ----------------------------------------------------------------------------


def _plane(results: Results, recommendation: Recommendation) -> _Plane:
    records = results.records()
    space = search_space(results.study, records)
    preferred = [space.axis(LEARNING_RATE), space.axis(MAX_GRAD_NORM)]
    order = [axis for axis in preferred if axis is not None]
    order += [axis for axis in space.axes if axis not in order]
    if not order or not records:
        reason = (
            "no trial has reported yet" if not records else "no numeric parameter was searched"
        )
        raise ResultsError(
            f"{results.path}: there is nothing to draw a map of, {reason}. A map needs one or two "
            "parameters with `log_uniform`, `uniform`, `int` or a choice of numbers; the tables "
            f"are in {results.path / 'trials.parquet'}."
        )
    landscapes = landscapes_of(space, records, results.study)
    if recommendation.params is not None:
        base = recommendation.params
        landscape = landscapes[space.category(base)]
    else:
        landscape = max(landscapes.values(), key=lambda each: len(each.records))
        base = landscape.middle()
    y = order[1] if len(order) > 1 else None
    return _Plane(x=order[0], y=y, landscape=landscape, base=base)


def _score_norm(records: Sequence[TrialRecord]) -> LogNorm:
    """From the best score to a dead network's, on a log scale as the surface is fitted."""
    scores = [r.score for r in records if r.score is not None and r.score > 0 and r.is_stable]
    dead = [r.constant_score for r in records if r.constant_score is not None]
    low = min(scores, default=0.5)
    high = max([*dead, *scores, 1.1 * low])
    return LogNorm(low, high, clip=True)


# --- two parameters ---------------------------------------------------------------------------


def _draw_plane(
    figure: Figure, axes: Axes, plane: _Plane, answer: Recommendation, norm: LogNorm
) -> list[tuple[object, str]]:
    assert plane.y is not None
    colours = light(mpl.colormaps["cividis_r"])
    xs, ys = positions_across(plane.x, 121), positions_across(plane.y, 91)
    guesses = _draw_scores(axes, plane, (xs, ys), norm, colours) if plane.surface else []
    handles = _draw_trials(axes, plane, norm, colours)
    handles += _draw_edge_line(axes, plane, ys)
    handles += [*_draw_pick(axes, plane, answer), *guesses]
    if plane.surface is not None or any(kind.is_scored for kind in kinds_of(plane.landscape)):
        _draw_colorbar(figure, axes, plane, norm, colours)
    axes.set_ylim(*limits(plane.y))
    return handles


def _draw_scores(
    axes: Axes, plane: _Plane, grid: tuple[Floats, Floats], norm: LogNorm, colours: Colormap
) -> list[tuple[object, str]]:
    assert plane.surface is not None
    assert plane.y is not None
    drawn = (plane.x, plane.y)
    positions = np.meshgrid(*grid)
    points = np.repeat(plane.landscape.space.points([plane.base]), positions[0].size, axis=0)
    for axis, at in zip(drawn, positions, strict=True):
        points[:, plane.landscape.space.axes.index(axis)] = at.ravel()
    xs, ys = (values_at(axis, at) for axis, at in zip(drawn, grid, strict=True))
    scores = plane.surface.predict(points).reshape(positions[0].shape)
    look: dict[str, Any] = {"cmap": colours, "norm": norm, "shading": "gouraud"}
    axes.pcolormesh(xs, ys, scores, rasterized=True, zorder=0, **look)
    is_guessed = ~plane.surface.is_measured(points, [axis.name for axis in drawn])
    if not is_guessed.any():
        return []
    axes.contourf(xs, ys, is_guessed.reshape(scores.shape), **VEIL)
    return [(Patch(**PALE), PALE_LABEL)]


def _draw_colorbar(
    figure: Figure, axes: Axes, plane: _Plane, norm: LogNorm, colours: Colormap
) -> None:
    bar = figure.colorbar(
        mpl.cm.ScalarMappable(norm, colours), ax=axes, location="bottom", shrink=0.9, aspect=45
    )
    bar.set_label("predicted " * (plane.surface is not None) + SCORE_LABEL)
    ticks = score_ticks(norm)
    bar.ax.xaxis.set_minor_locator(NullLocator())
    bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])


def _draw_edge_line(axes: Axes, plane: _Plane, ys: Floats) -> list[tuple[object, str]]:
    if plane.landscape.edge is None or plane.y is None or plane.x.name != LEARNING_RATE:
        return []
    ys = ys[::3]
    values = values_at(plane.y, ys)
    rows = [_edge_rates(plane, plane.base | {plane.y.name: float(value)}) for value in values]
    low, middle, high, safe_rates = np.array(rows).T
    is_tried = _is_tried(plane, plane.y, ys)
    band_look: dict[str, Any] = {"color": EDGE_INK, "linewidth": 0, "zorder": 1}
    band = axes.fill_betweenx(values, low, high, where=is_tried, alpha=0.16, **band_look)
    known = np.where(is_tried, middle, math.nan)
    (line,) = axes.plot(known, values, color=EDGE_INK, linewidth=1.8, zorder=2)
    (safe,) = axes.plot(np.where(is_tried, safe_rates, math.nan), values, **SAFE_LINE)
    handles: list[tuple[object, str]] = [((band, line), EDGE_LABEL), (safe, SAFE_LABEL)]
    if not is_tried.all():
        is_guessed = ~is_tried
        is_guessed[:-1] |= ~is_tried[1:]  # one point more on either side: the bands meet
        is_guessed[1:] |= ~is_tried[:-1]
        wide = axes.fill_betweenx(values, low, high, where=is_guessed, alpha=0.07, **band_look)
        (guess,) = axes.plot(middle, values, **GUESSED_LINE)  # the other line covers its part
        handles.append(((wide, guess), GUESSED_LABEL))
    return handles


def _edge_rates(plane: _Plane, params: Params) -> tuple[float, float, float, float]:
    """lr50 between the ends of its interval, then lr05; NaN where there is no edge. An end beyond
    all that was tried is that of the picture."""
    edge = plane.landscape.edge_at(params)
    if edge is None:
        return (math.nan,) * 4
    high = min(edge.learning_rate_high, limits(plane.x)[1])
    return edge.learning_rate_low, edge.learning_rate, high, edge.learning_rate_safe


def _is_tried(plane: _Plane, axis: Axis, positions: Floats) -> NDArray[np.bool_]:
    """Whether a trial was made near each of ``positions`` on ``axis``."""
    ceiling = math.inf
    if axis.name == MAX_GRAD_NORM:
        # Above it clips never act: one trial there speaks for all.
        ceiling = axis.position(gradient_ceiling(plane.landscape.records) or math.inf)
    tried = np.array(
        [
            axis.position(r.params[axis.name])
            for r in plane.landscape.records
            if r.outcome is not Outcome.FAILED and not never_learned(r)
        ]
    )
    apart = np.abs(np.minimum(positions, ceiling)[:, None] - np.minimum(tried, ceiling))
    return np.asarray(apart.min(axis=1) <= (NEAR_OCTAVES if axis.is_log else NEAR_SHARE))


def _draw_trials(
    axes: Axes, plane: _Plane, norm: LogNorm, colours: Colormap
) -> list[tuple[object, str]]:
    handles: list[tuple[object, str]] = []
    for kind, group in kinds_of(plane.landscape).items():
        xs = [value_of(plane.x, record) for record in group]
        ys = [
            value_of(plane.y, record) if plane.y else _height(plane, record, norm)
            for record in group
        ]
        look = MARKER | {"s": MARKER["s"] * kind.size}
        if kind.is_scored:
            scores = [float(record.score or math.nan) for record in group]
            axes.scatter(
                xs, ys, c=scores, cmap=colours, norm=norm, marker="o", edgecolors=INK, **look
            )
        else:
            edge = INK if kind.face == "none" else "white"
            axes.scatter(xs, ys, c=kind.face, marker=kind.marker, edgecolors=edge, **look)
        ring = RINGS.get(kind.purpose)
        if ring is not None:
            axes.scatter(xs, ys, facecolors="none", edgecolors=ring, **RING)
        handles.append((legend_marker(kind, colours), f"{kind.words} ({len(group)})"))
    return handles


# --- one parameter ----------------------------------------------------------------------------


def _draw_line(
    axes: Axes, plane: _Plane, answer: Recommendation, norm: LogNorm
) -> list[tuple[object, str]]:
    """Score against the one parameter, with the elements of the map."""
    handles: list[tuple[object, str]] = []
    xs = positions_across(plane.x, 241)
    if plane.surface is not None:
        points = np.repeat(plane.landscape.space.points([plane.base]), len(xs), axis=0)
        points[:, plane.landscape.space.axes.index(plane.x)] = xs
        is_measured = plane.surface.is_measured(points, (plane.x.name,))
        scores = np.where(is_measured, plane.surface.predict(points), math.nan)
        (line,) = axes.plot(
            values_at(plane.x, xs), scores, color="#4a6fa5", linewidth=1.6, zorder=2
        )
        handles.append((line, "predicted score"))
    handles += _draw_trials(axes, plane, norm, light(mpl.colormaps["cividis_r"]))
    low, middle, high, safe_rate = _edge_rates(plane, plane.base)
    if math.isfinite(middle) and plane.x.name == LEARNING_RATE:
        look: dict[str, Any] = {"color": EDGE_INK, "alpha": 0.16, "linewidth": 0, "zorder": 1}
        band = axes.axvspan(low, high, **look)
        line = axes.axvline(middle, color=EDGE_INK, linewidth=1.8, zorder=2)
        safe = axes.axvline(safe_rate, **SAFE_LINE)
        handles += [((band, line), EDGE_LABEL), (safe, SAFE_LABEL)]
    handles += _draw_pick(axes, plane, answer)
    axes.set_yscale("log")
    assert norm.vmin is not None
    assert norm.vmax is not None
    axes.set_ylim(norm.vmin / 1.12, norm.vmax * 1.12)
    ticks = score_ticks(norm)
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel(SCORE_LABEL)
    return handles


def _height(plane: _Plane, record: TrialRecord, norm: LogNorm) -> float:
    """Height in the line figure: an unstable trial stands where a dead network does."""
    assert norm.vmax is not None
    if plane.landscape.is_unstable(record) or record.score is None:
        return float(norm.vmax)
    return min(record.score, float(norm.vmax))


# --- the recommendation -----------------------------------------------------------------------


def _draw_pick(axes: Axes, plane: _Plane, answer: Recommendation) -> list[tuple[object, str]]:
    if answer.params is None:
        return []
    x = value_in(plane.x, answer.params)
    left, right = _around(plane.x, x, answer.margin_asked)
    handles: list[tuple[object, str]] = []
    if plane.y is None:
        y = answer.score if answer.score is not None else 1.0
        if plane.x.is_log:
            axes.axvspan(left, right, facecolor="none", edgecolor=INK, linestyle="--", zorder=3)
    else:
        y = value_in(plane.y, answer.params)
        low, high = _around(plane.y, y, answer.margin_asked)
        if plane.x.is_log or plane.y.is_log:
            corner = Rectangle(
                (left, low),
                right - left,
                high - low,
                facecolor="none",
                edgecolor=INK,
                linestyle="--",
                linewidth=1.3,
                zorder=3,
            )
            axes.add_patch(corner)
    star = axes.scatter(
        [x], [y], marker="*", s=330, color=PICK_INK, edgecolors=INK, linewidths=1.4, zorder=6
    )
    others = "\n".join(f"{name} {number(v)}" for name, v in answer.params.items())
    handles.append((star, f"recommended\n{others}"))
    if plane.x.is_log or (plane.y is not None and plane.y.is_log):
        box = Patch(facecolor="none", edgecolor=INK, linestyle="--", linewidth=1.3)
        octaves = answer.margin_asked
        within = f"{octaves_words(octaves)} around it"
        handles.append((box, f"{within}\n(a factor of {number(2.0**octaves)} each way)"))
    return handles


def _around(axis: Axis, value: float, octaves: float) -> tuple[float, float]:
    factor = 2.0**octaves if axis.is_log else 1.0
    return value / factor, value * factor


# --- axes, ticks and words --------------------------------------------------------------------


def _decorate(axes: Axes, plane: _Plane) -> None:
    scale(axes, "x", plane.x)
    axes.set_xlim(*limits(plane.x))
    axes.set_xlabel(plane.x.name)
    if plane.y is not None:
        scale(axes, "y", plane.y)
        axes.set_ylim(*limits(plane.y))
        axes.set_ylabel(plane.y.name)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _title(results: Results, answer: Recommendation, plane: _Plane) -> str:
    """The study, its counts, and what the drawn trials have in common."""
    stable = sum(r.is_stable for r in plane.landscape.records)
    drawn = len(plane.landscape.records)
    unstable = len(plane.landscape.unstable)
    of = f"{drawn} of " if drawn < answer.num_trials else ""
    trials = f"{of}{count(max(drawn, answer.num_trials), 'trial')}"
    title = f"{results.name}: {trials}, {stable} stable, {unstable} unstable"
    drawn_names = {plane.x.name, plane.y.name if plane.y else ""}
    fixed = {name: value for name, value in plane.base.items() if name not in drawn_names}
    common = {
        name: value
        for name, value in fixed.items()
        if all(record.params.get(name) == value for record in plane.landscape.records)
    }
    others = {name: value for name, value in fixed.items() if name not in common}
    words = [("at", common), ("predicted at", others)]
    parts = [f"{where} {params_text(params)}" for where, params in words if params]
    lines = textwrap.wrap(
        "; ".join(parts), TITLE_WIDTH, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join([title, *lines])
