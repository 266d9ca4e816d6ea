"""Right samplers pass and wrong ones do not: the table of docs/samplers.md."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stabsearch.diffusion.datasets.toys import digits, gaussian
from stabsearch.diffusion.noise_schedule import make_noise_schedule
from stabsearch.diffusion.objective import Objective
from stabsearch.diffusion.prediction_type import PREDICTION_TYPES
from stabsearch.diffusion.reference_loss import DataStatistics, reference_curves
from stabsearch.diffusion.sampler_check import (
    GaussianData,
    LinearDenoiser,
    check_sampler,
    gaussian_of,
    measure_sampler,
)
from stabsearch.diffusion.samplers import ddim, ddpm
from stabsearch.errors import SpecError
from stabsearch.thresholds import DEFAULTS

LINEAR = make_noise_schedule()
COSINE = make_noise_schedule(beta_schedule="squaredcos_cap_v2")
LATENT = make_noise_schedule(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
ZERO_SNR = make_noise_schedule(rescale_betas_zero_snr=True)
FLOW = make_noise_schedule(kind="flow_matching")

MAX_Z2, MAX_LOG_VARIANCE = DEFAULTS["R11.mean_z2"], DEFAULTS["R11.log_variance"]

DIGITS = digits()[:1500]
SMALL = GaussianData(
    mean=np.array([1.0, -2.0, 0.5]),
    basis=np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0],
    variances=np.array([2.0, 0.5, 0.01]),
    rest_variance=0.0,
)


def wrong(base, *, schedule=None, prediction_type=None, offset=0):
    """A sampler that believes something else than what it is told."""

    told = {"noise_schedule": schedule, "prediction_type": prediction_type}
    believed = {name: value for name, value in told.items() if value is not None}

    def sampler(model, shape, *, generator, noise_schedule, prediction_type, **options):
        def shifted(x_t, timesteps):
            return model(x_t, (timesteps + offset).clamp(0, 999))

        heard = {"noise_schedule": noise_schedule, "prediction_type": prediction_type}
        return base(shifted, shape, generator=generator, **(heard | believed), **options)

    return sampler


def check(sampler, schedule=LINEAR, prediction_type="epsilon", data=DIGITS, **options):
    return check_sampler(sampler, data, schedule, prediction_type, name="it", options=options)


def is_flagged(found):
    return not (found.mean_z2 <= MAX_Z2 and abs(found.log_variance) <= MAX_LOG_VARIANCE)


# --- the model --------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction_type", sorted(PREDICTION_TYPES))
@pytest.mark.parametrize("schedule", [LINEAR, ZERO_SNR, FLOW], ids=["linear", "zero_snr", "flow"])
def test_the_denoiser_has_the_loss_of_the_best_linear_one(schedule, prediction_type):
    """Monte Carlo against reference_loss, which knows L_lin in closed form."""
    statistics = DataStatistics(
        num_dimensions=3, eigenvalues=SMALL.variances, second_moment=1.0, posterior=None
    )
    expected = reference_curves(statistics, schedule, prediction_type).linear
    model = LinearDenoiser(SMALL, schedule, prediction_type)
    objective = Objective(schedule, prediction_type, torch.device("cpu"))
    rng = np.random.default_rng(1)
    scaled = rng.normal(size=(40_000, 3)) * np.sqrt(SMALL.variances)
    x0 = torch.tensor(SMALL.mean + scaled @ SMALL.basis.T, dtype=torch.float32)
    for t in (5, 300, 700, 990):
        timesteps = torch.full((len(x0),), t)
        noise = torch.tensor(rng.normal(size=x0.shape), dtype=torch.float32)
        x_t, target = objective.noised_and_target(x0, timesteps, noise)
        loss = float((model(x_t, timesteps) - target).square().mean())

        assert loss == pytest.approx(expected[t], rel=0.03)


def test_the_denoiser_is_exact_where_a_share_of_the_variance_has_no_basis():
    """A basis of one, and the rest isotropic, against the same Gaussian written out in full."""
    basis = np.linalg.qr(np.random.default_rng(3).normal(size=(4, 4)))[0]
    short = GaussianData(np.ones(4), basis[:, :1], np.array([3.0]), 0.2)
    full = GaussianData(np.ones(4), basis, np.array([3.0, 0.2, 0.2, 0.2]), 0.0)
    x_t = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    timesteps = torch.arange(0, 960, 60)
    predictions = [
        LinearDenoiser(g, LINEAR, "v_prediction")(x_t, timesteps) for g in (short, full)
    ]

    assert predictions[0].numpy() == pytest.approx(predictions[1].numpy(), abs=1e-5)


@pytest.mark.parametrize(
    ("timesteps", "message"),
    [
        (torch.full((4,), 3.5), "timesteps as torch.float32"),
        (torch.full((4,), 1000), "at timestep 1000; it knows 0 to 999"),
        (torch.tensor([0, 1, 2, -1]), "at timestep -1; it knows 0 to 999"),
        (7, "timesteps as int"),
    ],
)
def test_the_model_refuses_what_training_never_shows_it(timesteps, message):
    with pytest.raises(ValueError, match=message):
        LinearDenoiser(SMALL, LINEAR, "epsilon")(torch.zeros(4, 3), timesteps)


def test_one_timestep_stands_for_all():
    model, x_t = LinearDenoiser(SMALL, LINEAR, "epsilon"), torch.ones(4, 3)

    assert torch.equal(model(x_t, torch.tensor(7)), model(x_t, torch.full((4,), 7)))
    assert next(model.parameters()).device.type == "cpu"  # samplers ask


def test_the_mean_is_a_standard_deviation_away_along_every_component():
    found = gaussian_of(gaussian(exact=True))
    along = found.basis.T @ found.mean

    assert (np.abs(along) >= np.sqrt(found.variances) * (1 - 1e-9)).all()
    assert found.variances == pytest.approx(1 / np.arange(1, 17), rel=1e-4)


def test_large_examples_keep_their_variance():
    noise = np.random.default_rng(0).normal(size=(600, 3, 20, 20)).astype(np.float32)
    found = gaussian_of(noise)
    total = found.variances.sum() + found.rest_variance * (1200 - len(found.variances))

    assert len(found.variances) == 32
    assert found.basis.T @ found.basis == pytest.approx(np.eye(32), abs=1e-9)
    assert total == pytest.approx(noise[:512].var(axis=0).sum(), rel=1e-5)


def test_drawn_together_the_data_stay_in_a_range():
    inside = gaussian_of(DIGITS).within(-1.0, 1.0)
    std = np.sqrt((inside.basis**2 * inside.variances).sum(axis=1))

    assert (np.abs(inside.mean) + 4 * std).max() == pytest.approx(1.0)
    assert SMALL.within(-100, 100).variances == pytest.approx(SMALL.variances)


# --- right samplers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "schedule", "prediction_type", "options"),
    [
        (ddim, LINEAR, "epsilon", {}),
        (ddim, LINEAR, "sample", {}),
        (ddim, LINEAR, "v_prediction", {"timestep_spacing": "leading"}),
        (ddim, LINEAR, "epsilon", {"num_inference_steps": 250}),
        (ddim, LINEAR, "epsilon", {"eta": 0.5, "num_inference_steps": 100}),
        (ddpm, LINEAR, "epsilon", {}),
        (ddpm, LINEAR, "epsilon", {"num_inference_steps": 500}),
        (ddim, COSINE, "v_prediction", {}),
        (ddim, ZERO_SNR, "v_prediction", {}),
        (ddim, FLOW, "flow", {}),
        # still holds signal at the end: the schedule's doing, and forgiven
        (ddim, LATENT, "v_prediction", {}),
        (ddim, LATENT, "epsilon", {"timestep_spacing": "leading"}),
    ],
)
@pytest.mark.parametrize("centred", [False, True], ids=["digits", "centred"])
def test_a_right_sampler_passes(sampler, schedule, prediction_type, options, centred):
    data = DIGITS - DIGITS.mean(axis=0) if centred else DIGITS
    found = check(sampler, schedule, prediction_type, data, **options)

    assert 0.2 < found.mean_z2 < 1.5
    assert abs(found.log_variance) < 0.15


@pytest.mark.parametrize("sampler", [ddim, ddpm])
def test_too_few_steps_show_in_the_variance_alone(sampler):
    found = check(sampler, num_inference_steps=10)

    assert found.mean_z2 < 1
    assert found.log_variance < -0.3


# --- wrong samplers ---------------------------------------------------------------------------

FAULTS = {
    "cosine in place of linear": (wrong(ddim, schedule=COSINE), LINEAR, "epsilon", {}),
    "linear in place of cosine": (wrong(ddim, schedule=LINEAR), COSINE, "epsilon", {}),
    "linear in place of cosine, v": (wrong(ddim, schedule=LINEAR), COSINE, "v_prediction", {}),
    "latent in place of linear": (wrong(ddpm, schedule=LATENT), LINEAR, "epsilon", {}),
    "60 timesteps late": (wrong(ddim, offset=60), LINEAR, "epsilon", {}),
    "60 timesteps early": (wrong(ddpm, offset=-60), LINEAR, "epsilon", {}),
    "30 timesteps late": (wrong(ddim, offset=30), LINEAR, "epsilon", {}),
    "v read as epsilon": (wrong(ddim, prediction_type="epsilon"), LINEAR, "v_prediction", {}),
    "epsilon read as v": (wrong(ddpm, prediction_type="v_prediction"), LINEAR, "epsilon", {}),
    "x0 clipped to +- 1": (ddim, LINEAR, "epsilon", {"clip_sample_range": 1.0}),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("centred", [False, True], ids=["digits", "centred"])
def test_a_wrong_sampler_is_flagged(fault, centred):
    """Centred data too: a wrong scale does not move a mean of 0, so the check's is not 0."""
    sampler, schedule, prediction_type, options = FAULTS[fault]
    data = DIGITS - DIGITS.mean(axis=0) if centred else DIGITS

    assert check(sampler, schedule, prediction_type, data, **options).mean_z2 > 2 * MAX_Z2


def test_small_offsets_are_missed():
    """Known limit: ten timesteps too early, or a single one, leave samples as good as right."""
    for offset in (1, -1, -10):
        assert not is_flagged(check(wrong(ddim, offset=offset)))


def test_large_examples_are_checked_too():
    noise = np.random.default_rng(0).normal(size=(600, 3, 20, 20)).astype(np.float32)
    noise += 4 * np.random.default_rng(1).normal(size=(600, 1, 1, 1)).astype(np.float32)

    assert not is_flagged(check(ddim, data=noise, num_inference_steps=200))
    assert is_flagged(check(wrong(ddim, schedule=COSINE), data=noise))


# --- what a user's sampler may do -------------------------------------------------------------


def test_samples_that_are_not_finite_are_infinitely_wrong():
    def broken(model, shape, *, generator):
        return torch.full(shape, math.nan)

    found = check(broken)

    assert (found.name, found.mean_z2, found.log_variance) == ("it", math.inf, math.inf)


def test_samples_that_are_all_equal_are_flagged():
    def mean_only(model, shape, *, generator):
        mean = gaussian_of(DIGITS).mean
        return torch.tensor(mean).float().view(shape[1:]).expand(shape)

    assert is_flagged(check(mean_only))


def raises(model, shape, *, generator):
    raise RuntimeError("boom")


def ends_the_program(model, shape, *, generator):
    raise SystemExit(3)


def draws_too_few(model, shape, *, generator):
    return torch.zeros(shape[1:])


def returns_numpy(model, shape, *, generator):
    return np.zeros(shape)


def asks_for_no_generator(model, shape):
    return torch.zeros(shape)


def calls_between_timesteps(model, shape, *, generator):
    return model(torch.zeros(shape), torch.full(shape[:1], 3.5))


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (raises, r"sampler it: raised RuntimeError: boom \(test_sampler_check.py, line \d+\)"),
        (ends_the_program, r"sampler it: raised SystemExit: 3"),
        (
            draws_too_few,
            r"sampler it: returned a tensor of shape \[1, 8, 8\]; .*\[1000, 1, 8, 8\]",
        ),
        (returns_numpy, r"sampler it: returned a ndarray"),
        (
            asks_for_no_generator,
            r"^sampler it: .* 'generator'; it is defined with \(model, shape\) and called with "
            r"\(model, shape, generator=...\)\. Give it these parameters \(docs/samplers.md\)\.$",
        ),
        (calls_between_timesteps, r"Round to the nearest.*\(test_sampler_check.py, line \d+\)"),
    ],
)
def test_what_goes_wrong_inside_is_one_error_that_names_the_sampler(sampler, message):
    with pytest.raises(SpecError, match=message):
        check(sampler)


def test_an_option_that_the_sampler_does_not_take_is_named():
    def heun(model, shape, *, generator, num_steps=20):
        return torch.zeros(shape)

    with pytest.raises(SpecError, match=r"'num_step'; .*generator=..., num_step=...\).*leave out"):
        check(heun, num_step=5)


def test_the_check_repeats_and_draws_nobody_elses_random_numbers():
    def without_generator(model, shape, *, generator):
        return torch.randn(shape)

    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second = check(without_generator), check(without_generator)

    assert first == second
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_numbers_of_every_component_are_kept():
    measured = measure_sampler(ddim, DIGITS, LINEAR, "epsilon", name="ddim")

    assert len(measured.z2) == len(measured.variance_ratio) == 55
    assert measured.check.mean_z2 == pytest.approx(measured.z2.mean())
    assert measured.check.log_variance == pytest.approx(
        np.log(measured.variance_ratio[:8]).mean(), abs=1e-3
    )
    assert (measured.num_samples, measured.num_model_calls) == (1000, 50)
