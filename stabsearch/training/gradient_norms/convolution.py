"""Per-sample weight gradients of a convolution: their squared norms, or the gradients themselves.

Both forms of layers.py without patches: an unfolded feature map would be larger than the map by
the size of the kernel, and slower to build than everything else that is done here.
"""

# B = batch, I/O = channels in and out, G = groups

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.grad import conv1d_weight, conv2d_weight

Convolution = nn.Conv1d | nn.Conv2d

SHIFT_COST = 75
"""Extra cost of a number in the Gram matrices, in multiplications: these matrices are shifted and
summed, which is bound by memory. Like the next one measured on a CPU, for maps of 4x4 to 32x32
with 1 to 128 channels, where the two tell the cheaper form but for ties."""
WEIGHT_COST = 100
"""Extra cost of a number in a weight gradient, in multiplications."""


def is_pointwise(layer: Convolution) -> bool:
    """Whether the layer is a linear map of every pixel for itself."""
    is_plain = layer.groups == 1 and not any(padding(layer))
    return is_plain and all(size == 1 for size in (*layer.kernel_size, *layer.stride))


def is_gram_form_cheaper(layer: Convolution, inputs: Tensor, gradient: Tensor) -> bool:
    """Whether to take the Gram form for inputs ``[B, I, ...]``, gradient ``[B, O, ...]``."""
    in_channels, out_channels = inputs.shape[1], gradient.shape[1]
    num_in, num_out = math.prod(inputs.shape[2:]), math.prod(gradient.shape[2:])
    gram = num_in**2 * (in_channels + SHIFT_COST) + num_out**2 * (out_channels + SHIFT_COST)
    return gram < layer.weight.numel() * (num_out + WEIGHT_COST)


def gram_form(layer: Convolution, inputs: Tensor, gradient: Tensor) -> Tensor:
    """Squared norms ``[B]``: ``sum_{p,q} (a_p . a_q) (d_p . d_q)``, a_p the patch that p saw.

    ``a_p . a_q = sum_o x_{p + o} . x_{q + o}`` over the offsets o of the kernel: the Gram matrix
    of patches is a sum of shifted Gram matrices of pixels, taken one axis after the other.
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


def weight_gradients(layer: Convolution, inputs: Tensor, gradient: Tensor) -> Tensor:
    """``[B, numbers in the weight]``, in an order that is the same for all calls of a layer.

    Samples are groups of one big convolution (Rochette et al. 2019). What a convolution's weight
    gradient correlates may change places, as if the gradient were the input, which turns kernels
    around. oneDNN takes a third of the time or less where that makes few channels into many.
    """
    dilation, zeros = layer.dilation, padding(layer)
    twin_zeros = tuple(
        (size - 1) * step - zero
        for size, step, zero in zip(layer.kernel_size, dilation, zeros, strict=True)
    )
    is_exchangeable = all(stride == 1 for stride in layer.stride) and min(twin_zeros) >= 0
    if is_exchangeable and layer.out_channels < layer.in_channels:
        inputs, gradient, zeros = gradient, inputs, twin_zeros
    num_samples = len(inputs)
    in_channels, out_channels = inputs.shape[1] // layer.groups, gradient.shape[1]
    gradients = WEIGHT_GRADIENTS[type(layer)](
        inputs.reshape(1, -1, *inputs.shape[2:]),
        torch.Size((num_samples * out_channels, in_channels, *layer.kernel_size)),
        gradient.reshape(1, -1, *gradient.shape[2:]),
        layer.stride,
        zeros,
        dilation,
        num_samples * layer.groups,
    )
    return gradients.view(num_samples, -1)


def padding(layer: Convolution) -> tuple[int, ...]:
    """Zeros on either side of each axis. ``"same"`` is taken to be as much on both sides."""
    if layer.padding == "valid":
        return (0,) * len(layer.kernel_size)
    if layer.padding == "same":
        sizes = zip(layer.kernel_size, layer.dilation, strict=True)
        return tuple((size - 1) * step // 2 for size, step in sizes)
    return tuple(int(zeros) for zeros in layer.padding)


def obstacle(layer: Convolution) -> str:
    """The option that the functions here do not cover, or nothing."""
    if layer.padding_mode != "zeros":
        return f"with padding_mode {layer.padding_mode!r}"
    sizes = zip(layer.kernel_size, layer.dilation, strict=True)
    if layer.padding == "same" and any((size - 1) * step % 2 for size, step in sizes):
        return "with padding 'same' and a kernel of even size"
    return ""


WEIGHT_GRADIENTS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: conv1d_weight,
    nn.Conv2d: conv2d_weight,
}


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
    layer: Convolution, axis: int, num_in: int, num_out: int
) -> Iterator[tuple[slice, slice]]:
    """For each offset of the kernel along an axis: outputs that see a pixel, and their pixels."""
    stride = layer.stride[axis]
    for tap in range(layer.kernel_size[axis]):
        shift = tap * layer.dilation[axis] - padding(layer)[axis]
        first = max(0, -(shift // stride))  # the first output with first * stride + shift >= 0
        end = min(num_out, (num_in - 1 - shift) // stride + 1)
        if first < end:
            pixels = slice(first * stride + shift, (end - 1) * stride + shift + 1, stride)
            yield slice(first, end), pixels
