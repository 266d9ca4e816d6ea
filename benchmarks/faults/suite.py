"""Cases in, verdicts out: train each to its end, judge it, follow the advice, train again."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import pickle
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

import stabsearch
from benchmarks.faults.cases import BASE, FAULTS, HEALTHY, Case
from benchmarks.faults.cures import CURES, Patient, Treatment
from stabsearch.diffusion.prepared_data import PreparedData, prepare_data
from stabsearch.diffusion.sampler_check import measure_sampler
from stabsearch.diffusion.samplers import ddim
from stabsearch.records import (
    Evaluation,
    ReferenceLoss,
    Report,
    SamplerCheck,
    Severity,
    Symptom,
    TrialFacts,
    Verdict,
)
from stabsearch.spec import StudySpec, TrainerSpec
from stabsearch.stability.judges import make_judge
from stabsearch.stability.reached import Reached
from stabsearch.stability.replay import verdicts_of
from stabsearch.training.memory import keep_freed_memory
from stabsearch.training.trainer import Trainer, load_schedule

REPOSITORY = Path(__file__).parents[2]
CACHE = REPOSITORY / "results" / "faults"
CASES = {case.name: case for case in (*HEALTHY, *FAULTS)}
SEEDS = (0, 1, 2)
MAX_ROUNDS = 5
NEAR = 1.25
"""A cured run must come this near to a healthy one's score. It is the slack that the rules
themselves give a trial beside its peers (``PEER_SLACK``)."""
TRUE_OF_ALL = frozenset({Symptom.NOISY_TIMESTEPS_AMPLIFIED})
"""Warnings that are true of healthy runs too: every epsilon model has this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One training to its end, not judged yet."""

    facts: TrialFacts
    reports: tuple[Report, ...]

    def score(self, step: int | None = None) -> float:
        """Of the last evaluation, or of the last one until ``step``; infinite without any."""
        scores = [
            r.evaluation.score_ema
            for r in self.reports
            if r.evaluation and (step is None or r.step <= step)
        ]
        return scores[-1] if scores else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training, judged."""

    training: Training
    verdicts: tuple[Verdict, ...]
    heard: tuple[Verdict, ...]
    """Those up to the report with the first prune: there a gate ends the trial."""

    @property
    def score(self) -> float:
        return self.training.score()

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
    """The last run, after all that was done."""
    score_ratio: float | None = None
    """Its score over that of the healthy run of its kind, after the same steps; None without."""
    is_cured: bool = False

    def wrong_words(self) -> tuple[Verdict, ...]:
        """What was said of the run, or would steer its reader, and is not so."""
        case = CASES[self.name]
        right = case.symptoms | case.also | TRUE_OF_ALL
        return tuple(v for v in self.run.heard if v.symptom not in right)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What the healthy trials of a seed have told, by kind of trial."""

    reached: Mapping[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    """``TrialFacts.reached``: the second bar of the rules, as a study would know it."""
    healthy: Mapping[tuple[str, str], tuple[TrainerSpec, Training]] = field(default_factory=dict)
    """By kind and optimizer."""

    def like(self, spec: TrainerSpec) -> tuple[TrainerSpec, Training] | None:
        return self.healthy.get((kind_of(spec), spec.optimizer))


def spec_of(case: Case) -> TrainerSpec:
    return TrainerSpec.model_validate({**BASE, **case.spec})


def kind_of(spec: TrainerSpec) -> str:
    study = StudySpec.model_validate(
        {"name": "faults", "space": {"learning_rate": {"uniform": [0.1, 0.2]}}, "trainer": spec}
    )
    return study.peer_kind({})


def healthy_study(trainings: Mapping[str, Training]) -> Study:
    """From the healthy cases' trainings under one seed, by name."""
    reached: dict[str, Reached] = {}
    healthy: dict[tuple[str, str], tuple[TrainerSpec, Training]] = {}
    for name, training in trainings.items():
        spec = spec_of(CASES[name])
        kind = kind_of(spec)
        reached.setdefault(kind, Reached()).add(training.facts, training.reports)
        healthy.setdefault((kind, spec.optimizer), (spec, training))
    return Study(reached={kind: r.curve() for kind, r in reached.items()}, healthy=healthy)


def train(case: Case, seed: int) -> Training:
    """To the end of the budget, whatever is said on the way; a NaN ends it all the same.

    What has been trained before, by the same code, is read from disk: then a changed rule costs
    no training, and neither do many cures, which lead to the same run.
    """
    spec = spec_of(case)
    injected = f"{case.name}: {case.words}" if case.inject is not None else ""
    key = json.dumps([injected, seed, spec.model_dump_json(), code_of_training()])
    path = CACHE / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.pickle"
    if path.exists():
        training: Training = pickle.loads(path.read_bytes())
    else:
        training = train_anew(case, spec, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        # another process may train the same: whole files only
        scratch = path.with_suffix(f".{os.getpid()}")
        scratch.write_bytes(pickle.dumps(training))
        scratch.replace(path)
    check = sampler_check(case, spec, digits())
    return replace(training, facts=replace(training.facts, sampler_check=check))


def train_anew(case: Case, spec: TrainerSpec, seed: int) -> Training:
    trainer = Trainer(spec, seed, digits())
    if case.inject is not None:
        case.inject(trainer)
    facts = replace(trainer.facts, schedule_error=trainer._objective.schedule_error)
    reports = []
    while not trainer.is_finished:
        reports.append(trainer.train_window())
        if reports[-1].nonfinite_steps:
            break
    return Training(facts=facts, reports=tuple(reports))


@functools.cache
def code_of_training() -> str:
    """Changes with whatever a training's reports depend on, or are made of."""
    package = Path(stabsearch.__file__).parent
    files = [Path(__file__).with_name("injections.py")]
    for folder in ("training", "diffusion"):
        files += sorted((package / folder).rglob("*.py"))
    text = b"".join(f.read_bytes() for f in files if not f.name.startswith("sampler"))
    names = [
        f.name for kind in (Report, Evaluation, TrialFacts, ReferenceLoss) for f in fields(kind)
    ]
    return hashlib.sha256(text).hexdigest() + torch.__version__ + " ".join(names)


def judge(training: Training, study: Study, spec: TrainerSpec) -> Run:
    facts = replace(training.facts, reached=study.reached.get(kind_of(spec), ()))
    judge = make_judge({}, facts)
    judged = [judge.judge(report) for report in training.reports]
    prunes = [any(v.severity is Severity.PRUNE for v in item.verdicts) for item in judged]
    end = prunes.index(True) + 1 if any(prunes) else len(judged)
    return Run(
        training=Training(facts=facts, reports=tuple(item.report for item in judged)),
        verdicts=verdicts_of(judged),
        heard=verdicts_of(judged[:end]),
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


def follow_advice(case: Case, run: Run, seed: int, study: Study) -> Outcome:
    """Do what the verdicts advise, train, and again, until nothing is wrong."""
    patient, last, path = case, run, []
    done: set[str] = set()
    for _ in range(MAX_ROUNDS):
        found = next_step(patient, last, study, done)
        if found is None:
            break
        verdict, treatment = found
        done.add(treatment.words)
        path.append(f"{verdict.symptom}: {treatment.words}")
        patient = treatment.case
        last = judge(train(patient, seed), study, spec_of(patient))
        if not complaints(patient, last, study):
            break
    ratio = score_ratio(patient, last, study) if path else None
    return Outcome(
        name=case.name,
        seed=seed,
        run=run,
        path=tuple(path),
        cured=last if path else None,
        score_ratio=ratio,
        is_cured=bool(path) and not complaints(patient, last, study) and is_near(ratio),
    )


def next_step(
    case: Case, run: Run, study: Study, done: Collection[str]
) -> tuple[Verdict, Treatment] | None:
    """The first verdict whose advice says what to do; what was done before comes last."""
    spec = spec_of(case)
    like = study.like(spec)
    found = []
    for verdict in complaints(case, run, study):
        patient = Patient(
            case=case,
            spec=spec,
            verdict=verdict,
            healthy_rate=like[0].learning_rate if like else None,
        )
        if treatment := CURES[verdict.symptom](patient):
            found.append((verdict, treatment))
    return min(found, key=lambda step: step[1].words in done, default=None)


def complaints(case: Case, run: Run, study: Study) -> list[Verdict]:
    """What is still wrong: the fault's own symptoms, then whatever is penalised; and all else
    that is said of a run whose score is not a healthy one's. A reader hears it until a prune."""
    said = [v for v in run.heard if v.symptom not in TRUE_OF_ALL]
    own = [v for v in said if v.symptom in case.symptoms]
    penalised = [v for v in said if v.severity >= Severity.PENALISE]
    rest = [] if is_near(score_ratio(case, run, study)) else said
    return list(dict.fromkeys([*own, *penalised, *rest]))


def score_ratio(case: Case, run: Run, study: Study) -> float | None:
    """The run's score over that of the healthy run of its kind, after as many steps."""
    like = study.like(spec_of(case))
    if like is None:
        return None
    return run.score / like[1].score(run.training.reports[-1].step)


def is_near(ratio: float | None) -> bool:
    return ratio is None or ratio <= NEAR


def run_case(arguments: tuple[str, int, Study]) -> Outcome:
    """For a pool of processes. What the study knows is of the case's own seed."""
    name, seed, study = arguments
    case = CASES[name]
    run = judge(train(case, seed), study, spec_of(case))
    if not case.symptoms:
        return Outcome(name=name, seed=seed, run=run)
    return follow_advice(case, run, seed, study)


def train_healthy(arguments: tuple[str, int]) -> Training:
    name, seed = arguments
    return train(CASES[name], seed)
