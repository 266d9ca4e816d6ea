"""Patches of photographs: a second data set for the grids, without a download."""

from __future__ import annotations

import numpy as np


def load(size: int = 8, seed: int = 0, num_examples: int = 4000) -> np.ndarray:
    """Grey patches ``[num_examples, 1, size, size]`` in [-1, 1] of scikit-learn's two photographs,
    drawn without overlap."""
    from sklearn.datasets import load_sample_images

    patches = []
    for photograph in load_sample_images().images:
        grey = photograph.mean(axis=2) / 127.5 - 1
        rows, columns = (length // size for length in grey.shape)
        blocks = grey[: rows * size, : columns * size].reshape(rows, size, columns, size)
        patches.append(blocks.swapaxes(1, 2).reshape(-1, 1, size, size))
    every = np.concatenate(patches)
    chosen = np.random.default_rng(seed).choice(len(every), num_examples, replace=False)
    return every[chosen].astype(np.float32)
