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
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv1d_weight, conv2d_weight

SHIFT_COST = 75
"""Extra cost of a number in the Gram matrices of a convolution, in multiplications: these matrices
are shifted and summed, which is bound by memory. Like the next one measured on a CPU, for maps of
4x4 to 32x32 with 1 to 128 channels; the forms cross where these two say, within 20%."""
WEIGHT_COST = 100
"""Extra cost of a weight's gradient in the direct form of a convolution, in multiplications."""


def linear(layer: nn.Linear, inputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Squared norms ``[B]`` for inputs ``[B, ..., I]``."""
    if len(inputs) == 1 and inputs[0].dim() == 2:
        squares = _squared_norms(gradients[0])
        if not _is_trained(layer.weight):
            return squares
        return squares * (_squared_norms(inputs[0]) + _is_trained(layer.bias))
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


def convolution(
    layer: nn.Conv1d | nn.Conv2d, inputs: Sequence[Tensor], gradients: Sequence[Tensor]
) -> Tensor:
    """Squared norms ``[B]`` for feature maps ``[B, I, ...]``, padded with zeros."""
    squares = gradients[0].new_zeros(len(gradients[0]))
    if _is_trained(layer.weight):
        if len(inputs) == 1 and _is_convolution_gram_cheaper(layer, inputs[0], gradients[0]):
            squares = squares + _convolution_gram_form(layer, inputs[0], gradients[0])
        else:
            weight_gradients = [
                _convolution_weight_gradients(layer, x, d)
                for x, d in zip(inputs, gradients, strict=True)
            ]
            squares = squares + _squared_norms(_total(weight_gradients))
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
    nn.Conv1d: convolution,
    nn.Conv2d: convolution,
    nn.GroupNorm: group_norm,
    nn.LayerNorm: layer_norm,
    nn.Embedding: embedding,
}
"""Class -> function. A subclass may do anything in its forward, so it is another layer."""

OBSTACLES: dict[type[nn.Module], Callable[[Any], str]] = {
    nn.Conv1d: lambda layer: _padding_obstacle(layer),
    nn.Conv2d: lambda layer: _padding_obstacle(layer),
    nn.Embedding: lambda layer: "with scale_grad_by_freq" if layer.scale_grad_by_freq else "",
}
"""Class -> the option of a layer that its function does not cover, or nothing."""


def _padding_obstacle(layer: nn.Conv1d | nn.Conv2d) -> str:
    return "" if layer.padding_mode == "zeros" else f"with padding_mode {layer.padding_mode!r}"


def _is_trained(parameter: Tensor | None) -> bool:
    return parameter is not None and parameter.requires_grad


def _squared_norms(values: Tensor) -> Tensor:
    """``[B]`` over all numbers of each sample."""
    norms: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1)
    return norms.square()


def _total(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.stack(tuple(tensors)).sum(0)


def _positions(tensors: Sequence[Tensor]) -> Tensor:
    """``[B, ..., n]`` of every call as one ``[B, S, n]``."""
    flat = [x.reshape(len(x), -1, x.shape[-1]) for x in tensors]
    return flat[0] if len(flat) == 1 else torch.cat(flat, dim=1)


def _gram_form(x: Tensor, d: Tensor) -> Tensor:
    return (x @ x.mT).mul_(d @ d.mT).flatten(1).sum(1)


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


def _is_convolution_gram_cheaper(
    layer: nn.Conv1d | nn.Conv2d, inputs: Tensor, gradient: Tensor
) -> bool:
    in_channels, out_channels = inputs.shape[1], gradient.shape[1]
    num_in, num_out = math.prod(inputs.shape[2:]), math.prod(gradient.shape[2:])
    gram = num_in**2 * (in_channels + SHIFT_COST) + num_out**2 * (out_channels + SHIFT_COST)
    return gram < layer.weight.numel() * (num_out + WEIGHT_COST)


def _convolution_gram_form(
    layer: nn.Conv1d | nn.Conv2d, inputs: Tensor, gradient: Tensor
) -> Tensor:
    """``sum_{p,q} (a_p . a_q) (d_p . d_q)``, where a_p is the patch that output p saw.

    No patch is built: ``a_p . a_q = sum_o x_{p + o} . x_{q + o}`` over the offsets o of the
    kernel, so the Gram matrix of patches is a sum of shifted Gram matrices of pixels, and that
    sum can be taken one axis after the other.
    """
    gram = _pixel_gram(inputs, layer.groups)
    gradient_gram = _pixel_gram(gradient, layer.groups)
    for axis, num_out in enumerate(gradient.shape[2:]):
        twin = axis + gradient.dim() - 2
        shape = list(gram.shape)
        shape[1 + axis] = shape[1 + twin] = num_out
        total = gram.new_zeros(shape)
        for outputs, seen in _offsets(layer, axis, inputs.shape[2 + axis], num_out):
            _part(total, axis, twin, outputs).add_(_part(gram, axis, twin, seen))
        gram = total
    return gram.mul_(gradient_gram).reshape(len(inputs), -1).sum(1)


def _pixel_gram(maps: Tensor, groups: int) -> Tensor:
    """``[B * G, *size, *size]``: products of every two pixels of ``[B, channels, *size]``."""
    num_samples, num_channels, *size = maps.shape
    pixels = maps.reshape(num_samples * groups, num_channels // groups, -1)
    return (pixels.mT @ pixels).view(-1, *size, *size)


def _part(gram: Tensor, axis: int, twin: int, pixels: slice) -> Tensor:
    """The rows and columns of a Gram matrix for a range of pixels along one axis."""
    index = [slice(None)] * gram.dim()
    index[1 + axis] = index[1 + twin] = pixels
    return gram[tuple(index)]


def _offsets(
    layer: nn.Conv1d | nn.Conv2d, axis: int, num_in: int, num_out: int
) -> Iterator[tuple[slice, slice]]:
    """For each offset of the kernel along an axis: outputs that see a pixel, and their pixels."""
    stride = layer.stride[axis]
    for tap in range(layer.kernel_size[axis]):
        shift = tap * layer.dilation[axis] - _padding(layer)[axis]
        first = max(0, -(shift // stride))  # the first output with first * stride + shift >= 0
        end = min(num_out, (num_in - 1 - shift) // stride + 1)
        if first < end:
            pixels = slice(first * stride + shift, (end - 1) * stride + shift + 1, stride)
            yield slice(first, end), pixels


def _padding(layer: nn.Conv1d | nn.Conv2d) -> tuple[int, ...]:
    """Zeros before the first pixel of each axis."""
    if layer.padding == "valid":
        return (0,) * len(layer.kernel_size)
    if layer.padding == "same":
        sizes = zip(layer.kernel_size, layer.dilation, strict=True)
        return tuple((kernel - 1) * dilation // 2 for kernel, dilation in sizes)
    return tuple(int(size) for size in layer.padding)


CONVOLUTION_WEIGHT_GRADIENTS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: conv1d_weight,
    nn.Conv2d: conv2d_weight,
}


def _convolution_weight_gradients(
    layer: nn.Conv1d | nn.Conv2d, inputs: Tensor, gradient: Tensor
) -> Tensor:
    """``[B * O, I / G, *kernel]`` as ``[B, -1]``: samples are groups of one big convolution
    (Rochette et al. 2019)."""
    num_samples, padding = len(inputs), _padding(layer)
    missing = _missing_padding(layer, inputs, gradient)
    if any(missing):
        inputs = F.pad(inputs, [side for size in reversed(missing) for side in (0, size)])
    weight_gradient = CONVOLUTION_WEIGHT_GRADIENTS[type(layer)](
        inputs.reshape(1, -1, *inputs.shape[2:]),
        torch.Size((num_samples * layer.out_channels, *layer.weight.shape[1:])),
        gradient.reshape(1, -1, *gradient.shape[2:]),
        layer.stride,
        padding,
        layer.dilation,
        num_samples * layer.groups,
    )
    return weight_gradient.view(num_samples, -1)


def _missing_padding(layer: nn.Conv1d | nn.Conv2d, inputs: Tensor, gradient: Tensor) -> list[int]:
    """What ``padding="same"`` adds behind the last pixel only, for a kernel of even size."""
    axes = zip(
        inputs.shape[2:],
        gradient.shape[2:],
        layer.kernel_size,
        layer.stride,
        layer.dilation,
        _padding(layer),
        strict=True,
    )
    return [
        max(0, (num_out - 1) * stride + (kernel - 1) * dilation + 1 - num_in - 2 * padding)
        for num_in, num_out, kernel, stride, dilation, padding in axes
    ]
