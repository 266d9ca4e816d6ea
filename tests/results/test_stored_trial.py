from __future__ import annotations

import pytest

from stabsearch.errors import ResultsError
from stabsearch.records import Outcome
from stabsearch.results.store import StudyStore
from stabsearch.results.stored_trial import read_records, read_study, read_trials
from tests import synthetic_study as synthetic

RECORDS = [synthetic.record(0), synthetic.diverged(1)]


@pytest.fixture
def path(tmp_path):
    return synthetic.write(tmp_path / "demo", RECORDS, with_tables=True)


def only(path, record):
    (trial,) = read_trials(path, [record])
    return trial


def test_rows_and_study_come_back_as_they_were_written(path):
    assert read_records(path) == RECORDS
    assert read_study(path)["name"] == "demo"


def test_a_trial_comes_with_all_that_was_measured_and_said(path):
    trial = only(path, RECORDS[1])

    assert trial.facts == synthetic.FACTS
    assert trial.reports == synthetic.reports_of(RECORDS[1])
    assert trial.verdicts == synthetic.verdicts_of(RECORDS[1])


def test_a_trial_without_files_has_nothing_but_its_row(path):
    failed = synthetic.record(2, outcome=Outcome.FAILED, steps=0)
    trial = only(path, failed)

    assert (trial.record, trial.facts, trial.reports, trial.verdicts) == (failed, None, (), ())


def test_a_trial_that_trained_and_has_no_files_is_damage(path):
    (path / "reports" / "0001-0.parquet").unlink()

    with pytest.raises(ResultsError, match="no such file, though the trial has a row"):
        only(path, RECORDS[1])


def test_the_journal_of_a_running_trial_is_ahead_of_its_files(path):
    running = synthetic.record(3, outcome=Outcome.RUNNING, ended_at=None)
    reports = synthetic.reports_of(running)
    store = StudyStore(path)
    store.write_trial_tables("0003-0", synthetic.FACTS, reports[:3], ())
    assert only(path, running).reports == reports[:3]
    for report in reports[:5]:
        store.append_report("0003-0", report)
    assert only(path, running).reports == reports[:5]


def test_what_is_no_study_is_said_to_be_none(tmp_path):
    with pytest.raises(ResultsError):
        read_records(tmp_path)
