"""What the chapter measures of gradients per timestep, and how it draws timesteps, beside ours."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from stabsearch.diffusion.noise_schedule import make_noise_schedule
from stabsearch.diffusion.objective import Objective
from stabsearch.training.timestep_sampling import StratifiedSampler
from tests.chapter import chapter

EDGES = range(0, 1001, 100)


def test_gradient_monitor_writes_the_same_number_into_every_timestep(train, train_as_the_chapter):
    """Item 3. It spreads one number, the norm of the batch gradient, over all timesteps of the
    batch: its bins are equal to a few percent, where true per-sample norms differ several times.
    Nor is that norm / B the size of a sample's gradient; it is hundreds of times too small."""
    monitor = train_as_the_chapter().monitor
    theirs = [
        np.mean([norm for t in range(low, high) for norm in monitor.grad_norms[t]])
        for low, high in itertools.pairwise(EDGES)
    ]
    ours = train(grad_norm_every=1).reports[-1].bin_grad_norm

    assert max(theirs) / min(theirs) < 1.05
    assert max(ours) / min(ours) > 2
    assert min(ours) > 50 * max(theirs)


def test_high_noise_does_not_have_the_larger_gradients(train):
    """Item 4. "Harder timesteps (high noise) have larger gradients": the reverse with epsilon and
    v. With the clean sample as target they are nearly the same."""
    slope = {
        prediction_type: last_bin_over_first(
            train(grad_norm_every=1, prediction_type=prediction_type)
        )
        for prediction_type in ("epsilon", "v_prediction", "sample")
    }

    assert slope["epsilon"] < 0.6
    assert slope["v_prediction"] < 0.5
    assert 0.7 < slope["sample"] < 2.0


def last_bin_over_first(run):
    norms = run.reports[-1].bin_grad_norm
    return norms[-1] / norms[0]


def test_what_is_called_stratified_is_not(train, digits):
    """Item 14. randint draws independently: batches miss some ranges of t and crowd others, and
    most of the variance of a batch's loss is that. Stratified draws take it away. (They do not
    make a better gradient: its variance late in training is not in t.)"""
    generator = torch.Generator().manual_seed(0)
    sampler = StratifiedSampler(1000, 64, generator, torch.device("cpu"))
    torch.manual_seed(0)
    theirs = lambda: chapter.stratified_timesteps(64, 1000)  # noqa: E731
    model = train().model
    loss_theirs, loss_ours = (
        batch_loss_variance(model, digits, draw) for draw in (theirs, sampler.draw)
    )
    gradient_theirs, gradient_ours = (
        batch_gradient_variance(model, digits, draw) for draw in (theirs, sampler.draw)
    )

    assert strata_hit(theirs()) < 50
    assert strata_hit(sampler.draw()) >= 63
    assert loss_theirs / loss_ours > 4
    assert gradient_theirs / gradient_ours == pytest.approx(1, abs=0.3)


def strata_hit(timesteps):
    return len((timesteps * 64 // 1000).unique())


def losses(model, digits, timesteps):
    objective = Objective(make_noise_schedule(), "epsilon", torch.device("cpu"))
    x0 = digits[torch.randint(len(digits), timesteps.shape)]
    x_t, target = objective.noised_and_target(x0, timesteps, torch.randn(x0.shape))
    return objective.sample_losses(model(x_t, timesteps), target, timesteps).mse


@torch.no_grad()
def batch_loss_variance(model, digits, draw):
    return torch.stack([losses(model, digits, draw()).mean() for _ in range(400)]).var().item()


def batch_gradient_variance(model, digits, draw):
    """Trace of the covariance of the batch gradient."""
    gradients = []
    for _ in range(150):
        loss = losses(model, digits, draw()).mean()
        parts = torch.autograd.grad(loss, list(model.parameters()))
        gradients.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(gradients).var(0).sum().item()


def test_snr_weighting_can_cause_the_domination_it_is_said_to_cure(train):
    """Item 20. Of the loss of x0, weighting by the SNR gives all of the gradient to the least
    noisy tenth of the timesteps; without it, or with epsilon, no bin dominates."""
    run = {"steps": 100, "grad_norm_every": 1}
    weighted = train(prediction_type="sample", loss_weighting="snr", **run).reports[-1]
    unweighted = train(prediction_type="sample", **run).reports[-1]
    epsilon = train(**run).reports[-1]

    assert weighted.bin_grad_share[0] > 0.99
    assert weighted.grad_effective_bins == pytest.approx(1, abs=0.02)
    assert max(unweighted.bin_grad_share) < 0.4
    assert unweighted.grad_effective_bins > 4
    assert max(epsilon.bin_grad_share) < 0.4
    assert epsilon.grad_effective_bins > 4
