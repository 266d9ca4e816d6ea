"""The built-in denoiser ``unet``: a small U-Net (Ho et al. 2020; Dhariwal and Nichol 2021).

Each resolution holds the next lower one inside it, between its blocks on the way down and those on
the way up.
"""

# B = batch, C/H/W = image or feature map, S = H * W

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from stabsearch.diffusion.models.checks import check_width, image_shape
from stabsearch.diffusion.models.embeddings import time_network
from stabsearch.diffusion.models.layers import SelfAttention, modulate, zero_initialised

CHANNELS_PER_GROUP = 4
"""Of every norm, as in DDPM and EDM. Single channels would take out the time that is added."""


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // CHANNELS_PER_GROUP, channels)


class AddNorm(nn.Module):
    """norm(h + time), per channel (DDPM)."""

    def __init__(self, channels: int, time_width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(time_width, channels)
        self.norm = group_norm(channels)

    def forward(self, hidden: Tensor, time: Tensor) -> Tensor:
        normed: Tensor = self.norm(hidden + self.modulation(time)[:, :, None, None])
        return normed


class FilmNorm(nn.Module):
    """(1 + scale) * norm(h) + shift; scale and shift from the time (ADM's adaptive GroupNorm)."""

    def __init__(self, channels: int, time_width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(time_width, 2 * channels)
        self.norm = group_norm(channels)

    def forward(self, hidden: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.modulation(time)[:, :, None, None].chunk(2, dim=1)
        return modulate(self.norm(hidden), scale, shift)


NORMS: dict[str, Callable[[int, int], nn.Module]] = {"add": AddNorm, "film": FilmNorm}
"""Conditioning -> norm that is told the timestep, from (channels, time_width)."""


class Block(nn.Module):
    """Two convolutions over ``[B, C, H, W]``, each after a norm and a SiLU."""

    def __init__(self, channels: int, time_width: int, conditioning: str, residual: bool) -> None:
        super().__init__()
        self._residual = residual
        self.norm1 = group_norm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = NORMS[conditioning](channels, time_width)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        if residual:
            zero_initialised(self.conv2)

    def forward(self, hidden: Tensor, time: Tensor) -> Tensor:
        inner = self.conv1(nn.functional.silu(self.norm1(hidden)))
        branch: Tensor = self.conv2(nn.functional.silu(self.norm2(inner, time)))
        return hidden + branch if self._residual else branch


class Attention(nn.Module):
    """Self-attention among the pixels of a feature map, one head as in DDPM."""

    def __init__(self, channels: int, residual: bool) -> None:
        super().__init__()
        self._residual = residual
        self.norm = group_norm(channels)
        self.attention = SelfAttention(channels, num_heads=1)
        if residual:
            zero_initialised(self.attention.project_out)

    def forward(self, hidden: Tensor, time: Tensor) -> Tensor:
        del time
        tokens = self.norm(hidden).flatten(2).transpose(1, 2)  # [B, C, H, W] -> [B, S, C]
        attended: Tensor = self.attention(tokens).transpose(1, 2).reshape(hidden.shape)
        return hidden + attended if self._residual else attended


Blocks = Sequence[Block]


class Lowest(nn.Module):
    """The lowest resolution: blocks, self-attention if wanted, blocks (DDPM's middle)."""

    def __init__(self, before: Blocks, attention: nn.Module | None, after: Blocks) -> None:
        super().__init__()
        middle = () if attention is None else (attention,)
        self.layers = nn.ModuleList((*before, *middle, *after))

    def forward(self, hidden: Tensor, time: Tensor) -> Tensor:
        for layer in self.layers:
            hidden = layer(hidden, time)
        return hidden


class Resolution(nn.Module):
    """Blocks down, the lower resolutions, blocks up that also see what those down have made."""

    def __init__(self, channels: int, down: Blocks, lower: nn.Module, up: Blocks) -> None:
        super().__init__()
        self.down = nn.ModuleList(down)
        self.downsample = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
        self.lower = lower
        # With the pixel shuffle this is the 2x2 up-convolution of Ronneberger et al. 2015. DDPM's
        # 3x3 convolution of the upsampled map would cost as much as a block.
        self.upsample = nn.Conv2d(2 * channels, 4 * channels, 1)
        # Merging before the block and not within it takes a third off the block's cost.
        self.merge = nn.ModuleList(nn.Conv2d(2 * channels, channels, 1) for _ in up)
        self.up = nn.ModuleList(up)

    def forward(self, hidden: Tensor, time: Tensor) -> Tensor:
        skips = []
        for block in self.down:
            hidden = block(hidden, time)
            skips.append(hidden)
        lower = self.lower(self.downsample(hidden), time)  # [B, 2C, H/2, W/2]
        hidden = nn.functional.pixel_shuffle(self.upsample(lower), 2)  # [B, C, H, W]
        for merge, block in zip(self.merge, self.up, strict=True):
            hidden = block(merge(torch.cat([hidden, skips.pop()], dim=1)), time)
        return hidden


class UNet(nn.Module):
    """A U-Net with GroupNorm, and self-attention at its lowest resolution.

    Where there is a residual path, the last layer of every block starts at zero, and so does the
    output: at first the model predicts 0. Without that path a block of zeros would pass on neither
    signal nor gradient, so only the output starts at zero.

    Raises ValueError if the examples are no images ``[C, H, W]``, if H or W cannot be halved
    ``num_resolutions - 1`` times, or if ``width`` is not a multiple of 4, a norm's group.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        *,
        width: int = 32,
        num_blocks: int = 1,
        num_resolutions: int = 2,
        attention: bool = True,
        time_embedding: str = "sinusoidal",
        conditioning: str = "add",
        residual: bool = True,
    ) -> None:
        super().__init__()
        check_width(
            width, CHANNELS_PER_GROUP, f"GroupNorm has groups of {CHANNELS_PER_GROUP} channels"
        )
        num_channels, *size = image_shape("unet", sample_shape)
        check_halvings(size, num_resolutions)
        time_width = 4 * width

        def make_blocks(channels: int) -> Blocks:
            return [Block(channels, time_width, conditioning, residual) for _ in range(num_blocks)]

        def make_resolution(channels: int, num_lower: int) -> nn.Module:
            down, up = make_blocks(channels), make_blocks(channels)
            if num_lower:
                return Resolution(channels, down, make_resolution(2 * channels, num_lower - 1), up)
            return Lowest(down, Attention(channels, residual) if attention else None, up)

        self.embed_time = time_network(time_embedding, width, time_width)
        self.conv_in = nn.Conv2d(num_channels, width, 3, padding=1)
        self.resolution = make_resolution(width, num_resolutions - 1)
        self.norm_out = group_norm(width)
        self.conv_out = zero_initialised(nn.Conv2d(width, num_channels, 3, padding=1))

    def forward(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        time = nn.functional.silu(self.embed_time(timesteps))  # as every block takes it
        hidden = self.resolution(self.conv_in(x_t), time)
        prediction: Tensor = self.conv_out(nn.functional.silu(self.norm_out(hidden)))
        return prediction


def check_halvings(size: Sequence[int], num_resolutions: int) -> None:
    """Raise ValueError for a height or width that cannot be halved once per lower resolution."""
    factor = 2 ** (num_resolutions - 1)
    if any(side % factor for side in size):
        largest = math.gcd(*size)
        possible = (largest & -largest).bit_length()  # one more than the halvings
        raise ValueError(
            f"model.num_resolutions {num_resolutions} needs a height and width that are "
            f"multiples of {factor}, but the data's images are {' x '.join(map(str, size))}; "
            f"set it to {possible} at most, or pad the images."
        )
