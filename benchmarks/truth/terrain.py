"""Patches of a map of heights: another data set for the grids, without a download."""

from __future__ import annotations

import numpy as np

from benchmarks.truth.patches import drawn

STRIDE = 4
"""Patches overlap by half, or there would be too few."""


def load(size: int = 8, seed: int = 0, num_examples: int = 4000) -> np.ndarray:
    """Patches ``[num_examples, 1, size, size]`` in [-1, 1] of the elevation model of the Jacksboro
    fault that comes with matplotlib."""
    from matplotlib.cbook import get_sample_data

    with get_sample_data("jacksboro_fault_dem.npz") as data:
        heights = data["elevation"].astype(np.float64)
    heights = 2 * (heights - heights.min()) / np.ptp(heights) - 1
    windows = np.lib.stride_tricks.sliding_window_view(heights, (size, size))
    every = windows[::STRIDE, ::STRIDE].reshape(-1, 1, size, size)
    return drawn(every, num_examples, seed)
