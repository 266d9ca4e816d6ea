from __future__ import annotations

import numpy as np
import pytest

from stabsearch.diffusion.datasets.toys import digits, gaussian, mixture
from stabsearch.diffusion.reference_loss import covariance_eigenvalues


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    assert np.array_equal(digits()[:, 0], load_digits().images / 8 - 1)


def test_mixture_is_a_ring_of_equally_likely_modes_of_the_given_spread():
    points = mixture(num_examples=6000, num_modes=6, radius=2.0, std=0.1, seed=3)
    angles = np.arange(6) * np.pi / 3
    centres = 2 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    offsets = points[:, None] - centres
    nearest = np.argmin((offsets**2).sum(axis=2), axis=1)

    assert (points.shape, points.dtype) == ((6000, 2), np.float32)
    assert np.bincount(nearest) / 6000 == pytest.approx(np.full(6, 1 / 6), abs=0.02)
    assert offsets[np.arange(6000), nearest].std(axis=0) == pytest.approx(0.1, rel=0.05)


def test_mixture_has_about_unit_variance_by_default():
    assert mixture().var(axis=0) == pytest.approx([1, 1], rel=0.05)


@pytest.mark.parametrize("load", [mixture, gaussian])
def test_samples_depend_on_the_seed_only(load):
    assert np.array_equal(load(seed=1), load(seed=1))
    assert not np.array_equal(load(seed=1), load(seed=2))


def test_gaussian_sample_has_its_spectrum_up_to_sampling_error():
    data = gaussian(spectrum=[4.0, 1.0, 0.25], num_examples=40_000)

    assert (data.shape, data.dtype) == ((40_000, 3), np.float32)
    assert covariance_eigenvalues(data)[::-1] == pytest.approx([4, 1, 0.25], rel=0.03)


def test_gaussian_spectrum_is_a_power_law_without_a_list():
    data = gaussian(num_dimensions=5, decay=2.0, exact=True)

    assert covariance_eigenvalues(data)[::-1] == pytest.approx(
        [1, 1 / 4, 1 / 9, 1 / 16, 1 / 25], rel=1e-5
    )


def test_exact_gaussian_sample_has_its_spectrum_and_mean_to_rounding():
    data = gaussian(spectrum=[4.0, 1.0, 0.25], num_examples=50, seed=7, exact=True)

    assert covariance_eigenvalues(data)[::-1] == pytest.approx([4, 1, 0.25], rel=1e-6)
    assert data.astype(np.float64).mean(axis=0) == pytest.approx(np.zeros(3), abs=1e-6)


def test_gaussian_spectrum_may_hold_zeros():
    data = gaussian(spectrum=[1.0, 0.0], num_examples=50, exact=True)

    assert np.linalg.eigvalsh(np.cov(data.T, bias=True)) == pytest.approx([0, 1], abs=1e-6)


def test_gaussian_basis_is_not_the_axes_and_changes_with_the_seed():
    first, second = (np.cov(gaussian(num_dimensions=4, seed=seed).T) for seed in (0, 1))

    assert np.abs(first[~np.eye(4, dtype=bool)]).max() > 0.05
    assert not np.allclose(first, second, atol=0.05)


def test_too_few_examples_for_an_exact_covariance_are_refused():
    with pytest.raises(ValueError, match=r"num_examples=3 for 3 dimensions\. Raise"):
        gaussian(spectrum=[1.0, 1.0, 1.0], num_examples=3, exact=True)
