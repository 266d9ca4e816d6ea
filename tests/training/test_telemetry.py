from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stabsearch.training.clipping import ClipRecord
from stabsearch.training.telemetry import StepRecord, Telemetry

BIN_EDGES = (0, 3, 7, 10)


def step(losses, timesteps, norm=1.0, coef=1.0, clamped=None, squares=None):
    def tensor(value):
        return None if value is None else torch.tensor(value)

    clip = ClipRecord(torch.tensor(norm), torch.tensor(coef), torch.tensor(coef < 1))
    return StepRecord(
        torch.tensor(timesteps), torch.tensor(losses), clip, tensor(clamped), tensor(squares)
    )


def window_of(steps, telemetry=None, **options):
    telemetry = telemetry or Telemetry(BIN_EDGES, **options)
    for record in steps:
        telemetry.observe(record)
    return telemetry.read()


def slow_bin(timestep):
    return next(b for b in range(3) if BIN_EDGES[b] <= timestep < BIN_EDGES[b + 1])


@pytest.mark.parametrize("timestep", [-1, 10])
def test_a_timestep_of_no_bin_is_an_error(timestep):
    with pytest.raises(IndexError):
        window_of([step([0.5, 0.5], [3, timestep])])


def test_window_agrees_with_a_loop_over_samples():
    rng = np.random.default_rng(0)
    timesteps = rng.integers(0, 10, size=(6, 5)).tolist()
    losses = rng.exponential(size=(6, 5)).astype(np.float32)
    losses[4, 2] = math.inf
    squares = rng.exponential(size=(6, 5)).astype(np.float32)
    squares[3, 1] = math.nan
    norms = [1.0, 2.0, 3.0, 4.0, math.nan, 6.0]
    coefs = [1.0, 0.5, 0.3, 0.25, 1.0, 0.2]
    is_measured = [False, True, False, True, False, False]
    window = window_of(
        step(loss.tolist(), t, norm, coef, squares=s.tolist() if m else None)
        for loss, t, norm, coef, s, m in zip(
            losses, timesteps, norms, coefs, squares, is_measured, strict=True
        )
    )

    sums, counts, nonfinite = [0.0] * 3, [0] * 3, [0] * 3
    square_sums, square_counts = [0.0] * 3, [0] * 3
    for i, step_timesteps in enumerate(timesteps):
        for j, timestep in enumerate(step_timesteps):
            b = slow_bin(timestep)
            counts[b] += 1
            if math.isfinite(losses[i, j]):
                sums[b] += float(losses[i, j])
            else:
                nonfinite[b] += 1
            if is_measured[i] and math.isfinite(squares[i, j]):
                square_sums[b] += float(squares[i, j])
                square_counts[b] += 1
    rms = [
        math.sqrt(s / n) if n else math.nan
        for s, n in zip(square_sums, square_counts, strict=True)
    ]

    assert window.bin_loss_sum == pytest.approx(sums, rel=1e-6)
    assert window.bin_count.tolist() == counts
    assert window.bin_nonfinite.tolist() == nonfinite
    assert window.grad_norm[:4].tolist() == norms[:4]
    assert window.clip_coef == pytest.approx(coefs, rel=1e-6)
    assert window.is_clipped.tolist() == [False, True, True, True, False, True]
    assert window.batch_loss[0] == pytest.approx(losses[0].mean(), rel=1e-6)
    assert window.bin_grad_norm == pytest.approx(rms, rel=1e-6, nan_ok=True)
    assert window.bin_grad_count.tolist() == square_counts


@pytest.mark.parametrize(
    ("losses", "norms", "first", "bins"),
    [
        ([[1.0, 1.0], [1.0, 1.0]], [1.0, 1.0], None, ()),
        ([[1.0, 1.0], [1.0, math.nan]], [1.0, 1.0], 1, (2,)),
        ([[1.0, 1.0], [1.0, 1.0]], [math.inf, 1.0], 0, ()),
        ([[math.nan, math.inf], [math.nan, math.nan]], [1.0, 1.0], 0, (0, 2)),
    ],
    ids=["finite", "one nan sample", "inf gradient only", "nan from the first step"],
)
def test_first_nonfinite_step_and_its_bins(losses, norms, first, bins):
    window = window_of(
        step(loss, t, norm) for loss, t, norm in zip(losses, [[1, 8], [0, 9]], norms, strict=True)
    )

    assert window.first_nonfinite_step == first
    assert window.first_nonfinite_bins == bins


@pytest.mark.parametrize(
    ("loss", "scales_loss", "nonfinite_steps", "scaler_skips"),
    [(1.0, True, 0, 1), (1.0, False, 1, 0), (math.nan, True, 1, 0), (math.nan, False, 1, 0)],
)
def test_an_overflow_of_the_scaled_gradient_is_no_divergence(
    loss, scales_loss, nonfinite_steps, scaler_skips
):
    window = window_of([step([loss], [0], math.inf)], scales_loss=scales_loss)

    assert (window.nonfinite_steps, window.scaler_skips) == (nonfinite_steps, scaler_skips)


def test_outliers_are_measured_against_the_norms_before_the_window():
    telemetry = Telemetry(BIN_EDGES)
    steady = window_of((step([1.0], [0], 1.0 + i / 100) for i in range(30)), telemetry)
    spiked = window_of((step([1.0], [0], n) for n in (1.0, 3.3, 3.6, math.inf)), telemetry)

    assert steady.outlier_norm_rate == 0
    assert spiked.outlier_norm_rate == pytest.approx(1 / 3)  # the median is 1.145


def test_a_restored_telemetry_knows_the_norms_before():
    first = Telemetry(BIN_EDGES)
    window_of((step([1.0], [0]) for _ in range(30)), first)
    second = Telemetry(BIN_EDGES)
    second.load_state_dict(first.state_dict())

    assert window_of([step([1.0], [0], 9.0)], second).outlier_norm_rate == 1


def test_the_clamped_fraction_is_that_of_the_window():
    window = window_of([step([1.0], [0], clamped=0.5), step([1.0], [0], clamped=0.1)])

    assert window.clamped_fraction == pytest.approx(0.3)
    assert window_of([step([1.0], [0])]).clamped_fraction == 0


def test_a_window_without_measured_gradients_has_none():
    window = window_of([step([1.0, 3.0], [0, 9])])

    assert window.bin_grad_count.tolist() == [0, 0, 0]
    assert np.isnan(window.bin_grad_norm).all()


def test_reading_forgets_the_window():
    telemetry = Telemetry(BIN_EDGES)
    for expected in (2.0, 5.0):
        window = window_of([step([expected], [0])], telemetry)

        assert window.bin_loss_sum.tolist() == [expected, 0.0, 0.0]


def test_batches_of_different_sizes_make_a_window():
    """As the last batch of an epoch does."""
    window = window_of(
        [
            step([1.0, 2.0, 3.0], [0, 4, 9], squares=[1.0, 4.0, 9.0]),
            step([5.0, math.nan], [0, 8]),
            step([6.0], [4], squares=[16.0]),
        ]
    )

    assert window.batch_loss.tolist() == pytest.approx([2.0, math.nan, 6.0], nan_ok=True)
    assert window.bin_loss_sum.tolist() == [6.0, 8.0, 3.0]
    assert window.bin_count.tolist() == [2, 2, 2]
    assert window.bin_nonfinite.tolist() == [0, 0, 1]
    assert window.bin_grad_norm == pytest.approx([1.0, math.sqrt(10), 3.0])
    assert window.bin_grad_count.tolist() == [1, 2, 1]
    assert (window.first_nonfinite_step, window.first_nonfinite_bins) == (1, (2,))
