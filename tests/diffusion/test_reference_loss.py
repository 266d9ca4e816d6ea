from __future__ import annotations

import functools

import numpy as np
import pytest

from stabsearch.diffusion import reference_loss
from stabsearch.diffusion.datasets import DATASETS, make_dataset
from stabsearch.diffusion.noise_schedule import make_noise_schedule
from stabsearch.diffusion.posterior import PosteriorCurve
from stabsearch.diffusion.power_spectrum import power_spectrum_eigenvalues
from stabsearch.diffusion.prediction_type import PREDICTION_TYPES
from stabsearch.diffusion.reference_loss import (
    DataStatistics,
    covariance_eigenvalues,
    data_statistics,
    reference_curves,
)

LINEAR = make_noise_schedule()
ZERO_SNR = make_noise_schedule(rescale_betas_zero_snr=True)
FLOW = make_noise_schedule(kind="flow_matching")
SCHEDULES = {"linear": LINEAR, "zero_snr": ZERO_SNR, "flow_matching": FLOW}
KINDS = sorted(PREDICTION_TYPES)
EVERY_TIMESTEP = np.arange(1000)
VARIANCES = np.array([1.0, 0.3, 0.1, 0.01])

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())


@pytest.fixture(scope="module")
def digits():
    """Statistics of the digits to train on."""
    return data_statistics(make_dataset(DATASETS["digits"], {}, 1 / 6, 0).train)


@pytest.fixture(scope="module")
def table_curves():
    """Of the 1,500 digits that the table was measured on; its t counts from 1."""
    examples = DATASETS["digits"]()
    measured = examples[np.random.default_rng(0).permutation(len(examples))[:1500]]
    statistics = data_statistics(measured)
    return reference_curves(statistics, LINEAR, "epsilon")


def gaussian(variances):
    eigenvalues = np.asarray(variances, dtype=np.float64)
    return DataStatistics(len(variances), eigenvalues, float(eigenvalues.mean()), None)


@functools.cache
def measured_losses(schedule_name, timestep):
    """{kind: [loss of the best linear denoiser, of the best isotropic one]} on Gaussian draws."""
    schedule = SCHEDULES[schedule_name]
    signal, sigma = np.float32(schedule.signal[timestep]), np.float32(schedule.sigma[timestep])
    rng = np.random.default_rng(timestep)
    mean, num_draws, num_rounds = np.float32(0.5), 1_000_000, 4
    losses = {kind: np.zeros(2) for kind in KINDS}
    for variance in np.repeat(VARIANCES, num_rounds):
        deviation, noise = rng.standard_normal((2, num_draws), dtype=np.float32)
        x0 = mean + np.float32(variance**0.5) * deviation
        x_t = signal * x0 + sigma * noise
        for column, known in enumerate((variance, VARIANCES.mean())):
            gain = np.float32(signal * known / (signal**2 * known + sigma**2))
            x0_hat = mean + gain * (x_t - signal * mean)
            x0_error, noise_error = x0_hat - x0, (x_t - signal * x0_hat) / sigma - noise
            for kind, error in {
                "epsilon": noise_error,
                "sample": x0_error,
                "v_prediction": signal * noise_error - sigma * x0_error,
                "flow": noise_error - x0_error,
            }.items():
                losses[kind][column] += np.mean(error**2) / (len(VARIANCES) * num_rounds)
    return losses


@pytest.mark.parametrize("timestep", [5, 300])
@pytest.mark.parametrize("schedule_name", ["linear", "flow_matching"])
@pytest.mark.parametrize("kind", KINDS)
def test_references_are_what_the_best_denoisers_get_on_gaussian_data(
    kind, schedule_name, timestep
):
    curves = reference_curves(gaussian(VARIANCES), SCHEDULES[schedule_name], kind)
    linear, isotropic = measured_losses(schedule_name, timestep)[kind]

    assert curves.linear[timestep] == pytest.approx(linear, abs=1e-3)
    assert curves.isotropic[timestep] == pytest.approx(isotropic, abs=1e-3)


@every_schedule
@pytest.mark.parametrize("kind", KINDS)
def test_linear_reference_is_the_closed_form_eigenvalue_by_eigenvalue(kind, schedule):
    """M = mean_i l_i om / (ab l_i + om), times ab / om, 1, 1 / om or 1 / tau^2 on its schedule."""
    curves = reference_curves(gaussian(VARIANCES), schedule, kind)
    for t in (0, 10, 500, 998, 999):
        ab, om = schedule.signal[t] ** 2, schedule.sigma[t] ** 2
        error = sum(value * om / (ab * value + om) for value in VARIANCES) / len(VARIANCES)
        factor = {
            "epsilon": ab / om,
            "sample": 1.0,
            "v_prediction": (ab + om) ** 2 / om,
            "flow": (schedule.signal[t] + schedule.sigma[t]) ** 2 / om,
        }[kind]

        assert curves.linear[t] == pytest.approx(factor * error, rel=1e-9)


@pytest.mark.parametrize(
    ("timestep", "isotropic", "linear", "rounding"),
    [
        (1, 1.000, 0.883, 5e-4),
        (10, 0.994, 0.793, 5e-4),
        (50, 0.907, 0.583, 5e-4),
        (100, 0.718, 0.405, 5e-4),
        (200, 0.361, 0.212, 5e-4),
        (300, 0.161, 0.113, 5e-4),
        (500, 0.0243, 0.0224, 5e-5),
        (900, 0.0001, 0.0001, 5e-5),
    ],
)
def test_digits_match_the_measured_table_to_its_rounding(
    table_curves, timestep, isotropic, linear, rounding
):
    assert table_curves.isotropic[timestep - 1] == pytest.approx(isotropic, abs=rounding)
    assert table_curves.linear[timestep - 1] == pytest.approx(linear, abs=rounding)


def test_means_over_timesteps_match_the_measured_ones(table_curves):
    assert table_curves.isotropic.mean() == pytest.approx(0.1834, abs=5e-5)
    assert table_curves.linear.mean() == pytest.approx(0.1187, abs=5e-5)


def test_a_studys_own_split_of_the_digits_is_close_to_the_table(digits, table_curves):
    curves = reference_curves(digits, LINEAR, "epsilon")

    assert curves.isotropic == pytest.approx(table_curves.isotropic, abs=2e-3)
    assert curves.linear == pytest.approx(table_curves.linear, abs=1e-2)


def test_epsilon_loss_falls_with_the_noise_not_rises(digits):
    """The chapter's table of expected losses says the reverse."""
    bins = reference_curves(digits, LINEAR, "epsilon").in_bins(LINEAR.bin_edges(10)).bin_linear

    assert list(bins) == sorted(bins, reverse=True)
    assert bins[0] > 1e4 * bins[-1]


@every_schedule
@pytest.mark.parametrize("kind", KINDS)
def test_references_are_a_band(digits, kind, schedule):
    curves = reference_curves(digits, schedule, kind)

    assert curves.posterior is not None
    assert np.all(curves.posterior >= 0)
    assert np.all(curves.posterior <= curves.linear)
    assert np.all(curves.linear <= curves.isotropic * (1 + 1e-9))
    assert np.all(curves.isotropic <= curves.constant * (1 + 1e-9))


def test_posterior_error_is_below_the_linear_one_but_for_monte_carlo_noise(digits):
    """The curve itself, not what reference_curves cuts off."""
    curve, eigenvalues = digits.posterior, digits.eigenvalues
    linear = [np.sum(eigenvalues / (s * eigenvalues + 1)) / 64 for s in np.exp(curve.log_snr)]

    assert np.all(curve.mmse < np.array(linear) + 3 * curve.standard_error + 1e-6)


@every_schedule
def test_ratios_do_not_depend_on_the_prediction_type(digits, schedule):
    kinds = [kind for kind in KINDS if kind != "epsilon" or not schedule.has_zero_terminal_snr]
    all_curves = [reference_curves(digits, schedule, kind) for kind in kinds]
    for curves in all_curves[1:]:
        for name in ("isotropic", "posterior"):
            ratio = getattr(curves, name) / curves.linear
            expected = getattr(all_curves[0], name) / all_curves[0].linear

            assert ratio == pytest.approx(expected, rel=1e-9)


def test_without_a_posterior_there_is_none_in_curves_and_bins():
    curves = reference_curves(gaussian(VARIANCES), LINEAR, "epsilon")

    assert curves.posterior is None
    assert curves.in_bins((0, 1000)).bin_posterior is None


def test_bins_hold_means_over_their_timesteps(digits):
    curves = reference_curves(digits, LINEAR, "v_prediction")
    reference = curves.in_bins((0, 3, 1000))

    assert reference.bin_linear == pytest.approx(
        [curves.linear[:3].mean(), curves.linear[3:].mean()]
    )
    assert reference.bin_posterior == pytest.approx(
        [curves.posterior[:3].mean(), curves.posterior[3:].mean()]
    )
    assert reference.bin_constant[0] == curves.constant[:3].mean()
    assert reference.bin_isotropic[0] == curves.isotropic[:3].mean()


def test_score_is_the_geometric_mean_over_bins_of_mean_ratios(digits):
    curves = reference_curves(digits, LINEAR, "epsilon")
    timesteps = np.array([1, 5, 600, 700, 999])
    losses = curves.linear[timesteps] * [2.0, 4.0, 1.0, 2.0, 3.0]

    assert curves.score(losses, timesteps, (0, 500, 1000)) == pytest.approx(np.sqrt(3.0 * 2.0))
    assert curves.score(curves.linear, EVERY_TIMESTEP, (0, 7, 500, 1000)) == pytest.approx(1.0)


def test_score_of_a_broken_model_is_not_a_number(digits):
    curves = reference_curves(digits, LINEAR, "epsilon")

    assert np.isnan(curves.score(np.full(1000, np.nan), EVERY_TIMESTEP, (0, 500, 1000)))
    assert curves.score(np.full(1000, np.inf), EVERY_TIMESTEP, (0, 500, 1000)) == np.inf


def test_constant_score_is_far_above_a_linear_denoiser(digits):
    reference = reference_curves(digits, LINEAR, "epsilon").in_bins(LINEAR.bin_edges(10))

    assert reference.constant_score > 50
    assert reference.constant == pytest.approx(1.0)


@pytest.mark.parametrize("schedule", [ZERO_SNR, FLOW], ids=["zero_snr", "flow_matching"])
def test_timesteps_without_a_ratio_are_left_out_of_the_score(digits, schedule):
    """Epsilon in pure noise: L_lin is 0, and a ratio to it would be infinite."""
    curves = reference_curves(digits, schedule, "epsilon")
    last_alone = (0, 999, 1000)
    ratios = (curves.constant / np.maximum(curves.linear, 1e-300))[:-1]

    assert curves.linear[-1] == 0
    assert curves.in_bins(schedule.bin_edges(10)).constant_score < np.inf
    assert curves.score(curves.constant, EVERY_TIMESTEP, last_alone) == pytest.approx(
        ratios.mean()
    )
    assert curves.score(curves.constant, EVERY_TIMESTEP, (0, 500, 1000)) == pytest.approx(
        np.sqrt(ratios[:500].mean() * ratios[500:].mean())
    )


def test_wide_data_has_the_eigenvalues_of_its_covariance():
    """More numbers per example than examples: the Gram matrix gives the same spectrum."""
    data = np.random.default_rng(0).normal(size=(20, 50)).astype(np.float32)
    slow = np.linalg.eigvalsh(np.cov(data.astype(np.float64).T, bias=True))

    assert np.sort(covariance_eigenvalues(data))[-19:] == pytest.approx(np.sort(slow)[-19:])


@pytest.mark.parametrize("shape", [(90, 40), (40, 90)])
def test_results_do_not_depend_on_the_chunks(shape, monkeypatch):
    data = np.random.default_rng(0).normal(size=shape).astype(np.float32) + 5
    whole = data_statistics(data)
    curves = reference_curves(whole, LINEAR, "epsilon")
    monkeypatch.setattr(reference_loss, "CHUNK_NUMBERS", 3000)
    chunked = data_statistics(data)

    assert chunked.eigenvalues == pytest.approx(whole.eigenvalues, rel=1e-9)
    assert reference_curves(chunked, LINEAR, "epsilon").linear == pytest.approx(
        curves.linear, rel=1e-9
    )


def test_large_images_get_their_power_spectrum_and_all_else_the_exact_form():
    rng = np.random.default_rng(0)
    large, small = (rng.normal(size=(50, 1, side, side)).astype(np.float32) for side in (33, 32))

    assert len(covariance_eigenvalues(large)) == 33 * 33
    assert np.sort(covariance_eigenvalues(large)) == pytest.approx(
        np.sort(power_spectrum_eigenvalues(large))
    )
    assert len(covariance_eigenvalues(small)) == 49
    assert len(covariance_eigenvalues(large.reshape(50, -1))) == 49


def test_posterior_curve_is_read_at_the_schedules_snr():
    curve = PosteriorCurve(
        np.linspace(-20, 20, 41), np.linspace(1, 0, 41) ** 2 * 1e-3, np.zeros(41)
    )
    statistics = DataStatistics(2, np.array([1.0, 1.0]), 1.0, curve)
    curves = reference_curves(statistics, LINEAR, "v_prediction")

    assert curves.posterior[700] == pytest.approx(
        curve.at(LINEAR.log_snr[700]) / LINEAR.one_minus_alphas_cumprod[700]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_zero_prediction_is_worse_than_the_best_constant_by_the_mean_of_the_target(kind):
    rng = np.random.default_rng(0)
    data = (rng.normal(size=(4000, 3)) * 0.5 + 1.5).astype(np.float32)
    curves = reference_curves(data_statistics(data), LINEAR, kind)
    noise_weight, sample_weight = PREDICTION_TYPES[kind].weights(LINEAR)
    rows = rng.integers(len(data), size=200_000)
    for timestep in (10, 500):
        noise = rng.normal(size=(len(rows), 3))
        target = noise_weight[timestep] * noise + sample_weight[timestep] * data[rows]

        assert curves.zero[timestep] == pytest.approx(np.mean(target**2), rel=0.01)
        assert curves.constant[timestep] == pytest.approx(
            np.mean((target - target.mean(0)) ** 2), rel=0.01
        )
