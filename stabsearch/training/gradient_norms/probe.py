"""Gradients of single samples, at the price of more backwards."""

# B = batch, P = numbers in all parameters

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

Sample = tuple[Tensor, ...]


def probe_squared_norms(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    sample_losses: Callable[..., Tensor],
    extras: tuple[Tensor, ...],
    chunk_size: int = 32,
) -> Tensor:
    """``[B]``: squared 2-norm of the gradient of each sample's own loss, in fp32.

    ``model`` is called on one sample of each input ``[B, ...]`` and gives a prediction
    ``[1, ...]``; ``sample_losses`` is called on that and one sample of each extra, and gives
    ``[1]``. Holds ``chunk_size * P`` numbers, and takes 10 to 20 times as long as a backward.
    Leaves buffers and the random generators as they were.

    Raises ValueError for a model that torch.func.vmap cannot transform, and for one whose samples
    have no gradients of their own.
    """
    _refuse_mixed_samples(model)
    parameters = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def loss(
        parameters: dict[str, Tensor], buffers: dict[str, Tensor], one: Sample, extra: Sample
    ) -> Tensor:
        state = {**parameters, **buffers}
        prediction = functional_call(model, state, tuple(x[None] for x in one))
        return sample_losses(prediction, *(x[None] for x in extra)).squeeze(0)

    def squared_norm(*args: Any) -> Tensor:
        gradients = grad(loss)(*args)
        return torch.stack([g.float().square().sum() for g in gradients.values()]).sum()

    # Dropout must differ between samples, as it does in training.
    squared_norms = vmap(
        squared_norm, in_dims=(None, None, 0, 0), randomness="different", chunk_size=chunk_size
    )
    devices = [inputs[0].device] if inputs[0].is_cuda else []
    try:
        # The fused attention kernels have no batching rule: vmap would run them one by one.
        with torch.random.fork_rng(devices), sdpa_kernel(SDPBackend.MATH):
            norms: Tensor = squared_norms(parameters, buffers, inputs, extras)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError) as error:
        first_line = str(error).partition("\n")[0]
        raise ValueError(
            f"torch.func.vmap cannot take per-sample gradients of {type(model).__name__}: "
            f"{first_line}"
        ) from error
    return norms


def _refuse_mixed_samples(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            raise ValueError(
                f"{name or 'the model'} ({type(module).__name__}) mixes the samples of a batch: "
                "none has a gradient of its own; use GroupNorm or LayerNorm instead."
            )
