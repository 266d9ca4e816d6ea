"""What a trial trains on, in which order, with which timesteps and noise."""

# B = batch, T = num_train_timesteps

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabsearch.spec import TrainerSpec
from stabsearch.training.timestep_sampling import make_timestep_sampler


class Batch(NamedTuple):
    """The draws of one step."""

    indices: Tensor
    """Rows of the data set, ``[B]``."""
    timesteps: Tensor
    """``[B]``, in 0 .. T-1."""
    importance: Tensor | None
    """Weights of the samples' losses, ``[B]``; None where all are 1."""


class Batches:
    """Draws from generators of its own, so that nothing else can shift a trial's data.

    Order, timesteps and noise each have one: trials with the same seed see the same examples and
    noise whatever their setting, and the same timesteps wherever they draw them by the same law.
    The comparison between settings is paired.

    Raises ValueError for a timestep sampling that does not fit the noise schedule.
    """

    def __init__(
        self,
        spec: TrainerSpec,
        num_examples: int,
        log_snr: NDArray[np.float64],
        seed: int,
        device: torch.device,
    ) -> None:
        self._num_examples = num_examples
        self._batch_size = spec.batch_size
        self._device = device
        self._order, self._time, self._noise = (
            torch.Generator(device).manual_seed(int(state))
            for state in np.random.SeedSequence(seed).generate_state(3)
        )
        self._sampler = make_timestep_sampler(spec, log_snr, self._time, device)
        self._queue = torch.empty(0, dtype=torch.long, device=device)
        self._num_drawn = 0  # of the queue

    def next(self) -> Batch:
        """Examples without replacement within an epoch, epochs joined without a gap."""
        timesteps = self._sampler.draw()
        return Batch(self._next_indices(), timesteps, self._sampler.importance(timesteps))

    def observe(self, timesteps: Tensor, training_loss: Tensor) -> None:
        """Tell the sampler the losses ``[B]`` of a batch, as optimised but without importance."""
        self._sampler.observe(timesteps, training_loss)

    def timestep_probabilities(self) -> NDArray[np.float64]:
        """How likely every timestep is in the next batch, ``[T]``, on the host."""
        return self._sampler.probabilities().cpu().numpy()

    def noise_like(self, x0: Tensor) -> Tensor:
        return torch.randn(x0.shape, generator=self._noise, device=self._device, dtype=x0.dtype)

    def state_dict(self) -> dict[str, Any]:
        return {
            "order": self._order.get_state(),
            "time": self._time.get_state(),
            "noise": self._noise.get_state(),
            "epoch_rest": self._queue[self._num_drawn :],
            "timestep_sampler": self._sampler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._order.set_state(state["order"].cpu())
        self._time.set_state(state["time"].cpu())
        self._noise.set_state(state["noise"].cpu())
        self._queue, self._num_drawn = state["epoch_rest"].to(self._device), 0
        self._sampler.load_state_dict(state["timestep_sampler"])

    def _next_indices(self) -> Tensor:
        while len(self._queue) - self._num_drawn < self._batch_size:
            epoch = torch.randperm(self._num_examples, generator=self._order, device=self._device)
            self._queue = torch.cat([self._queue[self._num_drawn :], epoch])
            self._num_drawn = 0
        start, self._num_drawn = self._num_drawn, self._num_drawn + self._batch_size
        return self._queue[start : self._num_drawn]
