"""What moves the stability edge along the learning rate, as columns of a linear model.

    log2 lr50 = intercept + tilts . columns - log2 E[coef]

The first column is c = min(log2 clip, log2 of 4 x the typical gradient norm), minus its maximum
over the trials: a threshold above the gradients is no clipping, so there the edge no longer moves.
The others are the further numeric parameters, as parts of their searched range, -1/2 to 1/2.

E[coef] is what clipping leaves of the gradient. It is 1 for optimizers that undo the scale of
gradients; under SGD it is part of the step, lr_eff = lr x E[coef], so that the edge follows the
ridge lr x clip = const where clipping is always on (science.md 1.4).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stabsearch.recommend.space import (
    LEARNING_RATE,
    MAX_GRAD_NORM,
    Axis,
    Floats,
    SearchSpace,
    gradient_ceiling,
    norm_threshold,
    steps_with_gradient,
)
from stabsearch.records import Params, TrialRecord
from stabsearch.spec import MAX_GRAD_NORM_CLIPPINGS

CLIP_TILT, RANGE_TILT = 0.4, 1.5
"""Prior standard deviations, octaves of the edge: per octave of clip, and over the whole searched
range of another parameter."""

MIN_COEFFICIENTS = 3
"""Stable trials, as long as each other, that must have told what clipping left of their
gradients."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipScale:
    """The coordinate c of the module's formula."""

    ceiling: float
    """log2 of 4 x the typical gradient norm; infinite where no trial told its norms."""
    highest: float
    """Maximum over the trials before it is subtracted; 0 if clipping was not searched."""
    is_searched: bool

    def position(self, params: Params) -> float:
        """0 with clipping that never acts, negative below."""
        if not self.is_searched:
            return 0.0
        is_used = params.get("clipping", "global_norm") in MAX_GRAD_NORM_CLIPPINGS
        value = params[MAX_GRAD_NORM] if is_used else None
        clip = math.inf if value is None else math.log2(float(value))
        clip = min(clip, self.ceiling)
        return min(clip, self.highest) - self.highest


@dataclass(frozen=True, slots=True, kw_only=True)
class CoefficientCurve:
    """log2 E[coef] along log2 clip, through the stable trials; it never falls with the clip."""

    clips: Floats
    coefs: Floats

    def at(self, max_grad_norm: float | None) -> float:
        """Below the lowest known clip every step is clipped, and the coefficient follows it; above
        the highest one it can rise no faster than that, to 1."""
        if max_grad_norm is None:
            return 0.0
        clip = math.log2(max_grad_norm)
        beyond = min(0.0, clip - float(self.clips[0])) + max(0.0, clip - float(self.clips[-1]))
        return min(0.0, float(np.interp(clip, self.clips, self.coefs)) + beyond)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinates:
    """Every setting's columns and coefficient."""

    clip: ClipScale
    others: tuple[Axis, ...]
    """Further numeric parameters of which several values were tried."""
    curve: CoefficientCurve | None
    """None where the coefficient is no part of the step, or is not known."""
    lacks_curve: bool
    """The coefficient is part of the step, and is not known."""
    study: Mapping[str, Any]

    @property
    def spreads(self) -> Floats:
        """Prior standard deviations of the tilts."""
        return np.array([CLIP_TILT, *(RANGE_TILT for _ in self.others)])

    def columns(self, params: Params) -> Floats:
        others = [_part(axis, params) for axis in self.others]
        return np.array([self.clip.position(params), *others])

    def log_coefficient(self, params: Params) -> float:
        """log2 E[coef]; 0 where it is no part of the step."""
        if self.curve is None:
            return 0.0
        threshold = norm_threshold(self.study, params)
        return self.curve.at(None if threshold is None else float(threshold))


def coordinates_of(
    space: SearchSpace, records: Sequence[TrialRecord], study: Mapping[str, Any]
) -> Coordinates:
    """The coordinates of some trials that share their categorical values."""
    others = [
        axis
        for axis in space.axes
        if axis.name not in (LEARNING_RATE, MAX_GRAD_NORM)
        and len({record.params[axis.name] for record in records}) > 1
    ]
    is_step = any(steps_with_gradient(study, record.params) for record in records)
    curve = _coefficient_curve(records, study) if is_step else None
    clip = _clip_scale(records)
    return Coordinates(
        clip=clip,
        others=tuple(others),
        curve=curve,
        lacks_curve=is_step and clip.is_searched and curve is None,
        study=study,
    )


def _part(axis: Axis, params: Params) -> float:
    """Position in the searched range, -1/2 to 1/2."""
    low, high = axis.position(axis.low), axis.position(axis.high)
    return (axis.position(params[axis.name]) - low) / (high - low) - 0.5


def _coefficient_curve(
    records: Sequence[TrialRecord], study: Mapping[str, Any]
) -> CoefficientCurve | None:
    """Through stable trials alone: a diverging network's gradients explode or vanish. Gradients
    fall in the course of a training, so only trials of the same length compare: the longest ones
    of which there are enough."""
    by_share: dict[float, list[tuple[float, float]]] = {}
    for record in records:
        threshold = norm_threshold(study, record.params)
        if record.ending.is_sound and record.clip_coef_mean and threshold is not None:
            share = record.steps / record.max_train_steps
            told = (math.log2(float(threshold)), math.log2(record.clip_coef_mean))
            by_share.setdefault(share, []).append(told)
    enough = [share for share, told in by_share.items() if len(told) >= MIN_COEFFICIENTS]
    if not enough:
        return None
    known = by_share[max(enough)]
    clips = np.array(sorted({clip for clip, _ in known}))
    means = np.array([np.mean([c for at, c in known if at == clip]) for clip in clips])
    counts = np.array([sum(at == clip for at, _ in known) for clip in clips], dtype=np.float64)
    from sklearn.isotonic import isotonic_regression  # see monotone

    coefs = isotonic_regression(means, sample_weight=counts, y_max=0.0)
    return CoefficientCurve(clips=clips, coefs=np.asarray(coefs, dtype=np.float64))


def _clip_scale(records: Sequence[TrialRecord]) -> ClipScale:
    ceiling = gradient_ceiling(records)
    log_ceiling = math.log2(ceiling) if ceiling else math.inf
    if not all(MAX_GRAD_NORM in record.params for record in records):
        return ClipScale(ceiling=log_ceiling, highest=0.0, is_searched=False)
    values = [record.params[MAX_GRAD_NORM] for record in records]
    thresholds = [math.log2(float(value)) for value in values if value is not None]
    if not thresholds:
        return ClipScale(ceiling=log_ceiling, highest=0.0, is_searched=False)
    is_unclipped = len(thresholds) < len(values)
    highest = math.inf if is_unclipped else max(thresholds)
    if math.isinf(log_ceiling) and is_unclipped:
        highest = max(thresholds) + 1.0  # nobody told the norms: one octave above, as a guess
    return ClipScale(ceiling=log_ceiling, highest=min(highest, log_ceiling), is_searched=True)
