"""The training target and loss of a batch, per sample.

Tables of the noise schedule and the prediction type live on the device; nothing here waits for it.
"""

# B = batch, T = num_train_timesteps, ... = the shape of an example

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabsearch.diffusion.noise_schedule import NoiseSchedule
from stabsearch.diffusion.prediction_type import PREDICTION_TYPES

Array = NDArray[np.float64]


class SampleLosses(NamedTuple):
    """Losses of a batch, example by example, in fp32 on the device."""

    mse: Tensor
    """[B] mean squared error without any weight: what is reported and judged."""
    training: Tensor
    """[B] what the optimizer minimises. The very same tensor as mse where nothing differs."""
    clamped_fraction: Tensor | None
    """0-d share of the numbers whose squared error is clamped; None unless the loss clamps."""


def squared_error(error: Tensor, huber_delta: float, loss_clamp: float) -> Tensor:
    """Neither threshold is used."""
    del huber_delta, loss_clamp
    return error.square()


def huber(error: Tensor, huber_delta: float, loss_clamp: float) -> Tensor:
    """The squared error up to ``huber_delta``, then a straight line of the same slope.

    Twice torch's huber_loss, which halves the square: so that small errors cost what they cost
    under ``mse``, and the losses can be compared.
    """
    del loss_clamp
    size = error.abs()
    bounded = size.clamp(max=huber_delta)
    return bounded * (2 * size - bounded)


def clamped_squared_error(error: Tensor, huber_delta: float, loss_clamp: float) -> Tensor:
    """The squared error cut off at ``loss_clamp``, kept for comparison.

    The gradient is 0 where it is cut off: a model that has diverged stays where it is, at a
    constant loss and without a gradient, and looks calm. ``SampleLosses.mse`` shows it still.
    """
    del huber_delta
    return error.square().clamp(max=loss_clamp)


LOSSES: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "mse": squared_error,
    "huber": huber,
    "clamped_mse": clamped_squared_error,
}
"""Name -> elementwise loss of (error[B, ...], huber_delta, loss_clamp)."""


class Objective:
    """Noises examples and compares predictions; tables live on the device in fp32."""

    def __init__(
        self,
        schedule: NoiseSchedule,
        prediction_type: str,
        device: torch.device,
        *,
        loss: str = "mse",
        huber_delta: float = 1.0,
        loss_clamp: float = 100.0,
        weights: Array | None = None,
    ) -> None:
        """``weights[T]`` multiply the training loss, by timestep; None: all ones."""
        noise_weight, sample_weight = PREDICTION_TYPES[prediction_type].weights(schedule)
        # Targets that are one of the two inputs need no arithmetic.
        self._target_is_noise = bool(np.all(noise_weight == 1) and np.all(sample_weight == 0))
        self._target_is_sample = bool(np.all(noise_weight == 0) and np.all(sample_weight == 1))
        # One table [4, T], because each lookup of a batch's timesteps costs a kernel.
        tables = np.stack([schedule.signal, schedule.sigma, sample_weight, noise_weight])
        self._tables = _table(tables, device)
        self._weights = None if weights is None else _table(weights, device)
        self._loss = loss
        self._huber_delta = huber_delta
        self._loss_clamp = loss_clamp
        self._schedule = schedule

    @property
    def schedule_error(self) -> float:
        """Largest relative error of the signal and noise levels that training uses.

        1 - ab loses all its digits near t = 0 where a schedule was computed in half precision.
        """
        exact = np.stack([self._schedule.signal, self._schedule.sigma])
        used = self._tables[:2].double().cpu().numpy()
        known = exact > 0
        return float(np.max(np.abs(used[known] / exact[known] - 1)))

    def noised_and_target(
        self, x0: Tensor, timesteps: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x_t[B, ...] and the target[B, ...] for ``x0[B, ...]``, ``timesteps[B]``."""
        shape = (4, -1) + (1,) * (x0.dim() - 1)
        signal, sigma, sample_weight, noise_weight = (
            self._tables.index_select(1, timesteps).view(shape).unbind()
        )
        x_t = signal * x0 + sigma * noise
        if self._target_is_noise:
            return x_t, noise
        if self._target_is_sample:
            return x_t, x0
        return x_t, sample_weight * x0 + noise_weight * noise

    def sample_losses(
        self,
        prediction: Tensor,
        target: Tensor,
        timesteps: Tensor,
    ) -> SampleLosses:
        """Losses ``[B]`` of ``prediction[B, ...]``.

        Raises ValueError for a prediction of another shape than its target.
        """
        error = _error(prediction, target)
        mse = _mean_per_sample(error.square())
        training = mse if self._loss == "mse" else self._other_loss(error)
        if self._weights is not None:
            training = training * self._weights[timesteps]
        return SampleLosses(mse, training, self._clamped_fraction(error))

    def _other_loss(self, error: Tensor) -> Tensor:
        elementwise = LOSSES[self._loss]
        return _mean_per_sample(elementwise(error, self._huber_delta, self._loss_clamp))

    def _clamped_fraction(self, error: Tensor) -> Tensor | None:
        if self._loss != "clamped_mse":
            return None
        return (error.detach().square() > self._loss_clamp).float().mean()


def per_sample_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error ``[B]`` over each example's numbers, in fp32.

    Raises ValueError for a prediction of another shape, which would be broadcast in silence.
    """
    return _mean_per_sample(_error(prediction, target).square())


def _table(values: Array, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).to(device)


def _error(prediction: Tensor, target: Tensor) -> Tensor:
    if prediction.shape != target.shape:
        raise ValueError(
            f"the model predicts shape {list(prediction.shape)} for inputs of shape "
            f"{list(target.shape)}; a denoiser must return the shape of its input."
        )
    return prediction.float() - target


def _mean_per_sample(elements: Tensor) -> Tensor:
    return elements.flatten(1).mean(1)
