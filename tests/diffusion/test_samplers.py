from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from stabsearch.diffusion.noise_schedule import make_noise_schedule
from stabsearch.diffusion.prediction_type import PREDICTION_TYPES
from stabsearch.diffusion.samplers import (
    call_sampler,
    ddim,
    ddpm,
    default_option,
    inference_timesteps,
    posterior_std,
)

LINEAR = make_noise_schedule()
ZERO_SNR = make_noise_schedule(rescale_betas_zero_snr=True)
FLOW = make_noise_schedule(kind="flow_matching")
SMALL = make_noise_schedule(num_train_timesteps=20, beta_end=0.3)

MEAN, VARIANCE = 1.5, 0.25


def gaussian_model(schedule, prediction_type):
    """The exact denoiser of N(MEAN, VARIANCE), one number at a time, in float64."""
    noise_weight, sample_weight = PREDICTION_TYPES[prediction_type].weights(schedule)

    def model(x_t, timesteps):
        assert timesteps.dtype == torch.int64
        assert timesteps.shape == x_t.shape[:1]
        t = int(timesteps[0])
        a, s = schedule.signal[t], schedule.sigma[t]
        x = x_t.double()
        x0 = MEAN + a * VARIANCE / (a**2 * VARIANCE + s**2) * (x - a * MEAN)
        return (noise_weight[t] * (x - a * x0) / s + sample_weight[t] * x0).float()

    return model


def seeded():
    return torch.Generator().manual_seed(0)


def draw(sampler, schedule, prediction_type, num_samples=500, **options):
    return sampler(
        gaussian_model(schedule, prediction_type),
        (num_samples, 1),
        generator=seeded(),
        noise_schedule=schedule,
        prediction_type=prediction_type,
        **options,
    )


@pytest.mark.parametrize(
    ("spacing", "total", "steps", "expected"),
    [
        ("trailing", 1000, 4, [999, 749, 499, 249]),
        ("leading", 1000, 4, [750, 500, 250, 0]),
        ("linspace", 1000, 4, [999, 666, 333, 0]),
        ("trailing", 5, 5, [4, 3, 2, 1, 0]),
        ("leading", 5, 5, [4, 3, 2, 1, 0]),
        ("linspace", 5, 5, [4, 3, 2, 1, 0]),
        ("trailing", 1000, 1, [999]),
        ("leading", 1000, 1, [0]),
        ("trailing", 1000, 3, [999, 666, 332]),
    ],
)
def test_timesteps_are_diffusers(spacing, total, steps, expected):
    assert list(inference_timesteps(total, steps, spacing)) == expected


@pytest.mark.parametrize("steps", [0, 1001])
def test_more_steps_than_timesteps_are_refused(steps):
    with pytest.raises(ValueError, match=f"num_inference_steps is {steps}"):
        list(inference_timesteps(1000, steps, "trailing"))


def slow_ddpm(model, schedule, shape, generator):
    """Ho et al. 2020, equations 6 and 7, from betas, for a model that predicts x0."""
    ab = schedule.alphas_cumprod
    x = torch.randn(shape, generator=generator)
    for t in reversed(range(len(ab))):
        ab_before = ab[t - 1] if t else 1.0
        beta = 1 - ab[t] / ab_before
        x0 = model(x, torch.full(shape[:1], t))
        mean = (
            math.sqrt(ab_before) * beta / (1 - ab[t]) * x0
            + math.sqrt(1 - beta) * (1 - ab_before) / (1 - ab[t]) * x
        )
        x = mean
        if t:
            std = math.sqrt((1 - ab_before) / (1 - ab[t]) * beta)
            x = mean + std * torch.randn(shape, generator=generator)
    return x


def test_ddpm_over_all_timesteps_is_ho_et_al():
    expected = slow_ddpm(gaussian_model(SMALL, "sample"), SMALL, (500, 1), seeded())

    actual = draw(ddpm, SMALL, "sample", num_inference_steps=20)
    assert actual.numpy() == pytest.approx(expected.numpy(), abs=2e-5)


def test_posterior_variance_is_that_of_two_gaussians_multiplied():
    for t, s in ((19, 18), (19, 4), (1, 0)):
        a, sigma, a_s, sigma_s = (
            SMALL.signal[t],
            SMALL.sigma[t],
            SMALL.signal[s],
            SMALL.sigma[s],
        )
        ratio = a / a_s
        added = sigma**2 - ratio**2 * sigma_s**2
        precision = 1 / sigma_s**2 + ratio**2 / added

        assert posterior_std(a, sigma, a_s, sigma_s) == pytest.approx(precision**-0.5, rel=1e-9)


@pytest.mark.parametrize("sampler", [ddim, ddpm])
def test_every_prediction_type_gives_the_same_samples(sampler):
    kinds = sorted(PREDICTION_TYPES)
    first, *others = (draw(sampler, LINEAR, kind, num_inference_steps=25) for kind in kinds)

    for other in others:
        assert other.numpy() == pytest.approx(first.numpy(), abs=1e-4)


@pytest.mark.parametrize(
    ("schedule", "prediction_type"),
    [(LINEAR, "epsilon"), (ZERO_SNR, "v_prediction"), (FLOW, "flow")],
    ids=["linear", "zero_snr", "flow"],
)
def test_ddim_tends_to_the_exact_map_of_its_equation(schedule, prediction_type):
    """With the exact denoiser the ODE maps x_T to x0 by scale and shift; errors halve with n."""
    a, s = schedule.signal[-1], schedule.sigma[-1]
    x_t = torch.randn((500, 1), generator=seeded()).double()
    exact = MEAN + math.sqrt(VARIANCE / (a**2 * VARIANCE + s**2)) * (x_t - a * MEAN)
    errors = [
        float((draw(ddim, schedule, prediction_type, num_inference_steps=n) - exact).abs().max())
        for n in (50, 100, 200, 400)
    ]

    assert errors[-1] < 0.02
    assert all(1.7 < long / short < 2.3 for long, short in itertools.pairwise(errors))


def test_ddpm_over_all_timesteps_draws_the_distribution():
    samples = draw(ddpm, LINEAR, "epsilon", num_samples=4000, num_inference_steps=1000)

    assert float(samples.mean()) == pytest.approx(MEAN, abs=4 * math.sqrt(VARIANCE / 4000))
    assert float(samples.var()) == pytest.approx(VARIANCE, rel=4 * math.sqrt(2 / 4000))


def test_ddim_under_flow_matching_is_euler():
    model, shape = gaussian_model(FLOW, "flow"), (100, 1)
    x = torch.randn(shape, generator=seeded())
    taus = [1.0, 0.75, 0.5, 0.25, 0.0]
    for timestep, tau, less in zip([999, 749, 499, 249], taus, taus[1:], strict=False):
        x = x + (less - tau) * model(x, torch.full(shape[:1], timestep))

    actual = draw(ddim, FLOW, "flow", num_samples=100, num_inference_steps=4)
    assert actual.numpy() == pytest.approx(x.numpy(), abs=1e-5)


@pytest.mark.parametrize("kind", ["sample", "v_prediction", "flow"])
@pytest.mark.parametrize("sampler", [ddim, ddpm])
def test_zero_terminal_snr_is_sampled(sampler, kind):
    samples = draw(sampler, ZERO_SNR, kind)

    assert np.isfinite(samples.numpy()).all()
    assert float(samples.mean()) == pytest.approx(MEAN, abs=0.1)


def test_epsilon_at_zero_terminal_snr_is_refused_where_the_last_timestep_is_visited():
    with pytest.raises(ValueError, match=r"timestep 999.*zero terminal SNR.*leading"):
        draw(ddim, ZERO_SNR, "epsilon")

    samples = draw(ddim, ZERO_SNR, "epsilon", timestep_spacing="leading")
    assert float(samples.mean()) == pytest.approx(MEAN, abs=0.1)


@pytest.mark.parametrize(("sampler", "options"), [(ddpm, {}), (ddim, {"eta": 0.5})])
def test_ancestral_noise_under_flow_matching_is_refused(sampler, options):
    with pytest.raises(ValueError, match=r"preserves variance.*Use ddim with eta 0"):
        draw(sampler, FLOW, "flow", **options)


def test_eta_adds_noise_between_the_two():
    plain, half, full = (draw(ddim, LINEAR, "epsilon", eta=eta) for eta in (0.0, 0.5, 1.0))

    assert not torch.equal(plain, half)
    assert torch.equal(full, draw(ddpm, LINEAR, "epsilon", num_inference_steps=50))


def test_estimates_of_x0_are_clipped_on_request():
    samples = draw(ddim, LINEAR, "epsilon", clip_sample_range=1.0)

    assert float(samples.max()) == 1.0
    assert float(draw(ddim, LINEAR, "epsilon").max()) > 2


def test_a_sampler_hears_what_its_signature_names_and_options_win():
    def curious(model, shape, *, generator, noise_schedule, steps=1):
        return noise_schedule, steps

    def plain(model, shape, *, generator):
        return "plain"

    offered = {"noise_schedule": "linear", "prediction_type": "epsilon"}
    arguments = {"generator": seeded(), "offered": offered}

    assert call_sampler(curious, None, (1,), **arguments, options={"steps": 3}) == ("linear", 3)
    assert call_sampler(plain, None, (1,), **arguments, options={}) == "plain"
    own = {"noise_schedule": "own"}
    assert call_sampler(curious, None, (1,), **arguments, options=own) == ("own", 1)


def test_defaults_of_options_are_read_from_the_signature():
    assert default_option(ddim, "num_inference_steps") == 50
    assert default_option(ddim, "noise_schedule") is None
    assert default_option(ddim, "nothing") is None
    assert default_option(torch.add, "alpha") is None  # written in C
