"""Per-sample gradient norms that ride on a training step: hooks on one forward and backward."""

# B = batch

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stabsearch.training.gradient_norms.layers import LAYERS, OBSTACLES


class Call(NamedTuple):
    """One call of a layer."""

    input: Tensor
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
        hooks = [
            layer.register_forward_hook(self._record, with_kwargs=True) for layer in self._names
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def squared_norms(self, batch_size: int) -> Tensor:
        """``[B]``: squared 2-norm of the gradient of each sample's own loss l_i, in fp32.

        The recorded backward must have been that of ``mean_i l_i``; if the mean was multiplied by
        a number, the result is multiplied by its square. The record is cleared. Raises ValueError
        where a layer's call does not show which sample is which.
        """
        squares = []
        while self._calls:  # a layer's tensors are let go when it is done
            layer, calls = self._calls.popitem()
            pairs = [(c.input, d) for c in calls for d in c.gradients if d is not None]
            self._check(layer, pairs, batch_size)
            if pairs:
                squares.append(_layer_squared_norms(layer, pairs))
        if not squares:
            raise ValueError(
                "no backward was recorded; run forward and backward inside capture()."
            )
        # The backward of a mean gives each sample's gradient divided by B.
        return torch.stack(squares).sum(0).mul_(batch_size**2)

    def _record(
        self, layer: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any], output: Tensor
    ) -> None:
        if not output.requires_grad:
            return
        # All these layers call their one argument `input`.
        call = Call((args[0] if args else kwargs["input"]).detach(), [])
        self._calls[layer].append(call)
        # A tensor's hook costs a fraction of a module's full backward hook.
        output.register_hook(call.gradients.append)  # type: ignore[no-untyped-call]

    def _check(
        self, layer: nn.Module, pairs: Sequence[tuple[Tensor, Tensor]], batch_size: int
    ) -> None:
        for x, gradient in pairs:
            if x.shape[:1] != (batch_size,) or gradient.shape[:1] != (batch_size,):
                raise ValueError(
                    f"{self._names[layer]} took an input of shape {list(x.shape)}, whose first "
                    f"dimension is not the batch of {batch_size}: samples cannot be told apart."
                )
        if not pairs and any(p.grad is not None for p in layer.parameters(recurse=False)):
            raise ValueError(
                f"{self._names[layer]} has a gradient that did not come through its forward: "
                "samples cannot be told apart."
            )


def _layer_squared_norms(layer: nn.Module, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    inputs = [x.float() if x.is_floating_point() else x for x, _ in pairs]
    return LAYERS[type(layer)](layer, inputs, [gradient.float() for _, gradient in pairs])


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
