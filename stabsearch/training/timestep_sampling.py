"""How the timesteps of a batch are drawn.

    uniform             every timestep alike, independently
    stratified          one from each of B equal ranges: the batch's mean loss varies less
    log_normal          as EDM: mostly at the middle noise levels, which changes the objective
    loss_second_moment  more where the loss is large, with weights that keep the objective

Everything stays on the device; no sampler waits for it. A sampler draws from the generator that
it is given and from nothing else.
"""

# B = batch, T = num_train_timesteps

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabsearch.spec import TrainerSpec

LOSS_HISTORY = 10
"""Losses that loss_second_moment remembers of every timestep."""

UNIFORM_SHARE = 0.001
"""Probability that loss_second_moment spreads evenly, so that no timestep is ever forgotten."""


class TimestepSampler(Protocol):
    """Draws timesteps for batches of one size."""

    def draw(self) -> Tensor:
        """The next batch's timesteps, ``[B]``."""
        ...

    def probabilities(self) -> Tensor:
        """How likely every timestep is in the next draw, ``[T]`` in float64."""
        ...

    def importance(self, timesteps: Tensor) -> Tensor | None:
        """Weights ``[B]`` of the losses at ``timesteps[B]``; None where all are 1.

        To be asked before the batch's losses are observed.
        """
        ...

    def observe(self, timesteps: Tensor, training_loss: Tensor) -> None:
        """Learn from the losses ``[B]`` of a batch, as optimised but without ``importance``."""
        ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


def make_timestep_sampler(
    spec: TrainerSpec,
    log_snr: NDArray[np.float64],
    generator: torch.Generator,
    device: torch.device,
) -> TimestepSampler:
    """The sampler that ``timestep_sampling`` names, for a schedule with this ``log_snr[T]``.

    Raises ValueError for a log_normal that misses the schedule.
    """
    return TIMESTEP_SAMPLERS[spec.timestep_sampling](spec, log_snr, generator, device)


class _Fixed:
    """A law that does not change, whose draws count alike."""

    def __init__(self, probabilities: Tensor) -> None:
        self._probabilities = probabilities

    def probabilities(self) -> Tensor:
        return self._probabilities

    def importance(self, timesteps: Tensor) -> None:
        del timesteps

    def observe(self, timesteps: Tensor, training_loss: Tensor) -> None:
        del timesteps, training_loss

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        del state


class UniformSampler(_Fixed):
    """Independent draws from 0 .. T-1."""

    def __init__(
        self,
        num_train_timesteps: int,
        batch_size: int,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        super().__init__(_uniform(num_train_timesteps, device))
        self._num_train_timesteps = num_train_timesteps
        self._size = (batch_size,)
        self._generator = generator
        self._device = device

    def draw(self) -> Tensor:
        return torch.randint(
            self._num_train_timesteps, self._size, generator=self._generator, device=self._device
        )


class StratifiedSampler(_Fixed):
    """The low-discrepancy draws of VDM (Kingma et al. 2021, appendix I.1).

    One uniform u per batch; sample i gets timestep floor(T ((u + i / B) mod 1)). Every sample's
    timestep is uniform, yet the batch covers them evenly. The order needs no shuffling: the
    examples of a batch are in random order already, and its loss is a mean.
    """

    def __init__(
        self,
        num_train_timesteps: int,
        batch_size: int,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        super().__init__(_uniform(num_train_timesteps, device))
        self._num_train_timesteps = num_train_timesteps
        self._batch_size = batch_size
        self._offsets = torch.arange(batch_size, device=device) * num_train_timesteps
        self._generator = generator

    def draw(self) -> Tensor:
        # In integers, with u = start / (T B): exact, and the same law as with a real u.
        start = torch.randint(
            self._num_train_timesteps * self._batch_size,
            (1,),
            generator=self._generator,
            device=self._offsets.device,
        )
        position = (self._offsets + start).floor_divide_(self._batch_size)
        return position.remainder_(self._num_train_timesteps)


class FixedLawSampler(_Fixed):
    """Independent draws from given probabilities, without importance weights."""

    def __init__(self, probabilities: Tensor, batch_size: int, generator: torch.Generator) -> None:
        super().__init__(probabilities)
        self._cumulative = _cumulative(probabilities)
        self._batch_size = batch_size
        self._generator = generator

    def draw(self) -> Tensor:
        return _inverted(self._cumulative, self._batch_size, self._generator)


class LossSecondMomentSampler:
    """Probabilities in proportion to sqrt(mean of the last 10 squared losses) of a timestep.

    Nichol and Dhariwal 2021, section 3.3, with the constants of their code. Uniform until every
    timestep has 10 losses: about 24,000 draws for T = 1000. The losses' weights 1 / (p_t T) leave
    the expected loss as it is. A loss that is not finite is not remembered.
    """

    def __init__(
        self,
        num_train_timesteps: int,
        batch_size: int,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        self._num_train_timesteps = num_train_timesteps
        self._batch_size = batch_size
        self._generator = generator
        self._uniform = _uniform(num_train_timesteps, device)
        # Row T takes what is not to be remembered: dropping it would need its number on the host.
        # float64: the square of any fp32 loss is finite.
        self._history = torch.zeros(
            num_train_timesteps + 1, LOSS_HISTORY, dtype=torch.float64, device=device
        )
        self._counts = torch.zeros(num_train_timesteps + 1, dtype=torch.long, device=device)
        self._nowhere = torch.full((), num_train_timesteps, device=device)
        self._places = torch.arange(batch_size, device=device)
        self._update_probabilities()

    def draw(self) -> Tensor:
        return _inverted(_cumulative(self._probabilities), self._batch_size, self._generator)

    def probabilities(self) -> Tensor:
        return self._probabilities

    def importance(self, timesteps: Tensor) -> Tensor:
        return (self._num_train_timesteps * self._probabilities[timesteps]).reciprocal().float()

    def observe(self, timesteps: Tensor, training_loss: Tensor) -> None:
        loss = training_loss.detach().double()
        # Sorted, the losses of one timestep stand side by side in the order of the batch.
        rows, order = torch.where(loss.isfinite(), timesteps, self._nowhere).sort(stable=True)
        first, end = torch.searchsorted(rows, rows), torch.searchsorted(rows, rows, right=True)
        slots = (self._counts[rows] + self._places - first) % LOSS_HISTORY
        # Of more than 10 losses of one timestep only the last 10 are written: writing a slot
        # twice in one operation leaves either.
        is_outlived = end - self._places > LOSS_HISTORY
        self._history[torch.where(is_outlived, self._nowhere, rows), slots] = loss[order]
        self._counts.scatter_add_(0, rows, torch.ones_like(rows))
        self._update_probabilities()

    def state_dict(self) -> dict[str, Tensor]:
        return {
            "history": self._history[:-1].clone(),
            "counts": self._counts[:-1].clone(),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._history[:-1].copy_(state["history"])
        self._counts[:-1].copy_(state["counts"])
        self._update_probabilities()

    def _update_probabilities(self) -> None:
        # The smallest normal number makes losses that are all 0 a uniform law, not 0 / 0.
        second_moment = (
            self._history[:-1].square().mean(1).sqrt() + torch.finfo(torch.float64).tiny
        )
        by_loss = torch.lerp(second_moment / second_moment.sum(), self._uniform, UNIFORM_SHARE)
        is_warm = (self._counts[:-1] >= LOSS_HISTORY).all()
        self._probabilities = torch.where(is_warm, by_loss, self._uniform)


def log_normal_probabilities(
    log_snr: NDArray[np.float64], mean: float, std: float
) -> NDArray[np.float64]:
    """``[T]``: EDM's ln(noise / signal) ~ N(mean, std^2), on the noise levels of a schedule.

    ln(noise / signal) at timestep t is -log_snr / 2. A timestep gets the normal law's mass on the
    levels that are nearest to it: its density times their spacing |d ln(noise / signal) / dt|,
    integrated. The mass beyond the schedule's ends is left out (Karras et al. 2022, table 1).

    Raises ValueError where the schedule has no level that the law would draw.
    """
    levels = -log_snr / 2
    between = (levels[:-1] + levels[1:]) / 2
    before_first = levels[0] - (between[0] - levels[0])
    after_last = levels[-1] + (levels[-1] - between[-1])
    edges = np.concatenate(([before_first], between, [after_last]))
    mass = np.diff(torch.special.ndtr(torch.from_numpy((edges - mean) / std)).numpy())
    if not mass.sum() > 0:
        raise ValueError(
            f"log_normal_mean {mean:g} with log_normal_std {std:g} draws no timestep: the noise "
            f"schedule's ln(noise / signal) runs from {levels[0]:.3g} to {levels[-1]:.3g}. Choose "
            f"a mean between them."
        )
    probabilities: NDArray[np.float64] = mass / mass.sum()
    return probabilities


def _log_normal(
    spec: TrainerSpec,
    log_snr: NDArray[np.float64],
    generator: torch.Generator,
    device: torch.device,
) -> TimestepSampler:
    law = log_normal_probabilities(log_snr, spec.log_normal_mean, spec.log_normal_std)
    return FixedLawSampler(torch.from_numpy(law).to(device), spec.batch_size, generator)


MakeSampler = Callable[
    [TrainerSpec, NDArray[np.float64], torch.Generator, torch.device], TimestepSampler
]

TIMESTEP_SAMPLERS: dict[str, MakeSampler] = {
    "uniform": lambda spec, log_snr, generator, device: UniformSampler(
        len(log_snr), spec.batch_size, generator, device
    ),
    "stratified": lambda spec, log_snr, generator, device: StratifiedSampler(
        len(log_snr), spec.batch_size, generator, device
    ),
    "log_normal": _log_normal,
    "loss_second_moment": lambda spec, log_snr, generator, device: LossSecondMomentSampler(
        len(log_snr), spec.batch_size, generator, device
    ),
}


def _uniform(num_train_timesteps: int, device: torch.device) -> Tensor:
    return torch.full(
        (num_train_timesteps,), 1 / num_train_timesteps, dtype=torch.float64, device=device
    )


def _cumulative(probabilities: Tensor) -> Tensor:
    """Cumulative sum ``[T]`` that ends at exactly 1."""
    cumulative = probabilities.cumsum(0)
    return cumulative / cumulative[-1:]


def _inverted(cumulative: Tensor, batch_size: int, generator: torch.Generator) -> Tensor:
    """``[B]`` independent draws from the law with this cumulative sum ``[T]``."""
    position = torch.rand(
        batch_size, generator=generator, dtype=torch.float64, device=cumulative.device
    )
    # right of equal sums: what has probability 0 is never drawn
    return torch.searchsorted(cumulative, position, right=True)
