"""Reports in, Verdicts out: every rule judges every report; a finding is said once.

Plain Python: the same judgement can be made beside a trainer, in a notebook, or again from stored
reports.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stabsearch.records import JudgedReport, Report, Severity, TrialFacts, Verdict
from stabsearch.stability.rules import RULES, Finding, Rule
from stabsearch.stability.window import News, TrialWindow
from stabsearch.thresholds import DEFAULTS


class Analyzer:
    """Judges one trial, report by report."""

    def __init__(self, facts: TrialFacts, limits: Mapping[str, float] = DEFAULTS) -> None:
        """``limits`` are the thresholds by name; see ``stabsearch.thresholds.resolve``."""
        self._facts = facts
        self._limits = limits
        self._window = TrialWindow(facts)
        self._said: dict[tuple[str, str], Severity] = {}
        self._streak: dict[str, tuple[str, int]] = {}
        """The symptom that a rule found last, and how often in a row."""

    def judge(self, report: Report) -> JudgedReport:
        """The report, with the gauge filled in, and the verdicts that it adds.

        A rule speaks again of the same symptom only to become more severe.
        """
        news = self._window.observe(report)
        verdicts = []
        for rule in _rules_on(news):
            finding = rule.find(report, self._window, self._limits)
            if finding is None:
                self._streak.pop(rule.id, None)
                continue
            said = (rule.id, finding.symptom.value)
            if self._times_in_a_row(*said) < rule.times:
                continue
            if finding.severity <= self._said.get(said, Severity.NONE):
                continue
            self._said[said] = finding.severity
            verdicts.append(self._verdict(rule, finding))
        if report.evaluation is not None:
            report = replace(report, lr_gauge_octaves=self._window.lr_gauge)
        return JudgedReport(report=report, verdicts=tuple(verdicts))

    def state_dict(self) -> dict[str, Any]:
        """What a restored analyzer needs to go on as if nothing had happened."""
        return {
            "window": self._window.state_dict(),
            "said": [[*key, int(severity)] for key, severity in self._said.items()],
            "streak": {rule: list(streak) for rule, streak in self._streak.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._window.load_state_dict(state["window"])
        self._said = {(rule, symptom): Severity(value) for rule, symptom, value in state["said"]}
        self._streak = {rule: (symptom, n) for rule, (symptom, n) in state["streak"].items()}

    def _times_in_a_row(self, rule: str, symptom: str) -> int:
        last, times = self._streak.get(rule, ("", 0))
        times = times + 1 if symptom == last else 1
        self._streak[rule] = symptom, times
        return times

    def _verdict(self, rule: Rule, finding: Finding) -> Verdict:
        low = high = None
        where = ""
        if finding.timestep_bin is not None:
            low, high = self._facts.timestep_range(finding.timestep_bin)
            where = f", most at timesteps {low}-{high}"
        return Verdict(
            rule=rule.id,
            symptom=finding.symptom,
            severity=finding.severity,
            value=finding.value,
            threshold=finding.threshold,
            limit=finding.limit,
            step=finding.step,
            timestep_bin=finding.timestep_bin,
            timestep_low=low,
            timestep_high=high,
            reason=rule.reason.format(
                value=finding.value,
                threshold=finding.threshold,
                step=finding.step,
                share="all" if finding.value >= 1 else f"{finding.value:.0%}",
                where=where,
                **finding.words,
            ),
            advice=rule.advice[finding.symptom].format(**finding.words),
        )


@functools.cache
def _rules_on(news: News) -> tuple[Rule, ...]:
    """The rules that look at a report with that news."""
    return tuple(rule for rule in RULES if rule.on & news)
