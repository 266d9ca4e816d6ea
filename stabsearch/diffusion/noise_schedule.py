"""Noise schedules: how much of the example is left at every timestep.

numpy and float64 throughout: ``1 - alphas_cumprod`` at small t loses four digits in float32,
whether it is computed by cumprod or in log space; ``-expm1(cumsum(log1p(-beta)))`` does not.
"""

# T = num_train_timesteps

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LOG_SNR_LIMIT = 50.0
"""log_snr is cut to this range on both sides, so that the SNR and its inverse fit float32."""


@dataclass(frozen=True, slots=True)
class NoiseSchedule:
    """The tables ``[T]`` of a forward process: x_t = signal * x0 + sigma * e, e ~ N(0, I)."""

    signal: Array
    """Factor of the clean example; may be exactly 0 at the end (zero terminal SNR)."""
    sigma: Array
    """Factor of the noise; above 0 everywhere."""

    @property
    def num_train_timesteps(self) -> int:
        return len(self.signal)

    @property
    def alphas_cumprod(self) -> Array:
        """ab: the share of signal variance left at timestep t."""
        return self.signal**2

    @property
    def one_minus_alphas_cumprod(self) -> Array:
        """The noise variance (1 - ab only where the process preserves variance)."""
        return self.sigma**2

    @property
    def log_snr(self) -> Array:
        """log(signal^2 / sigma^2), finite even where no signal is left."""
        with np.errstate(divide="ignore"):
            log_snr: Array = 2 * (np.log(self.signal) - np.log(self.sigma))
        return np.clip(log_snr, -LOG_SNR_LIMIT, LOG_SNR_LIMIT)

    @property
    def snr(self) -> Array:
        """exp(log_snr): never 0 and never Inf, in float32 too."""
        return np.exp(self.log_snr)

    @property
    def has_zero_terminal_snr(self) -> bool:
        """Whether the last timestep is pure noise."""
        return bool(self.signal[-1] == 0)

    def bin_edges(self, num_timestep_bins: int) -> tuple[int, ...]:
        """First timestep of every bin, then T. Bins differ by at most one timestep."""
        return tuple(
            round(index * self.num_train_timesteps / num_timestep_bins)
            for index in range(num_timestep_bins + 1)
        )

    def terminal_kl(self, second_moment: float) -> float:
        """KL(q(x_T|x0) || N(0, I)) per dimension, averaged over data with this E[x0^2].

        What the sampler's start at pure noise leaves out: it should be far below 0.01.
        """
        signal, sigma = float(self.signal[-1]), float(self.sigma[-1])
        return 0.5 * (sigma**2 + signal**2 * second_moment - 1) - math.log(sigma)


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


def sigmoid_betas(num_train_timesteps: int, beta_start: float, beta_end: float) -> Array:
    """A logistic curve from -6 to 6 between the two betas, as diffusers has it (GeoDiff)."""
    logistic = 1 / (1 + np.exp(-np.linspace(-6, 6, num_train_timesteps)))
    betas: Array = logistic * (beta_end - beta_start) + beta_start
    return betas


BETA_SCHEDULES: dict[str, Callable[[int, float, float], Array]] = {
    "linear": linear_betas,
    "scaled_linear": scaled_linear_betas,
    "squaredcos_cap_v2": squared_cosine_betas,
    "sigmoid": sigmoid_betas,
}
"""diffusers' names -> betas[T] from (T, beta_start, beta_end). ``given`` needs no formula."""


def make_noise_schedule(
    *,
    kind: str = "diffusion",
    beta_schedule: str = "linear",
    num_train_timesteps: int = 1000,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    trained_betas: Sequence[float] | None = None,
    rescale_betas_zero_snr: bool = False,
) -> NoiseSchedule:
    """Build the tables of a named schedule (diffusers' names).

    ``kind`` is ``diffusion`` (variance preserving, from betas) or ``flow_matching``, which uses
    the number of timesteps only. ``trained_betas`` are used by ``beta_schedule="given"``.

    Raises ValueError for an unknown kind and for betas that make no schedule.
    """
    if kind == "flow_matching":
        return _flow_matching(num_train_timesteps)
    if kind != "diffusion":
        raise ValueError(f"kind is {kind}; it must be diffusion or flow_matching.")
    if beta_schedule == "given":
        betas = _given_betas(trained_betas, num_train_timesteps)
    else:
        betas = BETA_SCHEDULES[beta_schedule](num_train_timesteps, beta_start, beta_end)
    _check_betas(betas)
    return _variance_preserving(betas, rescale_betas_zero_snr)


def _flow_matching(num_train_timesteps: int) -> NoiseSchedule:
    """The straight path x_t = (1 - tau) x0 + tau e (Lipman et al. 2023), tau = (t + 1) / T."""
    timesteps_done = np.arange(1, num_train_timesteps + 1, dtype=np.float64)
    return NoiseSchedule(
        signal=(num_train_timesteps - timesteps_done) / num_train_timesteps,
        sigma=timesteps_done / num_train_timesteps,
    )


def _given_betas(trained_betas: Sequence[float] | None, num_train_timesteps: int) -> Array:
    if trained_betas is None:
        raise ValueError("beta_schedule is given, but there are no trained_betas; list them.")
    if len(trained_betas) != num_train_timesteps:
        raise ValueError(
            f"trained_betas holds {len(trained_betas)} betas for {num_train_timesteps} "
            f"timesteps; it must hold one for each. Set num_train_timesteps to "
            f"{len(trained_betas)}."
        )
    return np.asarray(trained_betas, dtype=np.float64)


def _check_betas(betas: Array) -> None:
    """Beta is the share of signal variance that one timestep replaces by noise."""
    is_valid = (betas > 0) & (betas < 1)  # False for NaN
    is_valid[-1] |= betas[-1] == 1  # the last timestep may be pure noise
    if not is_valid.all():
        index = int(np.argmin(is_valid))
        raise ValueError(
            f"betas[{index}] is {betas[index]:g}; a beta must be above 0 and below 1, and only "
            f"the last may be 1. Change beta_start and beta_end, or trained_betas."
        )


def _variance_preserving(betas: Array, rescale_betas_zero_snr: bool) -> NoiseSchedule:
    with np.errstate(divide="ignore"):  # a last beta of 1 leaves exactly no signal
        log_signal = np.cumsum(np.log1p(-betas)) / 2
    if rescale_betas_zero_snr:
        return _rescaled_to_zero_snr(log_signal)
    return NoiseSchedule(signal=np.exp(log_signal), sigma=np.sqrt(-np.expm1(2 * log_signal)))


def _rescaled_to_zero_snr(log_signal: Array) -> NoiseSchedule:
    """Lin et al. 2024 (arXiv 2305.08891), algorithm 1, without the way back through betas.

    Shifts and scales sqrt(ab) so that the last value is 0 and the first one stays.
    """
    signal, lost = np.exp(log_signal), -np.expm1(log_signal)  # lost = 1 - signal, exactly
    scale = signal[0] / (signal[0] - signal[-1])
    lost_after = lost[0] + (lost - lost[0]) * scale
    return NoiseSchedule(
        signal=(signal - signal[-1]) * scale,
        sigma=np.sqrt(lost_after * (2 - lost_after)),  # 1 - signal^2 without cancellation
    )
