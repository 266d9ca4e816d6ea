from __future__ import annotations

import json

import pytest

from stabsearch.stability.analyzer import Analyzer
from stabsearch.stability.baselines import BASELINES
from stabsearch.stability.baselines.chapter import ChapterJudge
from stabsearch.stability.judges import RULES_JUDGE, make_judge
from tests.stability.reports import curve, facts
from tests.stability.streams import inside, random_facts, random_reports

LOST = curve([1.0, 0.7, 0.4, 0.3, 0.25, 0.25, *[0.58] * 4])
"""Lost 44% of its progress: default penalises, strict prunes, lenient penalises."""


def limits_of(settings):
    judge = make_judge(settings, facts())
    return {v.limit for r in LOST for v in judge.judge(r).verdicts if v.rule == "R1b"}


def test_a_baseline_is_made_by_its_name():
    assert isinstance(make_judge({"name": "chapter"}, facts()), ChapterJudge)


def test_rules_are_the_judge_of_a_study_that_names_none():
    assert isinstance(make_judge({}, facts()), Analyzer)
    assert isinstance(make_judge({"name": "rules", "preset": "lenient"}, facts()), Analyzer)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"R1b.penalise"}),
        ({"preset": "strict"}, {"R1b.penalise", "R1b.prune"}),
        ({"preset": "lenient"}, {"R1b.penalise"}),
        ({"thresholds": {"R1b.penalise": 0.5}}, set()),
        ({"thresholds": {"R1b.prune": 0.43}}, {"R1b.penalise", "R1b.prune"}),
        ({"preset": "strict", "thresholds": {"R1b.prune": 0.5}}, {"R1b.penalise"}),
        ({"preset": "default", "thresholds": None}, {"R1b.penalise"}),
    ],
)
def test_preset_and_single_thresholds_decide(settings, expected):
    assert limits_of(settings) == expected


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"name": "ruls"}, KeyError),
        ({"preset": "strickt"}, ValueError),
        ({"thresholds": {"R1b.prnue": 0.4}}, KeyError),
    ],
)
def test_a_name_that_is_none_is_refused(settings, error):
    with pytest.raises(error):
        make_judge(settings, facts())


@pytest.mark.parametrize("name", [RULES_JUDGE, *BASELINES])
def test_a_restored_judge_knows_all_that_one_knows_that_judged_on(name):
    """Whatever is missing from a state is lost in silence when a trial goes on."""
    trial = random_facts(0)
    whole, half = (make_judge({"name": name}, trial) for _ in range(2))
    for r in random_reports(trial, 0):
        whole.judge(r)
        restored = make_judge({"name": name}, trial)
        restored.load_state_dict(json.loads(json.dumps(half.state_dict())))
        half = restored
        half.judge(r)

    assert inside(half) == inside(whole)
