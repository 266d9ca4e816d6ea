"""Data that needs no files of one's own: real digits, and samples whose law is known."""

# N = num_examples, d = numbers per example

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]


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


def mixture(
    *,
    num_examples: int = 5000,
    num_modes: int = 8,
    radius: float = 1.4,
    std: float = 0.05,
    seed: int = 0,
) -> Array:
    """Points ``[N, 2]`` of a ring of ``num_modes`` Gaussians, each equally likely.

    Each coordinate has variance ``radius**2 / 2 + std**2`` (for 3 or more modes), which the
    defaults bring to about 1.
    """
    generator = np.random.default_rng(seed)
    angles = 2 * np.pi * generator.integers(num_modes, size=num_examples) / num_modes
    centres = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points = centres + std * generator.standard_normal(centres.shape)
    return points.astype(np.float32)


def gaussian(
    *,
    spectrum: list[float] | None = None,
    num_dimensions: int = 16,
    decay: float = 1.0,
    num_examples: int = 4096,
    seed: int = 0,
    exact: bool = False,
) -> Array:
    """Gaussian examples ``[N, d]`` of mean 0 in a random orthogonal basis.

    The covariance has the eigenvalues ``spectrum`` or, without it, ``i ** -decay`` for
    i = 1 .. num_dimensions. With ``exact`` it is the sample that has mean 0 and these
    eigenvalues, not only the law it is drawn from (all N examples together, to float32's
    rounding; a split's parts vary).

    Raises ValueError if there are too few examples for ``exact``.
    """
    eigenvalues = (
        np.arange(1, num_dimensions + 1) ** -float(decay)
        if spectrum is None
        else np.asarray(spectrum, dtype=np.float64)
    )
    generator = np.random.default_rng(seed)
    white = generator.standard_normal((num_examples, len(eigenvalues)))
    if exact:
        white = _whitened(white)
    # Uniform over all bases but for the columns' signs, of which a covariance knows nothing.
    basis, _ = np.linalg.qr(generator.standard_normal((len(eigenvalues), len(eigenvalues))))
    return np.asarray((white * np.sqrt(eigenvalues)) @ basis.T, dtype=np.float32)


def _whitened(sample: Float64Array) -> Float64Array:
    """The nearest sample ``[N, d]`` with mean 0 and covariance I (its polar factor)."""
    num_examples, num_dimensions = sample.shape
    if num_examples <= num_dimensions:
        raise ValueError(
            f"data.exact needs more examples than dimensions, but got num_examples="
            f"{num_examples} for {num_dimensions} dimensions. Raise data.num_examples."
        )
    left, _, right = np.linalg.svd(sample - sample.mean(axis=0), full_matrices=False)
    whitened: Float64Array = np.sqrt(num_examples) * (left @ right)
    return whitened
