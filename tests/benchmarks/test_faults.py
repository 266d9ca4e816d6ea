"""The fault suite's tables, and one fault through the whole of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.faults import suite
from benchmarks.faults.cases import FAULTS, HEALTHY, Case
from benchmarks.faults.cures import CURES, Patient
from benchmarks.faults.injections import broken_step, left_out_of_optimizer
from benchmarks.faults.suite import (
    CASES,
    NEAR,
    Outcome,
    Run,
    Study,
    Training,
    complaints,
    follow_advice,
    healthy_study,
    judge,
    kind_of,
    spec_of,
    train,
)
from stabsearch.records import Severity, Symptom, Verdict
from stabsearch.stability.rules import RULES
from tests.stability.reports import curve, evaluation, facts, report

SHORT = {"max_train_steps": 60, "report_every": 10, "eval_every": 20}


def test_every_symptom_that_a_rule_says_has_a_cure():
    assert {symptom for rule in RULES for symptom in rule.advice} == set(CURES) == set(Symptom)


def test_every_symptom_is_provoked_by_some_fault_or_is_said_of_healthy_runs():
    provoked = {symptom for case in FAULTS for symptom in case.symptoms}

    assert set(Symptom) - provoked == {
        Symptom.NOISY_TIMESTEPS_AMPLIFIED,  # of every epsilon model
        Symptom.TIMESTEP_DOMINATION,  # the first and the last bin have names of their own
    }


def test_there_are_enough_of_both_with_names_of_their_own():
    assert len(HEALTHY) >= 6
    assert len(FAULTS) >= 18
    assert len({case.name for case in (*HEALTHY, *FAULTS)}) == len(HEALTHY) + len(FAULTS)


@pytest.mark.parametrize("case", [*HEALTHY, *FAULTS], ids=lambda case: case.name)
def test_every_case_is_a_valid_spec(case):
    assert spec_of(case).max_train_steps >= 200


def test_every_mistake_in_code_says_what_advice_would_lead_to_it():
    for case in FAULTS:
        assert bool(case.mistake) == bool(case.inject or case.sampler), case.name


@pytest.fixture
def no_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(suite, "CACHE", tmp_path / "trainings")
    return tmp_path / "trainings"


@pytest.mark.parametrize(
    ("mistake", "is_mended"), [(("missing optimizer parameter",), True), (("a gate",), False)]
)
def test_a_fault_is_named_and_mended_only_if_the_advice_points_to_it(mistake, is_mended, no_cache):
    case = replace(
        CASES["frozen_layer"], spec=SHORT, inject=left_out_of_optimizer, mistake=mistake
    )
    run = judge(train(case, 0), Study(), spec_of(case))
    outcome = follow_advice(case, run, 0, Study())

    assert run.naming(case.symptoms).rule == "R15"
    assert bool(outcome.path) is is_mended
    assert (outcome.cured is not None and not outcome.cured.naming(case.symptoms)) is is_mended


def test_a_training_is_done_once_and_a_mended_one_is_another(no_cache, monkeypatch):
    broken = replace(CASES["nan_step"], spec=SHORT, inject=broken_step(15))
    first = train(broken, 0)
    sound = train(replace(broken, inject=None), 0)
    monkeypatch.setattr(suite, "train_anew", None)

    assert repr(train(broken, 0)) == repr(first)
    assert (first.reports[-1].step, sound.reports[-1].step) == (20, 60)
    assert len(list(no_cache.iterdir())) == 2


# --- what counts as cured ------------------------------------------------------------------------


def verdict(symptom, severity=Severity.WARN, advice=""):
    return Verdict(
        rule="R0", symptom=symptom, severity=severity, value=1, threshold=0, limit="", step=1,
        timestep_bin=None, timestep_low=None, timestep_high=None, reason="", advice=advice,
    )  # fmt: skip


def scored(score, *verdicts):
    held_out = evaluation((0.5,) * 4, score_ema=score)
    training = Training(facts=facts(), reports=(report(1600, 0.5, evaluation=held_out),))
    return Run(training=training, heard=verdicts, verdicts=verdicts)


def study_with_score(case, score):
    spec = spec_of(case)
    return Study(healthy={(kind_of(spec), spec.optimizer): (spec, scored(score).training)})


HIGH = verdict(Symptom.LEARNING_RATE_HIGH, Severity.STEER)
POOR = verdict(Symptom.DEAD_TIMESTEPS, Severity.PENALISE)
OWN = verdict(Symptom.FROZEN_PARAMETERS)


@pytest.mark.parametrize(
    ("score", "said", "left"),
    [
        (2.0 * NEAR, [], []),
        (2.0, [HIGH], []),
        (2.0, [OWN, HIGH], [OWN]),
        (2.0, [HIGH, POOR], [POOR]),
        (2.1 * NEAR, [HIGH], [HIGH]),
        (2.1 * NEAR, [HIGH, POOR, OWN], [OWN, POOR, HIGH]),
        (9.0, [verdict(Symptom.NOISY_TIMESTEPS_AMPLIFIED)], []),
    ],
)
def test_what_a_reader_still_has_to_do(score, said, left):
    case = CASES["frozen_layer"]

    assert complaints(case, scored(score, *said), study_with_score(case, 2.0)) == left


@pytest.mark.parametrize(("score", "is_cured"), [(2.4, True), (2.6, False)])
def test_a_run_that_nothing_is_said_of_is_cured_if_its_score_is_a_healthy_ones(
    score, is_cured, monkeypatch
):
    case = CASES["frozen_layer"]
    monkeypatch.setattr(suite, "train", lambda *_: None)
    monkeypatch.setattr(suite, "judge", lambda *_: scored(score))
    sick = scored(5.0, replace(OWN, advice="a missing optimizer parameter"))
    outcome = follow_advice(case, sick, 0, study_with_score(case, 2.0))

    assert (outcome.is_cured, outcome.score_ratio) == (is_cured, score / 2)


def test_a_healthy_run_is_compared_after_as_many_steps():
    case = CASES["epsilon"]
    scores = {400: 8.0, 800: 4.0, 1600: 2.0}
    reports = tuple(
        report(step, 0.3, evaluation=evaluation((0.3,) * 4, score_ema=score))
        for step, score in scores.items()
    )
    study = healthy_study({case.name: Training(facts=facts(), reports=reports)})
    spec, training = study.like(spec_of(case))

    assert spec.learning_rate == 3e-3
    assert [training.score(step) for step in (400, 900, 6400)] == [8.0, 4.0, 2.0]
    assert study.like(spec_of(CASES["sgd"])) is None
    assert study.like(spec_of(CASES["v"])) is None


def test_words_after_a_prune_and_what_is_true_besides_are_not_wrong_words():
    run = scored(2.0, OWN, POOR, HIGH, verdict(Symptom.NOISY_TIMESTEPS_AMPLIFIED))
    heard = replace(run, heard=(OWN, POOR, verdict(Symptom.NOISY_TIMESTEPS_AMPLIFIED)))

    assert Outcome(name="frozen_layer", seed=0, run=run).wrong_words() == (POOR, HIGH)
    assert Outcome(name="frozen_layer", seed=0, run=heard).wrong_words() == (POOR,)


def test_what_is_heard_ends_with_the_report_that_prunes():
    dead = Training(facts=facts(), reports=tuple(curve([1.0, 0.2, 0.2, 0.2, *[0.95] * 76])))
    run = judge(dead, Study(), spec_of(CASES["epsilon"]))
    later = [v for v in run.verdicts if v not in run.heard]

    assert [v.severity for v in run.heard][-1] is Severity.PRUNE
    assert later
    assert min(v.step for v in later) > max(v.step for v in run.heard)


# --- advice, followed ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("symptom", "advice", "healthy_rate", "expected"),
    [
        (Symptom.LEARNING_RATE_LOW, "Raise the learning rate about 2.8 times.", None, 2.8e-3),
        (Symptom.LEARNING_RATE_HIGH, "Lower the learning rate about 8 times, or let it decay.",
         None, 1e-3 / 8),
        (Symptom.LOSS_STUCK, "Raise the learning rate 4 times, or train longer.", None, 4e-3),
        (Symptom.NOT_LEARNING, "", 2e-3, 8e-3),
        (Symptom.NOT_LEARNING, "", 5e-4, 1e-3 / 4),
        (Symptom.LOST_PROGRESS, "Lower the learning rate: it is above", None, 1e-3 / 4),
        (Symptom.NON_FINITE, "Lower the learning rate 4 times and clip", None, 1e-3 / 4),
    ],
)  # fmt: skip
def test_the_learning_rate_goes_where_the_advice_says(symptom, advice, healthy_rate, expected):
    case = Case(name="", words="", spec={"learning_rate": 1e-3})
    patient = Patient(
        case=case,
        spec=spec_of(case),
        verdict=verdict(symptom, advice=advice),
        healthy_rate=healthy_rate,
    )

    assert spec_of(CURES[symptom](patient).case).learning_rate == pytest.approx(expected)


@pytest.mark.parametrize(
    ("symptom", "advice"),
    [
        (Symptom.NON_FINITE, "look for a broken example"),
        (Symptom.DEAD_TIMESTEPS, "look for a gate"),
        (Symptom.NOT_LEARNING, "the data is broken"),
    ],
)
def test_advice_that_does_not_point_to_the_mistake_helps_nobody(symptom, advice):
    case = Case(name="", words="", inject=left_out_of_optimizer, mistake=("optimizer",))
    patient = Patient(case=case, spec=spec_of(case), verdict=verdict(symptom, advice=advice))

    assert CURES[symptom](patient) is None
