import json
import math
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stabsearch.errors import EnvironmentProblem, ResultsError
from stabsearch.records import Outcome, Severity, Symptom
from stabsearch.results import schema
from stabsearch.results.frames import load
from stabsearch.results.store import StudyStore
from tests import synthetic_study as synthetic

STUDY = {"name": "demo", "space": synthetic.SPACE, "trainer": {"max_train_steps": 2000}}
BAD = synthetic.diverged(1, symptom=Symptom.NON_FINITE)
GOOD = synthetic.record(0)
ROOT = Path(synthetic.__file__).parents[1]


@pytest.fixture
def store(tmp_path):
    store = StudyStore(tmp_path / "results" / "demo")
    assert store.create(STUDY, "fingerprint") is False
    return store


def exactly(value):
    """Equal to itself even with NaN inside, and different for 1 and 1.0."""
    return repr(value)


# --- records and tables -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "arrow_type"),
    [
        ([1e-4, 0.1 + 0.2, None], pa.float64()),
        ([1, 0.5, None], pa.float64()),
        ([32, 64], pa.int64()),
        ([2**60 + 1, None], pa.int64()),
        (["adamw", "sgd"], pa.string()),
        ([True, False, None], pa.bool_()),
        ([None, None], pa.float64()),
        (["a", 1, None, 1.5, True, "1"], pa.string()),
        ([True, 1], pa.string()),
    ],
    ids=["float", "int-and-float", "int", "big-int", "str", "bool", "null", "mixed", "bool-int"],
)
def test_params_come_back_equal_whatever_their_types(values, arrow_type):
    records = [
        synthetic.record(n, params={"model.width": value}) for n, value in enumerate(values)
    ]

    table = schema.trials_table("demo", records)

    assert table.schema.field("params_model.width").type == arrow_type
    assert schema.to_records(table) == records


def test_mixed_values_keep_their_types():
    values = ["a", 1, None, 1.5, True, "1", "null"]
    records = [synthetic.record(n, params={"x": value}) for n, value in enumerate(values)]

    back = schema.to_records(schema.trials_table("demo", records))

    assert [exactly(r.params["x"]) for r in back] == [exactly(value) for value in values]


def test_every_field_of_a_record_comes_back(store):
    records = [GOOD, BAD, synthetic.record(2, outcome=Outcome.RUNNING, ended_at=None, score=None)]

    store.write_trials(reversed(records))

    assert load(store.path).records() == records


def test_trials_are_sorted_and_say_what_is_stable(store):
    store.write_trials([BAD, GOOD])

    trials = pd.read_parquet(store.path / "trials.parquet")

    assert list(trials["trial_id"]) == ["0000-0", "0001-0"]
    assert list(trials["is_stable"]) == [True, False]
    assert list(trials["is_unstable"]) == [False, True]
    assert list(trials["severity"]) == ["none", "prune"]
    assert set(trials["study"]) == {"demo"}


@pytest.mark.parametrize("trial", [GOOD, BAD], ids=["good", "non-finite"])
def test_reports_verdicts_and_facts_come_back_exactly(store, trial):
    reports, verdicts = synthetic.reports_of(trial), synthetic.verdicts_of(trial)

    store.end_trial(trial, synthetic.FACTS, reports, verdicts)

    assert exactly(store.trial_reports(trial.trial_id)) == exactly(reports)
    assert store.trial_verdicts(trial.trial_id) == verdicts
    assert store.trial_facts(trial.trial_id) == synthetic.FACTS


def test_timesteps_table_is_long(store):
    reports = synthetic.reports_of(BAD)
    store.write_trial_tables(BAD.trial_id, synthetic.FACTS, reports, ())

    timesteps = load(store.path).timesteps

    assert len(timesteps) == len(reports) * synthetic.NUM_BINS
    last = timesteps[timesteps["step"] == reports[-1].step]
    assert list(last["timestep_low"]) == [0, 250, 500, 750]
    assert list(last["timestep_high"]) == [249, 499, 749, 999]
    assert list(last["nonfinite"]) == [3, 0, 0, 0]
    assert math.isnan(last["loss"].iloc[0])


def test_score_history_holds_the_evaluated_steps(store):
    store.end_trial(GOOD, synthetic.FACTS, synthetic.reports_of(GOOD), ())

    steps = [step for step, _ in store.score_history(GOOD.trial_id)]

    assert steps == [400, 800, 1200, 1600, 2000]
    assert store.score_history("9999-0") == []


def test_tables_carry_their_version_and_a_description_on_every_column(store):
    store.end_trial(BAD, synthetic.FACTS, synthetic.reports_of(BAD), synthetic.verdicts_of(BAD))
    paths = {"trials": store.path / "trials.parquet"}
    paths |= {t: store.path / t / "0001-0.parquet" for t in ("reports", "timesteps", "verdicts")}

    for table, path in paths.items():
        stored = pq.read_schema(path)
        assert stored.metadata[b"stabsearch_schema_version"] == b"4"
        assert stored.metadata[b"table"] == table.encode()
        assert all(field.metadata[b"description"] for field in stored)


# --- the study's folder -----------------------------------------------------------------------


def test_the_same_study_resumes(store):
    store.end_trial(GOOD, synthetic.FACTS, synthetic.reports_of(GOOD), ())

    again = StudyStore(store.path)

    assert again.create(STUDY, "fingerprint") is True
    assert again.finished_records() == [GOOD]
    assert again.study() == STUDY


def test_another_study_of_that_name_is_refused_with_what_differs(store):
    other = STUDY | {"trainer": {"max_train_steps": 500}}

    with pytest.raises(ResultsError) as error:
        StudyStore(store.path).create(other, "another")

    message = str(error.value)
    assert str(store.path) in message
    assert "'demo'" in message
    assert "trainer.max_train_steps: 2000 there, 500 here" in message
    assert "--storage" in message
    assert "delete" in message


def test_a_folder_with_other_things_in_it_is_not_written_into(tmp_path):
    (tmp_path / "thesis.tex").write_text("")

    with pytest.raises(ResultsError, match=r"thesis\.tex.*--storage"):
        StudyStore(tmp_path).create(STUDY, "fingerprint")

    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_whose_creation_was_killed_is_used(store):
    (store.path / "study.json").unlink()
    (store.path / ".study.json.tmp").write_text("{")

    assert StudyStore(store.path).create(STUDY, "fingerprint") is False


def test_a_path_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(EnvironmentProblem) as error:
        StudyStore(tmp_path / "file" / "results" / "demo").create(STUDY, "fingerprint")

    assert str(tmp_path / "file" / "results" / "demo") in str(error.value)
    assert "--storage" in str(error.value)


def test_a_failed_creation_leaves_no_folder(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full_disk)

    with pytest.raises(EnvironmentProblem, match="No space left on device"):
        StudyStore(tmp_path / "new" / "results" / "demo").create(STUDY, "fingerprint")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", [".", "reports"])
def test_a_study_that_became_read_only_still_answers_and_is_not_resumed(
    store, monkeypatch, folder
):
    """The tests may run as root, who may write anywhere."""
    closed, may = (store.path / folder).resolve(), os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != closed and may(path, mode))
    again = StudyStore(store.path)

    assert again.holds(STUDY, "fingerprint")
    with pytest.raises(EnvironmentProblem, match=r"no permission to write in .*storage"):
        again.create(STUDY, "fingerprint")


def test_a_study_that_cannot_be_taken_over_says_why(store, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "replace", refuse)

    with pytest.raises(EnvironmentProblem, match=r"Operation not permitted\. Choose a folder"):
        StudyStore(store.path).take_over(STUDY, "fingerprint")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_proc_cannot_be_written():
    with pytest.raises(EnvironmentProblem, match="/proc/results"):
        StudyStore(Path("/proc/results/demo")).create(STUDY, "fingerprint")


def test_resuming_sweeps_what_a_killed_writer_left(store):
    store.write_trials([GOOD])
    store.begin_trial(GOOD.trial_id, {})  # as if killed before the journal was dropped
    (store.path / "reports" / ".0000-0.parquet.tmp").write_bytes(b"PAR1")

    again = StudyStore(store.path)
    again.take_over(STUDY, "fingerprint")

    assert again.unfinished_trial_ids() == []
    assert list((store.path / "journal").iterdir()) == []
    assert list((store.path / "reports").iterdir()) == []


def test_taking_over_knows_what_another_driver_wrote_meanwhile(store):
    """A driver looks at the study before it holds the lock; another one may end in between."""
    waiting = StudyStore(store.path)
    assert waiting.finished_records() == []
    store.write_trials([GOOD])
    waiting.take_over(STUDY, "fingerprint")
    waiting.write_trials([BAD])

    assert StudyStore(store.path).finished_records() == [GOOD, BAD]


def test_a_learning_rate_that_only_a_stress_test_has_is_no_null_of_the_others(store):
    own = replace(GOOD, params={"max_grad_norm": None})
    stress = replace(BAD, params={"max_grad_norm": None, "learning_rate": 2e-3})
    store.write_trials([own, stress])

    assert StudyStore(store.path).finished_records() == [own, stress]


# --- the journal ------------------------------------------------------------------------------


def fill_journal(store, trial, reports):
    store.begin_trial(trial.trial_id, {"params": trial.params, "attempt": 1})
    for report in reports:
        is_last = report is reports[-1]
        store.append_report(
            trial.trial_id, report, synthetic.verdicts_of(trial) if is_last else ()
        )


def test_the_journal_comes_back_exactly(store):
    reports = synthetic.reports_of(BAD)
    fill_journal(store, BAD, reports)

    journaled = StudyStore(store.path).read_journal(BAD.trial_id)

    assert journaled.started == {"params": BAD.params, "attempt": 1}
    assert exactly(journaled.reports) == exactly(reports)
    assert journaled.verdicts == synthetic.verdicts_of(BAD)
    assert store.unfinished_trial_ids() == [BAD.trial_id]


def test_a_torn_last_line_costs_that_line_only(store):
    reports = synthetic.reports_of(GOOD)
    fill_journal(store, GOOD, reports[:3])
    path = store.path / "journal" / "0000-0.jsonl"
    path.write_bytes(path.read_bytes()[:-40])

    resumed = StudyStore(store.path)
    assert resumed.read_journal("0000-0").reports == reports[:2]

    resumed.begin_trial("0000-0", {"attempt": 2})
    resumed.append_report("0000-0", reports[2])
    assert resumed.read_journal("0000-0").reports == reports[:3]
    assert resumed.read_journal("0000-0").started == {"attempt": 2}


def test_a_later_attempt_replaces_what_it_repeats_and_what_came_after(store):
    reports = synthetic.reports_of(BAD)
    fill_journal(store, BAD, reports)
    store.begin_trial(BAD.trial_id, {"attempt": 2})
    second = replace(reports[1], loss=0.125)
    store.append_report(BAD.trial_id, second)

    journaled = store.read_journal(BAD.trial_id)

    assert journaled.reports == (reports[0], second)
    assert journaled.verdicts == ()  # they were said of a report that is void now


def test_ending_a_trial_drops_its_journal_last(store, monkeypatch):
    reports = synthetic.reports_of(GOOD)
    fill_journal(store, GOOD, reports)

    monkeypatch.setattr(StudyStore, "write_trials", lambda *_: (_ for _ in ()).throw(OSError))
    with pytest.raises(OSError):  # noqa: PT011 - a kill, stood in for
        store.end_trial(GOOD, synthetic.FACTS, reports, ())

    assert store.read_journal(GOOD.trial_id).reports == reports
    assert store.unfinished_trial_ids() == [GOOD.trial_id]


def test_the_store_travels_without_its_open_files(store):
    reports = synthetic.reports_of(GOOD)
    fill_journal(store, GOOD, reports[:1])

    elsewhere = pickle.loads(pickle.dumps(store))
    elsewhere.append_report(GOOD.trial_id, reports[1])

    assert store.read_journal(GOOD.trial_id).reports == reports[:2]


# --- while it runs ----------------------------------------------------------------------------

WRITER = """
    import sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[2])
    from tests import synthetic_study as synthetic
    from stabsearch.results.store import StudyStore

    store = StudyStore(Path(sys.argv[1]))
    store.create({"name": "demo", "space": synthetic.SPACE}, "fingerprint")
    print("created", flush=True)
    for record in synthetic.draw(int(sys.argv[3])):
        store.begin_trial(record.trial_id, {"params": record.params})
        for report in synthetic.reports_of(record):
            store.append_report(record.trial_id, report, ())
        store.end_trial(
            record, synthetic.FACTS, synthetic.reports_of(record), synthetic.verdicts_of(record)
        )
        print(record.trial_id, flush=True)
"""


def start_writer(path, trials):
    code = textwrap.dedent(WRITER)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path), str(ROOT), str(trials)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_study_loses_no_finished_trial_and_resumes(tmp_path):
    path = tmp_path / "demo"
    with start_writer(path, trials=500) as writer:
        said = [writer.stdout.readline().strip() for _ in range(12)]
        os.kill(writer.pid, signal.SIGKILL)
    finished = said[1:]

    results = load(path)
    assert set(finished) <= set(results.trials["trial_id"])
    for trial_id in finished:
        trial = results.trials.set_index("trial_id").loc[trial_id]
        assert (
            results.reports[results.reports["trial_id"] == trial_id]["step"].max() == trial.steps
        )

    store = StudyStore(path)
    assert store.create({"name": "demo", "space": synthetic.SPACE}, "fingerprint") is True
    expected = {record.trial_id: record for record in synthetic.draw(500)}
    assert all(record == expected[record.trial_id] for record in store.finished_records())
    for trial_id in store.unfinished_trial_ids():
        reports = store.read_journal(trial_id).reports
        assert exactly(reports) == exactly(
            synthetic.reports_of(expected[trial_id])[: len(reports)]
        )


def test_a_running_study_can_be_read_at_any_moment(tmp_path):
    path = tmp_path / "demo"
    seen, reads = [], 0
    with start_writer(path, trials=40) as writer:
        writer.stdout.readline()
        while not seen or seen[-1] < 40:
            assert writer.poll() in (None, 0)
            # By path, pandas opens the file twice (footer, then data): see docs/results.md.
            with (path / "trials.parquet").open("rb") as file:
                seen.append(len(pd.read_parquet(file)))
            results = load(path)
            ended = set(results.trials["trial_id"])
            assert ended <= set(results.reports["trial_id"])
            assert len(results.timesteps) % synthetic.NUM_BINS == 0
            if ended:
                pd.read_parquet(path / "reports")
            reads += 1
            time.sleep(0.005)
        writer.stdout.read()
    assert writer.returncode == 0
    assert reads > 2
    assert seen == sorted(seen)
    assert len(load(path).trials) == 40


def test_a_report_reaches_the_disk_in_well_under_a_millisecond(store):
    reports = synthetic.reports_of(GOOD)
    seconds = []
    for _ in range(5):  # the best of five: other work on the machine is not ours
        begin = time.perf_counter()
        for report in reports:
            store.append_report(GOOD.trial_id, report)
        seconds.append((time.perf_counter() - begin) / len(reports))

    assert min(seconds) < 1e-3


# --- bad folders ------------------------------------------------------------------------------


def test_a_trial_that_failed_before_its_first_report_has_a_row(store):
    failed = synthetic.record(3, outcome=Outcome.FAILED, severity=Severity.NONE, steps=0)

    store.end_trial(failed, None, (), ())

    assert load(store.path).records() == [failed]


def test_another_schema_version_is_named(store):
    table = pq.read_table(store.path / "trials.parquet")
    metadata = {**table.schema.metadata, b"stabsearch_schema_version": b"99"}
    pq.write_table(table.replace_schema_metadata(metadata), store.path / "trials.parquet")

    with pytest.raises(ResultsError, match=r"version 99.*reads version 4"):
        load(store.path)


def test_a_study_file_of_another_version_is_named(store):
    content = json.loads((store.path / "study.json").read_text())
    content["stabsearch_schema_version"] = 99
    (store.path / "study.json").write_text(json.dumps(content))

    with pytest.raises(ResultsError, match="version 99"):
        load(store.path)


def test_a_damaged_table_is_named(store):
    (store.path / "trials.parquet").write_bytes(b"PAR1 not really")

    with pytest.raises(ResultsError, match=r"trials\.parquet: is not a readable Parquet file"):
        load(store.path)


def test_a_column_that_was_added_since_is_none_in_an_older_file():
    records = synthetic.draw(trials=3)
    older = schema.trials_table("demo", records).drop_columns(["grad_norm_late"])

    assert schema.to_records(older) == [replace(r, grad_norm_late=None) for r in records]
