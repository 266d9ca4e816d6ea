"""Per-timestep losses and per-step norms of a window, kept on the device until it ends.

A step hands over tensors that the training loop has made anyway; nothing is computed, and the
host waits for nothing. When the window ends, everything crosses to the host at once.
"""

# B = batch, W = steps of a window, K = timestep bins

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabsearch.training.clipping import ClipRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowTelemetry:
    """A window on the host. Steps count from 0 at the window's first."""

    bin_loss_sum: NDArray[np.float64]
    """``[K]``, over samples with a finite loss."""
    bin_count: NDArray[np.int64]
    """``[K]``, all samples."""
    bin_nonfinite: NDArray[np.int64]
    """``[K]``, samples whose loss was NaN or Inf."""
    batch_loss: NDArray[np.float64]
    """``[W]``."""
    grad_norm: NDArray[np.float64]
    """Before clipping; of the steps whose norm was looked at."""
    clip_coef: NDArray[np.float64]
    """Of the same steps."""
    nonfinite_steps: int
    """Steps whose loss or gradient norm was NaN or Inf."""
    first_nonfinite_step: int | None
    first_nonfinite_bins: tuple[int, ...]


class Telemetry:
    """Collects one window at a time."""

    def __init__(self, bin_edges: tuple[int, ...]) -> None:
        self._num_bins = len(bin_edges) - 1
        self._bin_of_timestep = np.repeat(np.arange(self._num_bins), np.diff(bin_edges))
        self._sample_losses: list[Tensor] = []
        self._norm_steps: list[int] = []
        self._grad_norms: list[Tensor] = []
        self._clip_coefs: list[Tensor] = []

    def observe(self, sample_loss: Tensor, clip: ClipRecord | None) -> None:
        """Remember one step: its per-sample losses ``[B]`` and what clipping did, if known."""
        self._sample_losses.append(sample_loss.detach())
        if clip is None:
            return
        self._norm_steps.append(len(self._sample_losses) - 1)
        self._grad_norms.append(clip.grad_norm)
        self._clip_coefs.append(clip.coef)

    def read(self, timesteps: Tensor) -> WindowTelemetry:
        """Sum up the observed window, whose steps drew ``timesteps[W, B]``, and forget it."""
        num_steps, num_norms = len(self._sample_losses), len(self._norm_steps)
        # The window's one wait for the device.
        packed = torch.cat([t.flatten() for t in self._all_tensors()]).double().cpu().numpy()
        bins = self._bin_of_timestep[timesteps.cpu().numpy()]
        num_losses = len(packed) - 2 * num_norms
        losses = packed[:num_losses].reshape(num_steps, -1)
        grad_norm, clip_coef = packed[num_losses:].reshape(2, num_norms)
        batch_loss = losses.mean(axis=1)
        is_nonfinite = ~np.isfinite(batch_loss)
        is_nonfinite[self._norm_steps] |= ~np.isfinite(grad_norm)
        self._clear()

        finite = np.isfinite(losses)
        first = int(is_nonfinite.argmax()) if is_nonfinite.any() else None
        first_bins = (
            () if first is None else tuple(np.unique(bins[first][~finite[first]]).tolist())
        )
        return WindowTelemetry(
            bin_loss_sum=self._sum_in_bins(bins, np.where(finite, losses, 0)),
            bin_count=self._sum_in_bins(bins).astype(np.int64),
            bin_nonfinite=self._sum_in_bins(bins, ~finite).astype(np.int64),
            batch_loss=batch_loss,
            grad_norm=grad_norm,
            clip_coef=clip_coef,
            nonfinite_steps=int(is_nonfinite.sum()),
            first_nonfinite_step=first,
            first_nonfinite_bins=first_bins,
        )

    def _sum_in_bins(
        self, bins: NDArray[np.int64], values: NDArray[Any] | None = None
    ) -> NDArray[np.float64]:
        weights = None if values is None else values.ravel()
        return np.bincount(bins.ravel(), weights, self._num_bins).astype(np.float64)

    def _all_tensors(self) -> list[Tensor]:
        norms = [torch.stack(self._grad_norms + self._clip_coefs)] if self._grad_norms else []
        return self._sample_losses + norms

    def _clear(self) -> None:
        self._sample_losses.clear()
        self._norm_steps.clear()
        self._grad_norms.clear()
        self._clip_coefs.clear()
