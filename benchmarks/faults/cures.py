"""The advice of each symptom, followed by a machine: what a reader of the verdict would do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.faults.cases import Case
from stabsearch.records import Symptom, Verdict
from stabsearch.spec import TrainerSpec


@dataclass(frozen=True, slots=True)
class Cure:
    """What to do about a symptom."""

    words: str
    apply: Callable[[Case, TrainerSpec, Verdict], Case]


def change(case: Case, **spec: Any) -> Case:
    return replace(case, spec=case.spec | spec)


def lower_rate_and_clip(case: Case, spec: TrainerSpec, verdict: Verdict) -> Case:
    del verdict
    return change(
        case,
        learning_rate=spec.learning_rate / 4,
        clipping="global_norm",
        max_grad_norm=1.0,
    )


def lower_rate(case: Case, spec: TrainerSpec, verdict: Verdict) -> Case:
    factor = 2 ** min(3.0, abs(verdict.value)) if verdict.rule == "R3" else 4
    return change(case, learning_rate=spec.learning_rate / factor)


def raise_rate(case: Case, spec: TrainerSpec, verdict: Verdict) -> Case:
    factor = 2 ** min(3.0, abs(verdict.value)) if verdict.rule == "R3" else 8
    return change(case, learning_rate=spec.learning_rate * factor)


def by_its_words(case: Case, spec: TrainerSpec, verdict: Verdict) -> Case:
    """The advice names a direction where kappa knows one."""
    first = verdict.advice.split()[0]
    cure = {"Raise": raise_rate, "Lower": lower_rate}.get(first, train_longer)
    return cure(case, spec, verdict)


def train_longer(case: Case, spec: TrainerSpec, verdict: Verdict) -> Case:
    del verdict
    return change(
        case,
        max_train_steps=4 * spec.max_train_steps,
        report_every=2 * spec.report_every,
        eval_every=4 * spec.eval_every,
    )


def repair(case: Case, spec: TrainerSpec, verdict: Verdict) -> Case:
    """The mistake is where the advice says that one should look."""
    del spec, verdict
    return replace(case, inject=None, sampler="right" if case.sampler else "")


def embed_time(case: Case, spec: TrainerSpec, verdict: Verdict) -> Case:
    repaired = repair(case, spec, verdict)
    model = {k: v for k, v in case.spec.get("model", {}).items() if k != "time_embedding"}
    return change(repaired, **({"model": model} if model else {}))


def even_weights(case: Case, spec: TrainerSpec, verdict: Verdict) -> Case:
    return change(repair(case, spec, verdict), loss_weighting="none")


def predict_v(case: Case, spec: TrainerSpec, verdict: Verdict) -> Case:
    del spec, verdict
    return change(case, prediction_type="v_prediction")


def zero_terminal_snr(case: Case, spec: TrainerSpec, verdict: Verdict) -> Case:
    del verdict
    schedule = spec.noise_schedule.model_dump() | {"rescale_betas_zero_snr": True}
    return change(case, prediction_type="v_prediction", noise_schedule=schedule)


def ramped_average(case: Case, spec: TrainerSpec, verdict: Verdict) -> Case:
    del spec, verdict
    return change(case, ema_schedule="ramped")


S = Symptom
LOWER = Cure("a quarter of the learning rate, max_grad_norm 1", lower_rate_and_clip)
REPAIR = Cure("the place that the advice names is looked at, and the mistake taken out", repair)
CURES: Mapping[Symptom, Cure] = {
    S.NON_FINITE: LOWER,
    S.LOST_PROGRESS: LOWER,
    S.WORSE_THAN_TRIVIAL: LOWER,
    S.CATASTROPHIC_EXCURSION: LOWER,
    S.NOT_LEARNING: Cure("8 times the learning rate", raise_rate),
    S.LOSS_STUCK: Cure("what its advice says: another learning rate, or more steps", by_its_words),
    S.LEARNING_RATE_LOW: Cure("the learning rate raised as far as the gauge says", raise_rate),
    S.LEARNING_RATE_HIGH: Cure("the learning rate lowered as far as the gauge says", lower_rate),
    S.CLEAN_TIMESTEPS_HIGH: Cure("v-prediction", predict_v),
    S.NOISY_TIMESTEPS_HIGH: REPAIR,
    S.NOISY_TIMESTEPS_AMPLIFIED: Cure("v-prediction", predict_v),
    S.TIME_BLIND: Cure("timesteps reach the network as they were drawn", embed_time),
    S.EARLY_TIMESTEP_DOMINATION: Cure("loss_weighting none", even_weights),
    S.LATE_TIMESTEP_DOMINATION: Cure("loss_weighting none", even_weights),
    S.TIMESTEP_DOMINATION: Cure("loss_weighting none", even_weights),
    S.DEAD_TIMESTEPS: REPAIR,
    S.GRADIENT_OUTLIERS: REPAIR,
    S.EMA_TOO_LONG: Cure("ema_schedule ramped", ramped_average),
    S.SAMPLER_MISMATCH: REPAIR,
    S.UNDERTRAINED: Cure("4 times the steps", train_longer),
    S.MEMORISING: Cure("all of the data", repair),
    S.TERMINAL_SIGNAL: Cure("zero terminal SNR with v-prediction", zero_terminal_snr),
    S.IMPRECISE_SCHEDULE: REPAIR,
    S.FROZEN_PARAMETERS: REPAIR,
}
AFTER_THE_SAME = {
    S.NON_FINITE: REPAIR,
    S.CATASTROPHIC_EXCURSION: REPAIR,
    S.LOST_PROGRESS: REPAIR,
    S.WORSE_THAN_TRIVIAL: REPAIR,
}
"""What is tried when the same symptom is back after its cure, where something is broken: a mistake
that a lower learning rate does not mend. Otherwise the same is done once more."""
