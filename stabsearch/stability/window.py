"""What the rules may know of a trial so far: running extremes and the loss history.

A NaN never enters: windows without a finite loss are counted by their non-finite steps, and the
history holds finite losses only.
"""

# K = timestep bins

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stabsearch.records import Report, TrialFacts

CURRENT_WINDOWS = 2
"""A trial's current loss is the mean of its last two windows."""


@dataclass(slots=True)
class TrialWindow:
    """The state of one trial's judgement. Grows by one number per report."""

    facts: TrialFacts
    losses: list[float] = field(default_factory=list)
    """Post-stratified training loss of every window that had a finite one."""
    min_loss: float = math.inf
    """Lowest of them so far."""
    max_lost_progress: float = 0.0
    """Largest share of progress that was ever lost, warm-up included."""
    recent_bin_loss: list[tuple[float, ...]] = field(default_factory=list)
    """Bin losses ``[K]`` of the last two windows."""
    min_bin_loss: list[float] = field(default_factory=list)
    """Lowest loss of every bin so far, ``[K]``."""

    def __post_init__(self) -> None:
        if not self.min_bin_loss:
            self.min_bin_loss = [math.inf] * len(self.facts.reference.bin_constant)

    def observe(self, report: Report) -> None:
        """Take in a report."""
        if not math.isfinite(report.loss):
            return
        self.losses.append(report.loss)
        self.recent_bin_loss = [*self.recent_bin_loss[-(CURRENT_WINDOWS - 1) :], report.bin_loss]
        self.min_loss = min(self.min_loss, report.loss)
        self.min_bin_loss = [
            low if math.isnan(loss) else min(low, loss)
            for low, loss in zip(self.min_bin_loss, report.bin_loss, strict=True)
        ]
        self.max_lost_progress = max(self.max_lost_progress, self._lost_progress(report.loss))

    @property
    def current_loss(self) -> float:
        """Mean of the last two windows; NaN before the first."""
        recent = self.losses[-CURRENT_WINDOWS:]
        return sum(recent) / len(recent) if recent else math.nan

    @property
    def lost_progress(self) -> float:
        """Share of the progress below the constant prediction that is lost again.

        (current - min) / max(C0 - min, (C0 - L_iso) / 2); the second term keeps a trial that
        has hardly moved from losing "all" of nothing.
        """
        return self._lost_progress(self.current_loss)

    def _lost_progress(self, loss: float) -> float:
        reference = self.facts.reference
        possible = reference.constant - reference.isotropic
        return (loss - self.min_loss) / max(reference.constant - self.min_loss, 0.5 * possible)

    @property
    def bin_lost_progress(self) -> NDArray[np.float64]:
        """lost_progress of every bin on its own, ``[K]``; NaN for a bin without samples."""
        reference = self.facts.reference
        constant = np.array(reference.bin_constant)
        low = np.array(self.min_bin_loss)
        scale = np.maximum(constant - low, 0.5 * (constant - np.array(reference.bin_isotropic)))
        with np.errstate(invalid="ignore", divide="ignore"):
            lost: NDArray[np.float64] = (self.current_bin_loss - low) / np.maximum(scale, 1e-12)
        return lost

    @property
    def current_bin_loss(self) -> NDArray[np.float64]:
        """Mean of the last two windows per bin, ``[K]``; NaN for a bin without samples."""
        recent = np.array(self.recent_bin_loss)
        seen = np.isfinite(recent)
        with np.errstate(invalid="ignore"):
            mean: NDArray[np.float64] = np.where(seen, recent, 0).sum(0) / seen.sum(0)
        return mean

    def log_loss_slope_t(self, share: float, min_windows: int) -> float:
        """t statistic of the slope of log loss over the last ``share`` of the windows.

        NaN with fewer than ``min_windows`` windows. Strongly negative means still falling.
        """
        count = max(min_windows, math.ceil(share * len(self.losses)))
        if len(self.losses) < count:
            return math.nan
        log_loss = np.log(np.array(self.losses[-count:]))
        time = np.arange(count) - (count - 1) / 2
        slope = float(time @ log_loss / (time @ time))
        residual = log_loss - log_loss.mean() - slope * time
        error = math.sqrt(float(residual @ residual) / (count - 2) / float(time @ time))
        return slope / max(error, 1e-12)

    def state_dict(self) -> dict[str, Any]:
        return {
            "losses": self.losses,
            "min_loss": self.min_loss,
            "max_lost_progress": self.max_lost_progress,
            "recent_bin_loss": self.recent_bin_loss,
            "min_bin_loss": self.min_bin_loss,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
