from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from stabsearch.diffusion import posterior
from stabsearch.diffusion.datasets import DATASETS
from stabsearch.diffusion.noise_schedule import make_noise_schedule
from stabsearch.diffusion.posterior import PosteriorCurve, posterior_curve, posterior_mmse

LINEAR = make_noise_schedule()
COSINE = make_noise_schedule(beta_schedule="squaredcos_cap_v2")
FLOW = make_noise_schedule(kind="flow_matching")


@pytest.fixture(scope="module")
def digits():
    """The 1,500 examples that the table was measured on."""
    examples = DATASETS["digits"]()
    return examples[np.random.default_rng(0).permutation(len(examples))[:1500]]


@pytest.fixture(scope="module")
def curve(digits):
    return posterior_curve(digits)


def test_two_examples_have_the_error_of_a_binary_prior():
    """At -c and c: M = c^2 (1 - E tanh(SNR c^2 - sqrt(SNR) c z)), z standard normal."""
    c = 1.5
    log_snr = np.array([-6.0, -2.0, 0.0, 1.0, 3.0])
    z = np.linspace(-12, 12, 20_001)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    exact = [
        c**2 * (1 - np.trapezoid(density * np.tanh(s * c * c - math.sqrt(s) * c * z), z))
        for s in np.exp(log_snr)
    ]
    data = np.array([[3 - c], [3 + c]], dtype=np.float32)
    mmse, standard_error = posterior_mmse(data, log_snr, num_draws=200_000, seed=0)

    assert np.all(abs(mmse - exact) < 4 * standard_error + 1e-9)
    assert mmse[:4] == pytest.approx(exact[:4], rel=0.02)


def test_a_tiny_data_set_agrees_with_brute_force():
    """Noise an example, form the posterior mean from its definition, measure its error."""
    rng = np.random.default_rng(1)
    data = rng.normal(size=(5, 3)).astype(np.float32) * [1.0, 0.3, 2.0] + 4
    data = data.astype(np.float32)
    log_snr = np.array([-3.0, 0.0, 2.0])
    mmse, standard_error = posterior_mmse(data, log_snr, num_draws=20_000, seed=0)
    for value, ours, our_error in zip(log_snr, mmse, standard_error, strict=True):
        signal, sigma = math.sqrt(1 / (1 + math.exp(-value))), math.sqrt(1 / (1 + math.exp(value)))
        errors = []
        for draw in range(20_000):
            x0 = data[draw % 5].astype(np.float64)
            x_t = signal * x0 + sigma * rng.normal(size=3)
            logits = [-np.sum((x_t - signal * x) ** 2) / (2 * sigma**2) for x in data]
            weights = np.exp(np.array(logits) - max(logits))
            x0_hat = weights @ data / weights.sum()
            errors.append(np.mean((x0_hat - x0) ** 2))
        spread = math.hypot(our_error, np.std(errors) / math.sqrt(len(errors)))

        assert ours == pytest.approx(np.mean(errors), abs=4 * spread)
        assert spread < 0.02 * data.var(axis=0).mean()


@pytest.mark.parametrize(
    ("timestep", "epsilon_loss", "tolerance"),
    [
        (1, 0.0, 1e-6),
        (10, 0.0, 1e-6),
        (50, 0.0, 5e-4),
        (100, 0.003, 5e-4),
        (200, 0.049, 2e-3),
        (300, 0.076, 2e-3),
        (500, 0.0220, 3e-4),
        (900, 0.0001, 5e-5),
    ],
)
def test_digits_match_the_measured_table(curve, timestep, epsilon_loss, tolerance):
    """Measured before with 6,000 draws and a standard error up to .001; t counts from 1."""
    loss = LINEAR.snr[timestep - 1] * curve.at(LINEAR.log_snr[timestep - 1])

    assert loss == pytest.approx(epsilon_loss, abs=tolerance)


@pytest.mark.parametrize("schedule", [LINEAR, COSINE, FLOW], ids=["linear", "cosine", "flow"])
def test_interpolation_agrees_with_the_points_themselves(digits, curve, schedule):
    """The same draws at a schedule's own timesteps: what is left is interpolation, in a loss."""
    grid, draws = curve.log_snr, {"num_draws": 300, "seed": 1}
    few = PosteriorCurve(grid, *posterior_mmse(digits, grid, **draws))
    log_snr = schedule.log_snr[3:-1:41]
    exact, _ = posterior_mmse(digits, log_snr, **draws)
    factor = np.exp(log_snr) + 1  # the largest of the four: v_prediction's

    assert factor * few.at(log_snr) == pytest.approx(factor * exact, abs=5e-4)


def test_beyond_the_grid_there_is_no_information_or_all_of_it(digits, curve):
    variance = digits.astype(np.float64).var(axis=0).mean()
    ends = curve.at(np.array([-50.0, 50.0]))

    assert ends[0] == pytest.approx(variance, rel=3e-3)
    assert ends[1] == 0
    assert curve.mmse[0] == pytest.approx(variance, rel=3e-3)
    assert math.exp(curve.log_snr[-1]) * curve.mmse[-1] < 1e-4


def test_the_curve_falls_smoothly(curve):
    log_snr = np.linspace(-15, 15, 3001)
    values = curve.at(log_snr)

    assert np.all(np.diff(values) <= 1e-4 * values[0])
    assert abs(np.diff(values)).max() < 0.01 * values[0]


def test_the_standard_error_is_that_of_repetitions(digits):
    log_snr = np.array([-4.0, -1.0, 0.5])
    few = [posterior_mmse(digits, log_snr, num_draws=100, seed=seed) for seed in range(40)]
    spread = np.std([mmse for mmse, _ in few], axis=0)
    claimed = np.mean([standard_error for _, standard_error in few], axis=0)

    assert np.all((claimed > 0.6 * spread) & (claimed < 1.6 * spread))


def test_few_draws_suffice_at_high_noise(digits):
    """Without the control variate, 32 draws would leave an error of 2%."""
    variance = digits.astype(np.float64).var(axis=0).mean()
    mmse, _ = posterior_mmse(digits, np.array([-12.0]), num_draws=32, seed=0)

    assert mmse[0] == pytest.approx(variance, rel=5e-4)


def test_copies_of_examples_change_nothing(digits):
    """A copy is no alternative to its original, however high the SNR."""
    few = digits[:50]
    grid = np.array([-2.0, 0.0, 3.0, 20.0])
    once, standard_error = posterior_mmse(few, grid, num_draws=5_000, seed=0)
    thrice, _ = posterior_mmse(np.concatenate([few] * 3), grid, num_draws=5_000, seed=1)

    assert np.all(abs(once - thrice) <= 6 * standard_error + 1e-7)
    assert thrice[-1] == 0


def test_result_does_not_depend_on_the_chunks(digits, monkeypatch):
    grid = np.array([-2.0, 0.0, 1.0])
    whole, _ = posterior_mmse(digits[:300], grid, num_draws=70, seed=0)
    monkeypatch.setattr(posterior, "CHUNK_DRAWS", 13)
    monkeypatch.setattr(posterior, "CHUNK_EXAMPLES", 37)
    chunked, _ = posterior_mmse(digits[:300], grid, num_draws=70, seed=0)

    assert chunked == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize(("num_examples", "num_dimensions"), [(100_000, 20), (100, 100_000)])
def test_memory_stays_bounded(num_examples, num_dimensions):
    data = np.ones((num_examples, num_dimensions), dtype=np.float32)
    data[::2] = 0
    tracemalloc.start()
    posterior_mmse(data, np.array([-1.0, 0.0]), num_draws=80, seed=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 200e6


def test_draws_follow_from_the_size_of_the_data():
    assert posterior.affordable_draws(1500, 64) == posterior.MAX_DRAWS
    assert posterior.affordable_draws(60_000, 784) == posterior.MIN_DRAWS
    assert posterior.affordable_draws(10**6, 3072) == 0  # minutes: no curve
    assert 32 < posterior.affordable_draws(20_000, 64) < 1024
