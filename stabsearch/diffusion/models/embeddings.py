"""How a denoiser is told the timestep, and where in the image a token lies."""

# B = batch, S = tokens, width = numbers per embedding

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


class SinusoidalEmbedding(nn.Module):
    """Timestep embedding ``[B, width]`` (Ho et al. 2020; frequencies from 1 to 1/10,000)."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        exponent = torch.arange(width // 2, dtype=torch.float32) / max(1, width // 2 - 1)
        self.register_buffer("frequencies", torch.exp(-math.log(10_000) * exponent))

    def forward(self, timesteps: Tensor) -> Tensor:
        return sine_cosine(timesteps, self.frequencies)


class FourierEmbedding(nn.Module):
    """Random Fourier features ``[B, width]`` of t/1000 (Song et al. 2021, scale 16).

    The frequencies are drawn from the global generator and saved with the weights.
    """

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        scale = 16.0 * 2 * math.pi / 1000  # radians per timestep
        self.register_buffer("frequencies", torch.randn(width // 2) * scale)

    def forward(self, timesteps: Tensor) -> Tensor:
        return sine_cosine(timesteps, self.frequencies)


class NoEmbedding(nn.Module):
    """Zeros ``[B, width]``: the model is blind to the timestep (an ablation; Sun et al. 2025)."""

    zeros: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("zeros", torch.zeros(width), persistent=False)

    def forward(self, timesteps: Tensor) -> Tensor:
        return self.zeros.expand(len(timesteps), -1)


TIME_EMBEDDINGS: dict[str, Callable[[int], nn.Module]] = {
    "sinusoidal": SinusoidalEmbedding,
    "fourier": FourierEmbedding,
    "none": NoEmbedding,
}
"""Name -> module from timesteps[B] to [B, width], for an even width."""


def sine_cosine(positions: Tensor, frequencies: Tensor) -> Tensor:
    """``[n, 2 * m]`` for n positions and m frequencies in radians: all sines, then all cosines."""
    angles = positions[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def time_network(time_embedding: str, width: int, num_outputs: int) -> nn.Sequential:
    """The named embedding and two layers: ``timesteps[B] -> [B, num_outputs]``."""
    return nn.Sequential(
        TIME_EMBEDDINGS[time_embedding](width),
        nn.Linear(width, num_outputs),
        nn.SiLU(),
        nn.Linear(num_outputs, num_outputs),
    )


def position_embedding(height: int, width: int, num_channels: int) -> Tensor:
    """Fixed 2-D sin-cos positions ``[1, S, num_channels]`` of a grid's tokens, row by row.

    Half of the channels tell the row and half the column, as in MAE and DiT; ``num_channels`` is
    a multiple of 4.
    """
    frequencies = 10_000 ** -torch.linspace(0, 1, num_channels // 4 + 1, dtype=torch.float64)[:-1]
    rows = torch.arange(height).repeat_interleave(width)  # [S]
    columns = torch.arange(width).repeat(height)  # [S]
    axes = [sine_cosine(axis, frequencies) for axis in (rows, columns)]
    return torch.cat(axes, dim=1).float()[None]
