"""What holds of every baseline."""

from __future__ import annotations

import ast
import json
import math
import random
from pathlib import Path
from typing import get_args

import pytest

import stabsearch.stability.baselines as package
from stabsearch.spec.analyzer import AnalyzerSpec
from stabsearch.stability.baselines import BASELINES
from stabsearch.stability.judges import make_judge
from tests.stability.baselines.series import FACTS, reports


def troubled():
    """A noisy trial that learns, spikes, recovers and blows up."""
    rng = random.Random(0)
    level = [1.0 * 0.995**i for i in range(600)] + [0.05] * 600 + [9.0] * 100 + [math.nan] * 50
    losses = [value * rng.uniform(0.9, 1.1) for value in level]
    losses[700:706] = [3.0] * 6
    norms = [rng.uniform(0.5, 1.5) * (50 if loss > 2 else 1) for loss in losses]
    norms[-50:] = [math.nan] * 50
    return reports(
        losses,
        norms,
        clipped=[norm > 0.7 for norm in norms],
        bin_losses=lambda loss: (2.5 * loss, loss, 0.3 * loss, 0.2 * loss),
    )


def test_a_study_may_name_every_baseline():
    assert set(get_args(AnalyzerSpec.model_fields["name"].annotation)) == {"rules", *BASELINES}


@pytest.mark.parametrize("name", BASELINES)
def test_a_symptom_is_said_once_with_its_evidence(name):
    judge = make_judge({"name": name}, FACTS)
    said = [v for report in troubled() for v in judge.judge(report).verdicts]

    assert said
    assert len({(v.rule, v.symptom) for v in said}) == len(said)
    for verdict in said:
        assert verdict.rule.split(".")[0] == name
        assert str(verdict.step) in verdict.reason
        assert verdict.advice.endswith(".")


@pytest.mark.parametrize("name", BASELINES)
def test_a_restored_judge_goes_on_as_the_original_would(name):
    made = troubled()
    whole = BASELINES[name](FACTS)
    expected = [whole.judge(report) for report in made]
    for cut in range(0, len(made), 7):
        first, second = BASELINES[name](FACTS), BASELINES[name](FACTS)
        judged = [first.judge(report) for report in made[:cut]]
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        judged += [second.judge(report) for report in made[cut:]]

        assert repr(judged) == repr(expected)  # a NaN is not equal to itself


@pytest.mark.parametrize("name", BASELINES)
def test_norms_that_were_not_measured_are_no_finding(name):
    steady = [0.5 - 1e-4 * i + 0.01 * math.sin(i) for i in range(1200)]
    judge = BASELINES[name](FACTS)

    assert [v for r in reports(steady) for v in judge.judge(r).verdicts] == []


def test_baselines_know_nothing_of_torch_or_ray():
    for path in Path(package.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []

            assert not {n.split(".")[0] for n in names} & {"torch", "ray", "optuna"}, path
