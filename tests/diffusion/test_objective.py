from __future__ import annotations

import pytest
import torch

from stabsearch.diffusion.noise_schedule import make_noise_schedule
from stabsearch.diffusion.objective import TARGETS, Objective, per_sample_loss

SCHEDULE = make_noise_schedule("linear", 1000, 1e-4, 0.02)


@pytest.mark.parametrize("prediction_type", sorted(TARGETS))
def test_noised_and_target_agree_with_the_formulas_example_by_example(prediction_type):
    torch.manual_seed(0)
    x0, noise = torch.randn(5, 1, 4, 4), torch.randn(5, 1, 4, 4)
    timesteps = torch.tensor([0, 10, 500, 998, 999])
    x_t, target = Objective(SCHEDULE, prediction_type, torch.device("cpu")).noised_and_target(
        x0, timesteps, noise
    )
    for i, t in enumerate(timesteps.tolist()):
        signal = SCHEDULE.alphas_cumprod[t] ** 0.5
        sigma = SCHEDULE.one_minus_alphas_cumprod[t] ** 0.5
        expected = {
            "epsilon": noise[i],
            "sample": x0[i],
            "v_prediction": signal * noise[i] - sigma * x0[i],
        }[prediction_type]

        assert torch.allclose(x_t[i], signal * x0[i] + sigma * noise[i], atol=1e-6)
        assert torch.allclose(target[i], expected.float(), atol=1e-6)


def test_a_prediction_of_another_shape_is_refused_not_broadcast():
    with pytest.raises(ValueError, match=r"\[4, 1, 1, 1\]"):
        per_sample_loss(torch.zeros(4, 1, 1, 1), torch.zeros(4, 1, 8, 8))


def test_per_sample_loss_keeps_samples_apart():
    prediction, target = torch.zeros(2, 3), torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 3.0]])

    assert per_sample_loss(prediction, target).tolist() == [1.0, 3.0]
