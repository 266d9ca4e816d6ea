"""What all baselines share: a rule says a symptom once, in the first report that shows it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from stabsearch.records import JudgedReport, Report, Severity, Symptom, TrialFacts, Verdict


class BaselineJudge(ABC):
    """A judge whose rules look at a trial's numbers and at nothing else that is known of it."""

    def __init__(self, facts: TrialFacts) -> None:
        self._facts = facts
        self._said: set[tuple[str, str]] = set()

    @abstractmethod
    def find(self, report: Report) -> Iterator[Verdict]:
        """All that the rules see, said before or not; takes the report in on the way."""

    def judge(self, report: Report) -> JudgedReport:
        """The report, and the verdicts that have not been said before."""
        verdicts = []
        for verdict in self.find(report):
            key = (verdict.rule, verdict.symptom.value)
            if key not in self._said:
                self._said.add(key)
                verdicts.append(verdict)
        return JudgedReport(report=report, verdicts=tuple(verdicts))

    def state_dict(self) -> dict[str, Any]:
        return {"said": sorted(map(list, self._said))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._said = {(rule, symptom) for rule, symptom in state["said"]}

    def verdict(
        self,
        rule: str,
        symptom: Symptom,
        severity: Severity,
        *,
        value: float,
        threshold: float,
        step: int,
        reason: str,
        advice: str,
        timestep_bin: int | None = None,
    ) -> Verdict:
        """A verdict whose threshold has no name of its own: a baseline's cannot be changed."""
        low = high = None
        if timestep_bin is not None:
            low, high = self._facts.timestep_range(timestep_bin)
        return Verdict(
            rule=rule,
            symptom=symptom,
            severity=severity,
            value=value,
            threshold=threshold,
            limit="",
            step=step,
            timestep_bin=timestep_bin,
            timestep_low=low,
            timestep_high=high,
            reason=reason,
            advice=advice,
        )


def mean(values: Sequence[float]) -> float:
    """NaN for none; statistics.fmean raises where the sum overflows."""
    return sum(values) / len(values) if values else float("nan")
