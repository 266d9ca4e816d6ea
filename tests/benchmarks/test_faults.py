"""The fault suite's tables, and one fault through the whole of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.faults.cases import FAULTS, HEALTHY, left_out_of_optimizer
from benchmarks.faults.cures import CURES
from benchmarks.faults.suite import follow_advice, spec_of, train
from stabsearch.records import Symptom
from stabsearch.stability.rules import RULES

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


def test_a_fault_is_named_and_its_advice_followed():
    case = replace(
        next(case for case in FAULTS if case.name == "frozen_layer"),
        spec=SHORT,
        inject=left_out_of_optimizer,
    )
    outcome = follow_advice(case, train(case, 0, {}), 0, {})

    assert outcome.run.naming(case.symptoms).rule == "R15"
    assert outcome.path == (
        f"{Symptom.FROZEN_PARAMETERS}: {CURES[Symptom.FROZEN_PARAMETERS].words}",
    )
    assert outcome.cured.naming(case.symptoms) is None
