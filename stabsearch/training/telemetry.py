"""Per-timestep losses and per-step norms of a window, kept on the device until it ends.

A step hands over tensors that the training loop has made anyway; nothing is computed, and the
host waits for nothing. When the window ends, everything crosses to the host at once.
"""

# B = batch, W = steps of a window, S = samples of it, K = timestep bins

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabsearch.training.clipping import ClipRecord

Array = NDArray[np.float64]

OUTLIER_RATIO = 3.0
"""A norm above this many times the median of the norms before it is an outlier."""
REMEMBERED_NORMS = 200
MIN_REMEMBERED_NORMS = 20
"""With fewer norms there is no median to speak of."""


class StepRecord(NamedTuple):
    """What one step has to tell. Tensors stay on the device."""

    timesteps: Tensor
    """``[B]``."""
    sample_loss: Tensor
    """``[B]``, mean squared error without any weight, detached from its graph."""
    clip: ClipRecord
    clamped_fraction: Tensor | None
    """0-d, of a loss that clamps."""
    squared_grad_norms: Tensor | None
    """``[B]``, of each sample's own gradient, on the steps that measure it."""


class StepObserver(Protocol):
    """Whom the loop tells of each step: the telemetry, or nobody (for benchmarks)."""

    def observe(self, step: StepRecord) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowTelemetry:
    """A window on the host. Steps count from 0 at the window's first."""

    bin_loss_sum: Array
    """``[K]``, over samples with a finite loss."""
    bin_count: NDArray[np.int64]
    """``[K]``, all samples."""
    bin_nonfinite: NDArray[np.int64]
    """``[K]``, samples whose loss was NaN or Inf."""
    batch_loss: Array
    """``[W]``."""
    grad_norm: Array
    """``[W]``, before clipping."""
    clip_coef: Array
    """``[W]``."""
    is_clipped: NDArray[np.bool_]
    """``[W]``."""
    outlier_norm_rate: float
    """Share of the finite norms above 3 times the median of those before the window."""
    clamped_fraction: float
    """Share of the loss's elements that were clamped."""
    bin_grad_norm: Array
    """``[K]``, root mean square over samples; NaN without any."""
    bin_grad_count: NDArray[np.int64]
    """``[K]``, samples behind it."""
    nonfinite_steps: int
    """Steps whose loss or gradient norm was NaN or Inf, scaler skips left out."""
    scaler_skips: int
    """Steps whose scaled gradient overflowed while the loss was finite."""
    first_nonfinite_step: int | None
    first_nonfinite_bins: tuple[int, ...]


class Telemetry:
    """Collects one window at a time."""

    def __init__(self, bin_edges: tuple[int, ...], *, scales_loss: bool = False) -> None:
        """``scales_loss``: training is fp16, whose loss scaler overflows gradients at times."""
        self._num_bins = len(bin_edges) - 1
        self._bin_of_timestep = np.repeat(np.arange(self._num_bins), np.diff(bin_edges))
        self._scales_loss = scales_loss
        self._steps: list[StepRecord] = []
        self._past_norms: Array = np.empty(0)

    def observe(self, step: StepRecord) -> None:
        """Remember one step."""
        self._steps.append(step)

    def read(self) -> WindowTelemetry:
        """Sum up the observed window, and forget its steps.

        Raises IndexError for a timestep that is in no bin.
        """
        steps, self._steps = self._steps, []
        # The window's waits for the device: one for the numbers, one for the timesteps.
        losses, squares, norms, coefs, clipped, clamped = _to_host(steps)
        timesteps = torch.cat([s.timesteps for s in steps]).cpu().numpy()
        if timesteps.min() < 0:  # would count from the end
            raise IndexError(f"timestep {timesteps.min()}")
        bins = self._bin_of_timestep[timesteps]

        batch_loss = _batch_means(losses, [len(s.timesteps) for s in steps])
        is_loss_bad, is_norm_bad = ~np.isfinite(batch_loss), ~np.isfinite(norms)
        is_scaler_skip = is_norm_bad & ~is_loss_bad & self._scales_loss
        is_nonfinite = (is_loss_bad | is_norm_bad) & ~is_scaler_skip
        finite = np.isfinite(losses)
        first = int(is_nonfinite.argmax()) if is_nonfinite.any() else None
        grad_norm, grad_count = self._bin_grad_norms(_measured(bins, steps), squares)
        return WindowTelemetry(
            bin_loss_sum=self._sum_in_bins(bins, np.where(finite, losses, 0)),
            bin_count=self._sum_in_bins(bins).astype(np.int64),
            bin_nonfinite=(
                np.zeros(self._num_bins, dtype=np.int64)
                if finite.all()
                else self._sum_in_bins(bins, ~finite).astype(np.int64)
            ),
            batch_loss=batch_loss,
            grad_norm=norms,
            clip_coef=coefs,
            is_clipped=clipped > 0,
            outlier_norm_rate=self._outlier_rate(norms[~is_norm_bad]),
            clamped_fraction=float(clamped.mean()) if len(clamped) else 0.0,
            bin_grad_norm=grad_norm,
            bin_grad_count=grad_count,
            nonfinite_steps=int(is_nonfinite.sum()),
            scaler_skips=int(is_scaler_skip.sum()),
            first_nonfinite_step=first,
            first_nonfinite_bins=(
                () if first is None else _bins_of(first, np.where(finite, -1, bins), steps)
            ),
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Between two windows: the norms that an outlier is measured against."""
        return {"past_norms": torch.from_numpy(self._past_norms.copy())}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._past_norms = state["past_norms"].cpu().numpy().copy()

    def _outlier_rate(self, norms: Array) -> float:
        """Of finite norms; the median is that of the norms before this window."""
        past = self._past_norms
        self._past_norms = np.concatenate([past, norms])[-REMEMBERED_NORMS:]
        if len(past) < MIN_REMEMBERED_NORMS or not len(norms):
            return 0.0
        middle = np.partition(past, len(past) // 2)[
            len(past) // 2
        ]  # np.median takes 5 times longer
        return float(np.mean(norms > OUTLIER_RATIO * middle))

    def _bin_grad_norms(
        self, bins: NDArray[np.int64], squares: Array
    ) -> tuple[Array, NDArray[np.int64]]:
        finite = np.isfinite(squares)
        count = self._sum_in_bins(bins, finite)
        total = self._sum_in_bins(bins, np.where(finite, squares, 0))
        with np.errstate(invalid="ignore"):
            return np.sqrt(total / count), count.astype(np.int64)

    def _sum_in_bins(self, bins: NDArray[np.int64], values: NDArray[Any] | None = None) -> Array:
        weights = None if values is None else values.ravel()
        return np.bincount(bins.ravel(), weights, self._num_bins).astype(np.float64)


def _to_host(steps: Sequence[StepRecord]) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Losses ``[S]``, squared norms of the samples that have one, then per step norm, coefficient,
    clipped and, where there is one, the clamped fraction; in float64, by one transfer."""
    losses = [s.sample_loss for s in steps]
    squares = [s.squared_grad_norms for s in steps if s.squared_grad_norms is not None]
    scalars = [s.clip.grad_norm for s in steps]
    scalars += [s.clip.coef for s in steps]
    scalars += [s.clamped_fraction for s in steps if s.clamped_fraction is not None]
    clipped = torch.stack([s.clip.is_clipped for s in steps])  # apart: to mix types is slow
    packed = torch.cat([*losses, *squares, clipped, torch.stack(scalars)]).double().cpu().numpy()
    num_steps = len(steps)
    ends = np.cumsum([sum(map(len, losses)), sum(map(len, squares)), *[num_steps] * 3])
    losses_, squares_, is_clipped, norms, coefs, clamped = np.split(packed, ends)
    return losses_, squares_, norms, coefs, is_clipped, clamped


def _batch_means(losses: Array, lengths: Sequence[int]) -> Array:
    """Mean ``[W]`` of every step's part of ``losses[S]``."""
    if len(set(lengths)) == 1:
        means: Array = losses.reshape(len(lengths), -1).mean(axis=1)
        return means
    starts = np.cumsum([0, *lengths[:-1]])  # the last batch of an epoch is often a small one
    return np.array(np.add.reduceat(losses, starts) / lengths)


def _measured(bins: NDArray[np.int64], steps: Sequence[StepRecord]) -> NDArray[np.int64]:
    """Of ``bins[S]``, those of the samples whose gradient was measured."""
    lengths = [len(s.timesteps) for s in steps]
    found: NDArray[np.int64] = bins[
        np.repeat([s.squared_grad_norms is not None for s in steps], lengths)
    ]
    return found


def _bins_of(step: int, bins: NDArray[np.int64], steps: Sequence[StepRecord]) -> tuple[int, ...]:
    """The different bins, without -1, of one step's part of ``bins[S]``."""
    start = sum(len(s.timesteps) for s in steps[:step])
    found = np.unique(bins[start : start + len(steps[step].timesteps)])
    return tuple(found[found >= 0].tolist())
