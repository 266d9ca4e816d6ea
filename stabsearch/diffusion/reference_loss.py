"""Losses that are known before any training: what a trial's loss is measured against.

Everything follows from M, the error per dimension of the best x0 estimate of a kind given x_t. M
depends on the data and on SNR = signal^2 / sigma^2 alone; the loss in the space of a prediction
type is M times a factor (see prediction_type). So a ratio of two losses at the same timestep does
not depend on the prediction type, and data statistics serve every noise schedule.
"""

# N = examples, T = num_train_timesteps, R = rows, d = numbers per example, m = eigenvalues

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stabsearch.diffusion.noise_schedule import NoiseSchedule
from stabsearch.diffusion.posterior import PosteriorCurve, posterior_curve
from stabsearch.diffusion.power_spectrum import power_spectrum_eigenvalues
from stabsearch.diffusion.prediction_type import PREDICTION_TYPES
from stabsearch.records import ReferenceLoss

Array = NDArray[np.float64]

MAX_IMAGE_DIMENSIONS = 1024
"""Images with more numbers get the eigenvalues of their power spectrum."""
MAX_GRAM_ROWS = 4096
"""Largest side of the matrix whose eigenvalues are taken; beyond it, examples are subsampled."""
CHUNK_NUMBERS = 1 << 22
"""Numbers per temporary array: 32 MB."""


@dataclass(frozen=True, slots=True)
class DataStatistics:
    """All that the reference losses need to know of a data set."""

    num_dimensions: int
    eigenvalues: Array
    """Positive eigenvalues ``[m]`` of the covariance; those that are left out are 0."""
    second_moment: float
    """Mean square of the data's numbers: above the variance unless the data is centred."""
    posterior: PosteriorCurve | None
    """Error of the exact finite-data posterior; None for data that is too large for it."""

    @property
    def variance(self) -> float:
        """Variance per dimension."""
        return float(self.eigenvalues.sum()) / self.num_dimensions


@dataclass(frozen=True, slots=True)
class ReferenceCurves:
    """Reference losses ``[T]`` per timestep, in the space of one prediction type."""

    constant: Array
    """C0: the best constant prediction."""
    zero: Array
    """The prediction 0."""
    isotropic: Array
    """L_iso: the best denoiser of the form mean + gain_t (x_t / signal_t - mean)."""
    linear: Array
    """L_lin: the best linear denoiser (LMMSE); an upper bound on the Bayes loss."""
    posterior: Array | None
    """L_post: the best denoiser of the training set itself, all memorised; a lower bound on the
    training loss, at most L_lin. None for data that is too large for it."""
    mean_image: Array
    """The loss of a prediction whose implied x0 is the data's mean; 0 where the target says
    nothing about x0."""

    def in_bins(self, bin_edges: tuple[int, ...]) -> ReferenceLoss:
        """Average over the timesteps of each bin."""
        posterior = self.posterior
        return ReferenceLoss(
            bin_constant=bin_means(self.constant, bin_edges),
            bin_zero=bin_means(self.zero, bin_edges),
            bin_isotropic=bin_means(self.isotropic, bin_edges),
            bin_linear=bin_means(self.linear, bin_edges),
            bin_posterior=None if posterior is None else bin_means(posterior, bin_edges),
            constant_score=self.score(self.constant, np.arange(len(self.constant)), bin_edges),
        )

    def score(
        self, losses: Array, timesteps: NDArray[np.int64], bin_edges: tuple[int, ...]
    ) -> float:
        """Geometric mean over bins of the mean of loss / L_lin, for ``losses[R]`` at these.

        Left out are timesteps at which L_lin is 0 (zero terminal SNR with epsilon: the noise is
        then known exactly, and every other loss is infinitely worse), and bins of no others.
        """
        ratios = _ratio_in_bins(losses, self.linear, timesteps, bin_edges)
        return geometric_mean(tuple(ratio for ratio in ratios if ratio is not None))

    def x0_error(
        self, losses: Array, timesteps: NDArray[np.int64], bin_edges: tuple[int, ...]
    ) -> tuple[float, ...]:
        """Mean squared error of the implied x0, as a multiple of the data's variance, ``[K]``.

        For epsilon it is the loss over SNR: a loss that looks small may be a useless image. NaN
        for a bin whose targets say nothing about x0.
        """
        ratios = _ratio_in_bins(losses, self.mean_image, timesteps, bin_edges)
        return tuple(math.nan if ratio is None else ratio for ratio in ratios)


def _ratio_in_bins(
    losses: Array, curve: Array, timesteps: NDArray[np.int64], bin_edges: tuple[int, ...]
) -> tuple[float | None, ...]:
    """Mean of losses[R] / curve[T] per bin, ``[K]``; None for a bin where the curve is 0."""
    has_ratio = curve[timesteps] > 0
    timesteps, losses = timesteps[has_ratio], losses[has_ratio]
    ratios = losses / curve[timesteps]
    in_bin = [
        ratios[(low <= timesteps) & (timesteps < high)]
        for low, high in itertools.pairwise(bin_edges)
    ]
    return tuple(float(values.mean()) if len(values) else None for values in in_bin)


def data_statistics(data: NDArray[np.float32]) -> DataStatistics:
    """Statistics of ``data[N, ...]``, to be computed once per data set: seconds at most."""
    return DataStatistics(
        num_dimensions=math.prod(data.shape[1:]),
        eigenvalues=covariance_eigenvalues(data),
        second_moment=float(np.mean(np.square(data, dtype=np.float64))),
        posterior=posterior_curve(data),
    )


def reference_curves(
    statistics: DataStatistics, schedule: NoiseSchedule, prediction_type: str
) -> ReferenceCurves:
    """Reference losses under a schedule for data of these statistics.

    With the eigenvalues l_i and v their mean over d dimensions,
    ``M_iso = v / (SNR v + 1)`` and ``M_lin = mean_i l_i / (SNR l_i + 1)``.
    """
    prediction = PREDICTION_TYPES[prediction_type]
    factor = prediction.loss_per_sample_error(schedule)
    snr: Array = (schedule.signal / schedule.sigma) ** 2
    variance = statistics.variance
    linear = _linear_error(statistics, snr)
    return ReferenceCurves(
        constant=prediction.constant_loss(schedule, variance),
        zero=prediction.constant_loss(schedule, statistics.second_moment),
        isotropic=factor * variance / (snr * variance + 1),
        linear=factor * linear,
        posterior=(
            None
            if statistics.posterior is None
            # The posterior mean is the best estimate of all: above M_lin is Monte Carlo noise.
            else factor * np.minimum(statistics.posterior.at(schedule.log_snr), linear)
        ),
        mean_image=factor * variance,
    )


def _linear_error(statistics: DataStatistics, snr: Array) -> Array:
    """M_lin ``[T]``. Directions without variance are known exactly and add nothing."""
    total = np.zeros_like(snr)
    size = max(1, CHUNK_NUMBERS // len(snr))
    for start in range(0, len(statistics.eigenvalues), size):
        eigenvalues = statistics.eigenvalues[start : start + size, None]
        total += (eigenvalues / (snr * eigenvalues + 1)).sum(axis=0)
    return total / statistics.num_dimensions


def covariance_eigenvalues(data: NDArray[np.float32]) -> Array:
    """Positive eigenvalues of the covariance of ``data[N, ...]``.

    Images ``[N, C, H, W]`` of more than 1,024 numbers have those of their power spectrum, an
    approximation from above of L_lin. All other data have the exact ones, at most min(N, d) of
    them; above 4,096 of both N and d, a fixed subsample of the examples stands for all.
    """
    is_image = data.ndim == 4
    if is_image and data[0].size > MAX_IMAGE_DIMENSIONS:
        eigenvalues = power_spectrum_eigenvalues(data)
    else:
        eigenvalues = _exact_eigenvalues(data.reshape(len(data), -1))
    positive: Array = eigenvalues[eigenvalues > eigenvalues.max() * 1e-12]
    return positive


def _exact_eigenvalues(rows: NDArray[np.float32]) -> Array:
    """Of the d x d covariance or the N x N Gram matrix: their positive ones are the same."""
    if min(rows.shape) > MAX_GRAM_ROWS:
        rows = rows[np.random.default_rng(0).permutation(len(rows))[:MAX_GRAM_ROWS]]
    mean = rows.mean(axis=0, dtype=np.float64)
    num_rows, num_dimensions = rows.shape
    is_tall = num_rows >= num_dimensions
    side = min(rows.shape)
    products = np.zeros((side, side))
    size = max(1, CHUNK_NUMBERS // side)
    for start in range(0, max(rows.shape), size):
        part = slice(start, start + size)
        centred = rows[part] - mean if is_tall else (rows[:, part] - mean[part]).T
        products += centred.T @ centred
    eigenvalues: Array = np.linalg.eigvalsh(products) / num_rows
    return eigenvalues


def bin_means(curve: Array, bin_edges: tuple[int, ...]) -> tuple[float, ...]:
    """Mean of ``curve[T]`` over the timesteps of each bin."""
    return tuple(float(curve[low:high].mean()) for low, high in itertools.pairwise(bin_edges))


def geometric_mean(values: tuple[float, ...]) -> float:
    """exp(mean(log)); NaN or Inf in, NaN or Inf out."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.exp(np.mean(np.log(np.asarray(values, dtype=np.float64)))))
