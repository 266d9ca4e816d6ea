"""The whole search on a real Ray: what is on disk and in Optuna afterwards."""

from __future__ import annotations

import math
import os

import optuna
import pandas as pd
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from stabsearch.errors import EnvironmentProblem, ResultsError, SpecError, StudyAborted
from stabsearch.records import Outcome
from stabsearch.search.observer import StudyObserver
from stabsearch.search.study import FAILED_NOTE, run_study
from tests.search.conftest import TINY_TRAINER

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

TIMES = ["started_at", "ended_at", "train_seconds"]
MODELS = "tests.search.models"


def optuna_study(path):
    storage = JournalStorage(JournalFileBackend(str(path / "optuna.journal")))
    return optuna.load_study(study_name=None, storage=storage)


def comparable(result):
    return result.results.trials.drop(columns=TIMES)


class Recorder(StudyObserver):
    def __init__(self):
        self.events = []

    def on_study_start(self, overview):
        self.events.append(("study", len(overview.finished)))

    def on_trial_start(self, trial):
        self.events.append(("start", trial.trial_id, trial.attempts))

    def on_trial_end(self, trial):
        self.events.append(("end", trial.trial_id))

    def on_study_end(self, recommendation, *, interrupted):
        self.events.append(("over", interrupted))


def test_a_study_leaves_all_tables_and_a_finished_optuna_study(tiny_study):
    observer = Recorder()
    result = run_study(tiny_study(), observer=observer)
    trials, reports = result.results.trials, result.results.reports

    assert trials.outcome.tolist() == ["completed"] * 3
    assert trials.trial_id.tolist() == ["0000-0", "0001-0", "0002-0"]
    assert reports.groupby("trial_id").step.apply(list).tolist() == [[10, 20, 30, 40, 50, 60]] * 3
    assert len(result.results.timesteps) == 3 * 6 * 10
    assert list((result.path / "journal").iterdir()) == []
    assert not result.interrupted
    assert observer.events[0] == ("study", 0)
    assert observer.events[-1] == ("over", False)
    assert [e[1] for e in observer.events if e[0] == "end"] == trials.trial_id.tolist()

    told = optuna_study(result.path).trials
    assert [t.state.name for t in told] == ["COMPLETE"] * 3
    assert [t.value for t in told] == trials.score.tolist()
    assert [t.params["learning_rate"] for t in told] == trials.params_learning_rate.tolist()


def test_same_seed_and_one_worker_give_the_same_trials(tiny_study, tmp_path):
    study = tiny_study(trials=5)
    first = run_study(study.model_copy(update={"storage": str(tmp_path / "first")}))
    second = run_study(study.model_copy(update={"storage": str(tmp_path / "second")}))

    pd.testing.assert_frame_equal(comparable(first), comparable(second))


def test_a_finished_study_answers_again_without_training(tiny_study):
    first = run_study(tiny_study())
    observer = Recorder()
    again = run_study(tiny_study(), observer=observer)

    assert observer.events == [("study", 3), ("over", False)]
    assert again.recommendation == first.recommendation

    asked = run_study(tiny_study(horizon_steps=100_000))
    assert asked.recommendation.horizon.steps == 100_000
    assert asked.results.study["horizon_steps"] == 100_000


def test_a_study_is_extended_by_asking_for_more_trials_and_seeds(tiny_study):
    first = run_study(tiny_study(trials=2))
    extended = run_study(tiny_study(trials=3, seeds=2))
    trials = extended.results.trials

    assert trials.trial_id.tolist() == ["0000-0", "0000-1", "0001-0", "0001-1", "0002-0", "0002-1"]
    kept = trials[trials.trial_id.isin(["0000-0", "0001-0"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, first.results.trials)
    assert len(optuna_study(extended.path).trials) == 3
    assert extended.results.study["trials"] == 3

    counts = []

    class Counter(StudyObserver):
        def on_study_start(self, overview):
            counts.append(overview.num_trials)

    run_study(tiny_study(trials=2, seeds=2), observer=Counter())
    assert counts == [6], "a file that asks for fewer counts what there is"


def test_a_second_driver_of_the_same_study_is_refused(tiny_study):
    study = tiny_study(trials=1)

    leftover = study.path / "reports" / ".half-written.tmp"

    class Intruder(StudyObserver):
        refused = None

        def on_trial_start(self, trial):
            leftover.touch()
            try:
                run_study(tiny_study(trials=9))
            except EnvironmentProblem as error:
                self.refused = error

    intruder = Intruder()
    result = run_study(study, observer=intruder)

    assert "another process is running this study" in str(intruder.refused)
    assert leftover.exists()  # it has touched nothing
    assert result.results.study["trials"] == 1
    assert result.results.trials.outcome.tolist() == ["completed"]


def test_nan_is_a_result_in_the_files_and_a_finite_constraint_in_optuna(tiny_study):
    model = {"name": f"{MODELS}:TurnsNaN", "first_nan_step": 14}
    result = run_study(tiny_study(trials=2, trainer={"model": model}))
    for _, trial in result.results.trials.iterrows():
        assert trial.outcome == "diverged"
        assert (trial.rule, trial.symptom) == ("R1a", "non_finite")
        assert trial.verdict_step == 14
        assert trial.steps == 20
        assert trial.is_unstable
    told = optuna_study(result.path).trials

    assert all(t.state.name == "COMPLETE" for t in told)
    assert all(math.isfinite(t.value) and t.value > 90 for t in told)
    assert all(t.constraints["instability"] > 0 for t in told)
    assert result.recommendation.params is None


def test_replicates_are_counted_not_averaged(tiny_study):
    """One of two seeds diverges: the setting is not stable, and Optuna hears of it once."""
    trainer = {"model": {"name": f"{MODELS}:DivergesForItsSecondSeed"}, "learning_rate": 3e-3}
    result = run_study(tiny_study(trials=2, seeds=2, trainer=trainer, resources={"workers": 2}))
    trials = result.results.trials

    assert trials.trial_id.tolist() == ["0000-0", "0000-1", "0001-0", "0001-1"]
    assert trials.outcome.tolist() == ["completed", "diverged"] * 2
    assert trials.params_learning_rate.nunique() == 2
    assert result.recommendation.params is None
    told = optuna_study(result.path).trials
    assert len(told) == 2
    assert all(0 < t.constraints["instability"] < 1 for t in told)


def test_trials_behind_in_rank_are_stopped_and_pruned_in_optuna(tiny_study):
    scheduler = {"inner": "asha", "grace_fraction": 0.33, "reduction_factor": 2}
    space = {"learning_rate": {"choice": [1e-2, 3e-3, 1e-3]}}
    searcher = {"name": "random", "seed": 3}
    result = run_study(tiny_study(trials=6, scheduler=scheduler, space=space, searcher=searcher))
    stopped = result.results.trials.query("outcome == 'stopped'")

    assert len(stopped) > 0
    assert set(stopped.stopped_by) == {"rank"}
    assert set(stopped.steps) <= {20, 40}
    states = {t.user_attrs["trial_ids"][0]: t.state.name for t in optuna_study(result.path).trials}
    assert {states[i] for i in stopped.trial_id} == {"PRUNED"}


def test_without_the_gate_an_unstable_trial_runs_on_and_is_still_called_unstable(tiny_study):
    model = {"name": f"{MODELS}:TurnsNaN", "first_nan_step": 14}
    result = run_study(tiny_study(trials=1, scheduler={"gate": False}, trainer={"model": model}))
    [trial] = result.results.records()

    assert trial.outcome is Outcome.COMPLETED
    assert trial.steps == 60
    assert trial.is_unstable
    assert trial.score is None


def test_a_killed_worker_costs_nothing_but_time(tiny_study, tmp_path):
    model = {"name": f"{MODELS}:KillsItsWorkerOnce", "marker": str(tmp_path / "killed")}
    killed = run_study(tiny_study(trials=1, trainer={"model": model}))
    undisturbed = run_study(
        tiny_study(trials=1, trainer={"model": model}, storage=str(tmp_path / "undisturbed"))
    )

    assert killed.results.trials.attempts.tolist() == [2]
    assert undisturbed.results.trials.attempts.tolist() == [1]
    assert killed.results.reports.step.tolist() == [10, 20, 30, 40, 50, 60]
    pd.testing.assert_frame_equal(
        comparable(killed).drop(columns="attempts"),
        comparable(undisturbed).drop(columns="attempts"),
    )


def test_a_worker_process_is_started_once_however_slowly(tiny_study, tmp_path):
    """Trials shorter than the start of a process: Ray alone would start one for every trial."""
    folder = tmp_path / "processes"
    folder.mkdir()
    trainer = {
        "model": {"name": f"{MODELS}:SlowToStart", "folder": str(folder), "driver": os.getpid()},
        "max_train_steps": 2000,
        "report_every": 100,
        "eval_every": 500,
    }
    result = run_study(tiny_study(trials=10, trainer=trainer, resources={"workers": 2}))

    assert set(result.results.trials.outcome) == {"completed"}
    assert len(list(folder.iterdir())) == 2


def test_the_data_is_loaded_once_for_all_trials_and_workers(tiny_study, tmp_path):
    calls = tmp_path / "calls"
    data = {"name": f"{MODELS}:noted_digits", "file": str(calls)}
    result = run_study(tiny_study(trials=4, trainer={"data": data}, resources={"workers": 2}))

    assert set(result.results.trials.outcome) == {"completed"}
    assert len(calls.read_text().splitlines()) == 1


def test_a_model_that_cannot_be_built_is_refused_before_a_folder_is_made(tiny_study, tmp_path):
    study = tiny_study(trials=8, trainer={"model": {"name": f"{MODELS}:broken"}})
    with pytest.raises(SpecError, match="this model cannot be built"):
        run_study(study)

    assert not (tmp_path / "results").exists()


def test_a_model_that_cannot_train_ends_the_study_with_its_own_error(tiny_study):
    study = tiny_study(trials=8, trainer={"model": {"name": f"{MODELS}:CannotTrain"}})
    with pytest.raises(StudyAborted) as told:
        run_study(study)

    text = str(told.value)
    assert "The first one said: RuntimeError: this model cannot train\n" in text
    assert f"`stabsearch explain {study.path} 0000-0` shows where." in text
    assert "in your code, mend it and run the same command" in text
    assert "give the study another `name:`" in text
    assert "Traceback" not in text
    # It was the code's fault: Optuna learns nothing of it.
    assert {t.state.name for t in optuna_study(study.path).trials} <= {"FAIL"}


def test_a_trial_whose_code_raises_is_failed_with_its_reports_and_tried_again(
    tiny_study, tmp_path
):
    marker = tmp_path / "mended"
    model = {"name": f"{MODELS}:RaisesOnce", "marker": str(marker)}
    study = tiny_study(trials=2, trainer={"model": model})
    checkpoint = study.path / "checkpoints" / "short.safetensors"

    class Keeper(StudyObserver):
        def on_trial_start(self, trial):
            checkpoint.touch()

    failed = run_study(study, observer=Keeper())

    assert failed.results.trials.outcome.tolist() == ["failed", "failed"]
    assert failed.results.reports.step.tolist() == [10, 20] * 2
    assert "out of memory" in failed.results.trials.reason[0]
    assert not failed.results.trials.is_unstable.any()
    assert [t.state.name for t in optuna_study(study.path).trials] == ["FAIL"] * 2
    assert not failed.interrupted
    assert failed.recommendation.notes[-1] == FAILED_NOTE
    assert checkpoint.exists()  # the next run may go on from it

    marker.touch()
    mended = run_study(study)

    assert mended.results.trials.outcome.tolist() == ["completed", "completed"]
    assert not mended.interrupted
    assert FAILED_NOTE not in mended.recommendation.notes
    assert not checkpoint.exists()
    assert mended.results.trials.params_learning_rate.equals(
        failed.results.trials.params_learning_rate
    )


def test_an_extended_study_ranks_against_the_trials_of_its_first_part(tiny_study):
    """ASHA's rungs are rebuilt from the files: the whole is as if it had run through."""
    asha = {
        "scheduler": {"inner": "asha", "grace_fraction": 0.33, "reduction_factor": 2},
        "searcher": {"name": "random", "seed": 3},
        "space": {"learning_rate": {"choice": [1e-2, 3e-3, 1e-3]}},
    }
    run_study(tiny_study(trials=3, **asha))
    extended = run_study(tiny_study(trials=6, **asha))
    whole = run_study(tiny_study(trials=6, name="whole", **asha))

    assert "stopped" in set(whole.results.trials.outcome)
    pd.testing.assert_frame_equal(
        comparable(extended).drop(columns="study"), comparable(whole).drop(columns="study")
    )


def test_another_study_of_the_same_name_is_refused_and_kept(tiny_study):
    before = run_study(tiny_study(trials=1)).results.trials
    with pytest.raises(ResultsError, match="tiny"):
        run_study(tiny_study(trials=1, trainer={"batch_size": 8}))

    assert run_study(tiny_study(trials=1)).results.trials.equals(before)


def test_gpus_that_are_not_there_are_refused_before_a_folder_is_made(tiny_study, tmp_path):
    with pytest.raises(EnvironmentProblem, match=r"resources\.gpus"):
        run_study(tiny_study(resources={"gpus": 1}))

    assert not (tmp_path / "results").exists()


def test_a_nested_and_a_categorical_param_are_searched(tiny_study):
    space = {
        "learning_rate": {"log_uniform": [3e-3, 1e-2]},
        "model.width": {"choice": [16, 32]},
        "noise_schedule.beta_schedule": {"choice": ["linear", "squaredcos_cap_v2"]},
    }
    trainer = {k: v for k, v in TINY_TRAINER.items() if k != "model"}
    study = tiny_study(trials=3, space=space, trainer=trainer)
    result = run_study(study)

    assert set(result.results.trials.outcome) == {"completed"}
    assert result.results.trials["params_model.width"].isin([16, 32]).all()
