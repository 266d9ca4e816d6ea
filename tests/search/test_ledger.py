"""The ledger where Ray's order of events is unusual."""

from __future__ import annotations

import pytest

from stabsearch.records import Outcome
from stabsearch.results.store import StudyStore
from stabsearch.search.ledger import Ledger, LiveTrial
from stabsearch.search.observer import StudyObserver
from tests.stability.reports import report


def test_losing_a_worker_that_was_only_held_changes_nothing(tmp_path):
    """The gate holds an ended trial's worker; if it dies then, Ray starts the trial again."""
    store = StudyStore(tmp_path / "study")
    store.create({"name": "study"}, "fingerprint")
    ledger = Ledger(store, StudyObserver())
    params = {"learning_rate": 1e-3}
    ledger.add(LiveTrial(trial_id="0000-0", setting=0, seed=0, params=params, max_train_steps=9))
    ledger.await_start("0000-0")
    ledger.begin("0000-0")
    ledger.end("0000-0", Outcome.COMPLETED)
    before = ledger.record("0000-0")
    ledger.await_start("0000-0")
    ledger.begin("0000-0")

    assert not ledger.is_any_starting
    assert ledger.record("0000-0") == before
    assert store.finished_records() == [before]
    assert store.unfinished_trial_ids() == []


@pytest.mark.parametrize(
    ("norms", "late"),
    [([], None), ([3.0], 3.0), ([9.0, 8.0, 7.0, 2.0], 2.0), ([9, 9, 9, 9, 9, 9, 1, 2, 6], 2.0)],
)
def test_the_late_gradient_norm_is_the_median_of_the_last_quarter(tmp_path, norms, late):
    trial = LiveTrial(trial_id="0000-0", setting=0, seed=0, params={}, max_train_steps=9)
    for step, norm in enumerate(norms, start=1):
        trial.reports[step] = report(step, 0.5, grad_norm_median=float(norm))

    assert trial.record().grad_norm_late == late
