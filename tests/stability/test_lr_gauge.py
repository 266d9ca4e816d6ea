from __future__ import annotations

import math

import pytest

from stabsearch.stability.lr_gauge import MAX_OCTAVES, lr_gauge_octaves
from tests.stability.reports import facts


def gauge(share, kappa, **changes):
    trial = facts(**changes)
    return lr_gauge_octaves(trial, round(share * trial.max_train_steps), kappa)


@pytest.mark.parametrize(
    ("share", "schedule", "best"),
    [(0.05, "constant", 1.07), (0.1, "constant", 0.99), (0.15, "constant", 0.97),
     (0.2, "constant", 0.95), (0.9, "constant", 0.94), (0.1, "cosine", 0.89),
     (0.25, "cosine", 0.875)],
)  # fmt: skip
def test_is_zero_at_the_best_rate_positive_above_and_negative_below(share, schedule, best):
    assert gauge(share, best, lr_schedule=schedule) == pytest.approx(0, abs=1e-9)
    assert gauge(share, best - 0.065, lr_schedule=schedule) == pytest.approx(
        1 if schedule == "constant" else 0.065 / 0.08
    )
    assert gauge(share, best + 0.04, lr_schedule=schedule) == pytest.approx(
        -1 if schedule == "constant" else -0.8
    )


@pytest.mark.parametrize(
    ("share", "kappa", "changes"),
    [
        (0.04, 1.0, {}),
        (0.1, math.nan, {}),
        (0.1, math.inf, {}),
        (0.3, 0.9, {"lr_schedule": "cosine"}),
        (0.1, 1.0, {"eval_rows": 63}),
        (0.1, 1.0, {"ema_schedule": None, "ema_decay": None, "ema_sigma_rel": None}),
        (0.1, 1.0, {"ema_schedule": "fixed"}),
        (0.1, 1.0, {"ema_schedule": "power", "ema_sigma_rel": 0.2}),
        (0.1, 1.0, {"ema_decay": 0.9}),
    ],
    ids=["too early", "nan", "inf", "the decay has begun to work", "few rows", "no average",
         "fixed decay", "another width", "average shorter than a tenth of the run"],
)  # fmt: skip
def test_says_nothing_where_kappa_says_nothing(share, kappa, changes):
    assert gauge(share, kappa, **changes) is None


def test_a_power_average_of_the_same_width_is_read_the_same_way():
    assert gauge(0.2, 0.9, ema_schedule="power", ema_sigma_rel=0.1) == gauge(0.2, 0.9)


def test_far_away_only_the_direction_counts():
    assert gauge(0.2, 0.1) == MAX_OCTAVES
    assert gauge(0.2, 9.0) == -MAX_OCTAVES
