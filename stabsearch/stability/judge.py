"""What a judge is: one trial's reports in, one by one, verdicts out."""

from __future__ import annotations

from typing import Any, Protocol

from stabsearch.records import JudgedReport, Report


class Judge(Protocol):
    """Judges one trial beside its trainer."""

    def judge(self, report: Report) -> JudgedReport:
        """The report and the verdicts that it adds; each is said once."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Plain values from which ``load_state_dict`` goes on as if nothing had happened."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
