"""What clipping does at a setting, in words, and the clips at which an edge is reported.

Under optimizers that undo the scale of gradients (Adam and its relatives) a coefficient that is
the same at every step changes nothing; what counts is whether large gradients are cut. Under SGD
the coefficient is part of the step (science.md 1.4).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stabsearch.recommend.candidates import Candidate
from stabsearch.recommend.landscape import Landscape
from stabsearch.recommend.space import (
    CLIP_REACH,
    MAX_GRAD_NORM,
    clips_by_norm,
    field_value,
    gradient_ceiling,
    norm_threshold,
    steps_with_gradient,
)
from stabsearch.recommend.words import count, number, percent
from stabsearch.records import ClipEdge, Params, ParamValue
from stabsearch.spec import MAX_GRAD_NORM_CLIPPINGS

SELDOM, ALWAYS = 0.05, 0.95
"""Clip rates: below the one only large gradients are clipped, above the other nearly all are."""

MAX_CLIP_EDGES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clipping:
    """What was seen of the clipping of one setting."""

    strategy: ParamValue
    threshold: float | None
    """The gradient norm above which it clips; None where no such threshold is known."""
    rate: float
    """Share of the steps that it acted on."""
    acted: str
    """In how many seeds, in words."""
    typical: float | None
    """Median gradient norm."""
    is_by_norm: bool
    """It clips by a threshold of the total 2-norm, or not at all."""
    advice: str
    """What would be a guard; empty where nothing says."""
    is_step: bool
    """What clipping leaves of the gradient is part of the step."""
    is_guarded: bool


def clip_meaning(pick: Candidate, study: Mapping[str, Any]) -> str:
    """What clipping does at the recommended setting, in a sentence."""
    rates = [trial.clip_rate for trial in pick.trials if trial.clip_rate is not None]
    threshold = norm_threshold(study, pick.params)
    seen = _Clipping(
        strategy=field_value(study, pick.params, "clipping"),
        threshold=None if threshold is None else float(threshold),
        rate=float(np.mean(rates)) if rates else 0.0,
        acted=f"{sum(rate > 0 for rate in rates)} of {count(len(rates), 'seed')}",
        typical=_typical_norm(pick),
        is_by_norm=clips_by_norm(study, pick.params) or _is_unclipped(study, pick.params),
        advice=guard_advice(pick, study),
        is_step=steps_with_gradient(study, pick.params),
        is_guarded=pick.is_guarded,
    )
    return next(words(seen) for applies, words in _MEANINGS if applies(seen))


def guard_advice(pick: Candidate, study: Mapping[str, Any]) -> str:
    """Which max_grad_norm would be a guard; empty where the norms of trials do not say it: other
    strategies clip by other thresholds, or by another norm."""
    typical, clipping = _typical_norm(pick), field_value(study, pick.params, "clipping")
    if typical is None or not (clipping == "none" or clips_by_norm(study, pick.params)):
        return ""
    how = "clipping global_norm with a" if clipping == "none" else "a"
    return f"{how} max_grad_norm of {number(CLIP_REACH * typical)} or less would be a guard"


def _is_unclipped(study: Mapping[str, Any], params: Params) -> bool:
    is_used = field_value(study, params, "clipping") in MAX_GRAD_NORM_CLIPPINGS
    return is_used and field_value(study, params, MAX_GRAD_NORM) is None


def _typical_norm(pick: Candidate) -> float | None:
    return min((t.grad_norm_median for t in pick.trials if t.grad_norm_median), default=None)


def clip_edges(landscape: Landscape, params: Params, study: Mapping[str, Any]) -> list[ClipEdge]:
    """The edge at a handful of tried clips, the other parameters as in ``params``: those of a
    choice; of a range the ends and the recommended one. Clips that never act are one."""
    axis = landscape.space.axis(MAX_GRAD_NORM)
    if axis is None or landscape.edge is None:
        return []
    ceiling = gradient_ceiling(landscape.records) or math.inf
    domain = study["space"][MAX_GRAD_NORM]
    tried = {record.params[MAX_GRAD_NORM] for record in landscape.records}
    values: list[ParamValue]
    if "choice" in domain:
        values = [value for value in domain["choice"] if value in tried]
    else:
        numbers = [float(value) for value in tried if value is not None]
        own = float(params[MAX_GRAD_NORM] or ceiling)
        values = [
            min(value, max(ceiling, axis.low)) for value in (min(numbers), own, max(numbers))
        ]
    by_position: dict[float, ParamValue] = {}
    for value in sorted(values, key=lambda v: math.inf if v is None else float(v)):
        position = min(axis.position(value), axis.position(ceiling))
        by_position.setdefault(round(position, 9), value)
    kept = list(by_position.values())
    if len(kept) > MAX_CLIP_EDGES:
        kept = [kept[i] for i in np.linspace(0, len(kept) - 1, MAX_CLIP_EDGES).round().astype(int)]
    return [
        ClipEdge(max_grad_norm=None if value is None else float(value), edge=edge)
        for value in kept
        if (edge := landscape.edge_at(params | {MAX_GRAD_NORM: value})) is not None
    ]


# --- the sentences ----------------------------------------------------------------------------


def _no_clipping(seen: _Clipping) -> str:
    return f"none: gradients are not clipped{_guard_from(seen)}"


def _dormant(seen: _Clipping) -> str:
    assert seen.threshold is not None
    text = f"no guard: max_grad_norm {number(seen.threshold)} never acted"
    if seen.typical:
        text += f", at {number(seen.threshold / seen.typical)} times the typical gradient norm"
    return text + _guard_from(seen)


def _idle(seen: _Clipping) -> str:
    return f"no guard: clipping {seen.strategy} never acted"


def _step_size(seen: _Clipping) -> str:
    return (
        f"the clip is the step size: it acts on {percent(seen.rate)} of the steps, so under this "
        "optimizer learning_rate x max_grad_norm decides, and neither alone"
    )


def _normalised(seen: _Clipping) -> str:
    return (
        f"normalised-gradient mode: it acts on {percent(seen.rate)} of the steps, harmless under "
        "an optimizer that undoes the scale of gradients"
    )


def _inside(seen: _Clipping) -> str:
    return (
        f"inside the gradient distribution: it acts on {percent(seen.rate)} of the steps, on "
        "typical gradients and not only on large ones"
    )


def _seldom(seen: _Clipping) -> str:
    text = f"no guard: it acted in {seen.acted} only, on {percent(seen.rate)} of the steps"
    return text + _guard_from(seen)


def _guard(seen: _Clipping) -> str:
    if seen.rate > 0:
        return f"a guard: it acts on {percent(seen.rate)} of the steps, those with large gradients"
    return "a guard: it never had to act, and stands within reach of large gradients"


def _guard_from(seen: _Clipping) -> str:
    return f"; {seen.advice}" if seen.advice else ""


def _never_acts(seen: _Clipping) -> bool:
    return seen.rate == 0 and not seen.is_guarded


_MEANINGS: tuple[tuple[Callable[[_Clipping], bool], Callable[[_Clipping], str]], ...] = (
    (lambda seen: seen.strategy == "none", _no_clipping),
    (lambda seen: _never_acts(seen) and seen.threshold is not None, _dormant),
    (lambda seen: _never_acts(seen) and not seen.is_by_norm, _idle),
    (_never_acts, _no_clipping),
    (lambda seen: seen.rate >= ALWAYS and seen.is_step, _step_size),
    (lambda seen: seen.rate >= ALWAYS, _normalised),
    (lambda seen: seen.rate >= SELDOM, _inside),
    (lambda seen: not seen.is_guarded, _seldom),
    (lambda _: True, _guard),
)
"""The first that applies."""
