"""Fits a Gaussian process, of scores or of failures.

scikit-learn is imported by those who fit, when they fit: a new study should not wait a second for
it before its first trial.
"""

from __future__ import annotations

import warnings
from typing import Any, TypeVar

import numpy as np

from stabsearch.recommend.space import Floats

Process = TypeVar("Process")


def fitted(process: Process, points: Floats, targets: np.ndarray) -> Process:
    """The process, fitted to ``targets[n]`` at ``points[n, axes]``."""
    from sklearn.exceptions import ConvergenceWarning

    fit: Any = process
    with warnings.catch_warnings():
        # A length at its bound is an answer: the bounds are what we believe before the data.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit.fit(points, targets)
    return process
