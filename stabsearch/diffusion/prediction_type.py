"""What a model may predict, as data: every target is a sum of the noise and the clean example.

    target = noise_weight[t] * e + sample_weight[t] * x0

Given x_t = signal * x0 + sigma * e, an estimate of one of them is an estimate of all: with
e = (x_t - signal * x0) / sigma,

    target = (noise_weight / sigma) x_t + (sample_weight - noise_weight * signal / sigma) x0

so the error of a target is the error of x0 times that last factor (for epsilon: -signal / sigma).
A mean squared error of x0 becomes a loss by its square, whatever the schedule.
"""

# T = num_train_timesteps

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stabsearch.diffusion.noise_schedule import NoiseSchedule

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PredictionType:
    """One kind of target. Both weights are tables ``[T]`` from (signal ``[T]``, sigma ``[T]``)."""

    noise_weight: Callable[[Array, Array], Array]
    sample_weight: Callable[[Array, Array], Array]

    def weights(self, schedule: NoiseSchedule) -> tuple[Array, Array]:
        """noise_weight ``[T]`` and sample_weight ``[T]`` under a schedule."""
        signal, sigma = schedule.signal, schedule.sigma
        return self.noise_weight(signal, sigma), self.sample_weight(signal, sigma)

    def loss_per_sample_error(self, schedule: NoiseSchedule) -> Array:
        """Factor ``[T]`` from the mean squared error of x0 to that of the target.

        0 where the target says nothing about x0: epsilon, at a timestep without signal.
        """
        noise_weight, sample_weight = self.weights(schedule)
        factor: Array = (sample_weight - noise_weight * schedule.signal / schedule.sigma) ** 2
        return factor

    def constant_loss(self, schedule: NoiseSchedule, power: float) -> Array:
        """Loss ``[T]`` of a constant prediction, which leaves this mean square of the data.

        The best constant leaves the data's variance, the prediction 0 its second moment.
        """
        noise_weight, sample_weight = self.weights(schedule)
        loss: Array = noise_weight**2 + sample_weight**2 * power
        return loss


PREDICTION_TYPES: dict[str, PredictionType] = {
    "epsilon": PredictionType(
        noise_weight=lambda signal, sigma: np.ones_like(signal),  # noqa: ARG005
        sample_weight=lambda signal, sigma: np.zeros_like(signal),  # noqa: ARG005
    ),
    "sample": PredictionType(
        noise_weight=lambda signal, sigma: np.zeros_like(signal),  # noqa: ARG005
        sample_weight=lambda signal, sigma: np.ones_like(signal),  # noqa: ARG005
    ),
    # Salimans and Ho 2022
    "v_prediction": PredictionType(
        noise_weight=lambda signal, sigma: signal,  # noqa: ARG005
        sample_weight=lambda signal, sigma: -sigma,  # noqa: ARG005
    ),
    # the velocity of the straight path from the example to the noise; Lipman et al. 2023
    "flow": PredictionType(
        noise_weight=lambda signal, sigma: np.ones_like(signal),  # noqa: ARG005
        sample_weight=lambda signal, sigma: -np.ones_like(signal),  # noqa: ARG005
    ),
}
"""diffusers' names -> the target; ``flow`` is the velocity that flow matching learns."""
