from __future__ import annotations

import numpy as np
import pytest

from stabsearch.diffusion import power_spectrum
from stabsearch.diffusion.datasets import DATASETS, make_dataset
from stabsearch.diffusion.power_spectrum import power_spectrum_eigenvalues


@pytest.fixture(scope="module")
def digits():
    return make_dataset(DATASETS["digits"], {}, 1 / 6, 0).train


def exact_eigenvalues(images):
    rows = images.reshape(len(images), -1).astype(np.float64)
    return np.linalg.eigvalsh(np.cov(rows.T, bias=True))


def linear_error(eigenvalues, snr):
    return np.mean(eigenvalues / (snr * eigenvalues + 1))


@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 4, 5), (2, 5, 4), (2, 1, 7)])
def test_stationary_images_have_exactly_their_eigenvalues(shape):
    """Every image in every cyclic shift: the covariance is then block circulant."""
    rng = np.random.default_rng(0)
    base = np.cumsum(rng.normal(size=(4, *shape)), axis=3).astype(np.float32)
    shifted = [
        np.roll(base, (down, right), axis=(2, 3))
        for down in range(shape[1])
        for right in range(shape[2])
    ]
    images = np.concatenate(shifted)

    assert np.sort(power_spectrum_eigenvalues(images)) == pytest.approx(
        exact_eigenvalues(images), abs=1e-5
    )


def test_eigenvalues_sum_to_the_variance(digits):
    eigenvalues = power_spectrum_eigenvalues(digits)

    assert len(eigenvalues) == 64
    assert eigenvalues.sum() == pytest.approx(digits.astype(np.float64).var(axis=0).sum())


@pytest.mark.parametrize("snr", [0.01, 0.3, 3.0, 100.0])
def test_linear_error_of_digits_is_bounded_from_above(digits, snr):
    exact = linear_error(np.maximum(exact_eigenvalues(digits), 0), snr)
    bound = linear_error(power_spectrum_eigenvalues(digits), snr)
    trivial = linear_error(digits.astype(np.float64).var(axis=0).mean(), snr)

    assert exact < bound < trivial


@pytest.mark.parametrize("snr", [0.1, 2.0])
def test_linear_error_is_what_a_denoiser_of_every_frequency_really_gets(digits, snr):
    """Noise the digits, filter every frequency by its own gain, measure the error."""
    rng = np.random.default_rng(0)
    mean = digits.mean(axis=0, dtype=np.float64)
    x0 = np.concatenate([digits] * 4) - mean
    x_t = np.sqrt(snr) * x0 + rng.normal(size=x0.shape)
    power = np.mean(abs(np.fft.fft2(digits - mean, norm="ortho")) ** 2, axis=0)
    gain = np.sqrt(snr) * power / (snr * power + 1)
    x0_hat = np.fft.ifft2(gain * np.fft.fft2(x_t)).real

    assert linear_error(power_spectrum_eigenvalues(digits), snr) == pytest.approx(
        np.mean((x0_hat - x0) ** 2), rel=0.01
    )


def test_result_does_not_depend_on_the_chunks(digits, monkeypatch):
    whole = power_spectrum_eigenvalues(digits)
    monkeypatch.setattr(power_spectrum, "CHUNK_NUMBERS", 64 * 7)

    assert power_spectrum_eigenvalues(digits) == pytest.approx(whole, rel=1e-9)
