"""Stored reports judged again: what was said live is said again, and other thresholds say more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stabsearch.records import Ending, Outcome, Severity, StoppedBy, deciding_verdict
from stabsearch.results.store import StudyStore
from stabsearch.spec import TrainerSpec
from stabsearch.stability.judges import make_judge
from stabsearch.stability.replay import (
    judge_again,
    replay_trial,
    verdicts_of,
)
from stabsearch.training.trainer import Trainer
from tests import synthetic_study
from tests.stability.reports import curve, facts
from tests.stability.streams import random_facts, random_reports

DYING = [1.0, 0.7, 0.4, 0.2, 0.1, 0.1, *[0.58] * 6]
"""R1b penalises at step 175 and prunes at step 200; no other rule has anything to say."""
RULES = {"name": "rules", "preset": "default", "thresholds": {}}
LENIENT = {**RULES, "thresholds": {"R1b.prune": 2.0, "R1c.midpoint": -1.0}}
SILENT = {**RULES, "thresholds": {**LENIENT["thresholds"], "R1b.penalise": 2.0}}


def keys(verdicts):
    return [(v.rule, v.severity, v.step) for v in verdicts]


def replayed(losses, settings, gate=True, **changes):
    """The replay of a trial with these losses that ran under the default thresholds."""
    trial, stored_gate = facts(max_train_steps=25 * len(losses)), changes.pop("stored_gate", True)
    judged = judge_again(trial, curve(losses), RULES, gate=stored_gate)
    reports, verdicts = tuple(j.report for j in judged), verdicts_of(judged)
    decided = deciding_verdict(verdicts)
    is_pruned = stored_gate and decided is not None and decided.severity is Severity.PRUNE
    record = synthetic_study.record(
        outcome=Outcome.DIVERGED if is_pruned else Outcome.COMPLETED,
        stopped_by=StoppedBy.GATE if is_pruned else StoppedBy.NOBODY,
        severity=decided.severity if decided else Severity.NONE,
        symptom=str(decided.symptom) if decided else "",
        steps=reports[-1].step,
        max_train_steps=trial.max_train_steps,
    )
    record = replace(record, **changes)
    return replay_trial(record, trial, reports, verdicts, settings, gate=gate)


# --- what was said ----------------------------------------------------------------------------


@pytest.mark.parametrize("gate", [True, False])
@pytest.mark.parametrize("name", ["rules", "chapter"])
@pytest.mark.parametrize("learning_rate", [3e-3, 1.0])
def test_stored_reports_of_a_trainer_give_the_verdicts_that_were_said_live(
    tmp_path, learning_rate, name, gate
):
    spec = TrainerSpec(
        model={"name": "mlp", "width": 32, "num_blocks": 1},
        data={"name": "mixture"},
        learning_rate=learning_rate,
        max_train_steps=400,
        report_every=10,
        eval_every=40,
        eval_samples=400,
        batch_size=64,
    )
    trainer, settings = Trainer(spec, seed=0), {**RULES, "name": name}
    judge, live = make_judge(settings, trainer.facts), []
    while not trainer.is_finished:
        live.append(judge.judge(trainer.train_window()))
        if gate and any(v.severity is Severity.PRUNE for v in live[-1].verdicts):
            break
    store = StudyStore(tmp_path / "study")
    store.create({"name": "study"}, "fingerprint")
    reports, verdicts = [j.report for j in live], verdicts_of(live)
    store.write_trial_tables("0000-0", trainer.facts, reports, verdicts)

    again = judge_again(
        store.trial_facts("0000-0"), store.trial_reports("0000-0"), settings, gate=gate
    )

    assert verdicts_of(again) == store.trial_verdicts("0000-0") == verdicts
    assert repr(tuple(live)) == repr(again)  # NaNs are equal in text only
    if learning_rate == 1.0 and name == "rules":
        assert verdicts


@pytest.mark.parametrize("seed", range(20))
def test_judging_again_is_judging(seed):
    trial = random_facts(seed)
    reports = random_reports(trial, seed)
    judge = make_judge(RULES, trial)
    live = tuple(judge.judge(report) for report in reports)

    assert repr(judge_again(trial, [j.report for j in live], RULES, gate=False)) == repr(live)


def test_the_gate_ends_the_reports_with_the_first_prune():
    gated = judge_again(facts(), curve(DYING), RULES, gate=True)
    ungated = judge_again(facts(), curve(DYING), RULES, gate=False)

    assert keys(verdicts_of(gated))[-1] == ("R1b", Severity.PRUNE, 200)
    assert gated[-1].report.step == 200
    assert ungated[: len(gated)] == gated
    assert len(ungated) == len(DYING)


# --- what becomes of a trial ------------------------------------------------------------------


def test_by_the_same_thresholds_nothing_changes():
    for losses in (DYING, [1.0, 0.8, 0.6, 0.4, 0.3]):
        replay = replayed(losses, RULES)

        assert not replay.is_flipped
        assert replay.before == replay.after
        assert replay.added == replay.removed == ()
        assert replay.steps_saved == replay.steps_added == 0


def test_what_would_have_followed_a_prune_is_not_known():
    replay = replayed(DYING, SILENT)

    assert (replay.before.ending, replay.after.ending) == (Ending.PRUNED, Ending.GOES_ON)
    assert replay.is_flipped
    assert replay.after.steps == 200
    assert replay.steps_added == 25 * len(DYING) - 200
    assert ("R1b", Severity.PRUNE, 200) in keys(replay.removed)


def test_who_goes_on_keeps_the_penalty_that_is_known_of_it():
    replay = replayed(DYING, LENIENT)

    assert replay.after.ending is Ending.GOES_ON
    assert replay.after.verdict.severity is Severity.PENALISE


def test_stricter_thresholds_prune_earlier():
    replay = replayed(DYING, {**RULES, "thresholds": {"R1b.prune": 0.21}})

    assert not replay.is_flipped
    assert replay.after.ending is Ending.PRUNED
    assert replay.steps_saved == 200 - replay.after.steps > 0


def test_stricter_thresholds_prune_a_trial_that_trained_to_the_end():
    losses = [1.0, 0.7, 0.4, 0.3, 0.25, 0.45, 0.45, 0.4]
    replay = replayed(losses, {**RULES, "thresholds": {"R1b.prune": 0.21}})

    assert (replay.before.ending, replay.after.ending) == (Ending.UNSTABLE, Ending.PRUNED)
    assert replay.steps_saved > 0
    assert keys(replay.added) == [("R1b", Severity.PRUNE, replay.after.steps)]


def test_without_a_gate_a_prune_is_a_verdict_like_any_other():
    replay = replayed(DYING, RULES, gate=False, stored_gate=False)

    assert replay.before.ending is replay.after.ending is Ending.UNSTABLE
    assert replayed(DYING, RULES, gate=True, stored_gate=False).after.ending is Ending.PRUNED
    assert replayed(DYING, SILENT, gate=True, stored_gate=False).after.ending is Ending.STABLE


def test_pruned_by_its_last_report_a_trial_has_no_more_to_train():
    replay = replayed(DYING[:8], SILENT)

    assert (replay.before.ending, replay.after.ending) == (Ending.PRUNED, Ending.STABLE)
    assert replay.steps_added == 0


@pytest.mark.parametrize(
    ("changes", "ending"),
    [
        ({"outcome": Outcome.FAILED, "stopped_by": StoppedBy.NOBODY}, Ending.FAILED),
        ({"outcome": Outcome.RUNNING, "stopped_by": StoppedBy.NOBODY}, Ending.RUNNING),
        ({"outcome": Outcome.STOPPED, "stopped_by": StoppedBy.RANK}, Ending.BEHIND),
    ],
)
def test_who_ended_otherwise_still_does_unless_it_is_pruned(changes, ending):
    losses = [1.0, 0.8, 0.6, 0.4, 0.3]

    assert replayed(losses, SILENT, **changes).after.ending is ending
    assert replayed(DYING[:7], RULES, **changes).after.ending is ending
    strict = {**RULES, "thresholds": {"R1b.prune": 0.21}}
    assert replayed(DYING[:7], strict, **changes).after.ending is Ending.PRUNED


def test_a_trial_that_never_reported_is_left_alone():
    record = synthetic_study.record(outcome=Outcome.FAILED, steps=0)

    replay = replay_trial(record, None, (), (), RULES, gate=True)

    assert not replay.is_flipped
    assert replay.verdicts == ()


GATE = {"stopped_by": StoppedBy.GATE, "severity": Severity.PRUNE}
PROBE = {"stopped_by": StoppedBy.PROBE, "outcome": Outcome.STOPPED}
LOST = {"severity": Severity.PENALISE, "symptom": "lost_progress"}


@pytest.mark.parametrize(
    ("changes", "ending"),
    [
        ({}, Ending.STABLE),
        ({"severity": Severity.WARN}, Ending.STABLE),
        (LOST, Ending.UNSTABLE),
        ({"severity": Severity.PENALISE, "symptom": "time_blind"}, Ending.POOR),
        (GATE | {"outcome": Outcome.DIVERGED}, Ending.PRUNED),
        (GATE | {"outcome": Outcome.STOPPED}, Ending.PRUNED),
        ({"outcome": Outcome.STOPPED, "stopped_by": StoppedBy.RANK} | LOST, Ending.BEHIND),
        ({"outcome": Outcome.STOPPED, "stopped_by": StoppedBy.GAUGE}, Ending.FAR),
        (PROBE, Ending.WITHIN),
        (PROBE | {"severity": Severity.STEER}, Ending.WITHIN),
        (PROBE | LOST, Ending.UNSTABLE),
        ({"outcome": Outcome.FAILED}, Ending.FAILED),
        ({"outcome": Outcome.RUNNING}, Ending.RUNNING),
    ],
)
def test_the_ending_of_a_trial_by_its_row(changes, ending):
    assert synthetic_study.record(**changes).ending is ending


def test_every_ending_that_a_finished_trial_can_have_has_a_colour_and_words():
    from stabsearch.cli.progress import LABELS
    from stabsearch.cli.replay_text import ENDING_WORDS

    assert set(LABELS) == set(Ending) - {Ending.RUNNING, Ending.GOES_ON}
    assert set(ENDING_WORDS) == set(Ending)


def test_the_deciding_verdict_is_the_one_of_the_trial_s_row():
    from stabsearch.search.ledger import LiveTrial

    for seed in range(20):
        trial = random_facts(seed)
        verdicts = verdicts_of(judge_again(trial, random_reports(trial, seed), RULES, gate=False))
        live = LiveTrial(
            trial_id="0000-0",
            setting=0,
            seed=0,
            params={},
            max_train_steps=2000,
            verdicts={(v.rule, v.symptom, v.severity): v for v in verdicts},
        )
        decided = deciding_verdict(verdicts)

        assert live.record().reason == (decided.reason if decided else "")
