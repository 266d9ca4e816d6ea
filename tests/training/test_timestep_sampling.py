from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stabsearch.diffusion.noise_schedule import make_noise_schedule
from stabsearch.spec import TrainerSpec
from stabsearch.training.timestep_sampling import (
    TIMESTEP_SAMPLERS,
    log_normal_probabilities,
    make_timestep_sampler,
)
from tests.training.host_reads import NoHostReads

CPU = torch.device("cpu")
SAMPLERS = sorted(TIMESTEP_SAMPLERS)


def make(name, *, num_timesteps=1000, batch_size=64, seed=0, **changes):
    schedule = make_noise_schedule(num_train_timesteps=num_timesteps)
    spec = TrainerSpec(timestep_sampling=name, batch_size=batch_size, **changes)
    generator = torch.Generator().manual_seed(seed)
    return make_timestep_sampler(spec, schedule.log_snr, generator, CPU)


def warmed_up(sampler, loss_at, num_timesteps, batch_size):
    """Ten losses of every timestep."""
    for repeat in range(10):
        for part in torch.arange(num_timesteps).split(batch_size):
            sampler.observe(part, loss_at(part) * (1 + 0.01 * repeat))
    return sampler


def chi_square_z(counts, probabilities):
    """How many standard deviations the chi-square statistic lies above its mean."""
    expected = counts.sum() * probabilities
    degrees = len(counts) - 1
    statistic = ((counts - expected) ** 2 / expected).sum()
    return (statistic - degrees) / math.sqrt(2 * degrees)


def bins_of(values, num_bins=20):
    """Sums over equal groups of timesteps."""
    return np.asarray(values, dtype=np.float64).reshape(num_bins, -1).sum(axis=1)


def test_every_sampling_of_the_spec_is_there():
    annotation = TrainerSpec.model_fields["timestep_sampling"].annotation

    assert set(TIMESTEP_SAMPLERS) == set(get_args(annotation))


@pytest.mark.parametrize("name", SAMPLERS)
def test_timesteps_lie_on_the_schedule_and_repeat_with_the_seed(name):
    first, again, other = make(name), make(name), make(name, seed=1)
    draws = [torch.stack([s.draw() for _ in range(200)]) for s in (first, again, other)]

    assert draws[0].shape == (200, 64)
    assert draws[0].dtype == torch.long
    assert (draws[0] >= 0).all()
    assert (draws[0] < 1000).all()
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("name", SAMPLERS)
def test_draws_follow_the_probabilities(name):
    """Sample 5 of every batch: the samples of a stratified batch depend on each other."""
    sampler = make(name, num_timesteps=200, batch_size=20)
    if name == "loss_second_moment":
        warmed_up(sampler, lambda t: 1 / (1 + t), 200, 20)
    probabilities = sampler.probabilities().numpy()
    draws = torch.stack([sampler.draw() for _ in range(5000)])[:, 5]
    counts = np.bincount(draws.numpy(), minlength=200)

    assert probabilities.sum() == pytest.approx(1)
    assert abs(chi_square_z(bins_of(counts), bins_of(probabilities))) < 4


@pytest.mark.parametrize("name", ["uniform", "stratified"])
def test_every_sample_of_a_batch_is_uniform(name):
    draws = torch.stack([make(name, seed=s, batch_size=7).draw() for s in range(3000)])

    for sample in draws.T:
        counts = np.bincount(sample.numpy(), minlength=1000)
        assert abs(chi_square_z(bins_of(counts), np.full(20, 1 / 20))) < 4


def test_uniform_draws_are_those_of_randint():
    sampler, generator = make("uniform"), torch.Generator().manual_seed(0)
    block = torch.randint(1000, (5, 64), generator=generator)

    assert torch.equal(torch.stack([sampler.draw() for _ in range(5)]), block)


@pytest.mark.parametrize(("num_timesteps", "batch_size"), [(100, 10), (1000, 64), (7, 20)])
def test_a_stratified_batch_has_one_sample_in_each_equal_range(num_timesteps, batch_size):
    sampler = make("stratified", num_timesteps=num_timesteps, batch_size=batch_size)
    spacing = num_timesteps / batch_size
    for _ in range(100):
        gaps = sampler.draw().sort().values.diff()

        assert (gaps - spacing).abs().max() < 1


def test_stratified_draws_are_those_of_the_paper():
    """floor(T ((u + i / B) mod 1)) for one u, with the loop that the formula asks for."""
    sampler = make("stratified", num_timesteps=1000, batch_size=48)
    for _ in range(50):
        draw = sampler.draw().tolist()
        fits = [
            u
            for u in np.arange(1000 * 48) / (1000 * 48)
            if math.floor(1000 * u + 1e-9) == draw[0]
            and draw == [math.floor(1000 * ((u + i / 48) % 1) + 1e-9) for i in range(48)]
        ]

        assert fits


def test_stratification_lowers_the_variance_of_the_batch_loss():
    """A loss that falls from 1 to 0 along the timesteps, with noise of its own: 10 times here."""
    noise = torch.Generator().manual_seed(5)
    variances = {}
    for name in ("uniform", "stratified"):
        sampler = make(name)
        means = []
        for _ in range(2000):
            mean = torch.exp(-sampler.draw() / 200)
            means.append((mean * (1 + 0.2 * torch.randn(64, generator=noise))).mean())
        variances[name] = torch.stack(means).var().item()

    assert variances["uniform"] > 8 * variances["stratified"]


# log_normal


def levels(**changes):
    return -make_noise_schedule(**changes).log_snr / 2


@pytest.mark.parametrize("mean", [-1.2, 0.0, 2.0])
@pytest.mark.parametrize(
    "schedule",
    [
        {},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"rescale_betas_zero_snr": True},
        {"kind": "flow_matching"},
        {"num_train_timesteps": 20, "beta_end": 0.5},
    ],
    ids=["linear", "cosine", "zero terminal snr", "flow matching", "coarse"],
)
def test_log_normal_takes_the_level_nearest_to_a_normal_draw(schedule, mean):
    """Draws of EDM's law within the schedule, each moved to the nearest noise level."""
    level = levels(**schedule)
    probabilities = log_normal_probabilities(-2 * level, mean, 1.2)
    draws = np.random.default_rng(0).normal(mean, 1.2, 400_000)
    between = (level[:-1] + level[1:]) / 2
    low = level[0] - (between[0] - level[0])
    high = level[-1] + (level[-1] - between[-1])
    draws = draws[(draws > low) & (draws < high)]
    nearest = np.searchsorted(between, draws)
    shares = np.bincount(nearest, minlength=len(level)) / len(draws)

    assert probabilities.sum() == pytest.approx(1)
    assert np.abs(np.cumsum(shares) - np.cumsum(probabilities)).max() < 0.005


def test_log_normal_is_density_times_spacing_where_the_levels_are_close():
    level = levels()
    density = np.exp(-0.5 * ((level + 1.2) / 1.2) ** 2)
    expected = density * np.gradient(level)
    probabilities = log_normal_probabilities(-2 * level, -1.2, 1.2)
    inner = slice(50, -50)  # at the ends the levels are far apart, or the density changes fast

    assert probabilities[inner] == pytest.approx(expected[inner] / expected.sum(), rel=0.02)


def test_log_normal_has_the_mean_and_width_that_were_asked_for():
    """ln(noise / signal) of the linear schedule runs from -4.6 to 5.1: little is cut off."""
    level = levels()
    probabilities = log_normal_probabilities(-2 * level, 0.3, 1.0)
    mean = (probabilities * level).sum()
    variance = (probabilities * (level - mean) ** 2).sum()

    assert mean == pytest.approx(0.3, abs=0.01)
    assert math.sqrt(variance) == pytest.approx(1.0, abs=0.01)


def test_a_timestep_of_probability_zero_is_never_drawn():
    sampler = make("log_normal", log_normal_mean=-1.2, log_normal_std=0.01)
    drawn = torch.stack([sampler.draw() for _ in range(500)]).unique()

    assert (sampler.probabilities()[drawn] > 0).all()
    assert len(drawn) < 20


def test_a_log_normal_beside_the_schedule_is_refused():
    with pytest.raises(ValueError, match=r"log_normal_mean 90 .* runs from -4\.61 to 5\.06"):
        make("log_normal", log_normal_mean=90.0, log_normal_std=0.5)


# loss_second_moment


class SlowResampler:
    """improved-diffusion's LossSecondMomentResampler, sample by sample."""

    def __init__(self, num_timesteps):
        self.losses = [[] for _ in range(num_timesteps)]

    def observe(self, timesteps, losses):
        for timestep, loss in zip(timesteps, losses, strict=True):
            if math.isfinite(loss):
                self.losses[timestep] = (self.losses[timestep] + [loss])[-10:]

    def probabilities(self):
        num_timesteps = len(self.losses)
        if any(len(losses) < 10 for losses in self.losses):
            return np.full(num_timesteps, 1 / num_timesteps)
        weights = np.array([math.sqrt(np.mean(np.square(losses))) for losses in self.losses])
        return weights / weights.sum() * (1 - 0.001) + 0.001 / num_timesteps


@pytest.mark.parametrize(
    ("num_timesteps", "batch_size"),
    [(30, 16), (3, 64), (7, 7)],
    ids=["few repeats", "more than ten repeats in a batch", "some repeats"],
)
@pytest.mark.parametrize("bad_share", [0.0, 0.2])
def test_loss_second_moment_agrees_with_a_loop_over_samples(num_timesteps, batch_size, bad_share):
    sampler = make("loss_second_moment", num_timesteps=num_timesteps, batch_size=batch_size)
    slow = SlowResampler(num_timesteps)
    rng = np.random.default_rng(0)
    was_warm = False
    for _ in range(60):
        timesteps = sampler.draw()
        losses = rng.exponential(1 + timesteps.numpy()).astype(np.float32)
        losses[rng.random(batch_size) < bad_share] = rng.choice([np.nan, np.inf, -np.inf])
        expected = 1 / (num_timesteps * slow.probabilities()[timesteps])

        assert sampler.importance(timesteps).numpy() == pytest.approx(expected, rel=1e-6)

        sampler.observe(timesteps, torch.from_numpy(losses))
        slow.observe(timesteps.tolist(), losses.tolist())
        was_warm |= len(set(slow.probabilities())) > 1

        assert sampler.probabilities().numpy() == pytest.approx(slow.probabilities(), rel=1e-9)
    assert was_warm


class WritesInReverse(TorchDispatchMode):
    """Writes by index in the other order: a GPU promises none."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name().startswith("aten::index_put"):
            target, indices, values = args[:3]
            args = (target, [i.flip(0) for i in indices], values.flip(0), *args[3:])
        return func(*args, **(kwargs or {}))


def test_the_last_ten_losses_stay_in_whatever_order_they_are_written():
    usual = make("loss_second_moment", num_timesteps=2, batch_size=64)
    reversed_ = make("loss_second_moment", num_timesteps=2, batch_size=64)
    timesteps = torch.arange(64) % 2
    losses = torch.arange(64.0)
    usual.observe(timesteps, losses)
    with WritesInReverse():
        reversed_.observe(timesteps, losses)

    assert torch.equal(reversed_.probabilities(), usual.probabilities())
    assert sorted(usual.state_dict()["history"][0].tolist()) == list(range(44, 64, 2))


def test_importance_weights_leave_the_expected_loss_as_it_is():
    """Over the law itself, and over draws; without the weights the mean is another."""
    sampler = make("loss_second_moment", batch_size=50)
    warmed_up(sampler, lambda t: 1 / (1 + t / 10), 1000, 50)
    timesteps = torch.arange(1000)
    loss = torch.cos(timesteps / 300).double()
    probabilities, weights = sampler.probabilities(), sampler.importance(timesteps).double()
    drawn = torch.cat([sampler.draw() for _ in range(2000)])
    weighted = sampler.importance(drawn) * loss[drawn]
    error = weighted.std() / math.sqrt(len(drawn))

    assert (probabilities * weights * loss).sum().item() == pytest.approx(loss.mean().item())
    assert abs(weighted.mean() - loss.mean()) < 4 * error
    assert abs(loss[drawn].mean() - loss.mean()) > 20 * error


def test_sampling_by_loss_lowers_the_variance_of_that_loss():
    def loss(timesteps):
        return torch.exp(-timesteps / 100)

    variances = {}
    for name in ("uniform", "loss_second_moment"):
        sampler = make(name, batch_size=50)
        if name == "loss_second_moment":
            warmed_up(sampler, loss, 1000, 50)
        timesteps = [sampler.draw() for _ in range(500)]
        weights = [sampler.importance(t) for t in timesteps]
        means = [
            (loss(t) * (1 if w is None else w)).mean()
            for t, w in zip(timesteps, weights, strict=True)
        ]
        variances[name] = torch.stack(means).var().item()

    assert variances["uniform"] > 50 * variances["loss_second_moment"]


def test_losses_that_are_all_zero_leave_the_law_uniform():
    sampler = warmed_up(make("loss_second_moment", batch_size=50), torch.zeros_like, 1000, 50)

    assert sampler.probabilities().numpy() == pytest.approx(1 / 1000)


def test_losses_as_large_as_float32_holds_leave_probabilities():
    sampler = make("loss_second_moment", num_timesteps=2, batch_size=20)
    sampler.observe(torch.tensor([0, 1] * 10), torch.tensor([3e38, 1.0] * 10))

    assert sampler.probabilities().tolist() == pytest.approx([0.9995, 0.0005])


def test_gradients_do_not_flow_into_the_history():
    sampler = make("loss_second_moment", num_timesteps=2, batch_size=20)
    losses = torch.ones(20, requires_grad=True) * 2
    sampler.observe(torch.tensor([0, 1] * 10), losses)

    assert not sampler.probabilities().requires_grad


def test_restored_history_goes_on_as_the_original():
    first = make("loss_second_moment", num_timesteps=5, batch_size=8)
    second = make("loss_second_moment", num_timesteps=5, batch_size=8)
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        first.observe(first.draw(), torch.rand(8, generator=generator))
    second.load_state_dict(first.state_dict())
    timesteps, losses = torch.tensor([0, 0, 1, 2, 3, 4, 4, 4]), torch.arange(8.0)
    first.observe(timesteps, losses)
    second.observe(timesteps, losses)

    assert torch.equal(first.probabilities(), second.probabilities())
    assert len(first.probabilities().unique()) == 5


@pytest.mark.parametrize("name", [n for n in SAMPLERS if n != "loss_second_moment"])
def test_the_other_laws_do_not_look_at_losses(name):
    sampler, undisturbed = make(name), make(name)
    timesteps = sampler.draw()
    undisturbed.draw()
    sampler.observe(timesteps, torch.rand(64))

    assert sampler.importance(timesteps) is None
    assert sampler.state_dict() == {}
    assert torch.equal(sampler.draw(), undisturbed.draw())


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampling_reads_nothing_on_the_host(name):
    sampler, losses = make(name), torch.rand(64)
    with NoHostReads():
        for _ in range(3):
            timesteps = sampler.draw()
            sampler.importance(timesteps)
            sampler.observe(timesteps, losses)
