from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stabsearch.training.clipping import ClipRecord
from stabsearch.training.telemetry import Telemetry

BIN_EDGES = (0, 3, 7, 10)


def observe_all(losses, norms, coefs, timesteps):
    telemetry = Telemetry(BIN_EDGES)
    for loss, norm, coef in zip(losses, norms, coefs, strict=True):
        telemetry.observe(torch.tensor(loss), ClipRecord(torch.tensor(norm), torch.tensor(coef)))
    return telemetry.read(torch.tensor(timesteps))


def slow_bin(timestep):
    return next(b for b in range(3) if BIN_EDGES[b] <= timestep < BIN_EDGES[b + 1])


def test_window_agrees_with_a_loop_over_samples():
    rng = np.random.default_rng(0)
    timesteps = rng.integers(0, 10, size=(6, 5)).tolist()
    losses = rng.exponential(size=(6, 5)).astype(np.float32)
    losses[4, 2] = math.inf
    norms = [1.0, 2.0, 3.0, 4.0, math.nan, 6.0]
    coefs = [1.0, 0.5, 0.3, 0.25, math.nan, 0.2]
    window = observe_all(losses.tolist(), norms, coefs, timesteps)

    sums, counts, nonfinite = [0.0] * 3, [0] * 3, [0] * 3
    for step_timesteps, step_losses in zip(timesteps, losses, strict=True):
        for timestep, loss in zip(step_timesteps, step_losses, strict=True):
            counts[slow_bin(timestep)] += 1
            if math.isfinite(loss):
                sums[slow_bin(timestep)] += float(loss)
            else:
                nonfinite[slow_bin(timestep)] += 1

    assert window.bin_loss_sum == pytest.approx(sums, rel=1e-6)
    assert window.bin_count.tolist() == counts
    assert window.bin_nonfinite.tolist() == nonfinite
    assert window.grad_norm[:4].tolist() == norms[:4]
    assert window.batch_loss[0] == pytest.approx(losses[0].mean(), rel=1e-6)


@pytest.mark.parametrize(
    ("losses", "norms", "step", "bins"),
    [
        ([[1.0, 1.0], [1.0, 1.0]], [1.0, 1.0], None, ()),
        ([[1.0, 1.0], [1.0, math.nan]], [1.0, 1.0], 1, (2,)),
        ([[1.0, 1.0], [1.0, 1.0]], [math.inf, 1.0], 0, ()),
        ([[math.nan, math.inf], [math.nan, math.nan]], [1.0, 1.0], 0, (0, 2)),
    ],
    ids=["finite", "one nan sample", "inf gradient only", "nan from the first step"],
)
def test_first_nonfinite_step_and_its_bins(losses, norms, step, bins):
    window = observe_all(losses, norms, [1.0, 1.0], [[1, 8], [0, 9]])

    assert window.first_nonfinite_step == step
    assert window.first_nonfinite_bins == bins


def test_steps_whose_norm_was_not_looked_at_are_left_out():
    telemetry = Telemetry(BIN_EDGES)
    one = torch.tensor(1.0)
    telemetry.observe(torch.tensor([1.0]), ClipRecord(torch.tensor(5.0), one))
    telemetry.observe(torch.tensor([2.0]), None)
    telemetry.observe(torch.tensor([3.0]), ClipRecord(torch.tensor(math.inf), one))
    window = telemetry.read(torch.tensor([[0], [0], [0]]))

    assert window.grad_norm.tolist() == [5.0, math.inf]
    assert window.batch_loss.tolist() == [1.0, 2.0, 3.0]
    assert (window.nonfinite_steps, window.first_nonfinite_step) == (1, 2)


def test_a_window_without_norms_still_has_losses():
    telemetry = Telemetry(BIN_EDGES)
    telemetry.observe(torch.tensor([1.0, 3.0]), None)
    window = telemetry.read(torch.tensor([[0, 9]]))

    assert window.batch_loss.tolist() == [2.0]
    assert len(window.grad_norm) == 0


def test_reading_forgets_the_window():
    telemetry = Telemetry(BIN_EDGES)
    clip = ClipRecord(torch.tensor(1.0), torch.tensor(1.0))
    for expected in (2.0, 5.0):
        telemetry.observe(torch.tensor([expected]), clip)

        assert telemetry.read(torch.tensor([[0]])).bin_loss_sum.tolist() == [expected, 0.0, 0.0]
