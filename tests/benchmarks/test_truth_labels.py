"""What became of trials, by curves whose end is plain to see."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.truth.labels import Course, Label, label_grid, optima
from stabsearch.records import ReferenceLoss

STEPS, WARMUP = 1000, 50
REFERENCE = ReferenceLoss(
    bin_constant=(1.0, 1.0),
    bin_zero=(1.0, 1.0),
    bin_isotropic=(0.3, 0.1),
    bin_linear=(0.2, 0.1),
    bin_posterior=None,
    constant_score=10.0,
)
"""C0 = 1, L_iso = 0.2, u = 0.05: dead above 0.6, ok within 0.025 of the best."""
BEST, BEST_RATE = 0.16, 1e-2


def falling(end: float, by: int = 100) -> np.ndarray:
    """From 1 down to ``end`` on a straight line, and there from step ``by`` on."""
    return np.interp(np.arange(STEPS), [0, by], [1.0, end])


def course(losses, *, rate=BEST_RATE, seed=0, clip=None, ema=None, nonfinite=None) -> Course:
    losses = np.array(losses, dtype=float)
    return Course(
        trial_id=f"{rate:g}-{clip}-{seed}",
        seed=seed,
        learning_rate=rate,
        clip=clip,
        batch_losses=losses,
        nonfinite_step=nonfinite,
        loss_raw=float(losses[-1]),
        loss_ema=float(losses[-1]) if ema is None else ema,
        warmup_steps=WARMUP,
        reference=REFERENCE,
    )


BEST_COURSE = course(falling(BEST), seed=0)


def truth(losses, rate, **fields):
    """The truth of a trial beside the best one."""
    tried = course(losses, rate=rate, **fields)
    return label_grid([BEST_COURSE, tried])[tried.trial_id]


def changed(step: int, value: float, until: int | None = None) -> np.ndarray:
    """The best curve, with another loss from a step on."""
    losses = falling(BEST)
    losses[step - 1 : until] = value
    return losses


HIGH, LOW = 4 * BEST_RATE, BEST_RATE / 4


@pytest.mark.parametrize(
    ("losses", "rate", "expected"),
    [
        (falling(BEST + 0.02), HIGH, Label.OK),
        (falling(BEST + 0.02), LOW, Label.OK),
        (falling(BEST + 0.03), LOW, Label.TIMID),
        (falling(BEST + 0.03), HIGH, Label.DEGRADED),
        (falling(0.59), HIGH, Label.DEGRADED),
        (falling(0.9, STEPS), LOW, Label.TIMID),
        (falling(0.9), HIGH, Label.UNSTABLE),
        (np.ones(STEPS), HIGH, Label.UNSTABLE),
        (changed(500, 1.0), LOW, Label.UNSTABLE),
        (changed(500, 1.0), HIGH, Label.UNSTABLE),
        (changed(990, 1.0), HIGH, Label.UNSTABLE),
        (changed(500, 1.0, until=700), HIGH, Label.OK),
        (changed(500, 3.1, until=500), HIGH, Label.UNSTABLE),
        (changed(500, 2.9, until=500), HIGH, Label.OK),
        (changed(90, 50.0, until=90), HIGH, Label.OK),
        (changed(101, 50.0, until=101), HIGH, Label.UNSTABLE),
        (changed(500, math.nan), HIGH, Label.UNSTABLE),
        (np.interp(np.arange(STEPS), [0, 600, 999], [1, 0.59, 0.61]), LOW, Label.TIMID),
    ],
    ids=[
        "as good as the best",
        "as good below the best rate",
        "too slow",
        "alive and noisy",
        "barely alive",
        "has not learned yet, and no lower rate has",
        "above the bar while a lower rate learns",
        "dead from the start",
        "died, whatever its rate",
        "died",
        "died at the very end",
        "came back",
        "one batch far off",
        "one batch not far enough",
        "an early kick that it recovered from",
        "just late enough",
        "not finite",
        "slow, and over the bar by noise",
    ],
)
def test_labels(losses, rate, expected):
    assert truth(losses, rate).label is expected


def test_averaged_weights_as_good_as_any_are_ok():
    assert truth(falling(0.5), HIGH, ema=BEST + 0.01).label is Label.OK


def test_a_step_that_was_not_finite_is_unstable():
    assert truth(falling(BEST), HIGH, nonfinite=300).label is Label.UNSTABLE


@pytest.mark.parametrize(
    ("losses", "fields", "expected"),
    [
        (changed(500, 3.1, until=500), {}, 500),
        (falling(BEST), {"nonfinite": 300}, 300),
        (changed(500, math.nan), {}, 500),
        (changed(300, 1.0), {}, 313),
        (np.ones(STEPS), {}, 60),
    ],
    ids=[
        "the excursion",
        "the step that was not finite",
        "NaN",
        "half of 25 steps after the death",
        "when the living learned",
    ],
)
def test_knowable_from(losses, fields, expected):
    assert truth(losses, HIGH, **fields).knowable_step == pytest.approx(expected, abs=3)


def test_a_model_too_small_for_the_data_is_alive_half_way_to_its_own_best():
    """Best 0.6: the bar is 0.8, and not the data's 0.6."""
    best, worse = course(falling(0.6)), course(falling(0.7), rate=HIGH)
    dead = course(falling(0.9), rate=2 * HIGH)

    truths = label_grid([best, worse, dead])

    labels = [truths[each.trial_id].label for each in (best, worse, dead)]
    assert labels == [Label.OK, Label.DEGRADED, Label.UNSTABLE]


def test_a_trial_is_compared_with_its_own_seed():
    lucky = course(falling(0.1), seed=1)
    unlucky = course(falling(BEST + 0.01), rate=HIGH)

    truths = label_grid([BEST_COURSE, lucky, unlucky])

    assert truths[unlucky.trial_id].label is Label.OK
    assert truths[BEST_COURSE.trial_id].label is Label.OK


def test_the_best_rate_is_that_of_the_mean_over_seeds_per_clip_and_weights():
    courses = [
        course(falling(0.20), rate=1e-3, seed=0, ema=0.30),
        course(falling(0.20), rate=1e-3, seed=1, ema=0.30),
        course(falling(0.10), rate=1e-2, seed=0, ema=0.10),
        course(falling(0.40), rate=1e-2, seed=1, ema=0.10),
        course(falling(0.90), rate=1e-1, seed=0, clip=1.0),
    ]

    best = optima(courses)

    assert best[None].raw == 1e-3
    assert best[None].ema == 1e-2
    assert best[1.0].raw == 1e-1
