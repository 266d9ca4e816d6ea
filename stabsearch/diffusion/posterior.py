"""L_post: what a denoiser that has memorised the training set would get.

For a finite data set the best possible denoiser is known (Xu et al. 2025, arXiv 2506.13763, call
its loss the optimal loss): E[x0|x_t] = sum_n w_n x_n with w = softmax_n(-|x_t - a x_n|^2 / 2s^2).
Its error per dimension, M, is a function of SNR = a^2 / s^2 and of nothing else in the schedule,
so it is computed once per data set, on a grid of log-SNR.

M is half the mean squared distance of two independent draws from the posterior p(x0|x_t), per
dimension. The example that x_t was made from is one such draw, and over the other the mean is
taken exactly:

    M = E_{j, e} sum_n w_n |D_n|^2 / 2d,    w = softmax_n(r e D_n - |r D_n|^2 / 2)

with D_n = x_n - x_j, r = sqrt(SNR) and e ~ N(0, I). No term is negative, so that M keeps its
relative accuracy however small it is; and no exponent can overflow: it is at most half the square
of a standard normal number, and 0 for n = j.
"""

# N = examples, d = numbers per example, G = grid of log-SNR, D = draws, n = examples of a chunk

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

GRID_POINTS = 64
PILOT_STEP = 1.5
"""Step in log-SNR of the coarse grid that finds where M ends."""
MAX_COST = 2.5e9
"""Budget of a curve, in multiplications of a matrix product: about a second on one core."""
PATIENCE = 8
"""Factor of MAX_COST that large data may take."""
EXP_COST = 16
"""What one exponential and its sums cost, in those multiplications."""
MIN_DRAWS, MAX_DRAWS = 32, 1024
"""Of digits, where M is a tenth of the variance: standard errors of some 30% and 3% of M."""
CHUNK_NUMBERS = 1 << 22
"""Numbers per temporary array of examples or draws: 32 MB in float64."""
CHUNK_DRAWS = 64
CHUNK_EXAMPLES = 2048
ROUNDING = 1e-12
"""Squared distances below this share of the squared norms are rounding errors of 0."""


@dataclass(frozen=True, slots=True)
class PosteriorCurve:
    """M of a data set on a rising grid ``[G]`` of log-SNR, from no information to all of it."""

    log_snr: Array
    mmse: Array
    standard_error: Array
    """Of ``mmse``, from the draws. The draws are common: the errors of neighbours go together."""

    def at(self, log_snr: Array) -> Array:
        """M at these values of log-SNR (any shape).

        Cubic and monotone between the grid points, in log M. Below the grid M is the variance of
        the data, above it 0.
        """
        # 1e-300 stands for 0, whose logarithm no curve can be drawn through.
        inside = np.exp(_monotone_cubic(log_snr, self.log_snr, np.log(self.mmse + 1e-300)))
        return np.where(log_snr > self.log_snr[-1], 0.0, inside)


def posterior_curve(
    data: NDArray[np.float32], *, num_draws: int | None = None, seed: int = 0
) -> PosteriorCurve | None:
    """M of ``data[N, ...]`` wherever it moves; ``num_draws`` follows from N and d if not given.

    None for data of which MIN_DRAWS would cost too much.
    """
    rows = data.reshape(len(data), -1)
    if num_draws is None:
        num_draws = affordable_draws(*rows.shape)
    if num_draws == 0:
        return None
    grid = _moving_range(rows, num_draws, seed)
    mmse, standard_error = posterior_mmse(rows, grid, num_draws=num_draws, seed=seed)
    return PosteriorCurve(grid, mmse, standard_error)


def affordable_draws(num_examples: int, num_dimensions: int) -> int:
    """Draws for which a curve stays within MAX_COST, at most MAX_DRAWS; 0 if those are too few.

    MIN_DRAWS may cost several times MAX_COST.
    """
    cost_per_draw = num_examples * (2 * num_dimensions + GRID_POINTS * EXP_COST)
    num_draws = round(MAX_COST / cost_per_draw)
    if num_draws * PATIENCE < MIN_DRAWS:
        return 0
    return min(max(num_draws, MIN_DRAWS), MAX_DRAWS)


def posterior_mmse(
    data: NDArray[np.float32], log_snr: Array, *, num_draws: int, seed: int
) -> tuple[Array, Array]:
    """M ``[G]`` of ``data[N, ...]`` and its standard error ``[G]``, by Monte Carlo.

    The same draws serve the whole grid. Every example is drawn equally often, as far as
    ``num_draws`` allows; memory does not grow with N or d, beyond the data itself.
    """
    rows = data.reshape(len(data), -1)
    mean = rows.mean(axis=0, dtype=np.float64)
    rng = np.random.default_rng(seed)
    examples = np.resize(rng.permutation(len(rows)), num_draws)
    error = np.empty((len(log_snr), num_draws))  # [G, D]
    norm = np.empty(num_draws)
    draws_per_chunk = max(1, min(CHUNK_DRAWS, CHUNK_NUMBERS // rows.shape[1]))
    for start in range(0, num_draws, draws_per_chunk):
        chunk = slice(start, min(start + draws_per_chunk, num_draws))
        x0 = rows[examples[chunk]] - mean
        noise = rng.standard_normal(x0.shape)
        error[:, chunk] = _errors_of_draws(rows, mean, x0, noise, log_snr)
        norm[chunk] = np.einsum("ij,ij->i", x0, x0) / rows.shape[1]
    variance = _variance(rows, mean)
    return _controlled_mean(error, norm, variance)


def _errors_of_draws(
    rows: NDArray[np.float32], mean: Array, x0: Array, noise: Array, log_snr: Array
) -> Array:
    """sum_n w_n |x_j - x_n|^2 / 2d for every draw, ``[G, D]``; x0 and noise are ``[D, d]``."""
    weight_sum = np.zeros((len(log_snr), len(x0)))
    distance_sum = np.zeros_like(weight_sum)
    own_square = np.einsum("ij,ij->i", x0, x0)[:, None]
    own_noise = np.einsum("ij,ij->i", x0, noise)[:, None]
    # Products in float64, because distances cancel; exponentials in float32, twice as fast.
    for others in _chunks(rows, mean):
        square = np.einsum("ij,ij->i", others, others)
        scale = own_square + square
        distance = scale - 2 * (x0 @ others.T)  # [D, n]
        distance[distance < ROUNDING * scale] = 0  # of an example to itself or its copies
        distance = distance.astype(np.float32)
        along_noise = (noise @ others.T - own_noise).astype(np.float32)
        for index, value in enumerate(log_snr):
            ratio = math.exp(value / 2)
            weight = np.exp(ratio * along_noise - ratio**2 / 2 * distance)
            weight_sum[index] += weight.sum(axis=1)
            distance_sum[index] += np.einsum("ij,ij->i", weight, distance)
    errors: Array = distance_sum / weight_sum / (2 * rows.shape[1])
    return errors


def _controlled_mean(error: Array, norm: Array, variance: float) -> tuple[Array, Array]:
    """Mean over draws of ``error[G, D]`` and its standard error, with a control variate.

    At low SNR nearly all that differs between draws is |x_j|^2 / d (``norm``), whose mean over
    the data is known: the variance. A regression on it takes that noise out.
    """
    num_draws = len(norm)
    offset = norm - norm.mean()
    slope = error @ offset / max(float(offset @ offset), np.finfo(np.float64).tiny)
    residual = error - slope[:, None] * (norm - variance)
    mean = np.maximum(residual.mean(axis=1), 0)
    return mean, residual.std(axis=1) / math.sqrt(num_draws)


def _moving_range(rows: NDArray[np.float32], num_draws: int, seed: int) -> Array:
    """The grid ``[G]`` between the SNR that tells nothing and the SNR that tells all."""
    variance = _variance(rows, rows.mean(axis=0, dtype=np.float64))
    # M >= variance / (1 + SNR d variance), whatever the data: e^-6 is too little to know.
    lowest = -math.log(rows.shape[1] * variance) - 6
    coarse = np.arange(lowest, lowest + 40, PILOT_STEP)
    pilot_draws = max(num_draws // 8, MIN_DRAWS)
    mmse, _ = posterior_mmse(rows, coarse, num_draws=pilot_draws, seed=seed)
    # Up to a constant, the SNR is the largest factor from M to a loss (epsilon, v, flow).
    last = np.flatnonzero(np.exp(coarse) * mmse * rows.shape[1] > 1e-4).max()
    # Two steps more, because few draws may miss the pairs that are hard to tell apart.
    return np.linspace(lowest, coarse[last] + 2 * PILOT_STEP, GRID_POINTS)


def _variance(rows: NDArray[np.float32], mean: Array) -> float:
    """Variance per dimension of ``rows[N, d]``."""
    return sum(float(np.square(c).sum()) for c in _chunks(rows, mean)) / rows.size


def _chunks(rows: NDArray[np.float32], mean: Array) -> Iterator[Array]:
    """The centred rows in float64, ``[n, d]`` at a time."""
    size = max(1, min(CHUNK_EXAMPLES, CHUNK_NUMBERS // rows.shape[1]))
    for start in range(0, len(rows), size):
        yield rows[start : start + size] - mean


def _monotone_cubic(x: Array, xs: Array, ys: Array) -> Array:
    """Cubic Hermite interpolation that never overshoots (Fritsch and Butland 1984).

    ``xs`` is evenly spaced; beyond its ends the last value holds.
    """
    step = xs[1] - xs[0]
    secant = np.diff(ys)
    same_sign = secant[:-1] * secant[1:] > 0
    total = np.where(same_sign, secant[:-1] + secant[1:], 1.0)
    harmonic = np.where(same_sign, 2 * secant[:-1] * secant[1:] / total, 0.0)
    slope = np.concatenate([[0.0], harmonic, [secant[-1]]])
    position = np.clip((x - xs[0]) / step, 0, len(xs) - 1)
    index = np.minimum(position.astype(np.int64), len(xs) - 2)
    u = position - index
    value: Array = (
        ys[index]
        + (ys[index + 1] - ys[index]) * u**2 * (3 - 2 * u)
        + slope[index] * u * (1 - u) ** 2
        - slope[index + 1] * u**2 * (1 - u)
    )
    return value
