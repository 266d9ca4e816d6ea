from __future__ import annotations

import numpy as np
import pytest

from stabsearch.diffusion.noise_schedule import BETA_SCHEDULES, make_noise_schedule


def schedule(name="linear", num_train_timesteps=1000):
    return make_noise_schedule(name, num_train_timesteps, 1e-4, 0.02)


@pytest.mark.parametrize("name", sorted(BETA_SCHEDULES))
def test_tables_agree_with_the_slow_product(name):
    made = schedule(name)
    product = 1.0
    for t, beta in enumerate(made.betas):
        product *= 1 - beta

        assert made.alphas_cumprod[t] == pytest.approx(product, rel=1e-9)


@pytest.mark.parametrize("name", sorted(BETA_SCHEDULES))
def test_noise_grows_and_stays_between_zero_and_one(name):
    made = schedule(name)

    assert np.all(np.diff(made.one_minus_alphas_cumprod) > 0)
    assert made.one_minus_alphas_cumprod[0] > 0
    assert made.one_minus_alphas_cumprod[-1] <= 1


def test_one_minus_alphas_cumprod_is_exact_where_float32_cancels():
    """The chapter's cumprod loses 1.7e-4 of 1 - alphas_cumprod at small t; ours does not."""
    made = schedule()
    exact = np.longdouble(made.betas[0])
    in_float32 = 1 - np.cumprod(1 - made.betas.astype(np.float32))[0]

    assert abs(made.one_minus_alphas_cumprod[0] / exact - 1) < 1e-14
    assert abs(in_float32 / exact - 1) > 1e-5


def test_linear_schedule_has_the_published_noise_levels():
    """sigma is .5 near t=165 and .96 at t=500, not .5 at T/2."""
    sigma = schedule().one_minus_alphas_cumprod ** 0.5

    assert sigma[499] == pytest.approx(0.960, abs=2e-3)
    assert abs(int(np.argmin(abs(sigma - 0.5))) - 165) <= 2


@pytest.mark.parametrize(("num_timesteps", "num_bins"), [(1000, 10), (1000, 7), (10, 10)])
def test_bins_cover_all_timesteps_in_equal_parts(num_timesteps, num_bins):
    edges = schedule(num_train_timesteps=num_timesteps).bin_edges(num_bins)
    widths = np.diff(edges)

    assert edges[0] == 0
    assert edges[-1] == num_timesteps
    assert len(widths) == num_bins
    assert widths.max() - widths.min() <= 1
