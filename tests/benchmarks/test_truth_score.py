"""Score arithmetic on hand-made verdicts."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.truth.labels import Label, Truth
from benchmarks.truth.replay import Replayed, Said, StoredTrial
from benchmarks.truth.score import Case, Ratio, auc, missed, rules_said, score, spearman
from stabsearch.records import Severity, Symptom, Verdict

STEPS = 1000


def said(step, severity=Severity.PRUNE, symptom=Symptom.LOST_PROGRESS, rule="R1b"):
    verdict = Verdict(
        rule=rule,
        symptom=symptom,
        severity=severity,
        value=1.0,
        threshold=0.5,
        limit="R1b.prune",
        step=step - 10,
        timestep_bin=None,
        timestep_low=None,
        timestep_high=None,
        reason="",
        advice="",
    )
    return Said(step=step, verdict=verdict)


def case(label, *verdicts, knowable=None):
    trial = StoredTrial(
        course=SimpleNamespace(trial_id="0000-0"),
        truth=Truth(label=label, knowable_step=knowable),
        facts=SimpleNamespace(max_train_steps=STEPS),
        reports=(),
        octaves=0.0,
        octaves_ema=0.0,
    )
    return Case(grid="grid", trial=trial, replayed=Replayed(said=verdicts))


UNSTABLE = (
    case(Label.UNSTABLE, said(60), knowable=50),
    case(Label.UNSTABLE, said(90, Severity.PENALISE), said(300), knowable=80),
    case(Label.UNSTABLE, said(90, Severity.PENALISE, Symptom.LOSS_STUCK), knowable=100),
    case(Label.UNSTABLE, said(100, symptom=Symptom.NOT_LEARNING), knowable=500),
    case(Label.UNSTABLE, knowable=101),
)


def test_recall_counts_what_was_called_by_a_share_of_the_budget():
    recall = score(UNSTABLE).recall

    assert [recall[share].part for share in (0.05, 0.075, 0.1, 0.2, 1.0)] == [0, 1, 3, 3, 3]
    assert {ratio.whole for ratio in recall.values()} == {5}


def test_early_recall_is_asked_only_of_what_can_be_known_early():
    assert str(score(UNSTABLE).knowable_recall) == "2 of 3"
    assert missed(UNSTABLE) == [UNSTABLE[2]]


def test_the_budget_of_an_unstable_trial_ends_where_it_is_pruned():
    assert score(UNSTABLE).unstable_budget == pytest.approx((0.06 + 0.3 + 1 + 0.1 + 1) / 5)


def test_false_alarms_are_those_on_ok_trials():
    cases = [
        case(Label.OK),
        case(Label.OK, said(500, Severity.WARN)),
        case(Label.OK, said(500, Severity.PENALISE)),
        case(Label.OK, said(500)),
        case(Label.TIMID, said(500)),
        case(Label.DEGRADED),
    ]

    found = score(cases)

    assert str(found.false_prunes) == "1 of 4"
    assert str(found.false_penalties) == "2 of 4"
    assert str(found.pruned_timid) == "1 of 1"
    assert str(found.pruned_degraded) == "0 of 1"
    assert found.ok_budget == pytest.approx(0.875)
    assert rules_said(cases, Severity.WARN) == {"R1b lost_progress": 1}


@pytest.mark.parametrize(
    ("part", "whole", "expected"),
    [(0, 59, 0.0495), (0, 300, 0.00994), (1, 391, 0.0121), (3, 3, 1.0), (0, 0, 1.0)],
)
def test_upper_bound_is_exact(part, whole, expected):
    assert Ratio(part, whole).upper == pytest.approx(expected, abs=1e-4)


def test_a_ratio_of_nothing_has_no_value():
    assert math.isnan(Ratio(0, 0).value)


def test_auc_counts_pairs():
    values, kind = np.array([3.0, 1.0, 2.0, 1.0]), np.array([True, True, False, False])

    assert auc(values, kind) == (2 + 0.5) / 4
    assert math.isnan(auc(values, np.ones(4, bool)))


def test_spearman_is_of_ranks():
    assert spearman(np.array([1.0, 2.0, 30.0]), np.array([1.0, 4.0, 5.0])) == 1
    assert math.isnan(spearman(np.ones(3), np.arange(3.0)))
