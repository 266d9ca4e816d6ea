"""A trial's state in one file, and back: exactly, and without pickle.

The tensors lie in a safetensors file under the path of their keys; everything else is JSON in
its header, with the structure. Opening a checkpoint runs no code of its author's.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

STRUCTURE = "stabsearch_checkpoint"
"""Key of the header under which the structure lies; a file without it is not ours."""


def save(path: Path, state: Any) -> None:
    """Write nested dicts, lists and tuples of tensors, numbers, text, bools and None to ``path``.

    Keys are text or integers. The file appears whole or not at all, also after a power cut.
    Tensors are copied to the host; their dtype and shape are kept, their strides are not.

    Raises ValueError for a value of another type.
    """
    tensors: dict[str, Tensor] = {}
    structure = json.dumps(_pack(state, (), tensors), allow_nan=False)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        save_file(tensors, partial, metadata={STRUCTURE: structure})
        _flush(partial)
        os.replace(partial, path)
        _flush(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def load(path: Path) -> Any:
    """The state that ``save`` wrote; its tensors are on the CPU and share no memory.

    Raises ValueError for a file that is damaged or no checkpoint, FileNotFoundError for none.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            structure = json.loads(file.metadata()[STRUCTURE])
            # A copy: the file's tensors would be views of its memory map.
            return _unpack(structure, lambda name: file.get_tensor(name).clone())
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged or no checkpoint of a trial ({error}). "
            f"Delete it; the trial then starts anew."
        ) from error


def _flush(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# JSON has no tuples, no integer keys, no NaN and no tensors. All but plain values and lists are
# packed as {kind: content}.


def _pack(value: Any, path: tuple[str, ...], tensors: dict[str, Tensor]) -> Any:
    """``value`` as JSON; its tensors go into ``tensors``."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else {"float": repr(value)}
        case Tensor():
            return {"tensor": _add(value, path, tensors)}
        case list():
            return _pack_items(value, path, tensors)
        case tuple():
            return {"tuple": _pack_items(value, path, tensors)}
        case dict():
            return {
                "dict": [
                    [_checked_key(key, path), _pack(item, (*path, str(key)), tensors)]
                    for key, item in value.items()
                ]
            }
        case _:
            raise ValueError(
                f"{_name(path)} is a {type(value).__name__}; a checkpoint holds dicts, lists and "
                f"tuples of tensors, numbers, text, bools and None. Convert it before saving."
            )


def _pack_items(
    items: list[Any] | tuple[Any, ...], path: tuple[str, ...], tensors: dict[str, Tensor]
) -> list[Any]:
    return [_pack(item, (*path, str(index)), tensors) for index, item in enumerate(items)]


def _checked_key(key: Any, path: tuple[str, ...]) -> str | int:
    if isinstance(key, bool) or not isinstance(key, (str, int)):
        raise ValueError(  # noqa: TRY004
            f"{_name(path)} has the key {key!r}; a checkpoint's keys are text or integers. "
            f"Convert it before saving."
        )
    return key


def _add(tensor: Tensor, path: tuple[str, ...], tensors: dict[str, Tensor]) -> str:
    name = _name(path)
    while name in tensors:  # keys 0 and "0", or a key with a slash
        name += "'"
    # Always a copy: safetensors refuses tensors that share memory, as tied weights do.
    tensors[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return name


def _name(path: tuple[str, ...]) -> str:
    return "/".join(path) or "state"


def _unpack(packed: Any, read_tensor: Callable[[str], Tensor]) -> Any:
    if isinstance(packed, list):
        return [_unpack(item, read_tensor) for item in packed]
    if not isinstance(packed, dict):
        return packed
    [(kind, content)] = packed.items()
    return UNPACK[kind](content, read_tensor)


UNPACK: dict[str, Callable[[Any, Callable[[str], Tensor]], Any]] = {
    "float": lambda content, read_tensor: float(content),  # noqa: ARG005
    "tensor": lambda content, read_tensor: read_tensor(content),
    "tuple": lambda content, read_tensor: tuple(_unpack(content, read_tensor)),
    "dict": lambda content, read_tensor: {
        key: _unpack(item, read_tensor) for key, item in content
    },
}
