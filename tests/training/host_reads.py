"""Finds what would make a GPU's host wait, on a CPU: every read of a tensor's value by Python."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode

READS = frozenset(
    ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::masked_select")
)


class NoHostReads(TorchDispatchMode):
    """Fails on ``.item()``, ``bool(tensor)``, indexing by a mask and the like.

    It does not see ``.cpu()``, ``.numpy()`` and ``.tolist()``, which copy nothing on a CPU.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split(".")[0]
        if name in READS or (name.startswith("aten::index") and _has_mask(args)):
            raise AssertionError(f"{func.name()} waits for the device")
        return func(*args, **(kwargs or {}))


def _has_mask(args):
    indices = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else ()
    return any(isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in indices)
