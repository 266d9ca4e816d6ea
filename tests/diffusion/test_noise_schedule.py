from __future__ import annotations

import math

import numpy as np
import pytest

from stabsearch.diffusion.noise_schedule import (
    BETA_SCHEDULES,
    LOG_SNR_LIMIT,
    make_noise_schedule,
)


def published_betas(name, num_timesteps, start=1e-4, end=0.02):
    """diffusers' betas, timestep by timestep."""

    def alpha_bar(position):
        return math.cos((position + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = []
    for t in range(num_timesteps):
        share = t / (num_timesteps - 1)
        betas.append(
            {
                "linear": start + (end - start) * share,
                "scaled_linear": (start**0.5 + (end**0.5 - start**0.5) * share) ** 2,
                "squaredcos_cap_v2": min(
                    1 - alpha_bar((t + 1) / num_timesteps) / alpha_bar(t / num_timesteps), 0.999
                ),
                "sigmoid": start + (end - start) / (1 + math.exp(-(-6 + 12 * share))),
            }[name]
        )
    return betas


def published_zero_snr_betas(betas):
    """Lin et al. 2024, algorithm 1, as it is printed."""
    signal = np.sqrt(np.cumprod(1 - np.asarray(betas, dtype=np.longdouble)))
    first, last = signal[0], signal[-1]
    signal = (signal - last) * first / (first - last)
    alphas_cumprod = signal**2
    alphas = np.concatenate([alphas_cumprod[:1], alphas_cumprod[1:] / alphas_cumprod[:-1]])
    return 1 - alphas


@pytest.mark.parametrize("name", sorted(BETA_SCHEDULES))
def test_tables_agree_with_the_slow_product_of_the_published_betas(name):
    made = make_noise_schedule(beta_schedule=name)
    product = 1.0
    for t, beta in enumerate(published_betas(name, 1000)):
        product *= 1 - beta

        assert made.alphas_cumprod[t] == pytest.approx(product, rel=1e-9)
        assert made.one_minus_alphas_cumprod[t] == pytest.approx(1 - product, rel=1e-9)


@pytest.mark.parametrize("is_rescaled", [False, True])
@pytest.mark.parametrize("name", sorted(BETA_SCHEDULES))
def test_variance_is_preserved_and_noise_grows(name, is_rescaled):
    made = make_noise_schedule(beta_schedule=name, rescale_betas_zero_snr=is_rescaled)

    assert made.signal**2 + made.sigma**2 == pytest.approx(1.0, abs=1e-14)
    assert np.all(np.diff(made.sigma) >= 0)
    assert np.all(np.diff(made.signal) < 0)
    assert made.sigma[0] > 0


def test_sigma_is_exact_where_float32_cancels():
    """The chapter's cumprod loses 1.7e-4 of 1 - alphas_cumprod at small t; ours does not."""
    exact = np.longdouble(1e-4)
    in_float32 = 1 - np.cumprod(1 - np.full(1, 1e-4, dtype=np.float32))[0]

    assert abs(make_noise_schedule().one_minus_alphas_cumprod[0] / exact - 1) < 1e-14
    assert abs(in_float32 / exact - 1) > 1e-5


def test_linear_schedule_has_the_published_noise_levels():
    """sigma is .5 near t=165 and .96 at t=500, not .5 at T/2."""
    sigma = make_noise_schedule().sigma

    assert sigma[499] == pytest.approx(0.960, abs=2e-3)
    assert abs(int(np.argmin(abs(sigma - 0.5))) - 165) <= 2


def test_given_betas_are_used_as_they_are():
    betas = [0.1, 0.5, 0.25]
    made = make_noise_schedule(
        beta_schedule="given", num_train_timesteps=3, trained_betas=betas, beta_end=0.7
    )

    assert made.alphas_cumprod == pytest.approx([0.9, 0.45, 0.3375], rel=1e-14)


def test_a_last_beta_of_one_leaves_no_signal():
    made = make_noise_schedule(
        beta_schedule="given", num_train_timesteps=2, trained_betas=[0.5, 1.0]
    )

    assert made.has_zero_terminal_snr
    assert made.signal.tolist() == [pytest.approx(0.5**0.5), 0.0]
    assert made.sigma[-1] == 1.0


@pytest.mark.parametrize("name", sorted(BETA_SCHEDULES))
def test_zero_snr_rescaling_is_the_published_algorithm(name):
    betas = published_zero_snr_betas(published_betas(name, 1000))
    alphas_cumprod = np.cumprod(1 - betas).astype(np.float64)
    made = make_noise_schedule(beta_schedule=name, rescale_betas_zero_snr=True)

    assert made.has_zero_terminal_snr
    assert made.signal[-1] == 0
    assert made.alphas_cumprod == pytest.approx(alphas_cumprod, rel=1e-7, abs=1e-15)
    assert made.one_minus_alphas_cumprod == pytest.approx(1 - alphas_cumprod, rel=1e-9)
    assert made.signal[0] == pytest.approx(make_noise_schedule(beta_schedule=name).signal[0])


def test_rescaling_keeps_the_noise_of_the_first_timesteps_exact():
    rescaled = make_noise_schedule(rescale_betas_zero_snr=True)

    assert rescaled.one_minus_alphas_cumprod[0] == pytest.approx(1e-4, rel=1e-14, abs=0)


def test_flow_matching_is_a_straight_path_that_ends_in_pure_noise():
    made = make_noise_schedule(kind="flow_matching", num_train_timesteps=4, beta_start=0.3)

    assert made.sigma.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert made.signal.tolist() == [0.75, 0.5, 0.25, 0.0]
    assert made.has_zero_terminal_snr


def test_log_snr_agrees_with_the_ratio_where_there_is_signal():
    made = make_noise_schedule(beta_schedule="squaredcos_cap_v2")
    slow = [math.log(a * a / (s * s)) for a, s in zip(made.signal, made.sigma, strict=True)]

    assert made.log_snr == pytest.approx(slow, abs=1e-9)
    assert made.snr == pytest.approx(made.alphas_cumprod / made.one_minus_alphas_cumprod)
    assert not made.has_zero_terminal_snr


def test_snr_and_its_inverse_fit_float32_where_the_chapters_overflow():
    """The chapter takes the logarithm of an unclamped alphas_cumprod: -inf at the end."""
    made = make_noise_schedule(rescale_betas_zero_snr=True)
    snr = made.snr.astype(np.float32)
    with np.errstate(divide="ignore"):
        chapters = np.log(made.alphas_cumprod)

    assert chapters[-1] == -math.inf
    assert made.log_snr[-1] == -LOG_SNR_LIMIT
    assert np.all(np.isfinite(snr) & (snr > 0) & np.isfinite(1 / snr))
    assert np.all(np.isfinite(made.log_snr))


@pytest.mark.parametrize(
    "options",
    [{}, {"num_train_timesteps": 50}, {"kind": "flow_matching"}, {"rescale_betas_zero_snr": True}],
)
def test_terminal_kl_is_the_mean_divergence_of_two_gaussians(options):
    made = make_noise_schedule(**options)
    data = np.array([-1.0, 0.25, 0.5, 2.0])
    a, s = made.signal[-1], made.sigma[-1]
    x = np.linspace(-30, 30, 60_001)
    divergences = []
    for x0 in data:
        q = np.exp(-((x - a * x0) ** 2) / (2 * s * s)) / math.sqrt(2 * math.pi * s * s)
        log_ratio = (x**2 - ((x - a * x0) / s) ** 2) / 2 - math.log(s)
        divergences.append(np.trapezoid(q * log_ratio, x))

    kl = made.terminal_kl(float(np.mean(data**2)))

    assert kl == pytest.approx(np.mean(divergences), abs=1e-9)
    assert (kl < 1e-12) == made.has_zero_terminal_snr


@pytest.mark.parametrize(
    ("betas", "index", "value"),
    [
        ([0.1, 0.0, 0.2], 1, "0"),
        ([0.1, 0.2, 1.5], 2, "1.5"),
        ([-0.1, 2.0, 0.2], 0, "-0.1"),
        ([0.1, 1.0, 0.2], 1, "1"),
        ([0.1, 0.2, math.nan], 2, "nan"),
    ],
)
def test_a_beta_outside_its_range_is_refused_by_name(betas, index, value):
    with pytest.raises(ValueError, match=rf"betas\[{index}\] is {value};.*Change"):
        make_noise_schedule(beta_schedule="given", num_train_timesteps=3, trained_betas=betas)


def test_a_beta_range_above_one_is_refused():
    """The chapter takes log(1 - beta) of it and trains on NaN."""
    with pytest.raises(ValueError, match=r"only the last may be 1"):
        make_noise_schedule(beta_end=1.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta_schedule": "given"}, "there are no trained_betas; list them"),
        (
            {"beta_schedule": "given", "trained_betas": [0.1, 0.2]},
            "2 betas for 1000 timesteps.*Set num_train_timesteps to 2",
        ),
        ({"kind": "flow"}, "kind is flow; it must be diffusion or flow_matching"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_noise_schedule(**options)


@pytest.mark.parametrize(("num_timesteps", "num_bins"), [(1000, 10), (1000, 7), (10, 10)])
def test_bins_cover_all_timesteps_in_equal_parts(num_timesteps, num_bins):
    edges = make_noise_schedule(num_train_timesteps=num_timesteps).bin_edges(num_bins)
    widths = np.diff(edges)

    assert edges[0] == 0
    assert edges[-1] == num_timesteps
    assert len(widths) == num_bins
    assert widths.max() - widths.min() <= 1
