"""The built-in denoiser ``mlp``: for examples of any shape."""

# B = batch, ... = the shape of an example

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn

from stabsearch.diffusion.models.checks import check_width
from stabsearch.diffusion.models.embeddings import time_network
from stabsearch.diffusion.models.layers import modulate


class AddBlock(nn.Module):
    """W2 silu(W1 silu(norm(h)) + time)."""

    def __init__(self, width: int, layer_norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if layer_norm else nn.Identity()
        self.linear1 = nn.Linear(width, width)
        self.linear2 = nn.Linear(width, width)

    def forward(self, hidden: Tensor, time: Tensor) -> Tensor:
        inner = self.linear1(nn.functional.silu(self.norm(hidden))) + time
        outer: Tensor = self.linear2(nn.functional.silu(inner))
        return outer


class FilmBlock(nn.Module):
    """W2 silu(W1 silu((1 + scale) * norm(h) + shift)); scale and shift from the time (adaLN)."""

    def __init__(self, width: int, layer_norm: bool) -> None:
        super().__init__()
        # The modulation is the norm's affine part.
        self.norm = nn.LayerNorm(width, elementwise_affine=False) if layer_norm else nn.Identity()
        self.modulation = nn.Linear(width, 2 * width)
        self.linear1 = nn.Linear(width, width)
        self.linear2 = nn.Linear(width, width)

    def forward(self, hidden: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.modulation(nn.functional.silu(time)).chunk(2, dim=1)
        inner = self.linear1(nn.functional.silu(modulate(self.norm(hidden), scale, shift)))
        outer: Tensor = self.linear2(nn.functional.silu(inner))
        return outer


BLOCKS: dict[str, Callable[[int, bool], nn.Module]] = {"add": AddBlock, "film": FilmBlock}
"""Conditioning -> block from (width, layer_norm)."""


class TimeEmbeddedMLP(nn.Module):
    """A residual MLP over the flattened example, told the timestep in every block.

    Raises ValueError if ``width`` is odd: half of the embedding is sine, half cosine.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        *,
        width: int = 64,
        num_blocks: int = 2,
        time_embedding: str = "sinusoidal",
        conditioning: str = "add",
        residual: bool = True,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        check_width(width, 2, "half of the time embedding is sine, half cosine")
        self._residual = residual
        num_dimensions = math.prod(sample_shape)
        self.embed_time = time_network(time_embedding, width, width)
        self.project_in = nn.Linear(num_dimensions, width)
        make_block = BLOCKS[conditioning]
        self.blocks = nn.ModuleList(make_block(width, layer_norm) for _ in range(num_blocks))
        self.project_out = nn.Linear(width, num_dimensions)

    def forward(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        time = self.embed_time(timesteps)
        hidden = self.project_in(x_t.flatten(1))
        for block in self.blocks:
            branch = block(hidden, time)
            hidden = hidden + branch if self._residual else branch
        prediction: Tensor = self.project_out(nn.functional.silu(hidden))
        return prediction.view_as(x_t)
