"""Which weights does training not reach?

A layer behind a detach, or left out of the optimizer by mistake, keeps the weights that it began
with, and the rest of the network learns around it: the loss shows nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FrozenParameters:
    """Compares checksums of the weight matrices that are to be trained with those at the start.

    Vectors (biases, norms) are left out: some have no gradient by construction, as a bias in front
    of a norm layer. Parameters that do not require a gradient are frozen on purpose.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parameters = {
            name: parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and parameter.dim() > 1
        }
        self._at_start = self._checksums()

    def names(self) -> tuple[str, ...]:
        """Matrices that are exactly what they were at the start."""
        same = (self._checksums() == self._at_start).all(dim=1).tolist()
        return tuple(name for name, is_same in zip(self._parameters, same, strict=True) if is_same)

    def state_dict(self) -> dict[str, Tensor]:
        return {"at_start": self._at_start}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._at_start = state["at_start"].cpu()

    @torch.no_grad()
    def _checksums(self) -> Tensor:
        """Sum and sum of squares, ``[P, 2]``, in float64: a step of the last fp32 bit shows."""
        exact = [parameter.detach().double() for parameter in self._parameters.values()]
        sums = [torch.stack([tensor.sum(), tensor.square().sum()]) for tensor in exact]
        return torch.stack(sums).cpu() if sums else torch.empty(0, 2, dtype=torch.float64)
