from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from stabsearch.training.sample_gradients import GradientProbe, SampleGradients, probe_chunk

BIN_EDGES = (0, 4, 8, 12)


class TwoLayers(nn.Module):
    """A layer that is used, one that is frozen and one that the loss never reaches."""

    def __init__(self):
        super().__init__()
        self.used, self.frozen, self.unreached = (nn.Linear(5, 5) for _ in range(3))
        self.frozen.requires_grad_(False)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.frozen(self.dropout(torch.tanh(self.used(x))))


def probe_of(seed=0):
    torch.manual_seed(0)
    return GradientProbe(torch.randn(40, 5), BIN_EDGES, seed, 100)


def losses_of(model, seen=None):
    """Every bin pulls another way: the target is a multiple of the noise."""

    def losses(x0, timesteps, noise):
        if seen is not None:
            seen.append((x0, timesteps, noise))
        return (model(x0) - noise * timesteps[:, None]).square().mean(1)

    return losses


def test_cosines_agree_with_a_loop_over_pairs_of_bins():
    model, seen = TwoLayers(), []
    cosines = probe_of().cosines(model, losses_of(model, seen))

    model.eval()
    gradients = []
    for draws in seen:
        parameters = [*model.used.parameters()]
        loss = losses_of(model)(*draws).mean()
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    for i, j in itertools.product(range(3), repeat=2):
        expected = nn.functional.cosine_similarity(gradients[i], gradients[j], dim=0).item()

        assert cosines[i][j] == pytest.approx(expected, abs=1e-5)


def test_every_bin_has_its_own_timesteps_and_a_third_of_the_samples():
    model, seen = TwoLayers(), []
    probe_of().cosines(model, losses_of(model, seen))

    for (low, high), (_, timesteps, _) in zip(itertools.pairwise(BIN_EDGES), seen, strict=True):
        assert len(timesteps) == 512 // 3 + 1
        assert low <= timesteps.min() <= timesteps.max() < high


def test_a_probe_leaves_model_and_generators_as_they_were():
    model = TwoLayers().train()
    before = torch.get_rng_state()
    first, again = (probe_of().cosines(model, losses_of(model)) for _ in range(2))
    torch.set_rng_state(before)

    assert first == again
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_a_model_too_large_to_hold_its_gradients_is_not_probed(monkeypatch):
    monkeypatch.setattr("stabsearch.training.sample_gradients.MAX_NUMBERS", 3 * 60 - 1)
    model = TwoLayers()  # 2 x 30 trained parameters, 3 bins

    assert probe_of().cosines(model, losses_of(model)) is None


@pytest.mark.parametrize(
    ("first_step", "last_step", "is_due"),
    [(0, 4, False), (0, 5, True), (5, 10, False), (4, 60, True), (19, 20, True), (50, 100, False)],
)
def test_a_probe_is_due_at_a_twentieth_a_fifth_and_half(first_step, last_step, is_due):
    assert probe_of().is_due(first_step, last_step) is is_due


@pytest.mark.parametrize(
    ("num_parameters", "chunk"), [(1000, 32), (10**7, 10), (10**8, 1), (10**10, 1)]
)
def test_a_large_model_is_probed_a_few_samples_at_a_time(num_parameters, chunk):
    assert probe_chunk(num_parameters) == chunk


def test_a_restored_meter_goes_on_with_what_it_found_out():
    found = SampleGradients(nn.Linear(3, 3), 10)
    found._probe_instead("of this test")
    restored = SampleGradients(nn.Linear(3, 3), 10)
    restored.load_state_dict(found.state_dict())

    assert restored.remark == found.remark
    assert not restored.is_due(10)
    assert restored.is_due(100)
    assert restored.squared_norms(100, 2, None, lambda: torch.ones(2)).tolist() == [1, 1]
