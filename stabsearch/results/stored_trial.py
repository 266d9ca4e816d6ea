"""One trial as it stands in a study's folder, while it runs or after it ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stabsearch.records import Outcome, Report, TrialFacts, TrialRecord, Verdict
from stabsearch.results.schema import to_records
from stabsearch.results.store import TRIALS_FILE, StudyStore, read_parquet


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTrial:
    """A trial's row, and what was measured and said."""

    record: TrialRecord
    facts: TrialFacts | None
    """None for a trial that has not reported yet, or failed before it could; then it has neither
    reports nor verdicts."""
    reports: tuple[Report, ...] = ()
    verdicts: tuple[Verdict, ...] = ()


def read_records(path: Path) -> list[TrialRecord]:
    """Every trial's row, by trial_id."""
    return to_records(read_parquet(path / TRIALS_FILE))


def read_study(path: Path) -> dict[str, Any]:
    """The resolved study: every field with its value."""
    return StudyStore(path).study()


def read_trials(path: Path, records: Sequence[TrialRecord]) -> Iterator[StoredTrial]:
    """Those trials with their reports, one after the other: a study may hold many."""
    store = StudyStore(path)
    for record in records:
        yield _read_trial(store, record)


def _read_trial(store: StudyStore, record: TrialRecord) -> StoredTrial:
    trial_id = record.trial_id
    if not store.has_tables(trial_id) and record.steps == 0:
        return StoredTrial(record=record, facts=None)
    facts, reports = store.trial_facts(trial_id), store.trial_reports(trial_id)
    verdicts = store.trial_verdicts(trial_id)
    if record.outcome is Outcome.RUNNING:  # the journal is ahead of the tables
        journal = store.read_journal(trial_id)
        if len(journal.reports) > len(reports):
            reports, verdicts = journal.reports, journal.verdicts
    return StoredTrial(record=record, facts=facts, reports=reports, verdicts=verdicts)
