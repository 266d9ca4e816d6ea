"""What the rules may know of a trial so far: running extremes and the loss history.

Rules compare windows. A window is one report, or as many as it takes to hold enough samples: a
mean over fewer is noise, and its rises and falls mean nothing. A NaN never enters: non-finite
samples are counted apart by the report.
"""

# K = timestep bins

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stabsearch.records import Report, TrialFacts

CURRENT_WINDOWS = 2
"""A trial's current loss is the mean of its last two windows."""
SAMPLES_PER_BIN = 100
"""A window holds at least this many samples for every timestep bin, on average. The thresholds of
the rules were found with 160."""

STRETCH_STEPS = 10
"""Skipped steps are judged over at least this many."""
MIN_PROGRESS = 0.15
"""Smallest (C0 - L_iso) / C0 at which a share of that progress is more than a window's noise."""
JUDGED_SHARE = 0.2
"""A bin is judged if at least this part of an equal share of the training is about it: its loss
would otherwise only show what was never asked of the model."""

Array = NDArray[np.float64]


@dataclass(slots=True)
class TrialWindow:
    """The state of one trial's judgement. Grows by one number per window."""

    facts: TrialFacts
    losses: list[float] = field(default_factory=list)
    """Post-stratified training loss of every window."""
    window_steps: int = 0
    """Optimizer steps of the last window."""
    min_loss: float = math.inf
    """Lowest window so far."""
    max_lost_progress: float = 0.0
    """Largest share of progress that a window ever stood above the lowest, warm-up included."""
    recent_bin_loss: list[tuple[float, ...]] = field(default_factory=list)
    """Bin losses ``[K]`` of the last two windows."""
    min_bin_loss: list[float] = field(default_factory=list)
    """Lowest window of every bin so far, ``[K]``."""
    grad_norms: list[float] = field(default_factory=list)
    """Median gradient norm of every report that has one."""
    pending_sum: list[float] = field(default_factory=list)
    """Loss sums ``[K]`` of the reports that do not make a window yet."""
    pending_count: list[int] = field(default_factory=list)
    """Finite samples ``[K]`` behind those sums."""
    window_end: int = 0
    """Step at which the last window ended."""
    latest_bin_loss: list[float] = field(default_factory=list)
    """The last known mean of every bin, ``[K]``; NaN for a bin never seen."""
    last_step: int = 0
    """Step of the last report."""
    stretch_steps: int = 0
    """Steps of the reports since skipped steps were last judged."""
    stretch_skips: int = 0
    """Skipped steps among them."""
    skipped_share: float = 0.0
    """Share of the last whole stretch that was skipped."""

    def __post_init__(self) -> None:
        if not self.latest_bin_loss:
            self.latest_bin_loss = [math.nan] * self.num_bins
        if not self.min_bin_loss:
            self.min_bin_loss = [math.inf] * self.num_bins
        if not self.pending_sum:
            self._clear_pending()

    @property
    def num_bins(self) -> int:
        return len(self.facts.bin_edges) - 1

    @property
    def judged_bins(self) -> list[int]:
        """The bins that the training is really about."""
        bar = JUDGED_SHARE / self.num_bins
        return [index for index, share in enumerate(self.facts.bin_share) if share >= bar]

    @property
    def constant(self) -> float:
        """C0, the loss of the best constant prediction, over the judged bins."""
        return self._judged_mean(self.facts.reference.bin_constant)

    @property
    def zero(self) -> float:
        """The loss of a model that outputs 0, over the judged bins."""
        return self._judged_mean(self.facts.reference.bin_zero)

    @property
    def has_progress_to_make(self) -> bool:
        """Whether a trivial denoiser and a dead one differ enough to tell a trial's loss apart.

        They do not where training is about the cleanest or the noisiest timesteps alone.
        """
        return self.constant - self.isotropic >= MIN_PROGRESS * self.constant

    @property
    def isotropic(self) -> float:
        """L_iso over the judged bins."""
        return self._judged_mean(self.facts.reference.bin_isotropic)

    def _judged_mean(self, values: Sequence[float]) -> float:
        """Mean over the judged bins whose value is known; NaN without any."""
        known = [values[i] for i in self.judged_bins if not math.isnan(values[i])]
        return statistics.fmean(known) if known else math.nan

    def worst_judged_bin(self, badness: Array) -> int | None:
        """Index of the largest finite value among the judged bins, the noisiest of equals."""
        usable = np.full(self.num_bins, -math.inf)
        judged = self.judged_bins
        usable[judged] = np.where(np.isfinite(badness), badness, -math.inf)[judged]
        if not np.isfinite(usable).any():
            return None
        return int(len(usable) - 1 - usable[::-1].argmax())

    def observe(self, report: Report) -> bool:
        """Take in a report. True if it completed a window."""
        self._observe_skips(report)
        if math.isfinite(report.grad_norm_median):
            self.grad_norms.append(report.grad_norm_median)
        rows = zip(report.bin_loss, report.bin_count, report.bin_nonfinite, strict=True)
        for index, (loss, count, nonfinite) in enumerate(rows):
            if count > nonfinite:
                self.pending_sum[index] += loss * (count - nonfinite)
                self.pending_count[index] += count - nonfinite
        if sum(self.pending_count) < SAMPLES_PER_BIN * self.num_bins:
            return False
        self._close_window(report.step)
        return True

    def _observe_skips(self, report: Report) -> None:
        self.stretch_steps += report.step - self.last_step
        self.stretch_skips += report.nonfinite_steps + report.scaler_skips
        self.last_step = report.step
        if self.stretch_steps >= STRETCH_STEPS:
            self.skipped_share = self.stretch_skips / self.stretch_steps
            self.stretch_steps = self.stretch_skips = 0

    def _close_window(self, step: int) -> None:
        counts = zip(self.pending_sum, self.pending_count, strict=True)
        bin_loss = tuple(total / n if n else math.nan for total, n in counts)
        # A bin that drew no sample keeps its last mean: the loss must not jump with the draw.
        self.latest_bin_loss = [
            old if math.isnan(new) else new
            for old, new in zip(self.latest_bin_loss, bin_loss, strict=True)
        ]
        loss = self._judged_mean(self.latest_bin_loss)
        self.losses.append(loss)
        self.window_steps, self.window_end = step - self.window_end, step
        self.recent_bin_loss = [*self.recent_bin_loss[-(CURRENT_WINDOWS - 1) :], bin_loss]
        self.min_loss = min(self.min_loss, loss)
        self.min_bin_loss = [
            low if math.isnan(value) else min(low, value)
            for low, value in zip(self.min_bin_loss, bin_loss, strict=True)
        ]
        self.max_lost_progress = max(self.max_lost_progress, self._lost_progress(loss))
        self._clear_pending()

    def _clear_pending(self) -> None:
        self.pending_sum = [0.0] * self.num_bins
        self.pending_count = [0] * self.num_bins

    @property
    def current_loss(self) -> float:
        """Mean of the last two windows; NaN before the first."""
        recent = self.losses[-CURRENT_WINDOWS:]
        return sum(recent) / len(recent) if recent else math.nan

    @property
    def lost_progress(self) -> float:
        """Share of the progress below the constant prediction that is lost again.

        (current - min) / max(C0 - min, (C0 - L_iso) / 2); the second term keeps a trial that
        has hardly moved from losing "all" of nothing. Of the last window and the mean of the last
        two the lower one counts: a steeply falling loss is below its own mean.
        """
        if not self.losses:
            return math.nan
        return self._lost_progress(min(self.current_loss, self.losses[-1]))

    def _lost_progress(self, loss: float) -> float:
        possible = self.constant - self.isotropic
        return (loss - self.min_loss) / max(self.constant - self.min_loss, 0.5 * possible)

    @property
    def bin_lost_progress(self) -> Array:
        """lost_progress of every bin on its own, ``[K]``; NaN for a bin without samples."""
        reference = self.facts.reference
        constant = np.array(reference.bin_constant)
        low = np.array(self.min_bin_loss)
        scale = np.maximum(constant - low, 0.5 * (constant - np.array(reference.bin_isotropic)))
        with np.errstate(invalid="ignore", divide="ignore"):
            lost: Array = (self.current_bin_loss - low) / np.maximum(scale, 1e-12)
        return lost

    @property
    def current_bin_loss(self) -> Array:
        """Mean of the last two windows per bin, ``[K]``; NaN for a bin without samples."""
        recent = np.array(self.recent_bin_loss)
        seen = np.isfinite(recent)
        with np.errstate(invalid="ignore"):
            mean: Array = np.where(seen, recent, 0).sum(0) / seen.sum(0)
        return mean

    @property
    def typical_grad_norm(self) -> float:
        """Median over reports of their median norm before clipping; NaN before the first."""
        return statistics.median(self.grad_norms) if self.grad_norms else math.nan

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
        return {name: getattr(self, name) for name in self.__slots__ if name != "facts"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
