"""The predicted score over the searched space: a Gaussian process through the finished trials."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stabsearch.recommend.evidence import never_learned
from stabsearch.recommend.processes import fitted
from stabsearch.recommend.space import LEARNING_RATE, Axis, Floats, SearchSpace
from stabsearch.records import Outcome, StoppedBy, Symptom, TrialRecord

if TYPE_CHECKING:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Kernel

MIN_TRIALS = 4
"""Fewer settings with a score say nothing about a surface; that one is dead is no score."""

SAME_POINT = 0.01
"""Closer settings are one: a stress test may repeat a rate but for its rounding."""

REACH_OF_RATE, REACH_OF_RATIO, REACH_OF_SHARE = 1.0, 2.0, 0.25
"""How far from a trial a prediction is one, and not a guess: octaves of learning rate, octaves of
another ratio, parts of a range. Scores change slower along the others."""

MAX_TRIALS_FOR_LENGTHS = 300
"""The lengths of a larger study are fitted to a sample: the cost grows with the cube."""


class Surface:
    """Predicts the score at ``points[n, axes]``.

    Never above the score of a dead network, nor below the best that was measured: beside the cliff
    at the edge a smooth process swings to both sides.
    """

    def __init__(
        self,
        axes: tuple[Axis, ...],
        points: Floats,
        scores: Floats,
        constant_score: float,
        like: Surface | None = None,
    ) -> None:
        """``like`` lends its fitted lengths, which saves most of the time."""
        self._axes = axes
        self._points = points
        self._lowest, self._highest = float(scores.min()), constant_score
        targets = np.log(scores)
        if like is None:
            self._process = _fit(axes, points, targets)
        else:
            kernel = like._process.kernel_
            self._process = fitted(_with_lengths(kernel), points, targets)

    def predict(self, points: Floats) -> Floats:
        """Predicted scores ``[n]``."""
        if len(points) == 0:
            return np.empty(0)
        scores: Floats = np.exp(np.asarray(self._process.predict(points), dtype=np.float64))
        return np.clip(scores, self._lowest, self._highest)

    def is_measured(self, points: Floats, along: Collection[str]) -> NDArray[np.bool_]:
        """Whether a trial with a score is near each of ``points[n, axes]`` on the axes ``along``,
        wherever on the others, ``[n]``. Elsewhere the process knows nothing, whatever it says."""
        from sklearn.neighbors import KDTree

        kept = [i for i, axis in enumerate(self._axes) if axis.name in along]
        reach = np.array([_reach(self._axes[i]) for i in kept])
        tree = KDTree(self._points[:, kept] / reach, metric="chebyshev")
        distances, _ = tree.query(points[:, kept] / reach)
        return np.asarray(distances[:, 0] <= 1.0)

    def worst_nearby(self, points: Floats, octaves: float = 1.0) -> Floats:
        """Highest predicted score in the box of +-``octaves`` around each of ``points``.

        The box spans the axes that are searched by ratio; on the others it has no width. It may
        reach beyond the searched range, where the process returns to its mean.
        """
        offsets = _box(self._axes, octaves)
        around = (points[:, None, :] + offsets[None, :, :]).reshape(-1, len(self._axes))
        worst: Floats = self.predict(around).reshape(len(points), len(offsets)).max(axis=1)
        return worst


def fit_surface(
    space: SearchSpace,
    records: Sequence[TrialRecord],
    constant_score: float,
    unstable: frozenset[str],
    like: Surface | None = None,
) -> Surface | None:
    """The surface through the usable ones of ``records``; None if too few of them have learned."""
    scores_of = (
        surface_score(r, constant_score, is_unstable=r.trial_id in unstable) for r in records
    )
    known = [(r, s) for r, s in zip(records, scores_of, strict=True) if s is not None]
    points = space.points([record.params for record, _ in known])
    is_alive = np.array(
        [r.trial_id not in unstable and not never_learned(r) for r, _ in known], dtype=bool
    )
    alive = np.round(points[is_alive] / SAME_POINT)
    if not space.axes or len(np.unique(alive, axis=0)) < MIN_TRIALS:
        return None
    scores = np.array([score for _, score in known], dtype=np.float64)
    return Surface(space.axes, points, scores, constant_score, like)


def surface_score(
    record: TrialRecord, constant_score: float, *, is_unstable: bool
) -> float | None:
    """The score by which a trial enters the surface; None if it must not enter.

    An unstable trial enters as a dead network. A trial that was stopped by rank, or still runs,
    has the score of a shorter training: it would bend the surface, so it stays out.
    """
    if is_unstable:
        return constant_score
    never_moved = record.symptom == Symptom.NOT_LEARNING and record.stopped_by is StoppedBy.GATE
    if record.outcome is Outcome.COMPLETED or never_moved:
        is_measured = record.score is not None and record.score > 0
        return (
            min(record.score, constant_score) if is_measured and record.score else constant_score
        )
    return None


def constant_score_of(records: Sequence[TrialRecord]) -> float | None:
    """What a dead network scores; the worst measured score if no trial says.

    ``records`` share their categorical values: with epsilon-prediction it is 98 on the demo's
    data, with v-prediction 1.4.
    """
    said = [r.constant_score for r in records if r.constant_score is not None]
    if said:
        return float(np.median(np.array(said)))
    return max((r.score for r in records if r.score is not None and r.score > 0), default=None)


def _fit(axes: tuple[Axis, ...], points: Floats, targets: Floats) -> GaussianProcessRegressor:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    lengths, bounds = [], []
    for axis in axes:
        start, shortest, longest = _lengths(axis)
        lengths.append(start)
        bounds.append((shortest, longest))
    kernel = ConstantKernel(1.0, (0.05, 20.0)) * Matern(
        length_scale=lengths, length_scale_bounds=bounds, nu=1.5
    ) + WhiteKernel(0.01, (2e-3, 0.5))
    process = GaussianProcessRegressor(
        kernel, normalize_y=True, n_restarts_optimizer=2, random_state=0
    )
    if len(points) > MAX_TRIALS_FOR_LENGTHS:
        order = np.random.default_rng(0).permutation(len(points))
        chosen = order[:MAX_TRIALS_FOR_LENGTHS]
        process = _with_lengths(fitted(process, points[chosen], targets[chosen]).kernel_)
    return fitted(process, points, targets)


def _with_lengths(kernel: Kernel) -> GaussianProcessRegressor:
    from sklearn.gaussian_process import GaussianProcessRegressor

    return GaussianProcessRegressor(kernel, optimizer=None, normalize_y=True)


def _reach(axis: Axis) -> float:
    if not axis.is_log:
        return REACH_OF_SHARE
    return REACH_OF_RATE if axis.name == LEARNING_RATE else REACH_OF_RATIO


def _lengths(axis: Axis) -> tuple[float, float, float]:
    """Length scale at the start, and its bounds: octaves on log axes, else parts of the range."""
    if not axis.is_log:
        return 0.5, 0.1, 10.0
    return (2.0, 0.75, 8.0) if axis.name == LEARNING_RATE else (4.0, 1.5, 32.0)


def _box(axes: tuple[Axis, ...], octaves: float) -> Floats:
    """Offsets ``[m, axes]`` that fill the box; beyond five log axes, only along each axis."""
    num_log = sum(axis.is_log for axis in axes)
    per_axis = {0: 1, 1: 17, 2: 9, 3: 5}.get(num_log, 3)
    ticks = np.linspace(-octaves, octaves, per_axis)
    if num_log <= 5:
        spans = [ticks if axis.is_log else np.zeros(1) for axis in axes]
        return np.array(list(itertools.product(*spans)), dtype=np.float64)
    star = [np.zeros(len(axes))]
    for index, axis in enumerate(axes):
        if axis.is_log:
            star += [tick * np.eye(len(axes))[index] for tick in ticks]
    return np.array(star, dtype=np.float64)
