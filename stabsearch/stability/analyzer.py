"""Reports in, Verdicts out: every rule judges every report; a finding is said once.

Plain numpy and Python: the same judgement can be made beside a trainer, in a notebook, or again
from stored reports.
"""

from __future__ import annotations

from typing import Any

from stabsearch.records import Report, Severity, TrialFacts, Verdict
from stabsearch.stability.rules import RULES, Finding, Rule
from stabsearch.stability.window import TrialWindow


class Analyzer:
    """Judges one trial, report by report."""

    def __init__(self, facts: TrialFacts) -> None:
        self._facts = facts
        self._window = TrialWindow(facts)
        self._said: dict[str, Severity] = {}

    def judge(self, report: Report) -> tuple[Verdict, ...]:
        """Verdicts that this report adds. A rule speaks again only to become more severe."""
        is_new_window = self._window.observe(report)
        verdicts = []
        for rule in RULES:
            if rule.needs_window and not is_new_window:
                continue
            finding = rule.find(report, self._window)
            if finding is None or finding.severity <= self._said.get(rule.id, Severity.NONE):
                continue
            self._said[rule.id] = finding.severity
            verdicts.append(self._verdict(rule, finding))
        return tuple(verdicts)

    def state_dict(self) -> dict[str, Any]:
        """What a restored analyzer needs to go on as if nothing had happened."""
        return {
            "window": self._window.state_dict(),
            "said": {rule: int(severity) for rule, severity in self._said.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._window.load_state_dict(state["window"])
        self._said = {rule: Severity(value) for rule, value in state["said"].items()}

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
            step=finding.step,
            timestep_bin=finding.timestep_bin,
            timestep_low=low,
            timestep_high=high,
            reason=rule.reason.format(
                value=finding.value,
                threshold=finding.threshold,
                step=finding.step,
                bar=finding.bar,
                share="all" if finding.value >= 1 else f"{finding.value:.0%}",
                where=where,
            ),
            advice=rule.advice[finding.symptom],
        )
