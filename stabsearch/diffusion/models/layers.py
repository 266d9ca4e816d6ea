"""Layers that several denoisers share."""

# B = batch, S = tokens, N = heads

from __future__ import annotations

import torch
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Multi-head self-attention over tokens ``[B, S, width]`` (Vaswani et al. 2017).

    From plain linear layers, whose per-sample gradients can be taken.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self._num_heads = num_heads
        self.project_in = nn.Linear(width, 3 * width)
        self.project_out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        # [B, S, 3 * width] -> query, key and value, each [B, N, S, width / N]
        heads = self.project_in(tokens).unflatten(2, (3, self._num_heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        merged: Tensor = self.project_out(attended.transpose(1, 2).flatten(2))
        return merged


def modulate(hidden: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(1 + scale) * hidden + shift (FiLM; Perez et al. 2018)."""
    return torch.addcmul(shift, hidden, 1 + scale)


def zero_initialised(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    """The layer, which at first returns zeros."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
