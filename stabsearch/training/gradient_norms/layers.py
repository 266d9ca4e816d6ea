"""Squared per-sample gradient norms of one layer, from its inputs and its outputs' gradients.

The weight gradient of a sample is ``sum_p d_p a_p^T`` over the positions p (tokens, pixels) of
that sample, where a is what the weight saw and d the gradient of what it gave. Its squared norm is

    |a|^2 |d|^2                          for one position (Goodfellow 2015)
    sum_{p,q} (a_p . a_q) (d_p . d_q)    the Gram form: no gradient is built (Li et al. 2022)
    |sum_p d_p a_p^T|^2                  the direct form: build it, then square

and the cheaper of the two last ones is taken (Bu et al. 2022). The one that is cheaper in flops
also needs the less memory: a few times what the layer's inputs and outputs take.

A layer that is called several times in one forward has the sum of its calls' gradients. Every
function here takes lists with one entry per call, all in fp32 with the batch as first dimension.
"""

# B = batch, S = positions, I = inputs, O = outputs, G = groups

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stabsearch.training.gradient_norms import convolution
from stabsearch.training.gradient_norms.convolution import Convolution


def is_linear_of_vectors(layer: nn.Module, inputs: Sequence[Tensor]) -> TypeGuard[nn.Linear]:
    """Whether ``linears_of_vectors`` can take the layer."""
    is_called_once_on_vectors = len(inputs) == 1 and inputs[0].dim() == 2
    return is_called_once_on_vectors and type(layer) is nn.Linear and _is_trained(layer.weight)


def linears_of_vectors(
    layers: Sequence[nn.Linear], inputs: Sequence[Tensor], gradients: Sequence[Tensor]
) -> Tensor:
    """Squared norms ``[B]``, summed over layers called once each on ``[B, I]``.

    All at once, because for a small network the time goes into the number of operations.
    """
    input_norms = torch.stack([_norms(x) for x in inputs])
    gradient_norms = [_norms(d) for d in gradients]
    squares = (input_norms * torch.stack(gradient_norms)).square_().sum(0)
    bias_norms = [
        norms
        for layer, norms in zip(layers, gradient_norms, strict=True)
        if _is_trained(layer.bias)
    ]
    return squares + torch.stack(bias_norms).square_().sum(0) if bias_norms else squares


def linear(
    layer: nn.Linear | Convolution, inputs: Sequence[Tensor], gradients: Sequence[Tensor]
) -> Tensor:
    """Squared norms ``[B]`` for inputs ``[B, ..., I]``."""
    # Positions of several calls are just more positions.
    x, d = _positions(inputs), _positions(gradients)  # [B, S, I], [B, S, O]
    squares = d.new_zeros(len(d))
    if _is_trained(layer.weight):
        num_positions, num_in, num_out = x.shape[1], x.shape[2], d.shape[2]
        is_gram_cheaper = num_positions * (num_in + num_out) < num_in * num_out
        squares = squares + (_gram_form(x, d) if is_gram_cheaper else _squared_norms(d.mT @ x))
    if _is_trained(layer.bias):
        squares = squares + _squared_norms(d.sum(1))
    return squares


def convolve(layer: Convolution, inputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Squared norms ``[B]`` for feature maps ``[B, I, ...]``, padded with zeros."""
    if convolution.is_pointwise(layer):
        pixels = [x.flatten(2).mT for x in inputs]  # [B, S, I]
        return linear(layer, pixels, [d.flatten(2).mT for d in gradients])
    squares = gradients[0].new_zeros(len(gradients[0]))
    if _is_trained(layer.weight):
        squares = squares + _convolution_weight(layer, inputs, gradients)
    if _is_trained(layer.bias):
        squares = squares + _squared_norms(_total([d.flatten(2).sum(2) for d in gradients]))
    return squares


def group_norm(
    layer: nn.GroupNorm, inputs: Sequence[Tensor], gradients: Sequence[Tensor]
) -> Tensor:
    """Squared norms ``[B]`` for feature maps ``[B, C, ...]``."""
    normed = [F.group_norm(x, layer.num_groups, eps=layer.eps) for x in inputs]
    shape = (layer.num_channels, -1)
    return _affine(layer, normed, gradients, lambda x: x.reshape(len(x), *shape).sum(2))


def layer_norm(
    layer: nn.LayerNorm, inputs: Sequence[Tensor], gradients: Sequence[Tensor]
) -> Tensor:
    """Squared norms ``[B]`` for inputs ``[B, ..., *normalized_shape]``."""
    shape = layer.normalized_shape
    normed = [F.layer_norm(x, shape, eps=layer.eps) for x in inputs]
    num_weights = math.prod(shape)
    return _affine(layer, normed, gradients, lambda x: x.reshape(len(x), -1, num_weights).sum(1))


def embedding(
    layer: nn.Embedding, inputs: Sequence[Tensor], gradients: Sequence[Tensor]
) -> Tensor:
    """Squared norms ``[B]`` for indices ``[B, ...]``: positions of one index share a row."""
    indices = torch.cat([x.reshape(len(x), -1) for x in inputs], dim=1)  # [B, S]
    d = _positions(gradients)
    if layer.padding_idx is not None:
        d = d.masked_fill((indices == layer.padding_idx)[..., None], 0)
    is_same_row = indices[:, :, None] == indices[:, None, :]
    return ((d @ d.mT) * is_same_row).flatten(1).sum(1)


LAYERS: dict[type[nn.Module], Callable[[Any, Sequence[Tensor], Sequence[Tensor]], Tensor]] = {
    nn.Linear: linear,
    nn.Conv1d: convolve,
    nn.Conv2d: convolve,
    nn.GroupNorm: group_norm,
    nn.LayerNorm: layer_norm,
    nn.Embedding: embedding,
}
"""Class -> function. A subclass may do anything in its forward, so it is another layer."""

OBSTACLES: dict[type[nn.Module], Callable[[Any], str]] = {
    nn.Conv1d: convolution.obstacle,
    nn.Conv2d: convolution.obstacle,
    nn.Embedding: lambda layer: "with scale_grad_by_freq" if layer.scale_grad_by_freq else "",
}
"""Class -> the option of a layer that its function does not cover, or nothing."""


def _is_trained(parameter: Tensor | None) -> bool:
    return parameter is not None and parameter.requires_grad


def _norms(vectors: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(vectors, 2, 1)  # by position: it is quicker
    return norms


def _squared_norms(values: Tensor) -> Tensor:
    """``[B]`` over all numbers of each sample."""
    return _norms(values.flatten(1)).square_()


def _total(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.stack(tuple(tensors)).sum(0)


def _positions(tensors: Sequence[Tensor]) -> Tensor:
    """``[B, ..., n]`` of every call as one ``[B, S, n]``."""
    flat = [x.reshape(len(x), -1, x.shape[-1]) for x in tensors]
    return flat[0] if len(flat) == 1 else torch.cat(flat, dim=1)


def _gram_form(x: Tensor, d: Tensor) -> Tensor:
    return (x @ x.mT).mul_(d @ d.mT).flatten(1).sum(1)


def _convolution_weight(
    layer: Convolution, inputs: Sequence[Tensor], gradients: Sequence[Tensor]
) -> Tensor:
    # The Gram form has no cheap sum over calls.
    if len(inputs) == 1 and convolution.is_gram_form_cheaper(layer, inputs[0], gradients[0]):
        return convolution.gram_form(layer, inputs[0], gradients[0])
    pairs = zip(inputs, gradients, strict=True)
    return _squared_norms(_total([convolution.weight_gradients(layer, x, d) for x, d in pairs]))


def _affine(
    layer: nn.GroupNorm | nn.LayerNorm,
    normed: Sequence[Tensor],
    gradients: Sequence[Tensor],
    sum_per_weight: Callable[[Tensor], Tensor],
) -> Tensor:
    """Of ``weight * normed + bias``; ``sum_per_weight`` gives ``[B, number of weights]``."""
    squares = gradients[0].new_zeros(len(gradients[0]))
    if _is_trained(layer.weight):
        products = [sum_per_weight(x.mul_(d)) for x, d in zip(normed, gradients, strict=True)]
        squares = squares + _squared_norms(_total(products))
    if _is_trained(layer.bias):
        squares = squares + _squared_norms(_total([sum_per_weight(d) for d in gradients]))
    return squares
