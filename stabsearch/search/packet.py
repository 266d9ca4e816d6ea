"""What crosses the wire from a worker to the controller: several reports at a time.

Ray Tune's controller is one thread, and a call to a worker costs milliseconds. A packet gathers
the reports of a short stretch of training, so that small models are not slowed by their reports.
"""

from __future__ import annotations

from dataclasses import dataclass

from stabsearch.records import JudgedReport, TrialFacts

STEP_KEY = "step"
"""Time attribute of Ray's schedulers."""
SCORE_KEY = "score"
"""Metric of Ray's schedulers; always finite."""
PACKET_KEY = "packet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """One result of a Ray trial."""

    facts: TrialFacts | None
    """None only if the trial failed before it could be set up; then there are no reports."""
    reports: tuple[JudgedReport, ...] = ()
    failure: str | None = None
    """Why the trial's own code raised; the trial cannot go on."""
    is_saved: bool = False
    """Whether a short trial that may go on has ended and its state is on disk."""
