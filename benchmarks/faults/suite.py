"""Cases in, verdicts out: train each to its end, judge it, follow the advice, train again."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.faults.cases import BASE, FAULTS, HEALTHY, Case
from benchmarks.faults.cures import AFTER_THE_SAME, CURES
from stabsearch.diffusion.prepared_data import PreparedData, prepare_data
from stabsearch.diffusion.sampler_check import measure_sampler
from stabsearch.diffusion.samplers import ddim
from stabsearch.records import Report, SamplerCheck, Severity, Symptom, TrialFacts, Verdict
from stabsearch.spec import StudySpec, TrainerSpec
from stabsearch.stability.judges import make_judge
from stabsearch.stability.reached import Reached
from stabsearch.training.memory import keep_freed_memory
from stabsearch.training.trainer import Trainer, load_schedule

CASES = {case.name: case for case in (*HEALTHY, *FAULTS)}
SEEDS = (0, 1, 2)
MAX_ROUNDS = 5
TRUE_OF_ALL = frozenset({Symptom.NOISY_TIMESTEPS_AMPLIFIED})
"""Warnings that are true of healthy runs too: every epsilon model has this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training, judged."""

    facts: TrialFacts
    reports: tuple[Report, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def score(self) -> float:
        return next(r.evaluation.score_ema for r in reversed(self.reports) if r.evaluation)

    def alarms(self) -> tuple[Verdict, ...]:
        """What is said beyond steering and what is true of every run."""
        return tuple(
            v
            for v in self.verdicts
            if v.severity >= Severity.WARN and v.symptom not in TRUE_OF_ALL
        )

    def naming(self, symptoms: frozenset[Symptom]) -> Verdict | None:
        """The first verdict with one of these symptoms, in the order in which they were said."""
        return next((v for v in self.verdicts if v.symptom in symptoms), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A case under one seed."""

    name: str
    """Of the case: an injection does not travel between processes."""
    seed: int
    run: Run
    path: tuple[str, ...] = ()
    """What was done, round by round."""
    cured: Run | None = None
    is_cured: bool = False


Peers = Mapping[str, tuple[tuple[int, float], ...]]
"""``TrialFacts.reached`` by kind of trial."""


def spec_of(case: Case) -> TrainerSpec:
    return TrainerSpec.model_validate({**BASE, **case.spec})


def kind_of(spec: TrainerSpec) -> str:
    study = StudySpec.model_validate(
        {"name": "faults", "space": {"learning_rate": {"uniform": [0.1, 0.2]}}, "trainer": spec}
    )
    return study.peer_kind({})


def healthy_peers(seed: int) -> Peers:
    """What healthy trials reached: the second bar of the rules, as a study would know it."""
    reached: dict[str, Reached] = {}
    for case in HEALTHY:
        run = train(case, seed, {})
        reached.setdefault(kind_of(spec_of(case)), Reached()).add(run.facts, run.reports)
    return {kind: found.curve() for kind, found in reached.items()}


def train(case: Case, seed: int, peers: Peers) -> Run:
    """To the end of the budget, whatever is said on the way; a NaN ends it all the same."""
    spec, data = spec_of(case), digits()
    trainer = Trainer(spec, seed, data)
    if case.inject is not None:
        case.inject(trainer)
    facts = replace(
        trainer.facts,
        reached=peers.get(kind_of(spec), ()),
        schedule_error=trainer._objective.schedule_error,
        sampler_check=sampler_check(case, spec, data),
    )
    judge = make_judge({}, facts)
    judged = []
    while not trainer.is_finished:
        judged.append(judge.judge(trainer.train_window()))
        if judged[-1].report.nonfinite_steps:
            break
    return Run(
        facts=facts,
        reports=tuple(item.report for item in judged),
        verdicts=tuple(verdict for item in judged for verdict in item.verdicts),
    )


@functools.cache
def digits() -> PreparedData:
    keep_freed_memory()
    torch.set_num_threads(1)
    return prepare_data(TrainerSpec().data)


def sampler_check(case: Case, spec: TrainerSpec, data: PreparedData) -> SamplerCheck | None:
    """The case's sampler on the exact denoiser of its study's data."""
    if not case.sampler:
        return None
    schedule = load_schedule(spec.noise_schedule)
    told_schedule, told_type, offset = schedule, spec.prediction_type, 0
    if case.sampler == "other_schedule":
        other = spec.noise_schedule.model_copy(update={"beta_schedule": "squaredcos_cap_v2"})
        told_schedule = load_schedule(other)
    elif case.sampler == "v_as_epsilon":
        told_type = "epsilon"
    elif case.sampler == "offset":
        offset = 60

    def sampler(
        model: Any, shape: Any, *, generator: Any, noise_schedule: Any, prediction_type: str
    ) -> torch.Tensor:
        def late(x_t: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            return model(x_t, (timesteps - offset).clamp(min=0))

        return ddim(
            late,
            shape,
            generator=generator,
            noise_schedule=noise_schedule,
            prediction_type=prediction_type,
        )

    return measure_sampler(
        sampler,
        data.dataset.train,
        schedule,
        spec.prediction_type,
        name=case.sampler,
        told=(told_schedule, told_type),
    ).check


def follow_advice(case: Case, run: Run, seed: int, peers: Peers) -> Outcome:
    """Apply the cure of the worst alarm, train, and again, until nothing is wrong."""
    outcome = Outcome(name=case.name, seed=seed, run=run)
    patient, last, path = case, run, []
    tried: set[Symptom] = set()
    verdict = run.naming(case.symptoms)
    for _ in range(MAX_ROUNDS):
        if verdict is None:
            break
        cure = CURES[verdict.symptom]
        if verdict.symptom in tried and patient.inject is not None:
            cure = AFTER_THE_SAME.get(verdict.symptom, cure)
        tried.add(verdict.symptom)
        path.append(f"{verdict.symptom}: {cure.words}")
        patient = cure.apply(patient, spec_of(patient), verdict)
        last = train(patient, seed, peers)
        verdict = remaining(case, last)
        if verdict is None:
            return replace(outcome, path=tuple(path), cured=last, is_cured=True)
    return replace(outcome, path=tuple(path), cured=last if path else None)


def remaining(case: Case, run: Run) -> Verdict | None:
    """What is still wrong: the fault's own symptoms, or anything that is penalised."""
    return run.naming(case.symptoms) or next(
        (v for v in run.verdicts if v.severity >= Severity.PENALISE), None
    )


def run_case(arguments: tuple[str, int, Peers]) -> Outcome:
    """For a pool of processes. The peers' bar is that of the case's own seed."""
    name, seed, peers = arguments
    case = CASES[name]
    run = train(case, seed, peers)
    if not case.symptoms:
        return Outcome(name=name, seed=seed, run=run)
    return follow_advice(case, run, seed, peers)
