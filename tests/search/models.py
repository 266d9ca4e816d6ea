"""Denoisers that misbehave on purpose, and data; studies name them by reference."""

from __future__ import annotations

import math
import os
import signal
import time
from pathlib import Path

import torch
from torch import nn

from stabsearch.diffusion.datasets import digits


class LinearDenoiser(nn.Module):
    """Behaves; the base of those that do not."""

    def __init__(self, sample_shape):
        super().__init__()
        self.linear = nn.Linear(math.prod(sample_shape), math.prod(sample_shape))
        self.calls = 0

    def forward(self, x_t, timesteps):
        self.calls += self.training
        return self.linear(x_t.flatten(1)).view_as(x_t)


class TurnsNaN(LinearDenoiser):
    """Starts at predicting zeros; predicts NaN from its ``first_nan_step``-th training step on."""

    def __init__(self, sample_shape, *, first_nan_step):
        super().__init__(sample_shape)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.first_nan_step = first_nan_step

    def forward(self, x_t, timesteps):
        prediction = super().forward(x_t, timesteps)
        return prediction + (math.nan if self.calls >= self.first_nan_step else 0.0)


class WithDropout(LinearDenoiser):
    """Draws from the global generator at every training step."""

    def forward(self, x_t, timesteps):
        return super().forward(nn.functional.dropout(x_t, 0.2, self.training), timesteps)


class WithADirectParameter(LinearDenoiser):
    """Ghost norms do not know what it does with its gain."""

    def __init__(self, sample_shape):
        super().__init__(sample_shape)
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x_t, timesteps):
        return super().forward(x_t, timesteps) * self.gain


class FoldsPixelsIntoTheBatch(nn.Module):
    """One number of the image at a time: its layer never sees a whole sample."""

    def __init__(self, sample_shape):
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, x_t, timesteps):
        return self.linear(x_t.reshape(-1, 1)).view_as(x_t)


class BeginsWithNaN(LinearDenoiser):
    """Divides by the sum of nothing."""

    def forward(self, x_t, timesteps):
        return super().forward(x_t, timesteps) / x_t[:0].sum()


class WorksInPlace(LinearDenoiser):
    """Scales what it is given, where it lies."""

    def forward(self, x_t, timesteps):
        return super().forward(x_t.mul_(0.5), timesteps)


class WithBatchNorm(LinearDenoiser):
    """A sample's gradient depends on the batch: there is none of its own."""

    def __init__(self, sample_shape):
        super().__init__(sample_shape)
        self.norm = nn.BatchNorm1d(math.prod(sample_shape))

    def forward(self, x_t, timesteps):
        return super().forward(self.norm(x_t.flatten(1)).view_as(x_t), timesteps)


class KillsItsWorkerOnce(LinearDenoiser):
    """A small linear denoiser whose process dies at its 30th step, the first time only."""

    def __init__(self, sample_shape, *, marker):
        super().__init__(sample_shape)
        self.marker = Path(marker)

    def forward(self, x_t, timesteps):
        prediction = super().forward(x_t, timesteps)
        if self.calls == 30 and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return prediction


def broken(sample_shape):
    raise RuntimeError("this model cannot be built")


class RaisesOnce(LinearDenoiser):
    """A linear denoiser that raises at its 25th step while ``marker`` does not exist."""

    def __init__(self, sample_shape, *, marker):
        super().__init__(sample_shape)
        self.marker = Path(marker)

    def forward(self, x_t, timesteps):
        prediction = super().forward(x_t, timesteps)
        if self.calls == 25 and not self.marker.exists():
            raise RuntimeError("out of memory, say")
        return prediction


class RaisesLate(LinearDenoiser):
    """Raises when a worker has taken 250 steps with it, while ``marker`` does not exist."""

    def __init__(self, sample_shape, *, marker):
        super().__init__(sample_shape)
        self.marker = Path(marker)

    def forward(self, x_t, timesteps):
        prediction = super().forward(x_t, timesteps)
        if self.calls == 250 and not self.marker.exists():
            raise RuntimeError("out of memory, say")
        return prediction


class DivergesForItsSecondSeed(LinearDenoiser):
    """Which seed it has, it tells from the first random weight; both seeds are given."""

    def __init__(self, sample_shape):
        super().__init__(sample_shape)
        self.is_second = torch.initial_seed() == 1

    def forward(self, x_t, timesteps):
        poison = math.nan if self.is_second else 0.0
        return super().forward(x_t, timesteps) + poison


class CannotTrain(LinearDenoiser):
    """Predicts, and raises where a gradient is wanted: only a worker finds out."""

    def forward(self, x_t, timesteps):
        if torch.is_grad_enabled():
            raise RuntimeError("this model cannot train")
        return super().forward(x_t, timesteps)


class SlowToStart(LinearDenoiser):
    """Leaves its process's id in ``folder``; every worker but the first is slow to come up."""

    def __init__(self, sample_shape, *, folder, driver):
        super().__init__(sample_shape)
        mine = Path(folder) / str(os.getpid())
        if os.getpid() != driver and not mine.exists():
            mine.touch()
            if len(list(Path(folder).iterdir())) > 1:
                time.sleep(4)


def noted_digits(*, file):
    """The digits; notes every call in ``file``."""
    with Path(file).open("a") as notes:
        notes.write(f"{os.getpid()}\n")
    return digits()
