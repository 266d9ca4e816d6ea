from __future__ import annotations

import torch

from stabsearch.training.batches import Batches

CPU = torch.device("cpu")


def make(seed=0, num_examples=10, batch_size=4):
    return Batches(num_examples, batch_size, 1000, seed, CPU)


def test_every_epoch_uses_every_example_once():
    indices = make().draw(5).indices.flatten().tolist()

    assert sorted(indices[:10]) == list(range(10))
    assert sorted(indices[10:]) == list(range(10))


def test_draws_do_not_depend_on_the_window_length():
    """report_every must not change what a trial trains on."""
    stepwise, whole = make(), make().draw(6)
    windows = []
    for _ in range(6):
        windows.append(stepwise.draw(1))
        stepwise.noise_like(torch.zeros(4, 2))

    assert torch.equal(torch.cat([w.indices for w in windows]), whole.indices)
    assert torch.equal(torch.cat([w.timesteps for w in windows]), whole.timesteps)


def test_a_batch_larger_than_the_data_is_filled():
    indices = make(num_examples=3, batch_size=8).draw(1).indices.flatten().tolist()

    assert len(indices) == 8
    assert set(indices) == {0, 1, 2}


def test_same_seed_same_draws_other_seed_other_draws():
    first, again, other = make(0).draw(3), make(0).draw(3), make(1).draw(3)

    assert torch.equal(first.timesteps, again.timesteps)
    assert not torch.equal(first.timesteps, other.timesteps)


def test_global_random_numbers_do_not_shift_the_draws():
    batches = make()
    batches.draw(1)
    torch.randn(1000)
    undisturbed = make()
    undisturbed.draw(1)

    assert torch.equal(batches.draw(2).timesteps, undisturbed.draw(2).timesteps)


def test_restored_state_goes_on_where_it_was():
    batches = make()
    batches.draw(3)
    batches.noise_like(torch.zeros(4, 2))
    state = batches.state_dict()
    expected = batches.draw(4)
    restored = make(seed=99)
    restored.load_state_dict(state)

    assert torch.equal(restored.draw(4).indices, expected.indices)
    assert torch.equal(restored.noise_like(torch.zeros(2)), batches.noise_like(torch.zeros(2)))
