from __future__ import annotations

import numpy as np
import pytest
import torch

from stabsearch.diffusion.noise_schedule import make_noise_schedule
from stabsearch.spec import TrainerSpec
from stabsearch.training.batches import Batches
from stabsearch.training.timestep_sampling import TIMESTEP_SAMPLERS
from tests.training.host_reads import NoHostReads

CPU = torch.device("cpu")
LOG_SNR = make_noise_schedule(num_train_timesteps=1000).log_snr


def make(seed=0, num_examples=10, batch_size=4, sampling="uniform", log_snr=LOG_SNR):
    spec = TrainerSpec(batch_size=batch_size, timestep_sampling=sampling)
    return Batches(spec, num_examples, log_snr, seed, CPU)


def take(batches, num_steps):
    """Indices and timesteps ``[W, B]`` of the next steps, whose losses are observed."""
    drawn = []
    for _ in range(num_steps):
        batch = batches.next()
        batches.observe(batch.timesteps, 1 / (1 + batch.timesteps.float()))
        drawn.append(batch)
    return torch.stack([b.indices for b in drawn]), torch.stack([b.timesteps for b in drawn])


def test_every_epoch_uses_every_example_once():
    indices = take(make(), 5)[0].flatten().tolist()

    assert sorted(indices[:10]) == list(range(10))
    assert sorted(indices[10:]) == list(range(10))


def test_draws_are_those_of_whole_windows_with_a_generator_for_each_kind():
    """A trial's data is fixed by its seed, for as long as there are results to compare with."""
    order, time, noise = (
        torch.Generator().manual_seed(int(state))
        for state in np.random.SeedSequence(3).generate_state(3)
    )
    epochs = torch.cat([torch.randperm(10, generator=order) for _ in range(3)])
    batches = make(seed=3)
    indices, timesteps = take(batches, 6)

    assert torch.equal(indices, epochs[:24].view(6, 4))
    assert torch.equal(timesteps, torch.randint(1000, (6, 4), generator=time))
    assert torch.equal(batches.noise_like(torch.zeros(4, 2)), torch.randn(4, 2, generator=noise))


def test_noise_does_not_shift_order_or_timesteps():
    looked, undisturbed = make(), make()
    first = take(looked, 1)
    looked.noise_like(torch.zeros(4, 2))
    rest = take(looked, 2)
    whole = take(undisturbed, 3)

    assert torch.equal(torch.cat([first[0], rest[0]]), whole[0])
    assert torch.equal(torch.cat([first[1], rest[1]]), whole[1])


def test_a_batch_larger_than_the_data_is_filled():
    indices = make(num_examples=3, batch_size=8).next().indices.tolist()

    assert len(indices) == 8
    assert set(indices) == {0, 1, 2}


def test_same_seed_same_draws_other_seed_other_draws():
    first, again, other = (take(make(seed), 3)[1] for seed in (0, 0, 1))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("sampling", sorted(TIMESTEP_SAMPLERS))
def test_examples_and_noise_do_not_depend_on_how_timesteps_are_drawn(sampling):
    batches, uniform = make(sampling=sampling), make()

    assert torch.equal(take(batches, 5)[0], take(uniform, 5)[0])
    assert torch.equal(
        batches.noise_like(torch.zeros(4, 2)), uniform.noise_like(torch.zeros(4, 2))
    )


def test_global_random_numbers_do_not_shift_the_draws():
    batches, undisturbed = make(), make()
    take(batches, 1)
    torch.randn(1000)
    take(undisturbed, 1)

    assert torch.equal(take(batches, 2)[1], take(undisturbed, 2)[1])


@pytest.mark.parametrize("sampling", sorted(TIMESTEP_SAMPLERS))
@pytest.mark.parametrize("num_steps", [1, 3, 40])
def test_restored_state_goes_on_where_it_was(sampling, num_steps):
    """After 40 steps loss_second_moment has left its uniform start: there are 5 timesteps."""
    log_snr = make_noise_schedule(num_train_timesteps=5).log_snr
    batches = make(sampling=sampling, log_snr=log_snr)
    take(batches, num_steps)
    batches.noise_like(torch.zeros(4, 2))
    restored = make(seed=99, sampling=sampling, log_snr=log_snr)
    take(restored, 2)
    restored.load_state_dict(batches.state_dict())
    expected, actual = take(batches, 20), take(restored, 20)

    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])
    assert torch.equal(restored.noise_like(torch.zeros(2)), batches.noise_like(torch.zeros(2)))


def test_a_saved_state_does_not_move_with_the_batches():
    batches = make(sampling="loss_second_moment")
    take(batches, 1)
    state = batches.state_dict()
    rest, counts = state["epoch_rest"].clone(), state["timestep_sampler"]["counts"].clone()
    take(batches, 5)

    assert torch.equal(state["epoch_rest"], rest)
    assert torch.equal(state["timestep_sampler"]["counts"], counts)


def test_importance_comes_from_the_law_that_drew_the_batch():
    log_snr = make_noise_schedule(num_train_timesteps=5).log_snr
    batches = make(sampling="loss_second_moment", log_snr=log_snr)
    take(batches, 40)
    probabilities = batches.timestep_probabilities()
    batch = batches.next()
    expected = 1 / (5 * probabilities[batch.timesteps.numpy()])

    assert len(set(probabilities)) == 5
    assert batch.importance.numpy() == pytest.approx(expected)
    assert make().next().importance is None


@pytest.mark.parametrize("sampling", sorted(TIMESTEP_SAMPLERS))
def test_a_step_reads_nothing_on_the_host(sampling):
    batches = make(num_examples=1000, sampling=sampling)
    with NoHostReads():
        take(batches, 3)
