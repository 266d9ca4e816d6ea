"""The edge where failure does not grow with the learning rate: a Gaussian process classifier.

It follows the trials wherever they lead, and so it has no slope, and says nothing beyond the rates
that were tried. The edge of a setting is the next rate above it at which half of the runs fail;
above one that itself fails so often, or has no rate, it is the first such rate of all. There may
be none. The safe rate is likewise the next one above the setting at which more than 5% fail; where
they do at the setting itself, it is the last one below it at which they do not. It is sought from
the edge for a setting that lies beyond that, or has no rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stabsearch.recommend.coordinates import Coordinates
from stabsearch.recommend.processes import fitted
from stabsearch.recommend.space import Floats, learning_rate_of
from stabsearch.records import Edge, EdgeModel, Params, TrialRecord

if TYPE_CHECKING:
    from sklearn.gaussian_process import GaussianProcessClassifier

SAFE = 0.05
"""The share of failing runs at ``Edge.learning_rate_safe``."""

SAFE_LOGIT = math.log(SAFE / (1 - SAFE))

STEPS_PER_OCTAVE = 16

SAME_OCTAVES = 1e-6

Z90 = 1.645
"""Standard deviations to either end of a 90% interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeProcess:
    """P(unstable) as a smooth function of log2 learning rate and what else moves the edge."""

    process: GaussianProcessClassifier
    coordinates: Coordinates
    lowest: float
    """log2 of the lowest tried learning rate, as the coordinates shift it."""
    highest: float
    out_of_order: tuple[str, ...]
    remarks: tuple[str, ...]

    def edge(self, params: Params) -> Edge | None:
        """The edge along the learning rate, all other parameters as in ``params``; None if no
        higher rate that was tried fails so often. A rate that lies above all that were tried is
        infinite, and one that lies below them is 0."""
        shift = self.coordinates.log_coefficient(params)
        own = float(np.log2(learning_rate_of(params))) + shift
        octaves = self._tried(own)
        mean, spread = self._latent(octaves, params)
        p, reach = _squashed(mean, spread), Z90 * spread
        start = place = int(np.searchsorted(octaves, own))  # without a rate it is behind them all
        if place == len(octaves) or p[place] >= 0.5:
            start, place = 0, int(np.argmax(p >= 0.5))
        if not (p[start:] >= 0.5).any():
            return None

        def edge(failing: np.ndarray) -> float:
            return float(2.0 ** (_next(octaves, failing, start) - shift))

        def safe(failing: np.ndarray) -> float:
            return float(2.0 ** (_nearest(octaves, failing, place) - shift))

        return Edge(
            learning_rate=edge(p >= 0.5),
            learning_rate_low=edge(mean + reach >= 0),
            learning_rate_high=edge(mean - reach >= 0),
            learning_rate_safe=safe(p > SAFE),
            learning_rate_safe_low=safe(mean + reach >= SAFE_LOGIT),
            learning_rate_safe_high=safe(mean - reach >= SAFE_LOGIT),
            slope=None,
            slope_low=None,
            model=EdgeModel.GAUSSIAN_PROCESS,
        )

    def _tried(self, own: float) -> Floats:
        """The tried range in octaves, with ``own`` where it is one of them."""
        count = int((self.highest - self.lowest) * STEPS_PER_OCTAVE) + 2
        octaves = np.linspace(self.lowest, self.highest, count)
        return np.union1d(octaves, [own]) if self.lowest < own < self.highest else octaves

    def is_known(self, learning_rate: float, params: Params) -> bool:
        """Whether so high a rate was tried."""
        octaves = np.log2(learning_rate) + self.coordinates.log_coefficient(params)
        return bool(octaves <= self.highest + SAME_OCTAVES)

    def probability(self, learning_rates: Floats, params: Params) -> Floats:
        """P(unstable) at each of ``learning_rates[n]``; outside of the tried range, that of its
        end."""
        octaves = np.log2(learning_rates) + self.coordinates.log_coefficient(params)
        return _squashed(*self._latent(np.clip(octaves, self.lowest, self.highest), params))

    def _latent(self, octaves: Floats, params: Params) -> tuple[Floats, Floats]:
        columns = self.coordinates.columns(params)
        points = np.column_stack([octaves, np.tile(columns, (len(octaves), 1))])
        mean, variance = self.process.latent_mean_and_variance(points)
        return np.asarray(mean), np.sqrt(np.maximum(np.asarray(variance), 0.0))


def fit_process(
    records: Sequence[TrialRecord],
    unstable: np.ndarray,
    coordinates: Coordinates,
    out_of_order: tuple[str, ...],
    remarks: tuple[str, ...],
) -> EdgeProcess:
    """The process through trials of both sides."""
    octaves = np.array(
        [
            np.log2(learning_rate_of(r.params)) + coordinates.log_coefficient(r.params)
            for r in records
        ]
    )
    columns = np.array([coordinates.columns(record.params) for record in records])
    from sklearn.gaussian_process import GaussianProcessClassifier
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel

    # Octaves of rate, octaves of clip, parts of a range: start, shortest, longest.
    lengths = [(1.5, 0.5, 6.0), (4.0, 1.5, 32.0)] + [(1.0, 0.3, 10.0)] * len(coordinates.others)
    kernel = ConstantKernel(9.0, (1.0, 100.0)) * RBF(
        [start for start, _, _ in lengths], [(low, high) for _, low, high in lengths]
    )
    process = GaussianProcessClassifier(kernel, random_state=0)
    return EdgeProcess(
        process=fitted(process, np.column_stack([octaves, columns]), unstable.astype(int)),
        coordinates=coordinates,
        lowest=float(octaves.min()),
        highest=float(octaves.max()),
        out_of_order=out_of_order,
        remarks=remarks,
    )


def _next(octaves: Floats, failing: np.ndarray, start: int) -> float:
    """The first of ``octaves[n]``, from ``start`` on, that is ``failing``; infinite if none is."""
    found = np.flatnonzero(failing[start:])
    return float(octaves[start + found[0]]) if len(found) else math.inf


def _nearest(octaves: Floats, failing: np.ndarray, place: int) -> float:
    """The next of ``octaves[n]`` that is ``failing``; if the one at ``place`` is, the last below
    it that is not, and minus infinity if all are."""
    if not failing[place]:
        return _next(octaves, failing, place)
    found = np.flatnonzero(~failing[:place])
    return float(octaves[found[-1]]) if len(found) else -math.inf


def _squashed(mean: Floats, spread: Floats) -> Floats:
    """Mean of the logistic function of a normal variable (MacKay 1992, eq. 10)."""
    result: Floats = 0.5 * (1 + np.tanh(0.5 * mean / np.sqrt(1 + np.pi * spread**2 / 8)))
    return result
