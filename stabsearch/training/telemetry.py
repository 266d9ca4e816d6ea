"""Per-timestep losses and per-step norms of a window, kept on the device until it ends.

A step hands over tensors that the training loop has made anyway; nothing is computed, and the
host waits for nothing. When the window ends, everything is reduced on the device and read once.
"""

# B = batch, W = steps of a window, K = timestep bins

from __future__ import annotations

from dataclasses import dataclass

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
    """``[W]``, before clipping."""
    clip_coef: NDArray[np.float64]
    """``[W]``."""
    first_nonfinite_step: int | None
    first_nonfinite_bins: tuple[int, ...]


class Telemetry:
    """Collects one window at a time."""

    def __init__(self, bin_edges: tuple[int, ...], device: torch.device) -> None:
        self._num_bins = len(bin_edges) - 1
        widths = torch.diff(torch.tensor(bin_edges))
        self._bin_of_timestep = torch.repeat_interleave(torch.arange(self._num_bins), widths).to(
            device
        )
        self._sample_losses: list[Tensor] = []
        self._grad_norms: list[Tensor] = []
        self._clip_coefs: list[Tensor] = []

    def observe(self, sample_loss: Tensor, clip: ClipRecord) -> None:
        """Remember one step: its per-sample losses ``[B]`` and what clipping did."""
        self._sample_losses.append(sample_loss.detach())
        self._grad_norms.append(clip.grad_norm)
        self._clip_coefs.append(clip.coef)

    def read(self, timesteps: Tensor) -> WindowTelemetry:
        """Reduce the observed window, whose steps drew ``timesteps[W, B]``, and forget it."""
        losses = torch.stack(self._sample_losses)
        num_steps = len(losses)
        bins = self._bin_of_timestep[timesteps[:num_steps]]
        finite = losses.isfinite()
        flat_bins = bins.flatten()
        sums = self._sum_in_bins(flat_bins, losses.where(finite, 0).flatten())
        counts = self._sum_in_bins(flat_bins, torch.ones_like(flat_bins))
        nonfinite = self._sum_in_bins(flat_bins, (~finite).flatten())
        steps = torch.stack(
            [losses.mean(1), torch.stack(self._grad_norms), torch.stack(self._clip_coefs)]
        )
        # The window's one transfer to the host.
        packed = torch.cat([sums, counts, nonfinite, steps.flatten().double()]).cpu().numpy()
        self._clear()

        per_bin = packed[: 3 * self._num_bins].reshape(3, self._num_bins)
        batch_loss, grad_norm, clip_coef = packed[3 * self._num_bins :].reshape(3, num_steps)
        first = _first_nonfinite(batch_loss, grad_norm)
        first_bins = (
            () if first is None else tuple(sorted(set(bins[first][~finite[first]].tolist())))
        )
        return WindowTelemetry(
            bin_loss_sum=per_bin[0],
            bin_count=per_bin[1].astype(np.int64),
            bin_nonfinite=per_bin[2].astype(np.int64),
            batch_loss=batch_loss,
            grad_norm=grad_norm,
            clip_coef=clip_coef,
            first_nonfinite_step=first,
            first_nonfinite_bins=first_bins,
        )

    def _sum_in_bins(self, bins: Tensor, values: Tensor) -> Tensor:
        sums = torch.zeros(self._num_bins, dtype=torch.float64, device=bins.device)
        return sums.index_add_(0, bins, values.double())

    def _clear(self) -> None:
        self._sample_losses.clear()
        self._grad_norms.clear()
        self._clip_coefs.clear()


def _first_nonfinite(
    batch_loss: NDArray[np.float64], grad_norm: NDArray[np.float64]
) -> int | None:
    nonfinite = ~(np.isfinite(batch_loss) & np.isfinite(grad_norm))
    return int(nonfinite.argmax()) if nonfinite.any() else None
