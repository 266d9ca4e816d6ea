"""The real command, interrupted and killed: what is lost, and what the same command then does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

import stabsearch
from stabsearch.results.store import StudyStore
from stabsearch.search.observer import StudyObserver
from stabsearch.search.study import FAILED_NOTE, run_study
from stabsearch.spec_file import dump_study
from tests.search.test_study import MODELS, TIMES, optuna_study

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def start(file, tmp_path):
    return subprocess.Popen(
        [sys.executable, "-m", "stabsearch", "run", str(file), "--no-plot"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
    )


def wait_for_trials(path, count, process, seconds=120):
    """Until ``count`` trials have ended and another one is under way."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stdout.read()
        if (path / "trials.parquet").exists():
            store = StudyStore(path)
            if len(store.finished_records()) >= count and store.unfinished_trial_ids():
                return
        time.sleep(0.05)
    raise AssertionError("the study did not get that far")


def test_interrupted_then_killed_then_finished_is_as_if_nothing_had_happened(tiny_study, tmp_path):
    trainer = {"max_train_steps": 1500, "report_every": 50, "eval_every": 500}
    study = tiny_study(trials=6, trainer=trainer)
    file = tmp_path / "study.yaml"
    file.write_text(dump_study(study))
    path = study.path

    interrupted = start(file, tmp_path)
    wait_for_trials(path, 1, interrupted)
    interrupted.send_signal(signal.SIGINT)
    output, _ = interrupted.communicate(timeout=60)

    assert interrupted.returncode == 130, output
    assert "Traceback" not in output
    assert "same command" in output
    finished = len(StudyStore(path).finished_records())
    assert 1 <= finished < 6

    killed = start(file, tmp_path)
    wait_for_trials(path, finished + 1, killed)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=60)
    finished = len(StudyStore(path).finished_records())
    assert finished < 6
    assert len(stabsearch.load(path).trials) >= finished

    last = start(file, tmp_path)
    output, _ = last.communicate(timeout=120)
    assert last.returncode == 0, output

    undisturbed = run_study(study.model_copy(update={"storage": str(tmp_path / "undisturbed")}))
    noise = [*TIMES, "attempts"]
    pd.testing.assert_frame_equal(
        stabsearch.load(path).trials.drop(columns=noise),
        undisturbed.results.trials.drop(columns=noise),
    )
    pd.testing.assert_frame_equal(
        stabsearch.load(path).reports.drop(columns="train_seconds"),
        undisturbed.results.reports.drop(columns="train_seconds"),
    )
    assert [t.state.name for t in optuna_study(path).trials] == ["COMPLETE"] * 6
    assert list((path / "journal").iterdir()) == []
    assert list((path / "checkpoints").iterdir()) == []


def wait_for_one_that_goes_on(path, process, seconds=120):
    """Until a short trial trains on that had ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stdout.read()
        store = StudyStore(path)
        running = store.unfinished_trial_ids() if (path / "trials.parquet").exists() else []
        if any(store.read_journal(i).started.get("went_on_at") for i in running):
            return
        time.sleep(0.02)
    raise AssertionError("no short trial went on")


def test_killed_while_a_short_trial_goes_on_is_as_if_nothing_had_happened(tiny_study, tmp_path):
    study = tiny_study(
        space={"learning_rate": {"log_uniform": [1e-3, 1.0]}},
        trainer={"max_train_steps": 4000, "report_every": 50, "eval_every": 100},
        searcher={"name": "boundary"},
        stop_when="edge within 1 octave",
        trials=20,
    )
    file = tmp_path / "study.yaml"
    file.write_text(dump_study(study))

    killed = start(file, tmp_path)
    wait_for_one_that_goes_on(study.path, killed)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=60)
    last = start(file, tmp_path)
    output, _ = last.communicate(timeout=120)
    assert last.returncode == 0, output

    undisturbed = run_study(study.model_copy(update={"storage": str(tmp_path / "undisturbed")}))
    found = stabsearch.load(study.path)
    noise = [*TIMES, "attempts"]
    pd.testing.assert_frame_equal(
        found.trials.drop(columns=noise), undisturbed.results.trials.drop(columns=noise)
    )
    pd.testing.assert_frame_equal(
        found.reports.drop(columns="train_seconds"),
        undisturbed.results.reports.drop(columns="train_seconds"),
    )
    assert list((study.path / "journal").iterdir()) == []
    assert list((study.path / "checkpoints").iterdir()) == []


class FirstReports(StudyObserver):
    """At which step every trial of a run first reported."""

    def __init__(self):
        self.steps = {}

    def on_report(self, trial, report, verdicts):
        self.steps.setdefault(trial.trial_id, report.step)


def test_what_failed_while_it_went_on_is_what_it_was_and_goes_on_in_the_next_run(
    tiny_study, tmp_path
):
    marker = tmp_path / "mended"
    study = tiny_study(
        space={"learning_rate": {"log_uniform": [1e-3, 1.0]}},
        trainer={
            "model": {"name": f"{MODELS}:RaisesLate", "marker": str(marker)},
            "max_train_steps": 2000,
            "report_every": 50,
            "eval_every": 100,
        },
        searcher={"name": "boundary"},
        stop_when="edge within 1 octave",
        trials=20,
    )
    result = run_study(study)
    failed = result.results
    trials = failed.trials.set_index("trial_id")
    lost = trials[trials.remarks.str.contains("failed when it went on, at step 400")]

    assert not result.interrupted
    assert result.recommendation.notes[-1] == FAILED_NOTE
    assert len(lost) > 0
    assert set(zip(lost.outcome, lost.purpose, lost.steps, strict=True)) == {
        ("stopped", "probe", 200)
    }
    assert set(failed.reports.groupby("trial_id").step.max()[lost.index]) == {200}
    assert all(StudyStore(study.path).checkpoint_path(trial).exists() for trial in lost.index)

    marker.touch()
    first = FirstReports()
    mended = run_study(study, observer=first).results
    trials = mended.trials.set_index("trial_id").loc[lost.index]

    assert {first.steps[trial] for trial in lost.index} == {250}
    assert set(trials.outcome) <= {"stopped", "completed"}
    assert set(trials.steps) == {500}
    assert set(trials.remarks) == {""}
    for trial in lost.index:
        steps = mended.reports[mended.reports.trial_id == trial].step
        assert steps.tolist() == list(range(50, 501, 50))
    assert list((study.path / "journal").iterdir()) == []
