"""The training target and loss of a batch, per sample."""

# B = batch, ... = the shape of an example

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stabsearch.diffusion.noise_schedule import NoiseSchedule

TARGETS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "epsilon": lambda x0, noise, signal, sigma: noise,  # noqa: ARG005
    "sample": lambda x0, noise, signal, sigma: x0,  # noqa: ARG005
    "v_prediction": lambda x0, noise, signal, sigma: signal * noise - sigma * x0,
}
"""Prediction type -> target[B, ...] from (x0, noise, sqrt(ab), sqrt(1 - ab))."""


class Objective:
    """Noises examples and compares predictions; tables live on the device in fp32."""

    def __init__(
        self, schedule: NoiseSchedule, prediction_type: str, device: torch.device
    ) -> None:
        self._signal = torch.tensor(schedule.alphas_cumprod**0.5, dtype=torch.float32).to(device)
        self._sigma = torch.tensor(schedule.one_minus_alphas_cumprod**0.5, dtype=torch.float32).to(
            device
        )
        self._target = TARGETS[prediction_type]

    def noised_and_target(
        self, x0: Tensor, timesteps: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x_t[B, ...] and the target[B, ...] for ``x0[B, ...]``, ``timesteps[B]``."""
        shape = (-1,) + (1,) * (x0.dim() - 1)
        signal = self._signal[timesteps].view(shape)
        sigma = self._sigma[timesteps].view(shape)
        return signal * x0 + sigma * noise, self._target(x0, noise, signal, sigma)


def per_sample_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error ``[B]`` over each example's numbers, in fp32.

    Raises ValueError for a prediction of another shape, which would be broadcast in silence.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"the model predicts shape {list(prediction.shape)} for inputs of shape "
            f"{list(target.shape)}; a denoiser must return the shape of its input."
        )
    return (prediction.float() - target).square().flatten(1).mean(1)
