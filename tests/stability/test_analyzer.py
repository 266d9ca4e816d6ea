from __future__ import annotations

import ast
from pathlib import Path

import stabsearch.stability
from stabsearch.records import Severity
from stabsearch.stability.analyzer import Analyzer
from tests.stability.reports import curve, facts

DYING = [1.0, 0.7, 0.4, 0.3, 0.25, 0.45, 0.45, 0.9, 0.9, 0.9, 0.9, 0.9]


def test_a_finding_is_said_once_and_again_only_when_it_gets_worse():
    analyzer = Analyzer(facts())
    said = [(v.rule, v.severity) for r in curve(DYING) for v in analyzer.judge(r).verdicts]

    assert said == [("R1b", Severity.PENALISE), ("R1b", Severity.PRUNE), ("R1c", Severity.PRUNE)]


def test_restored_analyzer_judges_as_the_original_would():
    reports = curve(DYING)
    whole = Analyzer(facts())
    expected = [whole.judge(r) for r in reports]
    for cut in range(len(reports)):
        first, second = Analyzer(facts()), Analyzer(facts())
        judged = [first.judge(r) for r in reports[:cut]]
        second.load_state_dict(first.state_dict())
        judged += [second.judge(r) for r in reports[cut:]]

        assert judged == expected


def test_every_verdict_carries_its_evidence():
    analyzer = Analyzer(facts())
    for verdict in (v for r in curve(DYING) for v in analyzer.judge(r).verdicts):
        assert verdict.value > verdict.threshold
        assert verdict.step % 25 == 0
        assert verdict.timestep_bin is not None
        assert str(verdict.step) in verdict.reason
        assert verdict.advice.endswith(".")


def test_the_analyzer_knows_nothing_of_torch_or_ray():
    for path in Path(stabsearch.stability.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []

            assert not {n.split(".")[0] for n in names} & {"torch", "ray", "optuna"}, path
