from __future__ import annotations

import numpy as np
import pytest

from stabsearch.diffusion.datasets import DATASETS, make_dataset
from stabsearch.diffusion.noise_schedule import make_noise_schedule
from stabsearch.diffusion.reference_loss import (
    PREDICTION_SPACES,
    covariance_eigenvalues,
    reference_curves,
)


def curves_of(data, prediction_type):
    return reference_curves(covariance_eigenvalues(data), data[0].size, SCHEDULE, prediction_type)


SCHEDULE = make_noise_schedule("linear", 1000, 1e-4, 0.02)


@pytest.fixture(scope="module")
def digits():
    return make_dataset(DATASETS["digits"], {}, 1 / 6, 0).train


def test_digits_match_the_measured_table(digits):
    """Means over t of L_iso .1834 and L_lin .1187, and single timesteps, as measured before."""
    curves = curves_of(digits, "epsilon")

    assert curves.isotropic.mean() == pytest.approx(0.1834, abs=1e-3)
    assert curves.linear.mean() == pytest.approx(0.1187, abs=1e-3)
    assert curves.linear[[0, 99, 299, 499]] == pytest.approx(
        [0.883, 0.405, 0.113, 0.0224], abs=8e-3
    )


@pytest.mark.parametrize("prediction_type", sorted(PREDICTION_SPACES))
def test_linear_reference_is_what_the_best_linear_denoiser_gets_on_gaussian_data(prediction_type):
    """Monte Carlo with the optimal gain, direction by direction."""
    rng = np.random.default_rng(0)
    variances = np.array([4.0, 1.0, 0.25, 0.01])
    num_draws = 400_000
    x0 = rng.normal(size=(num_draws, 4)) * np.sqrt(variances) + 3.0
    curves = curves_of(x0.astype(np.float32), prediction_type)
    for t in (5, 200, 500, 900):
        ab, om = SCHEDULE.alphas_cumprod[t], SCHEDULE.one_minus_alphas_cumprod[t]
        noise = rng.normal(size=x0.shape)
        x_t = np.sqrt(ab) * x0 + np.sqrt(om) * noise
        gain = ab * variances / (ab * variances + om)
        x0_hat = 3.0 + gain * (x_t / np.sqrt(ab) - 3.0)
        noise_hat = (x_t - np.sqrt(ab) * x0_hat) / np.sqrt(om)
        error = {
            "epsilon": noise_hat - noise,
            "sample": x0_hat - x0,
            "v_prediction": np.sqrt(ab) * (noise_hat - noise) - np.sqrt(om) * (x0_hat - x0),
        }[prediction_type]

        assert curves.linear[t] == pytest.approx(np.mean(error**2), rel=1e-2)


@pytest.mark.parametrize("prediction_type", sorted(PREDICTION_SPACES))
def test_references_are_ordered_linear_below_isotropic_below_constant(digits, prediction_type):
    curves = curves_of(digits, prediction_type)

    assert np.all(curves.linear <= curves.isotropic * (1 + 1e-9))
    assert np.all(curves.isotropic <= curves.constant * (1 + 1e-9))


def test_ratio_to_the_reference_does_not_depend_on_the_prediction_type(digits):
    ratios = []
    for prediction_type in sorted(PREDICTION_SPACES):
        curves = curves_of(digits, prediction_type)
        ratios.append(curves.isotropic / curves.linear)

    assert ratios[0] == pytest.approx(ratios[1], rel=1e-9)
    assert ratios[0] == pytest.approx(ratios[2], rel=1e-9)


def test_wide_data_has_the_eigenvalues_of_its_covariance():
    """More numbers per example than examples: the Gram matrix gives the same spectrum."""
    data = np.random.default_rng(0).normal(size=(20, 50)).astype(np.float32)
    slow = np.linalg.eigvalsh(np.cov(data.astype(np.float64).T, bias=True))

    assert np.sort(covariance_eigenvalues(data))[-19:] == pytest.approx(np.sort(slow)[-19:])


def test_constant_score_is_far_above_a_linear_denoiser(digits):
    reference = curves_of(digits, "epsilon").in_bins(SCHEDULE.bin_edges(10))

    assert reference.constant_score > 50
    assert reference.constant == pytest.approx(1.0)
