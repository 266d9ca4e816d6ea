"""The gate's decisions, report by report, without Ray's controller."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler

from stabsearch.records import (
    JudgedReport,
    Outcome,
    Purpose,
    Severity,
    StoppedBy,
    Symptom,
    Verdict,
)
from stabsearch.results.store import StudyStore
from stabsearch.search.ledger import Ledger, LiveTrial
from stabsearch.search.observer import StudyObserver
from stabsearch.search.packet import PACKET_KEY, STEP_KEY, Packet
from stabsearch.search.scheduler import StabilityGate, scores_shown
from stabsearch.spec import SchedulerSpec
from tests import synthetic_study as synthetic
from tests.stability.reports import evaluation, facts, report

FACTS = facts(max_train_steps=2000)


def verdict(step, severity=Severity.PRUNE, symptom=Symptom.LOST_PROGRESS):
    return Verdict(
        rule="R1b",
        symptom=symptom,
        severity=severity,
        value=0.6,
        threshold=0.5,
        limit="R1b.prune",
        step=step,
        timestep_bin=None,
        timestep_low=None,
        timestep_high=None,
        reason="lost 60% of its progress",
        advice="Lower the learning rate.",
    )


class Driver:
    """A gate and a ledger; trials report a loss at every 100 steps."""

    def __init__(self, folder, *, spares_whole=False, **spec):
        store = StudyStore(folder / "study")
        store.create({"name": "study"}, "fingerprint")
        self.ledger = Ledger(store, StudyObserver())
        self.gate = StabilityGate(
            SchedulerSpec(**spec), 2000, self.ledger, spares_whole=spares_whole
        )

    def begin(self, trial_id, **changes):
        setting = int(trial_id[:4])
        self.ledger.add(
            LiveTrial(
                trial_id=trial_id,
                setting=setting,
                seed=0,
                params={"learning_rate": 1e-3},
                max_train_steps=2000,
                **changes,
            )
        )
        self.ledger.begin(trial_id)
        trial = SimpleNamespace(
            trial_id=f"ray-{trial_id}",
            config={"trial_id": trial_id, "may_go_on": self.ledger.live(trial_id).may_go_on},
        )
        self.gate.on_trial_add(None, trial)
        return trial

    def train(self, trial_id, *, score=5.0, gauge=None, verdicts=None, until=2000, **changes):
        """Until something stops it; its record."""
        trial = self.begin(trial_id, **changes)
        for step in range(100, until + 1, 100):
            said = report(
                step,
                0.1,
                evaluation=evaluation((0.1,) * 4, score_ema=score),
                lr_gauge_octaves=gauge,
            )
            judged = JudgedReport(report=said, verdicts=(verdicts or {}).get(step, ()))
            packet = Packet(facts=FACTS, reports=(judged,))
            result = {PACKET_KEY: packet, STEP_KEY: step}
            if self.gate.on_trial_result(None, trial, result) == TrialScheduler.STOP:
                return self.ledger.record(trial_id)
        return None


@pytest.fixture
def driver(tmp_path):
    return lambda **spec: Driver(tmp_path, **spec)


@pytest.mark.parametrize(
    ("spec", "trial", "ended"),
    [
        ({}, {}, (Outcome.COMPLETED, StoppedBy.NOBODY, 2000)),
        ({}, {"stop_at": 200}, (Outcome.STOPPED, StoppedBy.PROBE, 200)),
        ({}, {"stop_at": 250}, (Outcome.STOPPED, StoppedBy.PROBE, 300)),
        (
            {},
            {"stop_at": 200, "verdicts": {200: (verdict(200),)}},
            (Outcome.DIVERGED, StoppedBy.GATE, 200),
        ),
        (
            {"gate": False},
            {"stop_at": 200, "verdicts": {100: (verdict(100),)}},
            (Outcome.STOPPED, StoppedBy.PROBE, 200),
        ),
        (
            {"gauge_octaves": 2.0},
            {"gauge": 3.0},
            (Outcome.STOPPED, StoppedBy.GAUGE, 400),
        ),
        ({"gauge_octaves": 2.0}, {"gauge": -3.0}, (Outcome.STOPPED, StoppedBy.GAUGE, 400)),
        ({"gauge_octaves": 2.0}, {"gauge": 1.9}, (Outcome.COMPLETED, StoppedBy.NOBODY, 2000)),
        ({"gauge_octaves": 2.0}, {"gauge": None}, (Outcome.COMPLETED, StoppedBy.NOBODY, 2000)),
        (
            {"gauge_octaves": 2.0, "gauge_fraction": 0.5},
            {"gauge": 3.0},
            (Outcome.STOPPED, StoppedBy.GAUGE, 1000),
        ),
        ({}, {"gauge": 6.0}, (Outcome.COMPLETED, StoppedBy.NOBODY, 2000)),
        (
            {"gauge_octaves": 2.0},
            {"gauge": 3.0, "stop_at": 400},
            (Outcome.STOPPED, StoppedBy.PROBE, 400),
        ),
        (
            {"gauge_octaves": 2.0},
            {"gauge": 3.0, "purpose": Purpose.STRESS},
            (Outcome.COMPLETED, StoppedBy.NOBODY, 2000),
        ),
    ],
    ids=[
        "to its end",
        "a short trial",
        "at its next report",
        "a verdict comes first",
        "without a gate a short trial ends all the same",
        "far above the best rate",
        "far below it",
        "not that far",
        "no reading",
        "read when it is asked",
        "nobody asked",
        "its own end comes first",
        "a stress test is meant to be far",
    ],
)
def test_why_a_trial_ends(driver, spec, trial, ended):
    record = driver(**spec).train("0000-0", **trial)

    assert (record.outcome, record.stopped_by, record.steps) == ended


def test_the_gauge_is_looked_at_once(driver):
    """It passed at a fifth of the budget; what it reads later is another thing."""
    gate = driver(gauge_octaves=2.0)
    trial = gate.begin("0000-0")
    for step, octaves in ((300, 5.0), (400, 1.0), (500, 5.0), (600, 5.0)):
        said = report(step, 0.1, evaluation=evaluation((0.1,) * 4), lr_gauge_octaves=octaves)
        packet = Packet(facts=FACTS, reports=(JudgedReport(report=said, verdicts=()),))
        action = gate.gate.on_trial_result(None, trial, {PACKET_KEY: packet, STEP_KEY: step})

        assert action == TrialScheduler.CONTINUE


@pytest.mark.parametrize("said", [{"is_saved": True}, {"failure": "the disk is full"}])
def test_the_worker_of_a_short_trial_that_may_go_on_is_held_until_its_state_is_written(
    driver, said
):
    study = driver()
    trial = study.begin("0000-0", stop_at=100, look_steps=(100, 500))
    judged = JudgedReport(report=report(100, 0.1, evaluation=evaluation((0.1,) * 4)), verdicts=())

    def tell(**packet):
        result = {PACKET_KEY: Packet(facts=FACTS, **packet), STEP_KEY: 100}
        return study.gate.on_trial_result(None, trial, result)

    assert tell(reports=(judged,)) == TrialScheduler.CONTINUE
    assert study.ledger.record("0000-0").stopped_by is StoppedBy.PROBE
    assert tell() == TrialScheduler.CONTINUE
    assert tell(**said) == TrialScheduler.STOP


def test_the_reasons_of_the_stops_are_words(driver):
    short = driver().train("0000-0", stop_at=200)
    assert short.reason == "a short trial: at step 200 it is within the edge"


def test_a_penalised_short_trial_has_the_rule_s_reason(driver):
    penalty = verdict(200, Severity.PENALISE)
    record = driver().train("0000-0", stop_at=200, verdicts={200: (penalty,)})

    assert record.reason == penalty.reason
    assert record.is_unstable


@pytest.mark.parametrize("inner", ["median", "asha"])
def test_rank_stops_the_worst_and_never_a_confirmation(driver, inner):
    study = driver(inner=inner, grace_fraction=0.25)
    for setting in range(4):
        study.train(f"{setting:04d}-0", score=5.0 + 0.1 * setting)
    behind = study.train("0004-0", score=50.0)
    stress = study.train("0005-0", score=50.0, purpose=Purpose.STRESS)

    assert (behind.stopped_by, behind.steps) == (StoppedBy.RANK, 500)
    assert inner in behind.reason
    assert stress.outcome is Outcome.COMPLETED


@pytest.mark.parametrize("inner", ["median", "asha"])
def test_others_are_ranked_against_the_end_of_short_trials(driver, inner):
    study = driver(inner=inner, grace_fraction=0.25)
    for setting in range(4):
        study.train(f"{setting:04d}-0", score=5.0, stop_at=500)
    behind = study.train("0004-0", score=50.0)

    assert (behind.stopped_by, behind.steps) == (StoppedBy.RANK, 500)


def test_no_rank_ends_a_short_trial_otherwise(driver):
    study = driver(inner="asha", grace_fraction=0.25)
    for setting in range(4):
        study.train(f"{setting:04d}-0", score=5.0)
    record = study.train("0004-0", score=50.0, stop_at=500)

    assert record.stopped_by is StoppedBy.PROBE


@pytest.mark.parametrize("inner", ["none", "median", "asha"])
def test_the_whole_trials_of_a_boundary_search_are_not_stopped_for_their_rank(driver, inner):
    """Each of them is to be an answer. Short trials and the gate are as ever."""
    study = driver(inner=inner, grace_fraction=0.1, gauge_octaves=2.0, spares_whole=True)
    for setting in range(4):
        study.train(f"{setting:04d}-0", score=5.0)
    behind = study.train("0004-0", score=50.0, gauge=-3.0)
    short = study.train("0005-0", score=50.0, gauge=-3.0, purpose=Purpose.PROBE, stop_at=500)
    failed = study.train("0006-0", verdicts={100: (verdict(100),)})

    assert (behind.outcome, behind.steps) == (Outcome.COMPLETED, 2000)
    assert short.steps < 500
    assert failed.stopped_by is StoppedBy.GATE


@pytest.mark.parametrize(
    ("stopped_by", "steps"),
    [
        (StoppedBy.NOBODY, [100]),
        (StoppedBy.GATE, [100]),
        (StoppedBy.GAUGE, [100]),
        (StoppedBy.RANK, [100, 200]),
        (StoppedBy.PROBE, [100, 200]),
    ],
)
def test_which_scores_the_inner_scheduler_saw(stopped_by, steps):
    record = synthetic.record(stopped_by=stopped_by, steps=200)

    assert [step for step, _ in scores_shown(record, [(100, 5.0), (200, 4.0)])] == steps


@pytest.mark.parametrize("inner", ["median", "asha"])
def test_a_new_gate_is_filled_from_the_files(driver, tmp_path, inner):
    """What a restart shows it of the ended trials is what it saw of them."""
    spec = {"inner": inner, "grace_fraction": 0.25}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    seen, fresh = Driver(tmp_path / "a", **spec), Driver(tmp_path / "b", **spec)
    for setting, stop_at in enumerate((None, 500, None, 500, 1000)):
        record = seen.train(f"{setting:04d}-0", score=5.0 + 0.1 * setting, stop_at=stop_at)
        scores = [(step, record.score) for step in range(100, record.steps + 1, 100)]
        fresh.gate.replay_ended(record, scores)

    for score in (4.0, 5.25, 50.0):
        ends = [
            each.train(f"{10 + round(score):04d}-0", score=score).steps for each in (seen, fresh)
        ]
        assert ends[0] == ends[1]
