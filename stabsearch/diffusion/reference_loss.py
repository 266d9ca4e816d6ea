"""Losses that are known before any training: what a trial's loss is measured against.

Everything follows from M_t, the error per dimension of the best x0 estimate given x_t. With
ab = alphas_cumprod and om = 1 - ab, the loss in the space of a prediction type is

    epsilon       (ab / om) M        since x_t = sqrt(ab) x0 + sqrt(om) e
    sample        M
    v_prediction  M / om             v = sqrt(ab) e - sqrt(om) x0

so a ratio of two losses at the same timestep does not depend on the prediction type.
"""

# N = examples, T = num_train_timesteps, d = numbers per example

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stabsearch.diffusion.noise_schedule import NoiseSchedule
from stabsearch.records import ReferenceLoss

Array = NDArray[np.float64]

MAX_GRAM_ROWS = 4096
"""Largest side of the matrix whose eigenvalues are taken; beyond it, examples are subsampled."""


@dataclass(frozen=True, slots=True)
class PredictionSpace:
    """How a prediction type sees an error: both take (ab[T], om[T])."""

    loss_per_sample_error: Callable[[Array, Array], Array]
    """Factor from M_t to the loss."""
    constant_loss: Callable[[Array, Array, float], Array]
    """Loss of the best constant prediction, given also the data variance."""


PREDICTION_SPACES: dict[str, PredictionSpace] = {
    "epsilon": PredictionSpace(
        lambda ab, om: ab / om,
        lambda ab, om, variance: np.ones_like(ab),  # noqa: ARG005  noise has variance 1 everywhere
    ),
    "sample": PredictionSpace(
        lambda ab, om: np.ones_like(ab),  # noqa: ARG005
        lambda ab, om, variance: np.full_like(ab, variance),  # noqa: ARG005
    ),
    "v_prediction": PredictionSpace(
        lambda ab, om: 1 / om,  # noqa: ARG005
        lambda ab, om, variance: ab + om * variance,
    ),
}


@dataclass(frozen=True, slots=True)
class ReferenceCurves:
    """Reference losses ``[T]`` per timestep, in the space of one prediction type."""

    constant: Array
    """C0: the best constant prediction."""
    isotropic: Array
    """L_iso: the best denoiser of the form mean + gain_t (x_t / sqrt(ab) - mean)."""
    linear: Array
    """L_lin: the best linear denoiser (LMMSE); an upper bound on the Bayes loss."""

    def in_bins(self, bin_edges: tuple[int, ...]) -> ReferenceLoss:
        """Average over the timesteps of each bin."""
        return ReferenceLoss(
            bin_constant=bin_means(self.constant, bin_edges),
            bin_isotropic=bin_means(self.isotropic, bin_edges),
            bin_linear=bin_means(self.linear, bin_edges),
            constant_score=geometric_mean(bin_means(self.constant / self.linear, bin_edges)),
        )


def reference_curves(
    eigenvalues: Array, num_dimensions: int, schedule: NoiseSchedule, prediction_type: str
) -> ReferenceCurves:
    """Reference losses under a schedule for data with a covariance of these eigenvalues.

    With the eigenvalues l_i (those that are left out are 0) and s2 their mean over d dimensions,
    ``M_iso = s2 om / (ab s2 + om)`` and ``M_lin = mean_i l_i om / (ab l_i + om)``.
    """
    ab, om = schedule.alphas_cumprod, schedule.one_minus_alphas_cumprod
    space = PREDICTION_SPACES[prediction_type]
    variance = float(eigenvalues.sum()) / num_dimensions
    factor = space.loss_per_sample_error(ab, om)
    # Directions without variance are known exactly and add nothing to M_lin.
    linear = sum(value * om / (ab * value + om) for value in eigenvalues) / num_dimensions
    return ReferenceCurves(
        constant=space.constant_loss(ab, om, variance),
        isotropic=factor * variance * om / (ab * variance + om),
        linear=factor * np.asarray(linear),
    )


def covariance_eigenvalues(data: NDArray[np.float32]) -> Array:
    """Positive eigenvalues of the covariance of ``data[N, ...]``, at most min(N, d) of them.

    Works on whichever of the d x d covariance and the N x N Gram matrix is smaller: their
    positive eigenvalues are the same. Above 4,096 rows of both, a fixed subsample of the
    examples stands for all.
    """
    rows = data.reshape(len(data), -1).astype(np.float64)
    if min(rows.shape) > MAX_GRAM_ROWS:
        rows = rows[np.random.default_rng(0).permutation(len(rows))[:MAX_GRAM_ROWS]]
    centred = rows - rows.mean(axis=0)
    tall = centred if centred.shape[0] >= centred.shape[1] else centred.T
    eigenvalues: Array = np.linalg.eigvalsh(tall.T @ tall) / len(centred)
    positive: Array = eigenvalues[eigenvalues > eigenvalues.max() * 1e-12]
    return positive


def bin_means(curve: Array, bin_edges: tuple[int, ...]) -> tuple[float, ...]:
    """Mean of ``curve[T]`` over the timesteps of each bin."""
    return tuple(float(curve[low:high].mean()) for low, high in itertools.pairwise(bin_edges))


def geometric_mean(values: tuple[float, ...]) -> float:
    """exp(mean(log)); NaN or Inf in, NaN or Inf out."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.exp(np.mean(np.log(np.asarray(values, dtype=np.float64)))))
