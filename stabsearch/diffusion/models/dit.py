"""The built-in denoiser ``dit``: a small diffusion transformer (Peebles and Xie 2023)."""

# B = batch, C/H/W = image, p = patch_size, S = (H / p) * (W / p) tokens

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from stabsearch.diffusion.models.checks import check_width, image_shape
from stabsearch.diffusion.models.embeddings import position_embedding, time_network
from stabsearch.diffusion.models.layers import SelfAttention, modulate, zero_initialised


class AddBranch(nn.Module):
    """h + f(norm(h)); the tokens hold the time already."""

    def __init__(self, function: nn.Module, width: int, residual: bool) -> None:
        super().__init__()
        self._residual = residual
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.function = function

    def forward(self, tokens: Tensor, time: Tensor) -> Tensor:
        del time
        branch: Tensor = self.function(self.norm(tokens))
        return tokens + branch if self._residual else branch


class FilmBranch(nn.Module):
    """h + gate * f((1 + scale) * norm(h) + shift), all three from the time (adaLN-zero).

    Where nothing is added there is no gate: it starts at zero, and nothing would pass.
    """

    def __init__(self, function: nn.Module, width: int, residual: bool) -> None:
        super().__init__()
        self._num_modulations = 3 if residual else 2
        # The modulation is the norm's affine part.
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(width, self._num_modulations * width)
        self.function = function

    def forward(self, tokens: Tensor, time: Tensor) -> Tensor:
        modulation = self.modulation(nn.functional.silu(time))[:, None]  # [B, 1, 3 or 2 * width]
        scale, shift, *gate = modulation.chunk(self._num_modulations, dim=2)
        branch: Tensor = self.function(modulate(self.norm(tokens), scale, shift))
        return torch.addcmul(tokens, gate[0], branch) if gate else branch


BRANCHES: dict[str, Callable[[nn.Module, int, bool], nn.Module]] = {
    "add": AddBranch,
    "film": FilmBranch,
}
"""Conditioning -> branch from (function, width, residual)."""


class DiT(nn.Module):
    """A diffusion transformer over the image's patches; every block is two branches.

    The output starts at zero, and with conditioning film and a residual path so does every gate.
    All other layers start as Glorot and Bengio (2010).

    Raises ValueError if the examples are no images ``[C, H, W]``, if ``patch_size`` does not
    divide H and W, or if ``width`` is not a multiple of 4 and of ``num_heads``.
    """

    position: Tensor

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        *,
        width: int = 64,
        num_blocks: int = 4,
        num_heads: int = 4,
        patch_size: int = 2,
        mlp_ratio: int = 4,
        time_embedding: str = "sinusoidal",
        conditioning: str = "film",
        residual: bool = True,
    ) -> None:
        super().__init__()
        reason = f"4 for the position embedding, model.num_heads is {num_heads}"
        check_width(width, math.lcm(4, num_heads), reason)
        num_channels, height, image_width = image_shape("dit", sample_shape)
        check_patches(height, image_width, patch_size)
        self._patch_size = patch_size
        self._grid = (height // patch_size, image_width // patch_size)
        self._is_time_added = conditioning == "add"
        make_branch = BRANCHES[conditioning]
        patch = num_channels * patch_size**2

        self.embed_time = time_network(time_embedding, width, width)
        self.register_buffer("position", position_embedding(*self._grid, width), persistent=False)
        self.project_in = nn.Linear(patch, width)
        self.branches = nn.ModuleList()
        for _ in range(num_blocks):
            attention = SelfAttention(width, num_heads)
            self.branches.append(make_branch(attention, width, residual))
            self.branches.append(make_branch(make_mlp(width, mlp_ratio), width, residual))
        last = nn.Linear(width, patch)
        self.project_out = make_branch(last, width, False)
        self._initialise()
        zero_initialised(last)

    def forward(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        time = self.embed_time(timesteps)
        # [B, C, H, W] -> [B, C * p * p, H / p, W / p] -> [B, S, C * p * p]
        patches = nn.functional.pixel_unshuffle(x_t, self._patch_size).flatten(2).transpose(1, 2)
        tokens = self.project_in(patches) + self.position
        if self._is_time_added:
            tokens = tokens + time[:, None]
        for branch in self.branches:
            tokens = branch(tokens, time)
        patches = self.project_out(tokens, time).transpose(1, 2).unflatten(2, self._grid)
        return nn.functional.pixel_shuffle(patches, self._patch_size)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, FilmBranch):
                zero_initialised(module.modulation)


def make_mlp(width: int, mlp_ratio: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, mlp_ratio * width),
        nn.GELU(approximate="tanh"),
        nn.Linear(mlp_ratio * width, width),
    )


def check_patches(height: int, width: int, patch_size: int) -> None:
    """Raise ValueError for a patch size that does not divide height and width."""
    if height % patch_size or width % patch_size:
        side = math.gcd(height, width)
        divisors = ", ".join(str(n) for n in range(1, side + 1) if side % n == 0)
        raise ValueError(
            f"model.patch_size must divide the images' height and width, but got {patch_size} for "
            f"{height} x {width}; set it to one of {divisors}, or pad the images."
        )
