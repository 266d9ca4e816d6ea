"""Built-in denoisers: ``forward(x_t[B, ...], timesteps[B]) -> prediction[B, ...]``.

Each is built as ``MODELS[name](sample_shape, **options)``; the options are the fields of the
study's ``model`` section, where they are described. Time embedding, conditioning and the residual
path can be chosen in all three, so that a search can try them as cures.

At their defaults on ``[1, 8, 8]`` mlp has 33,280 parameters, unet 277,313 and dit 315,972.

What per-sample gradient norms need holds for every model here: each parameter belongs to a Linear,
Conv2d, GroupNorm or LayerNorm that is called once per forward, with the batch as first dimension.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from stabsearch.diffusion.models.dit import DiT
from stabsearch.diffusion.models.mlp import TimeEmbeddedMLP
from stabsearch.diffusion.models.unet import UNet

MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": TimeEmbeddedMLP,
    "unet": UNet,
    "dit": DiT,
}
