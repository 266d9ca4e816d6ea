"""Gradient clipping that says what it did, without a host sync."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class ClipRecord(NamedTuple):
    """What happened to one step's gradient; 0-d tensors that stay on the device."""

    grad_norm: Tensor
    """Total 2-norm before clipping. NaN or Inf when the gradient is."""
    coef: Tensor
    """What the gradient was multiplied by: min(1, max_grad_norm / grad_norm)."""


def clip_grad_norm(gradients: list[Tensor], max_grad_norm: float | None) -> ClipRecord:
    """Scale gradients in place so that their joint 2-norm is at most ``max_grad_norm``.

    A non-finite norm is not repaired: the record shows it, and the weights become what the
    optimizer makes of it. Unlike ``torch.nn.utils.clip_grad_norm_`` no 1e-6 is added to the
    norm, so that the coefficient is exactly what is reported.
    """
    # foreach: a third cheaper than torch.nn.utils.get_total_norm, which groups by device first
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if max_grad_norm is None:
        return ClipRecord(norm, torch.ones_like(norm))
    coef = (max_grad_norm / norm).clamp(max=1.0)
    torch._foreach_mul_(gradients, coef)  # the one fused form; clip_grads_with_norm_ adds 1e-6
    return ClipRecord(norm, coef)
