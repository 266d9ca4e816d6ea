"""Noise schedules: how much of the example is left at every timestep.

numpy and float64 throughout: ``1 - alphas_cumprod`` at small t loses four digits in float32,
whether it is computed by cumprod or in log space; ``-expm1(cumsum(log1p(-beta)))`` does not.
"""

# T = num_train_timesteps

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class NoiseSchedule:
    """The tables ``[T]`` of a variance-preserving diffusion: x_t = sqrt(ab) x0 + sqrt(1-ab) e."""

    betas: Array
    alphas_cumprod: Array
    """ab: the share of signal variance left at timestep t."""
    one_minus_alphas_cumprod: Array
    """The noise variance, computed without cancellation."""

    @property
    def num_train_timesteps(self) -> int:
        return len(self.betas)

    def bin_edges(self, num_timestep_bins: int) -> tuple[int, ...]:
        """First timestep of every bin, then T. Bins differ by at most one timestep."""
        return tuple(
            round(index * self.num_train_timesteps / num_timestep_bins)
            for index in range(num_timestep_bins + 1)
        )


def linear_betas(num_train_timesteps: int, beta_start: float, beta_end: float) -> Array:
    """Ho et al. 2020, section 4."""
    return np.linspace(beta_start, beta_end, num_train_timesteps)


def scaled_linear_betas(num_train_timesteps: int, beta_start: float, beta_end: float) -> Array:
    """Linear in sqrt(beta): the latent-diffusion schedule (Rombach et al. 2022)."""
    return np.linspace(math.sqrt(beta_start), math.sqrt(beta_end), num_train_timesteps) ** 2


def squared_cosine_betas(num_train_timesteps: int, beta_start: float, beta_end: float) -> Array:
    """Nichol and Dhariwal 2021, equation 17, betas capped at 0.999; the range is not used."""
    del beta_start, beta_end
    position = np.arange(num_train_timesteps + 1) / num_train_timesteps
    signal = np.cos((position + 0.008) / 1.008 * math.pi / 2) ** 2
    betas: Array = np.minimum(1 - signal[1:] / signal[:-1], 0.999)
    return betas


BETA_SCHEDULES: dict[str, Callable[[int, float, float], Array]] = {
    "linear": linear_betas,
    "scaled_linear": scaled_linear_betas,
    "squaredcos_cap_v2": squared_cosine_betas,
}


def make_noise_schedule(
    beta_schedule: str, num_train_timesteps: int, beta_start: float, beta_end: float
) -> NoiseSchedule:
    """Build the tables of a named schedule (diffusers' names)."""
    betas = BETA_SCHEDULES[beta_schedule](num_train_timesteps, beta_start, beta_end)
    log_alphas_cumprod = np.cumsum(np.log1p(-betas))
    return NoiseSchedule(
        betas=betas,
        alphas_cumprod=np.exp(log_alphas_cumprod),
        one_minus_alphas_cumprod=-np.expm1(log_alphas_cumprod),
    )
