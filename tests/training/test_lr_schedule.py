from __future__ import annotations

import itertools

import pytest

from stabsearch.training.lr_schedule import LR_DECAYS, lr_factor, lr_warmup_steps


def test_warm_up_starts_above_zero_and_reaches_one():
    """The chapter's step / W wastes its first step at lr 0."""
    factors = [lr_factor(step, "constant", 4, 10) for step in range(6)]

    assert factors == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_a_short_trial_reaches_its_learning_rate_too():
    assert lr_warmup_steps(0.05, 40) == 2
    assert max(lr_factor(step, "constant", 2, 40) for step in range(40)) == 1.0


@pytest.mark.parametrize("name", sorted(LR_DECAYS))
def test_factor_is_one_after_warm_up_and_never_rises_again(name):
    factors = [lr_factor(step, name, 10, 100) for step in range(10, 100)]

    assert factors[0] == 1.0
    assert all(later <= earlier for earlier, later in itertools.pairwise(factors))
    assert factors[-1] > 0


def test_no_warm_up_is_allowed():
    assert lr_factor(0, "constant", 0, 10) == 1.0
