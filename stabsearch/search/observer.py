"""Who watches a running study: the terminal display, a log file, a test.

The study calls these methods from Ray Tune's controller thread, in order. An observer never
changes a study; an exception in one is logged once and the observer is not called again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stabsearch.records import Recommendation, Report, TrialRecord, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyOverview:
    """What is known when a study starts or resumes."""

    name: str
    path: Path
    """The study's results folder."""
    num_trials: int
    """Settings x seeds; at most so many in the search if ``is_open_ended``."""
    num_workers: int
    """Trials that train at the same time; 0 if all are finished."""
    max_train_steps: int
    finished: tuple[TrialRecord, ...]
    """Trials that an earlier run finished; empty in a new study."""
    param_names: tuple[str, ...]
    is_open_ended: bool = False
    """Whether the search may end earlier, or a confirmation follows."""
    sampler: tuple[str, ...] = ()
    """What the check of the study's sampler found, as sentences; empty without one."""


class StudyObserver:
    """Base that watches and says nothing."""

    def on_study_start(self, overview: StudyOverview) -> None:
        """Before the first trial; Ray is up."""

    def on_trial_start(self, trial: TrialRecord) -> None:
        """A worker begins (or, with ``attempts`` > 1, begins again) a trial."""

    def on_report(self, trial: TrialRecord, report: Report, verdicts: tuple[Verdict, ...]) -> None:
        """A report is on disk. ``trial`` is the record as of this report."""

    def on_trial_end(self, trial: TrialRecord) -> None:
        """A trial has its outcome, and its files are on disk."""

    def on_study_end(self, recommendation: Recommendation, *, interrupted: bool) -> None:
        """After the last trial, or after Ctrl-C; Ray has ended."""
