"""Where examples come from: arrays ``[N, ...]`` in memory, split once and for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
    """The 1,797 handwritten digits of scikit-learn as ``[N, 1, 8, 8]`` in [-1, 1]."""
    from sklearn.datasets import load_digits

    return np.asarray(load_digits().images[:, None] / 8 - 1, dtype=np.float32)


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
