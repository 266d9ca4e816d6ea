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

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stabsearch.diffusion.datasets.files import array, image_folder, parquet
from stabsearch.diffusion.datasets.hubs import huggingface, torchvision
from stabsearch.diffusion.datasets.toys import digits, gaussian, mixture

__all__ = ["DATASETS", "Array", "Dataset", "digits", "make_dataset"]

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
    if not np.isfinite(examples).all():
        raise ValueError("the data holds NaN or Inf; clean it before training on it.")
    order = np.random.default_rng(split_seed).permutation(len(examples))
    num_held_out = min(max(1, round(held_out_fraction * len(examples))), len(examples) - 1)
    train, held_out = examples[order[num_held_out:]], examples[order[:num_held_out]]
    if not np.ptp(train.reshape(len(train), -1), axis=0).any():
        raise ValueError(
            f"the {len(train)} of {len(examples)} examples to train on are all equal; there is "
            f"nothing to learn. Use more data, or a smaller held_out_fraction."
        )
    return Dataset(train=train, held_out=held_out)
