"""Exponential moving average of the weights, with a ramped decay."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Ema:
    """Averages parameters in fp32 with decay ``min(max_decay, (1 + step) / (10 + step))``.

    The ramp makes the average forget its start: with a fixed decay of 0.9999 the initial weights
    would still carry 82% after 2,000 steps. Buffers are copied, not averaged.
    """

    def __init__(self, model: nn.Module, max_decay: float) -> None:
        self._max_decay = max_decay
        self._names = [name for name, _ in model.named_parameters()]
        self._source = [parameter.detach() for parameter in model.parameters()]
        self._average = [parameter.float().clone() for parameter in self._source]
        self._buffers = dict(model.named_buffers())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights after optimizer step ``step`` (from 1)."""
        decay = min(self._max_decay, (1 + step) / (10 + step))
        source = self._source
        if any(tensor.dtype != torch.float32 for tensor in source):
            source = [tensor.float() for tensor in source]
        torch._foreach_lerp_(self._average, source, 1 - decay)

    def tensors(self) -> dict[str, Tensor]:
        """Averaged parameters and current buffers by name, for torch.func.functional_call."""
        return {**dict(zip(self._names, self._average, strict=True)), **self._buffers}

    def state_dict(self) -> dict[str, Tensor]:
        return dict(zip(self._names, self._average, strict=True))

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, average in zip(self._names, self._average, strict=True):
            average.copy_(state[name])
