from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from stabsearch.spec import TrainerSpec
from stabsearch.training.ema import (
    EMA_SCHEDULES,
    make_ema,
    power_decay,
    power_exponent,
    ramped_decay,
)

WIDTHS = [0.01, 0.05, 0.1, 0.2, 0.25, 0.279]
"""Relative standard deviations, up to the largest that a spec may name."""


def random_walk(model, num_steps, update):
    """Moves every weight at every step; returns the weights after each, start first."""
    torch.manual_seed(1)
    path = [model.weight.detach().clone()]
    for step in range(1, num_steps + 1):
        with torch.no_grad():
            model.weight.add_(torch.randn(model.weight.shape))
        update(step)
        path.append(model.weight.detach().clone())
    return torch.stack(path)


def profile(decay, num_steps):
    """How much the weights after step 0, 1, ... count in the average after ``num_steps``."""
    shares = np.zeros(num_steps + 1)
    shares[0] = 1
    for step in range(1, num_steps + 1):
        shares *= decay(step)
        shares[step] += 1 - decay(step)
    return shares


def relative_std(shares):
    times = np.arange(len(shares)) / (len(shares) - 1)
    mean = (shares * times).sum()
    return np.sqrt((shares * (times - mean) ** 2).sum())


def test_every_schedule_of_the_spec_is_there():
    annotation = TrainerSpec.model_fields["ema_schedule"].annotation

    assert set(EMA_SCHEDULES) == set(get_args(annotation))


def test_no_decay_means_no_average():
    assert make_ema(nn.Linear(1, 1), TrainerSpec(ema_decay=None)) is None


def test_average_follows_the_ramped_decay_step_by_step():
    model = nn.Linear(3, 2)
    slow = model.weight.detach().clone()
    ema = make_ema(model, TrainerSpec(ema_decay=0.8))
    path = random_walk(model, 60, ema.update)
    for step in range(1, 61):
        decay = min(0.8, (1 + step) / (10 + step))
        slow = decay * slow + (1 - decay) * path[step]

    assert torch.allclose(ema.tensors()["weight"], slow, atol=1e-5)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1, 0.25])
def test_power_average_is_the_weighted_mean_of_the_stored_trajectory(sigma_rel):
    """Weights after step i count i^(g + 1) - (i - 1)^(g + 1); the initial ones not at all."""
    model = nn.Linear(3, 2)
    spec = TrainerSpec(ema_schedule="power", ema_sigma_rel=sigma_rel)
    ema = make_ema(model, spec)
    path = random_walk(model, 80, ema.update).double()
    exponent = power_exponent(sigma_rel)
    edges = torch.arange(81).double() ** (exponent + 1)
    expected = torch.tensordot(edges.diff(), path[1:], 1) / edges[-1]

    assert torch.allclose(ema.tensors()["weight"].double(), expected, atol=1e-4)


@pytest.mark.parametrize("sigma_rel", WIDTHS)
def test_power_profile_has_the_relative_width_that_was_asked_for(sigma_rel):
    exponent = power_exponent(sigma_rel)
    shares = profile(lambda step: power_decay(step, exponent), 20_000)

    assert shares.sum() == pytest.approx(1)
    assert shares[0] == 0
    assert relative_std(shares) == pytest.approx(sigma_rel, rel=1e-3)


def test_power_exponents_are_those_of_the_paper():
    """Karras et al. 2024, section 3.1: 5% and 10% are g = 16.97 and 6.94; g = 0 is 28.87%."""
    assert power_exponent(0.05) == pytest.approx(16.97, abs=0.01)
    assert power_exponent(0.10) == pytest.approx(6.94, abs=0.01)
    assert power_exponent(12**-0.5) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("changes", [{}, {"ema_schedule": "power"}], ids=["ramped", "power"])
def test_initial_weights_are_forgotten_where_a_fixed_decay_keeps_them(changes):
    """With a fixed 0.9999 the initial weights still carry 82% after 2,000 steps."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    ema = make_ema(model, TrainerSpec(**changes))
    with torch.no_grad():
        model.weight.fill_(0.0)
    for step in range(1, 2001):
        ema.update(step)

    assert ema.tensors()["weight"].item() < 1e-6
    assert pytest.approx(0.82, abs=0.01) == 0.9999**2000


def test_the_ramp_ends_at_the_cap():
    assert ramped_decay(1, 0.9) == 2 / 11
    assert ramped_decay(10_000, 0.9) == 0.9


class Buffers(nn.Module):
    """One of every kind of buffer."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("running", torch.zeros(2))
        self.register_buffer("table", torch.tensor([0.1, 1 / 3]))
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("count", torch.tensor(0))


def test_floating_buffers_are_averaged_and_integer_ones_are_current():
    model = Buffers()
    ema = make_ema(model, TrainerSpec(ema_decay=0.5))
    slow = torch.zeros(2)
    for step in range(1, 6):
        model.running += step
        model.count += 1
        ema.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        slow = decay * slow + (1 - decay) * model.running

    assert torch.allclose(ema.tensors()["running"], slow)
    assert ema.tensors()["count"].item() == 5


def test_constant_buffers_come_out_as_they_are():
    """An attention mask's infinities would average to NaN."""
    model = Buffers()
    ema = make_ema(model, TrainerSpec())
    for step in range(1, 200):
        ema.update(step)

    assert torch.equal(ema.tensors()["table"], model.table)
    assert torch.equal(ema.tensors()["mask"], model.mask)
    assert ema.tensors().keys() == {"weight", "running", "table", "mask", "count"}


def test_batch_norm_statistics_are_averaged():
    model = nn.BatchNorm1d(2)
    ema = make_ema(model, TrainerSpec(ema_schedule="power"))
    model(torch.randn(16, 2) + 5)
    ema.update(1)
    first = model.running_mean.clone()
    model(torch.randn(16, 2) + 5)
    ema.update(2)
    averaged = ema.tensors()["running_mean"]

    assert ((first < averaged) & (averaged < model.running_mean)).all()
    assert ema.tensors()["num_batches_tracked"].item() == 2


def test_half_precision_weights_are_averaged_in_fp32():
    """A bf16 average would never move: 1e-4 is lost beside 1."""
    model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    with torch.no_grad():
        model.weight.fill_(1.0)
    ema = make_ema(model, TrainerSpec(ema_decay=0.9999))
    with torch.no_grad():
        model.weight.fill_(2.0)
    for _ in range(100):
        ema.update(1_000_000)

    assert ema.tensors()["weight"].dtype == torch.float32
    assert ema.tensors()["weight"].item() == pytest.approx(2 - 0.9999**100, rel=1e-5)


def test_the_models_own_tensors_are_neither_changed_nor_moved():
    """Re-pointing a parameter breaks fused optimizers and CUDA graphs."""
    model = Buffers()
    tensors = [*model.parameters(), *model.buffers()]
    before = [(t.data_ptr(), t.detach().clone()) for t in tensors]
    ema = make_ema(model, TrainerSpec())
    ema.update(1)
    ema.load_state_dict({key: value + 1 for key, value in ema.state_dict().items()})

    for tensor, (pointer, value) in zip(tensors, before, strict=True):
        assert tensor.data_ptr() == pointer
        assert torch.equal(tensor.detach(), value)


def test_the_average_stays_in_its_own_memory():
    model = nn.Linear(2, 2)
    ema = make_ema(model, TrainerSpec())
    pointers = [t.data_ptr() for t in ema.state_dict().values()]
    random_walk(model, 3, ema.update)

    assert [t.data_ptr() for t in ema.state_dict().values()] == pointers


@pytest.mark.parametrize("schedule", sorted(EMA_SCHEDULES))
def test_restored_average_goes_on_as_the_original(schedule):
    model = Buffers()
    spec = TrainerSpec(ema_schedule=schedule)
    first, second = make_ema(model, spec), make_ema(model, spec)
    with torch.no_grad():
        model.weight += 1.0
        model.running += 2.0
    first.update(5)
    second.load_state_dict({k: v.clone() for k, v in first.state_dict().items()})
    first.update(6)
    second.update(6)

    assert all(torch.equal(v, second.tensors()[k]) for k, v in first.tensors().items())
