"""A window of telemetry in, a Report out: the numbers in the form in which they are judged."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from stabsearch.records import Evaluation, Report
from stabsearch.training.telemetry import WindowTelemetry


def window_report(
    window: WindowTelemetry,
    *,
    first_step: int,
    learning_rate: float,
    train_seconds: float,
    evaluation: Evaluation | None,
    cosines: tuple[tuple[float, ...], ...] | None = None,
    frozen_parameters: tuple[str, ...] = (),
    has_norms: bool = True,
) -> Report:
    """The report on a window that begins after ``first_step`` finished steps.

    Without ``has_norms`` nobody measured gradient norms, and what the window holds in their place
    is left out.
    """
    # Lists: for a window's few numbers Python is several times as fast as numpy.
    has_norm = np.isfinite(window.grad_norm) & has_norms
    grad_norm = window.grad_norm[has_norm].tolist()
    coef = window.clip_coef[has_norm].tolist()
    finite_count = window.bin_count - window.bin_nonfinite
    with np.errstate(invalid="ignore", divide="ignore"):
        bin_loss = window.bin_loss_sum / finite_count
    first = window.first_nonfinite_step
    return Report(
        step=first_step + len(window.batch_loss),
        learning_rate=learning_rate,
        loss=_reduced(statistics.fmean, bin_loss[finite_count > 0].tolist()),
        bin_loss=tuple(bin_loss.tolist()),
        bin_count=tuple(window.bin_count.tolist()),
        bin_nonfinite=tuple(window.bin_nonfinite.tolist()),
        max_batch_loss=_reduced(max, window.batch_loss[np.isfinite(window.batch_loss)].tolist()),
        grad_norm_median=_reduced(statistics.median, grad_norm),
        grad_norm_max=_reduced(max, grad_norm),
        clip_rate=_reduced(statistics.fmean, window.is_clipped[has_norm].tolist()),
        clip_coef_mean=_reduced(statistics.fmean, coef),
        clip_coef_cv=_reduced(_standard_deviation, coef)
        / (_reduced(statistics.fmean, coef) or math.nan),
        outlier_norm_rate=window.outlier_norm_rate if has_norms else math.nan,
        clamped_fraction=window.clamped_fraction,
        bin_grad_norm=tuple(window.bin_grad_norm.tolist()),
        bin_grad_count=tuple(window.bin_grad_count.tolist()),
        bin_grad_cosine=cosines,
        nonfinite_steps=window.nonfinite_steps,
        scaler_skips=window.scaler_skips,
        first_nonfinite_step=None if first is None else first_step + first + 1,
        first_nonfinite_bins=window.first_nonfinite_bins,
        train_seconds=train_seconds,
        evaluation=evaluation,
        batch_losses=tuple(window.batch_loss.tolist()),
        grad_norms=tuple(window.grad_norm.tolist()) if has_norms else (),
        frozen_parameters=frozen_parameters,
    )


def _standard_deviation(values: list[float]) -> float:
    """Of the values themselves (statistics.pstdev is exact, and 20 times slower)."""
    mean = statistics.fmean(values)
    return math.sqrt(statistics.fmean([(value - mean) ** 2 for value in values]))


def _reduced(function: Callable[[list[Any]], float], values: list[Any]) -> float:
    """``function(values)``, or NaN for none."""
    return float(function(values)) if len(values) else float("nan")
