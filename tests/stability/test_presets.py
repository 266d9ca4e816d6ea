"""Thresholds at work: strict speaks no later than default, default no later than lenient."""

from __future__ import annotations

import json

import pytest

from stabsearch.records import Severity
from stabsearch.stability.analyzer import Analyzer
from stabsearch.stability.rules import RULES
from stabsearch.thresholds import DEFAULTS, THRESHOLDS, Preset, resolve
from tests.stability.streams import random_facts, random_reports

SEEDS = range(60)


@pytest.fixture(scope="module")
def trials():
    drawn = [random_facts(seed) for seed in SEEDS]
    return [(trial, random_reports(trial, seed)) for seed, trial in enumerate(drawn)]


def judged(trial, reports, limits):
    analyzer = Analyzer(trial, limits)
    return [v for r in reports for v in analyzer.judge(r).verdicts]


def first_steps(trial, reports, preset):
    """The step at which each rule first spoke with at least each severity."""
    analyzer = Analyzer(trial, resolve(preset))
    steps = {}
    for r in reports:
        for v in analyzer.judge(r).verdicts:
            for severity in Severity:
                if severity <= v.severity:
                    steps.setdefault((v.rule, severity), r.step)
    return steps


def test_the_random_trials_know_every_rule(trials):
    """Or the tests below would say nothing of the rules that are missing."""
    said = {v.rule for trial, reports in trials for v in judged(trial, reports, DEFAULTS)}

    assert said == {rule.id for rule in RULES}


@pytest.mark.parametrize(
    ("stricter", "laxer"), [(Preset.STRICT, Preset.DEFAULT), (Preset.DEFAULT, Preset.LENIENT)]
)
def test_a_stricter_preset_speaks_no_later(trials, stricter, laxer):
    num_earlier = 0
    for trial, reports in trials:
        early = first_steps(trial, reports, stricter)
        late = first_steps(trial, reports, laxer)
        for key, step in late.items():
            assert early.get(key, 10**9) <= step, (key, trial)
        num_earlier += early != late

    assert num_earlier > len(trials) / 4


@pytest.mark.parametrize("name", THRESHOLDS)
def test_every_threshold_decides_something(trials, name):
    default = THRESHOLDS[name].default
    values = [
        {**DEFAULTS, name: value}
        for value in (default - 10 * abs(default), default, 10 * abs(default) + 1)
    ]
    is_decided = any(
        len({str(judged(trial, reports, limits)) for limits in values}) > 1
        for trial, reports in trials
    )

    assert is_decided


@pytest.mark.parametrize("seed", range(8))
def test_restored_through_json_at_any_report(trials, seed):
    trial, reports = trials[seed]
    expected = judged(trial, reports, DEFAULTS)
    said, analyzer = [], Analyzer(trial)
    for r in reports:
        restored = Analyzer(trial)
        restored.load_state_dict(json.loads(json.dumps(analyzer.state_dict())))
        analyzer = restored
        said += analyzer.judge(r).verdicts

    assert repr(said) == repr(expected)


def test_every_verdict_names_its_limit_or_judges_what_is_not_finite(trials):
    for trial, reports in trials:
        for v in judged(trial, reports, DEFAULTS):
            assert v.limit in THRESHOLDS or (v.rule, v.limit) == ("R1a", "")
            assert not v.limit or v.limit.split(".")[0] in (v.rule, v.rule.rstrip("b"))


def test_every_verdict_stands_beyond_its_threshold(trials):
    """Below it where a small number is the symptom; on either side of 0 farther from it."""
    below = {"R6.sensitivity", "R7.effective_bins", "R8.improvement", "R13.ratio"}
    for trial, reports in trials:
        for v in judged(trial, reports, DEFAULTS):
            if v.limit in below:
                assert v.value < v.threshold, v
            else:
                assert abs(v.value) > abs(v.threshold), v
                assert v.value * v.threshold >= 0, v


def test_verdicts_are_sentences(trials):
    for trial, reports in trials:
        for v in judged(trial, reports, DEFAULTS):
            assert v.advice.endswith(".")
            assert not set("{}") & set(v.reason + v.advice)
            assert "nan" not in v.reason.lower().replace("became nan", "")
            if v.timestep_bin is not None:
                edges = trial.bin_edges[v.timestep_bin], trial.bin_edges[v.timestep_bin + 1] - 1
                assert (v.timestep_low, v.timestep_high) == edges
                assert f"timesteps {edges[0]}-{edges[1]}" in v.reason
