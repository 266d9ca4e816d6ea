"""A boundary search and its confirmation on a real Ray: what is run, in which order, once."""

from __future__ import annotations

import math

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from stabsearch.records import Purpose
from stabsearch.search.observer import StudyObserver
from stabsearch.search.study import run_study

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

TRAINER = {
    "max_train_steps": 400,
    "report_every": 5,
    "eval_every": 20,
    "eval_samples": 60,
    "model": {"name": "mlp", "width": 64, "num_blocks": 1},
}
SEARCH = {
    "space": {"learning_rate": {"log_uniform": [1e-3, 3.0]}},
    "trainer": TRAINER,
    "searcher": {"name": "boundary"},
    "stop_when": "edge within 1 octave",
    "trials": 20,
}


class Counter(StudyObserver):
    def __init__(self):
        self.started = []
        self.finished = 0

    def on_study_start(self, overview):
        self.finished = len(overview.finished)

    def on_trial_start(self, trial):
        self.started.append((trial.trial_id, trial.purpose))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("confirmed")


@pytest.fixture(scope="module")
def confirmed(folder, local_ray):
    """A study that was searched first, and asked to confirm afterwards."""
    from stabsearch.spec import StudySpec

    fields = {"name": "confirmed", "storage": str(folder), **SEARCH}
    first = Counter()
    searched = run_study(StudySpec.model_validate(fields), observer=first)
    asked = StudySpec.model_validate(fields | {"confirm": {"seeds": 2}})
    second = Counter()
    return asked, searched, first, run_study(asked, observer=second), second


def test_the_search_ends_when_it_knows_enough(confirmed):
    _, searched, first, *_ = confirmed
    trials = searched.results.trials

    assert len(trials) < 20
    assert searched.recommendation.is_precise
    assert set(trials.purpose) == {"probe", "search"}
    probes = trials[trials.purpose == "probe"]
    assert (probes.steps <= 100).all()
    assert {40, 100} <= set(probes.steps)  # about the edge, and about the best rate
    assert {trial_id for trial_id, _ in first.started} == set(trials.trial_id)


def test_a_study_that_is_asked_to_confirm_trains_only_what_that_needs(confirmed):
    _, searched, _, result, second = confirmed
    answer = result.recommendation
    tested = answer.confirmation

    assert second.finished == len(searched.results.trials)
    assert tested is not None
    assert tested.is_complete
    rounds = 1 + len(tested.moved_from)
    purposes = [purpose for _, purpose in second.started]
    assert purposes.count(Purpose.CONFIRM) == rounds  # seed 0 was trained by the search
    assert purposes.count(Purpose.STRESS) == 2 * rounds
    assert len(result.results.trials) == len(searched.results.trials) + len(second.started)


def test_a_stress_test_is_a_setting_of_its_own_above_all_others(confirmed):
    result = confirmed[3]
    trials = result.results.trials
    stress = trials[trials.purpose == "stress"]
    answer = result.recommendation

    assert stress.setting.min() > trials[trials.purpose.isin(["search", "probe"])].setting.max()
    assert answer.confirmation is not None
    rate = answer.params["learning_rate"]
    assert answer.confirmation.stress_learning_rate == pytest.approx(2 * rate)
    assert math.isclose(stress.params_learning_rate.max(), 2 * rate)


def test_optuna_is_told_of_the_search_only(confirmed):
    result = confirmed[3]
    storage = JournalStorage(JournalFileBackend(str(result.path / "optuna.journal")))
    told = optuna.load_study(study_name=None, storage=storage).trials
    trials = result.results.trials
    of_search = trials[trials.purpose.isin(["search", "probe"])]

    # Told once more of what went on: at first it was a short trial.
    assert {t.user_attrs["setting"] for t in told} == set(of_search.setting)
    assert {t.state.name for t in told} <= {"COMPLETE", "PRUNED"}
    probes = of_search[of_search.purpose == "probe"].setting
    within = of_search[(of_search.purpose == "probe") & ~of_search.is_unstable].setting
    assert {t.user_attrs["setting"] for t in told if t.state.name == "PRUNED"} <= set(within)
    assert {t.user_attrs["setting"] for t in told if t.user_attrs["purpose"] == "probe"} == set(
        probes
    )


def test_a_confirmed_study_answers_again_without_training(confirmed):
    asked, *_, result, _ = confirmed
    again = Counter()
    repeated = run_study(asked, observer=again)

    assert again.started == []
    assert repeated.recommendation == result.recommendation


def test_more_seeds_and_trials_extend_a_confirmed_study(confirmed, folder, tmp_path):
    """Last, and on a copy: settings that are proposed now take numbers above the stress test's."""
    import shutil

    asked, *_, result, _ = confirmed
    shutil.copytree(folder / "confirmed", tmp_path / "confirmed")
    more = {"storage": str(tmp_path), "stop_when": "edge within 0.6 octave", "trials": 24}
    spec = type(asked).model_validate(asked.model_dump() | more)
    extended = run_study(spec)
    before, after = result.results.trials, extended.results.trials

    old = after[after.trial_id.isin(before.trial_id)]
    assert old.steps.tolist() == before.steps.tolist()
    assert old.purpose.tolist() == before.purpose.tolist()
    new = after[~after.trial_id.isin(before.trial_id)]
    searched = new[new.purpose.isin(["search", "probe"])]
    if len(searched):
        assert searched.setting.min() > before.setting.max()
    assert extended.recommendation.is_precise or len(searched) > 0
