"""Gradients of single samples and of bins, at the price of more backwards."""

# B = batch, K = timestep bins, P = numbers in all parameters

from __future__ import annotations

from collections.abc import Callable, Iterable
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


def bin_gradient_cosines(
    parameters: Iterable[nn.Parameter], sample_loss: Tensor, bins: Tensor, num_bins: int
) -> Tensor:
    """Cosine ``[K, K]`` between the mean gradients of every two timestep bins.

    One backward for each bin that occurs in ``bins[B]``; the graph of ``sample_loss[B]`` is kept.
    Rows and columns of bins without samples, or with a gradient of 0, are NaN. Holds
    ``K * P`` numbers and waits for the device.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    num_parameters = sum(parameter.numel() for parameter in trained)
    directions = sample_loss.new_full((num_bins, num_parameters), torch.nan, dtype=torch.float32)
    for timestep_bin in sorted(set(bins.tolist())):
        gradients = torch.autograd.grad(
            sample_loss[bins == timestep_bin].mean(),
            trained,
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        gradient = torch.cat([g.float().flatten() for g in gradients])
        directions[timestep_bin] = gradient / torch.linalg.vector_norm(gradient)
    return directions @ directions.T


def _refuse_mixed_samples(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            raise ValueError(
                f"{name or 'the model'} ({type(module).__name__}) mixes the samples of a batch: "
                "none has a gradient of its own; use GroupNorm or LayerNorm instead."
            )
