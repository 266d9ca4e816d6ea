"""What a trial trains on, in which order, with which timesteps and noise."""

# B = batch, W = steps of a window

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Window(NamedTuple):
    """The draws of the next W steps."""

    indices: Tensor
    """Rows of the data set, ``[W, B]``."""
    timesteps: Tensor
    """``[W, B]``, uniform over 0 .. T-1."""


class Batches:
    """Draws from generators of its own, so that nothing else can shift a trial's data.

    Order, timesteps and noise each have one: trials with the same seed see the same examples,
    timesteps and noise whatever their setting, and however long their windows are. The comparison
    between settings is paired.
    """

    def __init__(
        self,
        num_examples: int,
        batch_size: int,
        num_train_timesteps: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self._num_examples = num_examples
        self._batch_size = batch_size
        self._num_train_timesteps = num_train_timesteps
        self._device = device
        self._order, self._time, self._noise = (
            torch.Generator(device).manual_seed(int(state))
            for state in np.random.SeedSequence(seed).generate_state(3)
        )
        self._epoch_rest = torch.empty(0, dtype=torch.long, device=device)

    def draw(self, num_steps: int) -> Window:
        """Examples without replacement within an epoch, epochs joined without a gap."""
        needed = num_steps * self._batch_size
        parts = [self._epoch_rest]
        have = len(self._epoch_rest)
        while have < needed:
            parts.append(
                torch.randperm(self._num_examples, generator=self._order, device=self._device)
            )
            have += self._num_examples
        queue = torch.cat(parts)
        self._epoch_rest = queue[needed:]
        timesteps = torch.randint(
            self._num_train_timesteps,
            (num_steps, self._batch_size),
            generator=self._time,
            device=self._device,
        )
        return Window(queue[:needed].view(num_steps, self._batch_size), timesteps)

    def noise_like(self, x0: Tensor) -> Tensor:
        return torch.randn(x0.shape, generator=self._noise, device=self._device, dtype=x0.dtype)

    def state_dict(self) -> dict[str, Tensor]:
        return {
            "order": self._order.get_state(),
            "time": self._time.get_state(),
            "noise": self._noise.get_state(),
            "epoch_rest": self._epoch_rest.clone(),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._order.set_state(state["order"].cpu())
        self._time.set_state(state["time"].cpu())
        self._noise.set_state(state["noise"].cpu())
        self._epoch_rest = state["epoch_rest"].to(self._device)
