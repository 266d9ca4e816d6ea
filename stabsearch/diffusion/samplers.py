"""Samplers: from pure noise to samples, with a denoiser in the trainer's model interface.

    samples = ddim(model, (16, 1, 8, 8), generator=generator, noise_schedule=schedule,
                   prediction_type="epsilon", num_inference_steps=50)

``model(x_t[N, ...], timesteps[N])`` gets int64 timesteps from 0 to T - 1, as in training.

A sampler of one's own is any callable ``sampler(model, shape, *, generator, **options)`` that
returns a ``Tensor[shape]``; ``noise_schedule`` and ``prediction_type`` are passed to one whose
signature names them.
"""

# N = samples, T = num_train_timesteps, ... = the shape of an example

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from stabsearch.diffusion.noise_schedule import NoiseSchedule
from stabsearch.diffusion.prediction_type import PREDICTION_TYPES


class Denoiser(Protocol):
    """What a sampler is given, and what a trainer trains."""

    def __call__(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        """The prediction ``[N, ...]`` for ``x_t[N, ...]`` at int64 ``timesteps[N]``."""


Sampler = Callable[..., Tensor]
"""``sampler(model, shape, *, generator, **options)`` -> samples of that shape."""


def ddim(
    model: Denoiser,
    shape: tuple[int, ...],
    *,
    generator: torch.Generator,
    noise_schedule: NoiseSchedule,
    prediction_type: str,
    num_inference_steps: int = 50,
    timestep_spacing: str = "trailing",
    eta: float = 0.0,
    clip_sample_range: float | None = None,
) -> Tensor:
    """Denoising diffusion implicit model (Song et al. 2021, equation 12).

    ``eta`` is the share of the ancestral sampler's noise: 0 draws none after the start. Under flow
    matching a step with eta 0 is Euler's on the velocity, to the last digit. With
    ``clip_sample_range`` every estimate of x0 is clipped to +- that.

    Raises ValueError where the schedule and the prediction type leave a step undefined.
    """
    steps = list(
        inference_timesteps(
            noise_schedule.num_train_timesteps, num_inference_steps, timestep_spacing
        )
    )
    if eta > 0:
        _check_variance_preserving(noise_schedule, f"ddim with eta {eta:g}")
    estimate = _SampleEstimate(noise_schedule, prediction_type, steps, clip_sample_range)
    x_t = torch.randn(shape, generator=generator, device=generator.device)
    for timestep, next_timestep in pairwise([*steps, None]):
        assert timestep is not None
        timesteps = torch.full(shape[:1], timestep, device=x_t.device)
        x0 = estimate(x_t, model(x_t, timesteps), timestep)
        if next_timestep is None:
            return x0
        signal, sigma = _levels(noise_schedule, timestep)
        next_signal, next_sigma = _levels(noise_schedule, next_timestep)
        noise_std = eta * posterior_std(signal, sigma, next_signal, next_sigma)
        kept = math.sqrt(next_sigma**2 - noise_std**2) / sigma
        x_t = (next_signal - kept * signal) * x0 + kept * x_t
        if noise_std > 0:
            x_t += noise_std * torch.randn(shape, generator=generator, device=x_t.device)
    raise AssertionError("there is a last timestep")  # pragma: no cover


def ddpm(
    model: Denoiser,
    shape: tuple[int, ...],
    *,
    generator: torch.Generator,
    noise_schedule: NoiseSchedule,
    prediction_type: str,
    num_inference_steps: int = 100,
    timestep_spacing: str = "trailing",
    clip_sample_range: float | None = None,
) -> Tensor:
    """Ancestral sampling (Ho et al. 2020, algorithm 2), over all timesteps or every n-th.

    Each step draws from the posterior q(x_s | x_t, x0) at the estimated x0, whose variance is the
    smaller of the two of the paper: the same as ``ddim`` with eta 1 (Song et al. 2021, section 4).

    Raises ValueError for a schedule that does not preserve variance, such as flow matching.
    """
    _check_variance_preserving(noise_schedule, "ddpm")
    return ddim(
        model,
        shape,
        generator=generator,
        noise_schedule=noise_schedule,
        prediction_type=prediction_type,
        num_inference_steps=num_inference_steps,
        timestep_spacing=timestep_spacing,
        eta=1.0,
        clip_sample_range=clip_sample_range,
    )


SAMPLERS: dict[str, Sampler] = {"ddim": ddim, "ddpm": ddpm}


def posterior_std(signal: float, sigma: float, next_signal: float, next_sigma: float) -> float:
    """Standard deviation of q(x_s | x_t, x0), x_s the less noisy of the two.

    x_t = r x_s + noise of variance sigma^2 - r^2 next_sigma^2, with r = signal / next_signal.
    """
    added = sigma**2 - (signal / next_signal * next_sigma) ** 2
    return next_sigma / sigma * math.sqrt(max(added, 0.0))


def inference_timesteps(
    num_train_timesteps: int, num_inference_steps: int, timestep_spacing: str
) -> Iterator[int]:
    """The timesteps that a sampler visits, noisiest first (diffusers' names and values).

    Of T = 1000 in 4 steps: ``trailing`` 999, 749, 499, 249; ``leading`` 750, 500, 250, 0;
    ``linspace`` 999, 666, 333, 0. Only a sampler that visits T - 1 starts at the noise level that
    pure noise has: ``leading`` does not, and begins somewhat off (Lin et al. 2024, section 3.3).

    Raises ValueError for more steps than timesteps.
    """
    if not 1 <= num_inference_steps <= num_train_timesteps:
        raise ValueError(
            f"num_inference_steps is {num_inference_steps}, but there are {num_train_timesteps} "
            f"timesteps; use 1 to {num_train_timesteps}."
        )
    yield from SPACINGS[timestep_spacing](num_train_timesteps, num_inference_steps)


SPACINGS: dict[str, Callable[[int, int], list[int]]] = {
    "trailing": lambda total, steps: [round(total - i * total / steps) - 1 for i in range(steps)],
    "leading": lambda total, steps: [i * (total // steps) for i in reversed(range(steps))],
    "linspace": lambda total, steps: [
        round(position) for position in np.linspace(0, total - 1, steps)[::-1].tolist()
    ],
}
"""Name -> timesteps, noisiest first, from (num_train_timesteps, num_inference_steps)."""


class _SampleEstimate:
    """x0 from a prediction: ``from_prediction[t] * prediction + from_x_t[t] * x_t``."""

    def __init__(
        self,
        schedule: NoiseSchedule,
        prediction_type: str,
        timesteps: list[int],
        clip_sample_range: float | None,
    ) -> None:
        noise_weight, sample_weight = PREDICTION_TYPES[prediction_type].weights(schedule)
        # target = (noise_weight / sigma) x_t + share * x0; see prediction_type
        share = sample_weight - noise_weight * schedule.signal / schedule.sigma
        blind = [t for t in timesteps if share[t] == 0]
        if blind:
            raise ValueError(
                f"prediction_type {prediction_type} says nothing about the example at timestep "
                f"{blind[0]}, where no signal is left (zero terminal SNR). Use v_prediction or "
                "flow, or timestep_spacing: leading, which does not visit it."
            )
        with np.errstate(divide="ignore", invalid="ignore"):  # at timesteps that are not visited
            self._from_prediction = 1 / share
            self._from_x_t = -noise_weight / schedule.sigma / share
        self._clip = clip_sample_range

    def __call__(self, x_t: Tensor, prediction: Tensor, timestep: int) -> Tensor:
        x0 = float(self._from_prediction[timestep]) * prediction
        weight = float(self._from_x_t[timestep])
        if weight != 0:
            x0 = x0 + weight * x_t
        return x0 if self._clip is None else x0.clamp(-self._clip, self._clip)


def _levels(schedule: NoiseSchedule, timestep: int) -> tuple[float, float]:
    return float(schedule.signal[timestep]), float(schedule.sigma[timestep])


def _check_variance_preserving(schedule: NoiseSchedule, who: str) -> None:
    total = schedule.signal**2 + schedule.sigma**2
    if not np.allclose(total, 1, rtol=0, atol=1e-6):
        raise ValueError(
            f"{who} reverses a diffusion that preserves variance, and this noise schedule (flow "
            "matching) does not. Use ddim with eta 0, which is Euler's method there."
        )


def call_sampler(
    sampler: Sampler,
    model: Denoiser,
    shape: tuple[int, ...],
    *,
    generator: torch.Generator,
    offered: dict[str, Any],
    options: dict[str, Any],
) -> Any:
    """Call a sampler with its options, and with what it asks for of ``offered``."""
    asked = {name: value for name, value in offered.items() if name in _parameters(sampler)}
    return sampler(model, shape, generator=generator, **(asked | options))


def default_option(sampler: Sampler, name: str) -> Any:
    """The default of a sampler's parameter; None without such a parameter, or a default."""
    parameter = _parameters(sampler).get(name)
    has_default = parameter is not None and parameter.default is not parameter.empty
    return parameter.default if parameter is not None and has_default else None


def _parameters(sampler: Sampler) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(sampler).parameters
    except (TypeError, ValueError):  # written in C, or not a function
        return {}
