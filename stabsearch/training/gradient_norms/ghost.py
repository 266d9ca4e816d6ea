"""Per-sample gradient norms that ride on a training step: hooks on one forward and backward."""

# B = batch

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stabsearch.training.gradient_norms.layers import (
    LAYERS,
    OBSTACLES,
    is_linear_of_vectors,
    linears_of_vectors,
)


class Call(NamedTuple):
    """One call of a layer."""

    inputs: tuple[Tensor, ...]
    """Its positional arguments: one."""
    gradients: list[Tensor | None]
    """Of the output: one per backward that has been there; None if that had nothing to say."""


class GhostNorms:
    """Measures a model's steps one at a time; between them the model carries no hooks.

    Every trained parameter must belong to a layer in LAYERS that takes the batch as its first
    dimension and uses its parameters in its own forward only. What can be seen of that is
    checked. What cannot: a first dimension of another meaning that happens to be as long as the
    batch, and a layer that is called but whose weight is also used elsewhere.

    Which parameters are frozen is read once. A model that torch.compile has compiled must be run
    as it was written inside of ``capture``, for its compiled code does not call hooks.
    """

    def __init__(self, model: nn.Module) -> None:
        self.unknown: tuple[str, ...] = _unknown_layers(model)
        """Layers that ghost norms do not know, and why where their class does not say it."""
        self._names = {
            module: _described(name, module)
            for name, module in model.named_modules()
            if any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        }
        self._calls: dict[nn.Module, list[Call]] = {}

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Record the forward and backward that run inside.

        Raises ValueError for a model with ``unknown`` layers, whose norms would be too small.
        """
        if self.unknown:
            raise ValueError(
                f"ghost norms do not know {', '.join(self.unknown)}; use probe_squared_norms."
            )
        self._calls = {layer: [] for layer in self._names}
        hooks = [layer.register_forward_hook(self._record) for layer in self._names]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def squared_norms(self, batch_size: int) -> Tensor:
        """``[B]``: squared 2-norm of the gradient of each sample's own loss l_i, in fp32.

        The recorded backward must have been that of ``mean_i l_i``; if the mean was multiplied by
        a number, the result is multiplied by its square. To be called outside of autocast. Clears
        the record. Raises ValueError where a layer's call does not show which sample is which.
        """
        squares: list[Tensor] = []
        vectors: list[tuple[nn.Linear, Tensor, Tensor]] = []
        while self._calls:  # a layer's tensors are let go when it is done
            layer, calls = self._calls.popitem()
            inputs, gradients = self._tensors(layer, calls, batch_size)
            if is_linear_of_vectors(layer, inputs):
                vectors.append((layer, inputs[0], gradients[0]))
            elif inputs:
                squares.append(LAYERS[type(layer)](layer, inputs, gradients))
        if vectors:
            squares.append(linears_of_vectors(*zip(*vectors, strict=True)))
        if not squares:
            raise ValueError(
                "no backward was recorded; run forward and backward inside capture()."
            )
        # The backward of a mean gives each sample's gradient divided by B.
        return torch.stack(squares).sum(0).mul_(batch_size**2)

    def _record(self, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if not output.requires_grad:
            return
        call = Call(tuple(x.detach() for x in args), [])
        self._calls[layer].append(call)
        # A tensor's hook costs a fraction of a module's full backward hook.
        if output._is_view() and output._base is not None:
            # So Linear's output for tokens: a view of a matrix. A view that is modified in place,
            # as some activations do, loses its hook; what it is a view of does not.
            append, shape = call.gradients.append, output.shape
            output._base.register_hook(lambda d: append(d.view(shape)))  # type: ignore[no-untyped-call]
        else:
            output.register_hook(call.gradients.append)  # type: ignore[no-untyped-call]

    def _tensors(
        self, layer: nn.Module, calls: Sequence[Call], batch_size: int
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Inputs and gradients of a layer's calls, in fp32; indices stay what they are."""
        inputs, gradients = [], []
        for call in calls:
            for d in call.gradients:
                if d is not None:
                    x = self._checked_input(layer, call, d, batch_size)
                    inputs.append(x.float() if x.is_floating_point() else x)
                    gradients.append(d.float())
        if not inputs and any(p.grad is not None for p in layer.parameters(recurse=False)):
            raise ValueError(
                f"{self._names[layer]} has a gradient that did not come through its forward: "
                "samples cannot be told apart."
            )
        return inputs, gradients

    def _checked_input(self, layer: nn.Module, call: Call, d: Tensor, batch_size: int) -> Tensor:
        if not call.inputs:
            raise ValueError(
                f"{self._names[layer]} was called with its input as a keyword argument, which "
                "ghost norms do not see; pass it by position."
            )
        (x,) = call.inputs
        if d.dim() < 2 or not len(x) == len(d) == batch_size:
            raise ValueError(
                f"{self._names[layer]} took an input of shape {list(x.shape)}, whose first "
                f"dimension is not the batch of {batch_size}: samples cannot be told apart."
            )
        return x


def _unknown_layers(model: nn.Module) -> tuple[str, ...]:
    unknown = []
    owners: dict[nn.Parameter, str] = {}
    for name, module in model.named_modules():
        reason = _reason(module, owners)
        if reason is not None:
            unknown.append(_described(name, module, reason))
        for parameter in module.parameters(recurse=False):
            owners.setdefault(parameter, name)
    return tuple(unknown)


def _reason(module: nn.Module, owners: dict[nn.Parameter, str]) -> str | None:
    """Why a module's per-sample gradients are out of reach; empty if it is not in LAYERS."""
    if isinstance(module, _BatchNorm):
        return "has no per-sample gradient"  # with or without parameters: it mixes the samples
    trained = {n: p for n, p in module.named_parameters(recurse=False) if p.requires_grad}
    if not trained:
        return None
    for name, parameter in trained.items():
        if parameter in owners:
            return f"shares its {name} with {owners[parameter]}"
    # Other names are what torch.nn.utils puts in a weight's place, as weight_norm does.
    if type(module) not in LAYERS or not trained.keys() <= {"weight", "bias"}:
        return ""
    obstacle = OBSTACLES.get(type(module), lambda layer: "")(module)  # noqa: ARG005
    return obstacle or None


def _described(name: str, module: nn.Module, reason: str = "") -> str:
    """``middle.norm (BatchNorm2d has no per-sample gradient)``."""
    return f"{name or 'the model itself'} ({f'{type(module).__name__} {reason}'.strip()})"
