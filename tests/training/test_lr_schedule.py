from __future__ import annotations

import itertools
from typing import get_args

import pytest

from stabsearch.spec import TrainerSpec
from stabsearch.training.lr_schedule import LR_DECAYS, lr_factor, lr_warmup_steps


def test_warm_up_starts_above_zero_and_reaches_one():
    """The chapter's step / W wastes its first step at lr 0."""
    factors = [lr_factor(step, "constant", 4, 10) for step in range(6)]

    assert factors == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("given_steps", "fraction", "max_train_steps", "expected"),
    [
        (None, 0.05, 40, 2),
        (None, 0.05, 2000, 100),
        (None, 0.0, 40, 0),
        (7, 0.05, 40, 7),
        (0, 0.5, 40, 0),
    ],
    ids=["short trial", "long trial", "no warm-up", "steps win", "no steps win too"],
)
def test_given_warm_up_steps_win_over_the_fraction(
    given_steps, fraction, max_train_steps, expected
):
    assert lr_warmup_steps(given_steps, fraction, max_train_steps) == expected


def test_with_a_fraction_a_short_trial_reaches_its_learning_rate_too():
    """A warm-up of 1,000 steps, as in the chapter, never ends in a trial of 40."""
    warmup_steps = lr_warmup_steps(None, 0.05, 40)

    assert max(lr_factor(step, "constant", warmup_steps, 40) for step in range(40)) == 1.0
    assert max(lr_factor(step, "constant", 1000, 40) for step in range(40)) == 0.04


def test_every_schedule_of_the_spec_is_there():
    annotation = TrainerSpec.model_fields["lr_schedule"].annotation

    assert set(LR_DECAYS) == set(get_args(annotation))


@pytest.mark.parametrize("name", sorted(LR_DECAYS))
def test_factor_is_one_after_warm_up_and_never_rises_again(name):
    factors = [lr_factor(step, name, 10, 100) for step in range(10, 100)]

    assert factors[0] == 1.0
    assert all(later <= earlier for earlier, later in itertools.pairwise(factors))
    assert factors[-1] > 0


def test_no_warm_up_is_allowed():
    assert lr_factor(0, "constant", 0, 10) == 1.0
