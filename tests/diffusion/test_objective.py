from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from stabsearch.diffusion.noise_schedule import make_noise_schedule
from stabsearch.diffusion.objective import LOSSES, Objective, per_sample_loss
from stabsearch.diffusion.prediction_type import PREDICTION_TYPES

CPU = torch.device("cpu")
SCHEDULES = {
    "linear": make_noise_schedule(),
    "zero_snr": make_noise_schedule(rescale_betas_zero_snr=True),
    "flow_matching": make_noise_schedule(kind="flow_matching"),
}
LINEAR = SCHEDULES["linear"]
TIMESTEPS = torch.tensor([0, 10, 500, 998, 999])


def objective(**options):
    return Objective(LINEAR, "epsilon", CPU, **options)


@pytest.fixture
def x0_and_noise():
    torch.manual_seed(0)
    return torch.randn(5, 1, 4, 4), torch.randn(5, 1, 4, 4)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
@pytest.mark.parametrize("prediction_type", sorted(PREDICTION_TYPES))
def test_noised_and_target_agree_with_the_formulas_example_by_example(
    prediction_type, schedule, x0_and_noise
):
    x0, noise = x0_and_noise
    x_t, target = Objective(schedule, prediction_type, CPU).noised_and_target(x0, TIMESTEPS, noise)
    for i, t in enumerate(TIMESTEPS.tolist()):
        signal, sigma = schedule.signal[t], schedule.sigma[t]
        expected = {
            "epsilon": noise[i],
            "sample": x0[i],
            "v_prediction": signal * noise[i] - sigma * x0[i],
            "flow": noise[i] - x0[i],
        }[prediction_type]

        assert torch.allclose(x_t[i], signal * x0[i] + sigma * noise[i], atol=1e-6)
        assert torch.allclose(target[i], expected.float(), atol=1e-6)


def test_targets_that_are_an_input_are_that_very_tensor(x0_and_noise):
    x0, noise = x0_and_noise

    assert Objective(LINEAR, "epsilon", CPU).noised_and_target(x0, TIMESTEPS, noise)[1] is noise
    assert Objective(LINEAR, "sample", CPU).noised_and_target(x0, TIMESTEPS, noise)[1] is x0


def test_a_prediction_of_another_shape_is_refused_not_broadcast():
    prediction, target = torch.zeros(4, 1, 1, 1), torch.zeros(4, 1, 8, 8)
    with pytest.raises(ValueError, match=r"\[4, 1, 1, 1\]"):
        per_sample_loss(prediction, target)
    with pytest.raises(ValueError, match=r"\[4, 1, 1, 1\]"):
        objective().sample_losses(prediction, target, torch.zeros(4, dtype=torch.long))


def test_per_sample_loss_keeps_samples_apart():
    prediction, target = torch.zeros(2, 3), torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 3.0]])

    assert per_sample_loss(prediction, target).tolist() == [1.0, 3.0]


def test_without_weights_the_training_loss_is_the_mse_itself(x0_and_noise):
    losses = objective().sample_losses(*x0_and_noise, TIMESTEPS)

    assert losses.training is losses.mse
    assert losses.clamped_fraction is None
    assert losses.mse.tolist() == per_sample_loss(*x0_and_noise).tolist()


def test_weights_by_timestep_multiply_the_training_loss_only(x0_and_noise):
    weights = np.linspace(0, 3, 1000)
    losses = objective(weights=weights).sample_losses(*x0_and_noise, TIMESTEPS)
    mse = per_sample_loss(*x0_and_noise).tolist()
    expected = [mse[i] * weights[t] for i, t in enumerate(TIMESTEPS.tolist())]

    assert losses.mse.tolist() == mse
    assert losses.training.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_small_errors_cost_their_square_under_every_loss(loss):
    prediction, target = torch.full((2, 3), 0.5), torch.zeros(2, 3)
    losses = objective(loss=loss, huber_delta=0.6, loss_clamp=0.3).sample_losses(
        prediction, target, torch.tensor([0, 1])
    )

    assert losses.training.tolist() == pytest.approx([0.25, 0.25])


@pytest.mark.parametrize("delta", [0.1, 1.0, 5.0])
def test_huber_is_twice_torchs_value_and_gradient(delta):
    torch.manual_seed(0)
    prediction = (torch.randn(6, 50) * 3).requires_grad_()
    target = torch.zeros(6, 50)
    losses = objective(loss="huber", huber_delta=delta).sample_losses(
        prediction, target, torch.arange(6)
    )
    (ours,) = torch.autograd.grad(losses.training.sum(), prediction)
    theirs_loss = 2 * functional.huber_loss(prediction, target, reduction="none", delta=delta)
    (theirs,) = torch.autograd.grad(theirs_loss.mean(1).sum(), prediction)

    assert torch.allclose(losses.training, theirs_loss.mean(1), rtol=1e-5)
    assert torch.allclose(ours, theirs, rtol=1e-5)
    assert losses.mse.tolist() == prediction.square().mean(1).tolist()


def test_clamped_mse_has_no_gradient_where_it_is_clamped_but_the_mse_tells():
    """The chapter's stable_mse_loss: a diverged model sits at a loss of exactly 100, for ever."""
    prediction = torch.tensor([[30.0, -30.0], [1.0, 20.0], [0.5, 0.5]], requires_grad=True)
    losses = objective(loss="clamped_mse").sample_losses(
        prediction, torch.zeros(3, 2), torch.tensor([0, 1, 2])
    )
    (gradient,) = torch.autograd.grad(losses.training.sum(), prediction)

    assert losses.training.tolist() == [100.0, 50.5, 0.25]
    assert gradient.tolist() == [[0.0, 0.0], [1.0, 0.0], [0.5, 0.5]]
    assert losses.clamped_fraction is not None
    assert losses.clamped_fraction.item() == 0.5
    assert losses.mse.tolist() == [900.0, 200.5, 0.25]


def test_huber_keeps_a_gradient_where_clamping_loses_it():
    prediction = torch.tensor([[30.0]], requires_grad=True)
    losses = objective(loss="huber").sample_losses(
        prediction, torch.zeros(1, 1), torch.tensor([0])
    )
    (gradient,) = torch.autograd.grad(losses.training.sum(), prediction)

    assert gradient.item() == 2.0


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_nan_is_not_hidden(loss):
    prediction = torch.tensor([[float("nan"), 0.0], [1.0, 0.0]])
    losses = objective(loss=loss).sample_losses(
        prediction, torch.zeros(2, 2), torch.tensor([0, 1])
    )

    assert losses.training.isnan().tolist() == [True, False]
    assert losses.mse.isnan().tolist() == [True, False]


def test_losses_of_half_precision_predictions_are_in_fp32():
    prediction = torch.full((1, 2), 300.0, dtype=torch.float16)  # its square is Inf in fp16
    losses = objective().sample_losses(prediction, torch.zeros(1, 2), torch.tensor([0]))

    assert losses.mse.tolist() == [90_000.0]
