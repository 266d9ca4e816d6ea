"""Patches of photographs: other data sets for the grids, without a download."""

from __future__ import annotations

import numpy as np


def load(
    size: int = 8, colour: bool = False, seed: int = 0, num_examples: int = 4000
) -> np.ndarray:
    """Patches ``[num_examples, C, size, size]`` in [-1, 1] of scikit-learn's two photographs,
    drawn without overlap; grey ones have C = 1."""
    from sklearn.datasets import load_sample_images

    patches = []
    for photograph in load_sample_images().images:
        pixels = photograph / 127.5 - 1
        if not colour:
            pixels = pixels.mean(axis=2, keepdims=True)
        rows, columns = (length // size for length in pixels.shape[:2])
        blocks = pixels[: rows * size, : columns * size].reshape(rows, size, columns, size, -1)
        patches.append(blocks.transpose(0, 2, 4, 1, 3).reshape(rows * columns, -1, size, size))
    return drawn(np.concatenate(patches), num_examples, seed)


def drawn(every: np.ndarray, num_examples: int, seed: int) -> np.ndarray:
    """So many of the examples, none twice."""
    chosen = np.random.default_rng(seed).choice(len(every), num_examples, replace=False)
    return every[chosen].astype(np.float32)
