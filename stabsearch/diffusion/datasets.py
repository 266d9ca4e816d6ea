"""Where examples come from: arrays ``[N, ...]`` in memory, split once and for all."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Examples to train on and examples held out for the score."""

    train: Array
    held_out: Array

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return self.train.shape[1:]


def digits() -> Array:
    """The 1,797 handwritten digits that ship with scikit-learn as ``[N, 1, 8, 8]`` in [-1, 1].

    Reads scikit-learn's file without importing scikit-learn, which would cost every worker the
    better part of a second.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise ValueError("the digits ship with scikit-learn, which is not installed.")
    file = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    rows = np.loadtxt(file, delimiter=",", dtype=np.float32)
    images = rows[:, :64]  # the last column is the label
    return np.asarray(images / 8 - 1, dtype=np.float32).reshape(-1, 1, 8, 8)


DATASETS: dict[str, Callable[..., Array]] = {"digits": digits}


def make_dataset(
    load: Callable[..., Any], options: dict[str, Any], held_out_fraction: float, split_seed: int
) -> Dataset:
    """Load examples and hold some out; the split depends on ``split_seed`` only.

    Raises ValueError for data that no denoiser can be trained on.
    """
    examples = np.asarray(load(**options), dtype=np.float32)
    if examples.ndim < 2 or len(examples) < 2:
        raise ValueError(
            f"the data must be an array [N, ...] of at least 2 examples, but has shape "
            f"{list(examples.shape)}."
        )
    if not np.isfinite(examples).all():
        raise ValueError("the data holds NaN or Inf; clean it before training on it.")
    if not np.ptp(examples.reshape(len(examples), -1), axis=0).any():
        raise ValueError("all examples of the data are equal; there is nothing to learn.")
    order = np.random.default_rng(split_seed).permutation(len(examples))
    num_held_out = min(max(1, round(held_out_fraction * len(examples))), len(examples) - 1)
    return Dataset(train=examples[order[num_held_out:]], held_out=examples[order[:num_held_out]])
