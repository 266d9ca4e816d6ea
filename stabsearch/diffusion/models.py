"""Built-in denoisers: ``forward(x_t[B, ...], timesteps[B]) -> prediction[B, ...]``."""

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
        angles = timesteps[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class ResidualBlock(nn.Module):
    """h + W2 silu(W1 silu(h) + time)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, width)
        self.linear2 = nn.Linear(width, width)

    def forward(self, hidden: Tensor, time: Tensor) -> Tensor:
        inner = self.linear1(nn.functional.silu(hidden)) + time
        outer: Tensor = hidden + self.linear2(nn.functional.silu(inner))
        return outer


class TimeEmbeddedMLP(nn.Module):
    """A residual MLP over the flattened example, told the timestep in every block.

    Raises ValueError if ``width`` is odd: half of the embedding is sine, half cosine.
    """

    def __init__(
        self, sample_shape: tuple[int, ...], *, width: int = 64, num_blocks: int = 2
    ) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ValueError(f"model.width must be an even number of at least 2, but got {width}.")
        num_dimensions = math.prod(sample_shape)
        self.embed_time = nn.Sequential(
            SinusoidalEmbedding(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.project_in = nn.Linear(num_dimensions, width)
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(num_blocks))
        self.project_out = nn.Linear(width, num_dimensions)

    def forward(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        time = self.embed_time(timesteps)
        hidden = self.project_in(x_t.flatten(1))
        for block in self.blocks:
            hidden = block(hidden, time)
        prediction: Tensor = self.project_out(nn.functional.silu(hidden))
        return prediction.view_as(x_t)


MODELS: dict[str, Callable[..., nn.Module]] = {"mlp": TimeEmbeddedMLP}
