from __future__ import annotations

import pytest
import torch
from torch import nn

from stabsearch.training.ema import Ema


def test_average_follows_the_ramped_decay_step_by_step():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    ema = Ema(model, 0.8)
    slow = model.weight.detach().clone()
    for step in range(1, 60):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        ema.update(step)
        decay = min(0.8, (1 + step) / (10 + step))
        slow = decay * slow + (1 - decay) * model.weight.detach()

    assert torch.allclose(ema.tensors()["weight"], slow, atol=1e-5)


def test_initial_weights_are_forgotten_where_a_fixed_decay_keeps_them():
    """With a fixed 0.9999 the initial weights still carry 82% after 2,000 steps."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    ema = Ema(model, 0.9999)
    with torch.no_grad():
        model.weight.fill_(0.0)
    for step in range(1, 2001):
        ema.update(step)

    assert ema.tensors()["weight"].item() < 1e-6
    assert pytest.approx(0.82, abs=0.01) == 0.9999**2000


def test_buffers_are_current_not_averaged():
    model = nn.BatchNorm1d(2)
    ema = Ema(model, 0.9)
    model(torch.randn(16, 2) + 5)

    assert torch.equal(ema.tensors()["running_mean"], model.running_mean)


def test_restored_average_goes_on_as_the_original():
    model = nn.Linear(2, 2)
    first, second = Ema(model, 0.9), Ema(model, 0.9)
    with torch.no_grad():
        model.weight.add_(1.0)
    first.update(5)
    second.load_state_dict({k: v.clone() for k, v in first.state_dict().items()})

    assert torch.equal(first.tensors()["weight"], second.tensors()["weight"])
