from __future__ import annotations

import numpy as np
import pytest

from stabsearch.diffusion.noise_schedule import make_noise_schedule
from stabsearch.diffusion.prediction_type import PREDICTION_TYPES

SCHEDULES = {
    "linear": make_noise_schedule(),
    "zero_snr": make_noise_schedule(rescale_betas_zero_snr=True),
    "flow_matching": make_noise_schedule(kind="flow_matching"),
}


def slow_target(prediction_type, x0, noise, signal, sigma):
    return {
        "epsilon": noise,
        "sample": x0,
        "v_prediction": signal * noise - sigma * x0,
        "flow": noise - x0,
    }[prediction_type]


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
@pytest.mark.parametrize("prediction_type", sorted(PREDICTION_TYPES))
def test_factor_is_the_loss_that_an_error_of_x0_becomes(prediction_type, schedule):
    rng = np.random.default_rng(0)
    factor = PREDICTION_TYPES[prediction_type].loss_per_sample_error(schedule)
    for t in (0, 5, 200, 500, 998, 999):
        signal, sigma = schedule.signal[t], schedule.sigma[t]
        x0, noise, x0_hat = rng.normal(size=(3, 7))
        noise_hat = (signal * x0 + sigma * noise - signal * x0_hat) / sigma
        target = slow_target(prediction_type, x0, noise, signal, sigma)
        estimate = slow_target(prediction_type, x0_hat, noise_hat, signal, sigma)
        loss, sample_error = np.mean((estimate - target) ** 2), np.mean((x0_hat - x0) ** 2)

        assert loss == pytest.approx(factor[t] * sample_error, rel=1e-9, abs=1e-20)


def test_factors_are_the_published_ones():
    linear, flow = SCHEDULES["linear"], SCHEDULES["flow_matching"]
    ab, om = linear.alphas_cumprod, linear.one_minus_alphas_cumprod
    factors = {n: p.loss_per_sample_error(linear) for n, p in PREDICTION_TYPES.items()}

    assert factors["epsilon"] == pytest.approx(ab / om, rel=1e-12)
    assert factors["sample"] == pytest.approx(np.ones(1000))
    assert factors["v_prediction"] == pytest.approx(1 / om, rel=1e-12)
    assert PREDICTION_TYPES["flow"].loss_per_sample_error(flow) == pytest.approx(
        1 / flow.sigma**2, rel=1e-12
    )


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
@pytest.mark.parametrize("prediction_type", sorted(PREDICTION_TYPES))
def test_constant_loss_is_the_variance_of_the_target(prediction_type, schedule):
    rng = np.random.default_rng(0)
    variance = 0.3
    constant = PREDICTION_TYPES[prediction_type].constant_loss(schedule, variance)
    x0 = 2.0 + rng.normal(size=200_000) * variance**0.5
    noise = rng.normal(size=200_000)
    for t in (0, 200, 999):
        target = slow_target(prediction_type, x0, noise, schedule.signal[t], schedule.sigma[t])

        assert constant[t] == pytest.approx(np.var(target), rel=0.02)


def test_only_epsilon_says_nothing_about_x0_in_pure_noise():
    last = {
        name: prediction.loss_per_sample_error(SCHEDULES["zero_snr"])[-1]
        for name, prediction in PREDICTION_TYPES.items()
    }

    assert last == {"epsilon": 0.0, "sample": 1.0, "v_prediction": 1.0, "flow": 1.0}
