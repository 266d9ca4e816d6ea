"""The ledger where Ray's order of events is unusual."""

from __future__ import annotations

from stabsearch.records import Outcome
from stabsearch.results.store import StudyStore
from stabsearch.search.ledger import Ledger, LiveTrial
from stabsearch.search.observer import StudyObserver


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
