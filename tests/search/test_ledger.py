"""The ledger where Ray's order of events is unusual."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stabsearch.records import Outcome, Purpose, Severity, StoppedBy, Symptom, Verdict
from stabsearch.results.store import StudyStore
from stabsearch.results.stored_trial import read_trials
from stabsearch.search.ledger import FAILURES_BEFORE_ABORT, Ledger, LiveTrial
from stabsearch.search.observer import StudyObserver
from tests.stability.reports import evaluation, facts, report


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


def looking(step, score=5.0, **changes):
    return report(step, 0.5, evaluation=evaluation((0.1,) * 4, score_ema=score), **changes)


@pytest.fixture
def ledger(tmp_path):
    store = StudyStore(tmp_path / "study")
    store.create({"name": "study"}, "fingerprint")
    return Ledger(store, StudyObserver())


def short_trial(**changes):
    fields = {
        "trial_id": "0000-0",
        "setting": 0,
        "seed": 0,
        "params": {"learning_rate": 1e-3},
        "max_train_steps": 400,
        "purpose": Purpose.PROBE,
        "stop_at": 100,
        "look_steps": (100, 200),
    }
    return LiveTrial(**fields | changes)


def train(ledger, trial, steps):
    for step in steps:
        warned = (warning(step),) if step in (100, 200) else ()
        ledger.receive(
            trial.trial_id, facts(max_train_steps=400), looking(step, 500 / step), warned
        )


def warning(step):
    return Verdict(
        rule=f"R{step}", symptom=Symptom.LOST_PROGRESS, severity=Severity.WARN, value=0.6,
        threshold=0.5, limit="R.warn", step=step, timestep_bin=None, timestep_low=None,
        timestep_high=None, reason="so", advice="so",
    )  # fmt: skip


def ended_short(ledger):
    trial = short_trial()
    ledger.add(trial)
    ledger.begin("0000-0")
    train(ledger, trial, (50, 100))
    ledger.end("0000-0", Outcome.STOPPED, StoppedBy.PROBE)
    return ledger.record("0000-0")


@pytest.mark.parametrize(
    ("steps", "looks"),
    [((50,), []), ((50, 100), [(100, 5.0)]), ((50, 150, 200), [(100, 10.0), (200, 2.5)])],
)
def test_a_record_has_looks_as_far_as_the_trial_came(steps, looks):
    trial = short_trial()
    trial.reports = {step: looking(step, 500 / step) for step in steps}

    assert [(look.step, look.score) for look in trial.record().looks] == looks


def test_a_look_knows_nothing_of_what_came_later():
    trial = short_trial(look_steps=(100,))
    norms = {50: 8.0, 100: 4.0, 150: 1.0, 200: 1.0}
    trial.reports = {
        step: looking(step, grad_norm_median=norm, lr_gauge_octaves=octaves)
        for (step, norm), octaves in zip(norms.items(), (None, 1.5, 0.2, None), strict=True)
    }
    [look] = trial.record().looks

    assert (look.lr_gauge_octaves, look.grad_norm_median, look.grad_norm_late) == (1.5, 6.0, 4.0)


def test_a_trial_that_goes_on_is_one_row_with_all_of_its_reports(ledger, tmp_path):
    before = ended_short(ledger)
    ledger.go_on(short_trial(stop_at=200))
    ledger.begin("0000-0")
    train(ledger, ledger.live("0000-0"), (150, 200))
    ledger.end("0000-0", Outcome.STOPPED, StoppedBy.PROBE)
    store = StudyStore(tmp_path / "study")
    [found] = store.finished_records()

    assert [r.step for r in store.trial_reports("0000-0")] == [50, 100, 150, 200]
    assert [v.rule for v in store.trial_verdicts("0000-0")] == ["R100", "R200"]
    assert (found.steps, found.attempts, found.started_at) == (200, 1, before.started_at)
    assert [look.step for look in found.looks] == [100, 200]
    assert store.unfinished_trial_ids() == []


def test_while_it_goes_on_it_is_also_what_it_was(ledger):
    before = ended_short(ledger)
    ledger.go_on(short_trial(purpose=Purpose.SEARCH, stop_at=None))
    ledger.begin("0000-0")
    train(ledger, ledger.live("0000-0"), (150, 200))
    [as_it_was] = ledger.as_they_were()

    assert ledger.finished() == []
    assert replace(as_it_was, ended_at=before.ended_at) == before


def test_the_journal_of_one_that_goes_on_has_all_of_it(ledger, tmp_path):
    """A killed driver has nothing else."""
    ended_short(ledger)
    ledger.go_on(short_trial(stop_at=200))
    ledger.begin("0000-0")
    train(ledger, ledger.live("0000-0"), (150,))
    journal = StudyStore(tmp_path / "study").read_journal("0000-0")

    assert [r.step for r in journal.reports] == [50, 100, 150]
    assert [v.rule for v in journal.verdicts] == ["R100"]
    assert (journal.started["went_on_at"], journal.started["stop_at"]) == (100, 200)


@pytest.mark.parametrize(
    ("changes", "ending", "is_kept"),
    [
        ({}, (Outcome.STOPPED, StoppedBy.PROBE), True),
        ({}, (Outcome.DIVERGED, StoppedBy.GATE), False),
        ({"stop_at": 50}, (Outcome.STOPPED, StoppedBy.PROBE), False),
        ({"stop_at": None}, (Outcome.COMPLETED, StoppedBy.NOBODY), False),
    ],
    ids=["may go on", "diverged", "is not looked at", "whole"],
)
def test_whose_checkpoint_is_kept(ledger, tmp_path, changes, ending, is_kept):
    checkpoint = StudyStore(tmp_path / "study").checkpoint_path("0000-0")
    checkpoint.touch()
    ledger.add(short_trial(**changes))
    ledger.end("0000-0", *ending)

    assert checkpoint.exists() == is_kept


def test_an_interrupt_leaves_one_that_has_not_begun_to_go_on_as_it_was(ledger, tmp_path):
    """It has no journal yet: a row that says it runs would have lost its reports."""
    before = ended_short(ledger)
    ledger.go_on(short_trial(purpose=Purpose.SEARCH, stop_at=None))
    ledger.close()
    store = StudyStore(tmp_path / "study")

    assert store.finished_records() == [before]
    assert [r.step for r in store.trial_reports("0000-0")] == [50, 100]


def test_what_it_was_stays_when_a_later_attempt_begins_anew(ledger):
    """Its checkpoint was gone: the first steps are being trained again."""
    before = ended_short(ledger)
    ledger.go_on(short_trial(purpose=Purpose.SEARCH, stop_at=None))
    ledger.begin("0000-0")
    train(ledger, ledger.live("0000-0"), (50,))

    assert ledger.as_they_were() == [before]


LOST = "its worker was lost; it had been started 3 times"


def lost_while_it_went_on(ledger):
    """What it was before."""
    before = ended_short(ledger)
    ledger._store.checkpoint_path("0000-0").touch()
    ledger.go_on(short_trial(purpose=Purpose.SEARCH, stop_at=None))
    ledger.begin("0000-0")
    train(ledger, ledger.live("0000-0"), (150, 200))
    ledger.end("0000-0", Outcome.FAILED, reason=LOST)
    return before


def test_a_machine_that_fails_one_that_goes_on_takes_nothing_from_what_it_showed(ledger, tmp_path):
    before = lost_while_it_went_on(ledger)
    store = StudyStore(tmp_path / "study")
    [found] = store.finished_records()

    assert replace(found, reason=before.reason, remarks=before.remarks) == before
    assert found.reason == f"a short trial that failed when it went on: {LOST}"
    assert found.remarks == (
        f"Trial 0000-0 failed when it went on, at step 200 ({LOST}): it counts as the short one "
        "that it was."
    )
    assert [r.step for r in store.trial_reports("0000-0")] == [50, 100]
    assert [v.rule for v in store.trial_verdicts("0000-0")] == ["R100"]
    assert store.checkpoint_path("0000-0").exists()
    assert ledger.finished() == [found]


def test_in_the_same_run_it_is_known_to_have_failed(ledger):
    lost_while_it_went_on(ledger)
    [lost] = ledger.lost()

    assert (lost.outcome, lost.purpose, lost.steps) == (Outcome.FAILED, Purpose.SEARCH, 200)
    assert ledger.record("0000-0") == lost
    assert ledger.as_they_were() == []


def test_what_it_reported_after_it_went_on_is_kept_for_its_checkpoint(ledger, tmp_path):
    """A later checkpoint than that of the short trial goes on from there."""
    before = lost_while_it_went_on(ledger)
    ledger.close()
    store = StudyStore(tmp_path / "study")
    store.take_over({"name": "study"}, "fingerprint")

    assert [r.trial_id for r in store.fallen_back()] == [before.trial_id]
    assert store.unfinished_trial_ids() == []
    assert [r.step for r in store.read_journal("0000-0").reports] == [50, 100, 150, 200]


def test_a_trial_that_came_to_its_end_in_a_later_run_is_lost_no_more(ledger, tmp_path):
    lost_while_it_went_on(ledger)
    store = StudyStore(tmp_path / "study")
    again = Ledger(store, StudyObserver())
    trial = short_trial(purpose=Purpose.SEARCH, stop_at=None)
    trial.take_up(next(read_trials(store.path, store.fallen_back())))
    again.add(trial)
    again.begin("0000-0")
    train(again, trial, (150, 200, 400))
    again.end("0000-0", Outcome.COMPLETED)
    [found] = again.finished()

    assert (found.outcome, found.steps, found.remarks) == (Outcome.COMPLETED, 400, "")
    assert store.fallen_back() == []
    assert list((store.path / "journal").iterdir()) == []


def test_one_whose_worker_never_came_up_is_what_it_was(ledger, tmp_path):
    before = ended_short(ledger)
    ledger.go_on(short_trial(purpose=Purpose.SEARCH, stop_at=None))
    ledger.end("0000-0", Outcome.FAILED, reason=LOST)
    [found] = ledger.finished()

    assert (found.steps, found.attempts) == (before.steps, before.attempts)
    assert StudyStore(tmp_path / "study").fallen_back() == []


def test_a_driver_killed_just_after_one_began_to_go_on_lets_it_go_on(ledger, tmp_path):
    """Its journal has begun, and its row does not say so yet."""
    before = ended_short(ledger)
    ledger.go_on(short_trial(purpose=Purpose.SEARCH, stop_at=None))
    ledger._store.begin_trial("0000-0", {"went_on_at": 100})
    store = StudyStore(tmp_path / "study")
    store.take_over({"name": "study"}, "fingerprint")

    assert store.fallen_back() == [before]


def test_the_larger_a_trials_tables_the_seldomer_they_are_written(ledger, monkeypatch):
    clock = iter([0.0, 0.0, 0.5, 10.0, 49.0, 51.0, 51.0, 51.5])  # due?, begun, done; due? ...
    monkeypatch.setattr("stabsearch.search.ledger.time.monotonic", lambda: next(clock))
    written = []
    store = ledger._store
    write = store.write_trial_tables
    monkeypatch.setattr(
        store, "write_trial_tables", lambda *said: (written.append(len(said[2])), write(*said))
    )
    trial = short_trial()
    ledger.add(trial)
    ledger.begin("0000-0")
    train(ledger, trial, (10, 20, 30, 40))  # half a second to write: not again for fifty

    assert written == [1, 4]


def test_a_study_that_cannot_go_on_says_what_was_raised_and_where_the_rest_is(ledger):
    reason = (
        'Traceback (most recent call last):\n  File "nets.py", line 3, in forward\nKeyError: 5'
    )
    for setting in range(FAILURES_BEFORE_ABORT):
        ledger.add(short_trial(trial_id=f"{setting:04}-0", setting=setting))
        ledger.begin(f"{setting:04}-0")
        ledger.end(f"{setting:04}-0", Outcome.FAILED, reason=reason)

    said, where = str(ledger.fatal).splitlines()
    assert said == "the first 3 trials all failed. The first one said: KeyError: 5"
    assert where == f"`stabsearch explain {ledger._store.path} 0000-0` shows where."
    assert {record.reason for record in ledger.finished()} == {reason}
