from __future__ import annotations

import math
import random

import pytest

from stabsearch.records import Symptom
from stabsearch.stability.baselines import BASELINES
from tests.stability.baselines.series import FACTS, prune_step, reports, verdicts

NAN, INF = math.nan, math.inf


def stop(name, losses, norms=None):
    return prune_step(BASELINES[name](FACTS), reports(losses, norms))


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([1.0, 0.9, 0.8], None),
        ([1.0, 2.9], None),
        ([1.0, 3.0], 2),
        ([1.0, 1.0, 4.0, 1.0], 3),
        ([1.0, 1.0, NAN], 3),
        ([1.0, 1.0, INF], 3),
        ([NAN, 1.0, 1.0], None),
        ([9.0] + [1.0] * 9 + [5.3, 1.0], None),  # the mean of ten still holds the 9
        ([9.0] + [1.0] * 10 + [5.3, 1.0], 12),
        ([9.0] + [1.0] * 9 + [5.3, 5.2], None),  # 3.6 times the mean, but below the one before
        ([9.0] + [1.0] * 9 + [5.3, 5.4], 12),
        ([1.0, 1.0, 1.0, 1.5, 2.25, 3.375, 5.0, 7.6], 8),
    ],
    ids=[
        "falling", "below three times", "three times", "spike", "nan", "inf", "nan at first",
        "in the window", "out of the window", "better than the last", "worse than the last",
        "growing",
    ],
)  # fmt: skip
def test_lightning(losses, expected):
    assert stop("lightning", losses) == expected


STEADY = [1.0] * 100


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([*STEADY, 2.1, 2.1, 2.1, 2.1], None),
        ([*STEADY, 2.1, 2.1, 2.1, 2.1, 2.1], 105),
        ([*STEADY, 2.1, 2.1, 2.1, 2.1, 1.0, 2.1], None),
        ([1.0] * 90 + [50.0] * 9, None),
        ([11.0] * 199, None),
        ([11.0] * 201, 200),
        ([*STEADY, NAN, *[5.0] * 99], None),
        ([*STEADY, *[NAN] * 100], None),
    ],
    ids=[
        "four", "five in a row", "interrupted", "window not full", "high, early",
        "high", "blind beside a nan", "nan",
    ],
)  # fmt: skip
def test_llm_foundry(losses, expected):
    assert stop("llm_foundry", losses) == expected


def test_llm_foundry_calls_a_loss_above_its_cap_by_another_name():
    (verdict,) = verdicts(BASELINES["llm_foundry"](FACTS), reports([11.0] * 225))

    assert verdict.symptom is Symptom.WORSE_THAN_TRIVIAL


def around(mean, count, seed=0):
    """Values of standard deviation near 0.01."""
    rng = random.Random(seed)
    return [rng.gauss(mean, 0.01) for _ in range(count)]


@pytest.mark.parametrize(
    ("name", "first_judged"), [("olmo", 500), ("olmo_core", 64)], ids=["paper", "core"]
)
@pytest.mark.parametrize("series", ["loss", "norm"])
def test_olmo_counts_standard_deviations(name, first_judged, series):
    calm = around(1.0, first_judged)
    for value, is_spike in [(1.04, False), (1.2, True), (0.8, True)]:
        for length, is_judged in [(first_judged - 2, False), (first_judged - 1, True)]:
            steps = [*calm[:length], value]
            other = around(1.0, len(steps), seed=1)
            losses, norms = (steps, other) if series == "loss" else (other, steps)
            expected = len(steps) if is_spike and is_judged else None

            assert stop(name, losses, norms) == expected


def test_olmo_passes_over_what_is_not_finite_and_olmo_core_calls_it():
    losses = [*around(1.0, 600), NAN, INF, *around(1.0, 100, seed=1)]

    assert stop("olmo", losses) is None
    assert stop("olmo_core", losses) == 601
    (verdict,) = verdicts(BASELINES["olmo_core"](FACTS), reports(losses[:601]))
    assert verdict.symptom is Symptom.NON_FINITE


def test_zclip_flags_a_norm_above_its_average():
    calm = around(1.0, 60)

    assert stop("zclip", calm, [*calm[:59], 1.015]) is None
    assert stop("zclip", calm, [*calm[:59], 1.2]) == 60
    assert stop("zclip", calm, [*calm[:20], 5.0, *calm[21:]]) is None  # in its warm-up
    assert stop("zclip", calm) is None  # no norms


def test_zclip_locks_itself_where_norms_grow_early():
    """The average takes in what it left of a norm, so it never comes up to the new level."""
    norms = around(1.0, 25) + around(3.0, 500)
    detector = BASELINES["zclip"](FACTS)._detector
    flagged = [detector.observe(i, 1.0, norm) is not None for i, norm in enumerate(norms, 1)]

    assert all(flagged[25:])


def test_zclip_is_silent_after_a_nan():
    norms = [*around(1.0, 30), NAN, *[100.0] * 30]

    assert stop("zclip", [1.0] * len(norms), norms) is None


def test_numbers_near_the_end_of_float64_break_nothing():
    huge = [*around(1.0, 30), 1e200, 1e300, INF, NAN, *[1e308] * 700]
    for name in BASELINES:
        verdicts(BASELINES[name](FACTS), reports(huge, huge))
