"""Where examples come from: arrays ``[N, ...]`` in memory, split once and for all.

    toys     nothing to bring: digits, mixture, gaussian
    files    one's own files: image_folder, array, parquet
    hubs     what other libraries keep on disk: torchvision, huggingface
    images   decoded images become numbers

A loader takes the other fields of the study's ``data`` section as keywords and returns an array.
What it needs to read them (Pillow, PyArrow, ...) is imported when it is called: a worker that
trains on digits does not pay for it.
"""

# N = examples

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stabsearch.diffusion.datasets.files import array, image_folder, parquet
from stabsearch.diffusion.datasets.hubs import huggingface, torchvision
from stabsearch.diffusion.datasets.toys import digits, gaussian, mixture

__all__ = ["DATASETS", "Array", "Dataset", "check_scale", "digits", "make_dataset"]

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Examples to train on and examples held out for the score.

    The arrays may lie in memory that is shared and read-only: nobody writes into them.
    """

    train: Array
    held_out: Array

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return self.train.shape[1:]


STD_RANGE = (0.03, 10.0)
"""Standard deviations that data may have where the noise has 1. Beyond them a schedule is noise
nearly from its start, or never, and the verdicts would speak of the scale alone."""

DATASETS: dict[str, Callable[..., Array]] = {
    "digits": digits,
    "image_folder": image_folder,
    "array": array,
    "parquet": parquet,
    "torchvision": torchvision,
    "huggingface": huggingface,
    "mixture": mixture,
    "gaussian": gaussian,
}


SCALE_IS_KNOWN = (digits, image_folder, torchvision, mixture, gaussian)
"""Loaders that bring pixels to [-1, 1] themselves, dark ones too, or whose options are the scale:
nobody mistakes it there."""


def make_dataset(
    load: Callable[..., Any], options: dict[str, Any], held_out_fraction: float, split_seed: int
) -> Dataset:
    """Load examples and hold some out; the split depends on ``split_seed`` only.

    Raises ValueError for data that no denoiser can be trained on.
    """
    # Contiguous, because shared memory holds only contiguous arrays without a copy per reader.
    examples = np.ascontiguousarray(load(**options), dtype=np.float32)
    if examples.ndim < 2 or len(examples) < 2:
        raise ValueError(
            f"the data must be an array [N, ...] of at least 2 examples, but has shape "
            f"{list(examples.shape)}."
        )
    _check_finite(examples, options)
    order = np.random.default_rng(split_seed).permutation(len(examples))
    num_held_out = min(max(1, round(held_out_fraction * len(examples))), len(examples) - 1)
    train, held_out = examples[order[num_held_out:]], examples[order[:num_held_out]]
    if not np.ptp(train.reshape(len(train), -1), axis=0).any():
        raise ValueError(
            f"the {len(train)} of {len(examples)} examples to train on are all equal; there is "
            f"nothing to learn. Use more data, or a smaller held_out_fraction."
        )
    if load not in SCALE_IS_KNOWN:
        check_scale(examples, _named(options))
    return Dataset(train=train, held_out=held_out)


def _check_finite(examples: Array, options: Mapping[str, Any]) -> None:
    is_bad = ~np.isfinite(examples)
    if not is_bad.any():
        return
    num_examples = np.count_nonzero(is_bad.reshape(len(examples), -1).any(axis=1))
    first = [int(index) for index in np.unravel_index(is_bad.argmax(), examples.shape)]
    raise ValueError(
        f"{_named(options)} holds NaN or Inf (as float32): {np.count_nonzero(is_bad):,} of "
        f"{is_bad.size:,} numbers, in {num_examples:,} of {len(examples):,} examples, the first "
        f"at index {first}. Mend those examples, or leave them out."
    )


def check_scale(examples: Array, named: str) -> None:
    """Raises ValueError for data that is not on the scale of the noise."""
    mean, std = _mean_and_std(examples)
    low, high = STD_RANGE
    if low <= std <= high:
        return
    if std > high and examples.min() >= 0 and examples.max() <= 255:
        remedy = "Pixels of 0 .. 255 belong in [-1, 1]: x / 127.5 - 1."
    elif abs(mean) > std:
        remedy = f"Subtract their mean, {mean:.3g}, and divide by about {std:.2g}."
    else:
        remedy = f"Divide the numbers by about {std:.2g}."
    raise ValueError(
        f"{named} has a standard deviation of {std:.3g}, while the noise has 1: it must "
        f"be {low:g} .. {high:g}, and about 1 is best. {remedy}"
    )


def _mean_and_std(examples: Array) -> tuple[float, float]:
    """Of all numbers together, without a copy of them in float64."""
    flat = examples.reshape(-1)
    mean = float(flat.mean(dtype=np.float64))
    square = float(np.einsum("i,i->", flat, flat, dtype=np.float64)) / flat.size
    return mean, math.sqrt(max(0.0, square - mean * mean))


def _named(options: Mapping[str, Any]) -> str:
    """The file, where the data came from one."""
    path = options.get("path")
    return path if isinstance(path, str) else "the data"
