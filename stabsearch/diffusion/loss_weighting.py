"""Loss weightings: which noise levels a training cares about.

A weighting is a weight of the error of x0, a function of SNR = signal^2 / sigma^2 alone. Divided
by what the prediction type makes of that error, it becomes the weight of the loss; so one line
per weighting serves every prediction type and every schedule.
"""

# T = num_train_timesteps

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stabsearch.diffusion.noise_schedule import NoiseSchedule
from stabsearch.diffusion.prediction_type import PREDICTION_TYPES

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightingOptions:
    """The numbers that the weightings take; each uses its own."""

    snr_gamma: float
    p2_k: float
    p2_gamma: float
    sigma_data: float


LOSS_WEIGHTINGS: dict[str, Callable[[Array, WeightingOptions], Array] | None] = {
    # every timestep counts the same in the model's own space
    "none": None,
    # what epsilon prediction does without a weighting; Ho et al. 2020
    "snr": lambda snr, options: snr,  # noqa: ARG005
    # Hang et al. 2023 (arXiv 2303.09556)
    "min_snr": lambda snr, options: np.minimum(snr, options.snr_gamma),
    # Crowson et al. 2024 (arXiv 2401.11605): 1 / (sigma^2 + 1 / gamma), sigma^2 = 1 / SNR
    "soft_min_snr": lambda snr, options: options.snr_gamma * snr / (snr + options.snr_gamma),
    # Choi et al. 2022 (arXiv 2204.00227): 1 / (k + SNR)^gamma of the epsilon loss
    "p2": lambda snr, options: snr / (options.p2_k + snr) ** options.p2_gamma,
    # Karras et al. 2022 (arXiv 2206.00364), table 1: (s^2 + sd^2) / (s sd)^2, s^2 = 1 / SNR
    "edm": lambda snr, options: snr + 1 / options.sigma_data**2,
}
"""Name -> weight ``[T]`` of the mean squared error of x0, from the SNR ``[T]``."""


def loss_weights(
    loss_weighting: str,
    schedule: NoiseSchedule,
    prediction_type: str,
    *,
    snr_gamma: float = 5.0,
    p2_k: float = 1.0,
    p2_gamma: float = 1.0,
    sigma_data: float = 0.5,
) -> Array:
    """Weight ``[T]`` of each timestep's loss in the space of the prediction type.

    Raises ValueError where the loss would have to be divided by 0: epsilon without any signal.
    """
    weigh = LOSS_WEIGHTINGS[loss_weighting]
    if weigh is None:
        return np.ones(schedule.num_train_timesteps)
    factor = PREDICTION_TYPES[prediction_type].loss_per_sample_error(schedule)
    if not factor.all():
        raise ValueError(
            f"loss_weighting {loss_weighting} divides by 0 at timestep {int(np.argmin(factor))}: "
            f"no signal is left there (SNR 0), where prediction_type {prediction_type} says "
            f"nothing about the example. Use prediction_type v_prediction, loss_weighting none, "
            f"or a noise schedule without zero terminal SNR."
        )
    # Not schedule.snr: where its lower limit bites, weight and factor would not cancel.
    snr: Array = (schedule.signal / schedule.sigma) ** 2
    options = WeightingOptions(
        snr_gamma=snr_gamma, p2_k=p2_k, p2_gamma=p2_gamma, sigma_data=sigma_data
    )
    return weigh(snr, options) / factor
