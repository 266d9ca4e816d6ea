"""The searched parameters as the coordinates of a plane: octaves for what is searched by ratio."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stabsearch.records import Params, ParamValue, TrialRecord

LEARNING_RATE = "learning_rate"
MAX_GRAD_NORM = "max_grad_norm"

CLIP_REACH = 4.0
"""Gradients are hardly ever this many times their median (outside a failure)."""

LOG_RATIO = 4.0
"""Numbers to choose from are compared by ratio from this one on between highest and lowest."""

STEPS_WITH_GRADIENT = ("sgd", "ASGD")
"""Optimizers whose step is as large as the gradient that clipping leaves; the others undo its
scale."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One searched numeric parameter."""

    name: str
    low: float
    high: float
    is_log: bool
    null_value: float | None = None
    """What a null stands for on this axis: no clipping is a threshold above every gradient."""

    def position(self, value: ParamValue) -> float:
        """Octaves (log2) on a log axis, else the fraction of the searched range."""
        number = self.null_value if value is None else float(value)
        assert number is not None
        if self.is_log:
            return math.log2(number)
        return (number - self.low) / (self.high - self.low)

    def value(self, position: float) -> float:
        """The inverse of ``position``."""
        return 2.0**position if self.is_log else self.low + position * (self.high - self.low)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """What was searched: numeric axes, and categories that are compared but not interpolated."""

    axes: tuple[Axis, ...]
    categories: tuple[str, ...]

    def axis(self, name: str) -> Axis | None:
        return next((axis for axis in self.axes if axis.name == name), None)

    def points(self, settings: Sequence[Params]) -> Floats:
        """Positions ``[settings, axes]``."""
        rows = [[axis.position(params[axis.name]) for axis in self.axes] for params in settings]
        return np.array(rows, dtype=np.float64).reshape(len(settings), len(self.axes))

    def category(self, params: Params) -> tuple[ParamValue, ...]:
        """The setting's combination of categorical values."""
        return tuple(params[name] for name in self.categories)


def learning_rate_of(params: Params) -> float:
    """NaN where it was not searched."""
    return float(params.get(LEARNING_RATE) or math.nan)


def gradient_ceiling(records: Iterable[TrialRecord]) -> float | None:
    """CLIP_REACH x the typical gradient norm: a clip threshold above it is no clipping at all.

    Stable trials speak for it where there are any: diverged networks have small gradients.
    """
    known = [r for r in records if r.grad_norm_median is not None and r.grad_norm_median > 0]
    norms = [r.grad_norm_median for r in known if r.is_stable] or [
        r.grad_norm_median for r in known
    ]
    return CLIP_REACH * float(np.median(np.array(norms, dtype=np.float64))) if norms else None


def is_guarded(record: TrialRecord, max_grad_norm: ParamValue) -> bool:
    """Whether clipping stood ready for the trial's large gradients, or acted on them."""
    if record.clip_rate:
        return True
    if max_grad_norm is None or not record.grad_norm_median:
        return False
    return float(max_grad_norm) <= CLIP_REACH * record.grad_norm_median


def field_value(study: Mapping[str, Any], params: Params, name: str) -> ParamValue:
    """A trainer field in one setting: sampled, else the space's constant, else the trainer's."""
    trainer: Mapping[str, Any] = study.get("trainer") or {}
    value: ParamValue = ({**trainer, **study.get("space", {}), **params}).get(name)
    return None if isinstance(value, Mapping) else value


def steps_with_gradient(study: Mapping[str, Any], params: Params) -> bool:
    """Whether clipping is part of the step's size, lr x E[coef]."""
    return field_value(study, params, "optimizer") in STEPS_WITH_GRADIENT


def norm_threshold(study: Mapping[str, Any], params: Params) -> ParamValue:
    """The gradient norm above which a setting clips; None where no such threshold is known.

    The threshold of another norm than the total 2-norm does not compare with the norms that
    trials report.
    """
    return field_value(study, params, MAX_GRAD_NORM) if clips_by_norm(study, params) else None


def clips_by_norm(study: Mapping[str, Any], params: Params) -> bool:
    """Whether a setting's max_grad_norm is one of the total 2-norm of the gradient."""
    is_two_norm = field_value(study, params, "grad_norm_type") in (2, None)
    return is_two_norm and field_value(study, params, "clipping") == "global_norm"


def search_space(study: Mapping[str, Any], records: Sequence[TrialRecord]) -> SearchSpace:
    """The study's searched parameters, in the order of its ``space``."""
    space: Mapping[str, Any] = study.get("space") or {}
    ceiling = gradient_ceiling(records)
    axes, categories = [], []
    for name, domain in space.items():
        tried = [record.params[name] for record in records if name in record.params]
        if len(tried) < len(records):
            continue  # a constant: not a sampled value
        axis = _axis(name, domain, ceiling)
        if axis is not None:
            axes.append(axis)
        elif len({(type(value), value) for value in tried}) > 1:
            categories.append(name)
    return SearchSpace(axes=tuple(axes), categories=tuple(categories))


def _axis(name: str, domain: object, ceiling: float | None) -> Axis | None:
    """The axis of a numeric domain; None for a constant and for a choice among words."""
    if not isinstance(domain, Mapping):
        return None
    null_value = None
    if "choice" in domain:
        values = domain["choice"]
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        has_null = None in values
        if len(numbers) + has_null < len(values) or (has_null and name != MAX_GRAD_NORM):
            return None
        if has_null and numbers:
            # Beyond the largest threshold by at least an octave: it is another setting.
            null_value = max(ceiling or 0.0, 2.0 * max(numbers))
            numbers.append(null_value)
        if len(set(numbers)) < 2:
            return None
        low, high = float(min(numbers)), float(max(numbers))
        is_log = low > 0 and high / low >= LOG_RATIO
    else:
        kind = next((k for k in ("log_uniform", "uniform", "int") if domain.get(k)), None)
        if kind is None:
            return None
        low, high = map(float, domain[kind])
        is_log = kind == "log_uniform" or bool(domain.get("log"))
    is_log = is_log or (name == LEARNING_RATE and low > 0)  # its margins are octaves
    if low >= high:
        return None
    return Axis(name=name, low=low, high=high, is_log=is_log, null_value=null_value)
