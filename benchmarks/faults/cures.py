"""The advice of each symptom, followed by a machine: what a reader of the verdict would do.

A machine cannot read. What stands for reading is plain: the number or the word in the advice that
says which way and how far; what the study's healthy trials tell, where the advice asks for other
trials; and, where something in the code is broken, whether the advice speaks of it
(``Case.mistake``). Without that, no advice helped, and nothing is mended.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.faults.cases import Case
from stabsearch.records import Symptom, Verdict
from stabsearch.spec import TrainerSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """A run with a verdict, and what its reader knows."""

    case: Case
    spec: TrainerSpec
    verdict: Verdict
    healthy_rate: float | None = None
    """Learning rate of a healthy trial of the same kind, where the study has one."""

    @property
    def advice(self) -> str:
        return self.verdict.advice

    def change(self, **spec: Any) -> Case:
        return replace(self.case, spec=self.case.spec | spec)


@dataclass(frozen=True, slots=True)
class Treatment:
    """What was done, and the case after it."""

    words: str
    case: Case


Cure = Callable[[Patient], Treatment | None]
"""None: the advice does not say what to do here."""


# --- what advice may ask for --------------------------------------------------------------------


def repair(patient: Patient) -> Treatment | None:
    """Take the mistake out, if the advice speaks of it."""
    case = patient.case
    if not any(word in patient.advice for word in case.mistake):
        return None
    healed = replace(case, inject=None, sampler="right" if case.sampler else "", mistake=())
    return Treatment("the mistake that the advice speaks of is taken out", healed)


def lower_rate_and_clip(patient: Patient) -> Treatment:
    rate = patient.spec.learning_rate / 4
    clipping = {"clipping": "global_norm", "max_grad_norm": 1.0}
    return Treatment(
        "a quarter of the learning rate, max_grad_norm 1",
        patient.change(learning_rate=rate, **clipping),
    )


def scale_rate(patient: Patient, factor: float) -> Treatment:
    rate = patient.spec.learning_rate * factor
    return Treatment(
        f"learning rate times {factor:.2g}"
        if factor > 1
        else f"learning rate divided by {1 / factor:.2g}",
        patient.change(learning_rate=rate),
    )


def train_longer(patient: Patient) -> Treatment:
    spec = patient.spec
    return Treatment(
        "4 times the steps",
        patient.change(
            max_train_steps=4 * spec.max_train_steps,
            report_every=2 * spec.report_every,
            eval_every=4 * spec.eval_every,
        ),
    )


# --- the cures ----------------------------------------------------------------------------------


def repair_or_lower(patient: Patient) -> Treatment | None:
    """Advice that says to look for something is followed first."""
    if treatment := repair(patient):
        return treatment
    asks_for_less = re.search(r"[Ll]ower (the learning rate|its peak)", patient.advice)
    return lower_rate_and_clip(patient) if asks_for_less else None


def by_its_number(patient: Patient) -> Treatment | None:
    """Direction and factor are words of the advice; without them it asks for more steps."""
    found = re.match(r"(Raise|Lower) the learning rate (?:about )?([\d.]+) times", patient.advice)
    if found is None:
        return train_longer(patient)
    factor = float(found[2])
    return scale_rate(patient, factor if found[1] == "Raise" else 1 / factor)


def as_others_learn(patient: Patient) -> Treatment | None:
    """Towards a learning rate at which the same model learns; if none does, look at the code."""
    if patient.healthy_rate is None:
        return repair(patient)
    if patient.healthy_rate > patient.spec.learning_rate:
        return scale_rate(patient, 8)
    return scale_rate(patient, 1 / 4)


def embed_time(patient: Patient) -> Treatment | None:
    model = patient.spec.model.model_dump(exclude_none=True)
    if model.get("time_embedding") != "none":
        return repair(patient)
    model = {k: v for k, v in patient.case.spec["model"].items() if k != "time_embedding"}
    return Treatment(
        "the network is told the time, by scale and shift",
        patient.change(model=model | {"conditioning": "film"}),
    )


def even_weights(patient: Patient) -> Treatment | None:
    if patient.case.inject is not None:
        return repair(patient)
    return Treatment("loss_weighting none", patient.change(loss_weighting="none"))


def predict_v(patient: Patient) -> Treatment:
    return Treatment("v-prediction", patient.change(prediction_type="v_prediction"))


def zero_terminal_snr(patient: Patient) -> Treatment:
    schedule = patient.spec.noise_schedule.model_dump() | {"rescale_betas_zero_snr": True}
    return Treatment(
        "zero terminal SNR with v-prediction",
        patient.change(prediction_type="v_prediction", noise_schedule=schedule),
    )


def ramped_average(patient: Patient) -> Treatment:
    return Treatment("ema_schedule ramped", patient.change(ema_schedule="ramped"))


S = Symptom
CURES: Mapping[Symptom, Cure] = {
    S.NON_FINITE: repair_or_lower,
    S.LOST_PROGRESS: repair_or_lower,
    S.WORSE_THAN_TRIVIAL: repair_or_lower,
    S.CATASTROPHIC_EXCURSION: repair_or_lower,
    S.NOT_LEARNING: as_others_learn,
    S.LOSS_STUCK: by_its_number,
    S.LEARNING_RATE_LOW: by_its_number,
    S.LEARNING_RATE_HIGH: by_its_number,
    S.CLEAN_TIMESTEPS_HIGH: predict_v,
    S.NOISY_TIMESTEPS_HIGH: repair,
    S.NOISY_TIMESTEPS_AMPLIFIED: predict_v,
    S.TIME_BLIND: embed_time,
    S.EARLY_TIMESTEP_DOMINATION: even_weights,
    S.LATE_TIMESTEP_DOMINATION: even_weights,
    S.TIMESTEP_DOMINATION: even_weights,
    S.DEAD_TIMESTEPS: repair,
    S.GRADIENT_OUTLIERS: repair,
    S.EMA_TOO_LONG: ramped_average,
    S.SAMPLER_MISMATCH: repair,
    S.UNDERTRAINED: train_longer,
    S.MEMORISING: repair,
    S.TERMINAL_SIGNAL: zero_terminal_snr,
    S.IMPRECISE_SCHEDULE: repair,
    S.FROZEN_PARAMETERS: repair,
}
