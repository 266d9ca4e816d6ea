"""Searchers propose settings of their space on a real Ray, and Optuna knows them."""

from __future__ import annotations

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from stabsearch.search.study import run_study

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

SPACE = {
    "learning_rate": {"log_uniform": [2e-3, 2e-2]},
    "max_grad_norm": {"choice": [None, 1.0]},
}


# tpe and random run in tests/search/test_study.py, boundary in test_confirmation.py.
@pytest.mark.parametrize("name", ["gp", "grid"])
def test_a_searcher_s_settings_lie_in_the_space_and_differ(tiny_study, name):
    searcher = {"name": name, "startup_trials": 2, "probe_fraction": 0.34}
    result = run_study(tiny_study(space=SPACE, searcher=searcher, trials=5))
    trials = result.results.trials

    # A short trial and one of the whole budget may be of one setting.
    settings = trials[["params_learning_rate", "params_max_grad_norm", "purpose"]]
    assert len(settings.drop_duplicates()) == len(trials) > 2
    assert trials.params_learning_rate.between(2e-3, 2e-2).all()
    assert set(trials.params_max_grad_norm.dropna()) <= {1.0}
    storage = JournalStorage(JournalFileBackend(str(result.path / "optuna.journal")))
    told = optuna.load_study(study_name=None, storage=storage).trials
    assert [t.params["learning_rate"] for t in told] == trials.params_learning_rate.tolist()
    assert all(t.state.is_finished() for t in told)
