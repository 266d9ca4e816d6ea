"""A study of which the truth is known, written through the real store.

The edge: log2 lr50 = log2(EDGE) + TILT * c, c = log2(min(clip, CEILING) / CEILING).
The score: lowest BEST octaves below the edge, rising to both sides; unstable beyond the edge.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stabsearch.records import (
    Evaluation,
    Look,
    Outcome,
    Params,
    Purpose,
    ReferenceLoss,
    Report,
    SamplerCheck,
    Severity,
    StoppedBy,
    Symptom,
    TrialFacts,
    TrialRecord,
    Verdict,
)
from stabsearch.results.store import StudyStore

EDGE = 0.03
TILT = 0.25
CEILING = 2.0
SLOPE = 8.0
BEST = 1.0
CONSTANT_SCORE = 6.0
UNIT = 0.1
STEPS = 2000
SPACE = {
    "learning_rate": {"log_uniform": [1e-4, 3e-1]},
    "max_grad_norm": {"log_uniform": [0.01, 100.0]},
}
NUM_BINS = 4

COSINES = tuple(tuple(1.0 if i == j else 1 / 3 for j in range(NUM_BINS)) for i in range(NUM_BINS))

FACTS = TrialFacts(
    max_train_steps=STEPS,
    lr_warmup_steps=100,
    report_every=100,
    clipping="global_norm",
    max_grad_norm=1.0,
    batch_numbers=4096,
    skips_nonfinite=False,
    bin_edges=(0, 250, 500, 750, 1000),
    bin_share=(1 / NUM_BINS,) * NUM_BINS,
    reference=ReferenceLoss(
        bin_constant=(1.0,) * NUM_BINS,
        bin_zero=(1.0,) * NUM_BINS,
        bin_isotropic=(0.9, 0.3, 0.1, 0.01),
        bin_linear=(0.6, 0.2, 0.08, 0.009),
        bin_posterior=None,
        constant_score=CONSTANT_SCORE,
    ),
    learning_rate=1e-3,
    lr_schedule="constant",
    optimizer="adamw",
    prediction_type="epsilon",
    ema_schedule="ramped",
    ema_decay=0.9999,
    ema_sigma_rel=0.1,
    eval_rows=100,
    terminal_kl=1e-5,
    schedule_error=1e-7,
    reached=((500, 0.5), (1000, 0.3)),
    sampler_check=SamplerCheck(name="ddim", mean_z2=0.9, log_variance=-0.01),
)


def edge(clip: float | None = None) -> float:
    """The learning rate at which half of the trials fail."""
    effective = min(clip or math.inf, CEILING)
    return EDGE * 2 ** (TILT * math.log2(effective / CEILING))


def score(learning_rate: float, clip: float | None = None) -> float:
    """Score of a stable trial, without noise."""
    octaves = math.log2(learning_rate / edge(clip)) + BEST
    return min(0.9 * math.exp(0.03 * octaves**2), CONSTANT_SCORE)


def record(
    setting: int = 0,
    seed: int = 0,
    *,
    learning_rate: float = 1e-3,
    max_grad_norm: float | None = 1.0,
    outcome: Outcome = Outcome.COMPLETED,
    **changes: object,
) -> TrialRecord:
    """A stable, finished trial, or whatever ``changes`` make of it."""
    plain: dict[str, object] = {
        "trial_id": f"{setting:04d}-{seed}",
        "setting": setting,
        "seed": seed,
        "params": {"learning_rate": learning_rate, "max_grad_norm": max_grad_norm},
        "outcome": outcome,
        "stopped_by": StoppedBy.NOBODY,
        "severity": Severity.NONE,
        "rule": "",
        "symptom": "",
        "reason": "",
        "advice": "",
        "verdict_step": None,
        "timestep_low": None,
        "timestep_high": None,
        "steps": STEPS,
        "max_train_steps": STEPS,
        "score": 1.0,
        "score_raw": 1.1,
        "eval_loss": 0.1,
        "kappa": 0.9,
        "lr_gauge_octaves": 0.5,
        "constant_score": CONSTANT_SCORE,
        "clip_rate": 0.1,
        "grad_norm_median": CEILING / 4,
        "nonfinite_steps": 0,
        "remarks": "",
        "attempts": 1,
        "train_seconds": 5.0,
        "started_at": 1.7e9 + 10 * setting,
        "ended_at": 1.7e9 + 10 * setting + 5,
        "clip_coef_mean": 0.99,
        "constant_loss": 1.0,
        "loss_unit": UNIT,
        "grad_norm_late": CEILING / 4,
    }
    return TrialRecord(**(plain | changes))  # type: ignore[arg-type]


SHORT: dict[str, object] = {
    "outcome": Outcome.STOPPED,
    "stopped_by": StoppedBy.PROBE,
    "purpose": Purpose.PROBE,
    "steps": STEPS // 10,
}
"""Changes that make a record one of a short trial, within the edge."""


def look(score: float | None, step: int = STEPS // 10) -> Look:
    """What a trial had shown by the end of a short one."""
    return Look(
        step=step, score=score, lr_gauge_octaves=None, grad_norm_median=1.0, grad_norm_late=1.0
    )


def diverged(setting: int = 0, seed: int = 0, **changes: object) -> TrialRecord:
    """A trial that the gate stopped at a fifth of its budget."""
    symptom = changes.pop("symptom", Symptom.LOST_PROGRESS)
    return record(
        setting,
        seed,
        **{
            "outcome": Outcome.DIVERGED,
            "stopped_by": StoppedBy.GATE,
            "severity": Severity.PRUNE,
            "rule": "R1c",
            "symptom": str(symptom),
            "reason": "The loss rose back to 0.97, above half of the way to 1.00.",
            "advice": "Lower the learning rate.",
            "verdict_step": STEPS // 5,
            "timestep_low": 750,
            "timestep_high": 999,
            "steps": STEPS // 5,
            "score": None,
            "grad_norm_median": 0.01,
        }
        | changes,
    )


def trial(setting: int, seed: int, params: Params, rng: np.random.Generator) -> TrialRecord:
    """What becomes of a setting in this landscape."""
    learning_rate, clip = params["learning_rate"], params.get("max_grad_norm")
    octaves_beyond = math.log2(learning_rate / edge(clip))
    if rng.random() < 1 / (1 + math.exp(-SLOPE * octaves_beyond)):
        symptom = (
            Symptom.LOST_PROGRESS
            if octaves_beyond < 1
            else Symptom.WORSE_THAN_TRIVIAL
            if octaves_beyond < 2.5
            else Symptom.NON_FINITE
        )
        return diverged(setting, seed, params=params, symptom=symptom)
    noisy = score(learning_rate, clip) * math.exp(0.01 * rng.standard_normal())
    if learning_rate < 2e-4:
        return record(
            setting,
            seed,
            params=params,
            severity=Severity.PENALISE,
            rule="R2",
            symptom=str(Symptom.NOT_LEARNING),
            reason="After the whole budget the loss is that of the best constant prediction.",
            score=CONSTANT_SCORE,
        )
    if setting % 9 == 5:  # ahead of it were others
        return record(
            setting,
            seed,
            params=params,
            outcome=Outcome.STOPPED,
            stopped_by=StoppedBy.RANK,
            steps=STEPS // 4,
            score=1.5 * noisy,
        )
    return record(setting, seed, params=params, score=noisy)


def draw(trials: int = 32, seeds: int = 1, seed: int = 0) -> list[TrialRecord]:
    """Trials at random settings of SPACE."""
    rng = np.random.default_rng(seed)
    records = []
    for setting in range(trials):
        params = {
            name: float(np.exp(rng.uniform(*np.log(domain["log_uniform"]))))
            for name, domain in SPACE.items()
        }
        records += [trial(setting, replicate, params, rng) for replicate in range(seeds)]
    return records


def probe(setting: int, learning_rate: float, max_grad_norm: float | None) -> TrialRecord:
    """A short trial: stopped at a tenth of the budget, or unstable by then."""
    steps = STEPS // 10
    changes: dict[str, Any] = {"purpose": Purpose.PROBE, "steps": steps}
    params = {"learning_rate": learning_rate, "max_grad_norm": max_grad_norm}
    if learning_rate > edge(max_grad_norm):
        return diverged(setting, params=params, verdict_step=steps, **changes)
    return record(
        setting,
        params=params,
        outcome=Outcome.STOPPED,
        stopped_by=StoppedBy.PROBE,
        reason="On the safe side of the edge: the probe has answered.",
        score=3.0,
        **changes,
    )


def boundary(clips: Iterable[float] = (0.1, 1.0), num_full: int = 3) -> list[TrialRecord]:
    """A search for the edge: bisection by short trials at each clip, then a few full ones."""
    records: list[TrialRecord] = []
    low, high = (math.log2(rate) for rate in SPACE["learning_rate"]["log_uniform"])
    for clip in clips:
        below, above = low, high
        for _ in range(4):
            middle = (below + above) / 2
            records.append(probe(len(records), 2.0**middle, clip))
            below, above = (below, middle) if records[-1].is_unstable else (middle, above)
    for n in range(num_full):
        rate = edge(clip) / 2 ** (1 + n)
        full = record(
            len(records), learning_rate=rate, max_grad_norm=clip, score=score(rate, clip)
        )
        records.append(full)
    return records


def never_learning_above(
    records: Iterable[TrialRecord], *, gated: bool, octaves: float = 1.0
) -> list[TrialRecord]:
    """The same, but far above the edge networks are dead from their first step.

    Such a trial is labelled as one that is too timid; without the gate it trains to the end.
    """
    changed = []
    for item in records:
        beyond = math.log2(item.params["learning_rate"] / edge(item.params["max_grad_norm"]))
        if item.is_unstable and beyond > octaves:
            changes = {"symptom": str(Symptom.NOT_LEARNING), "outcome": Outcome.STOPPED}
            if not gated:
                changes |= {
                    "outcome": Outcome.COMPLETED,
                    "stopped_by": StoppedBy.NOBODY,
                    "steps": STEPS,
                    "score": CONSTANT_SCORE,
                }
            item = replace(item, **changes)
        changed.append(item)
    return changed


def reports_of(trial: TrialRecord) -> tuple[Report, ...]:
    """Plausible reports, one with every kind of value that JSON and Parquet may spoil."""
    reports = []
    for step in range(100, trial.steps + 1, 100):
        loss = 0.3 + 0.7 * math.exp(-step / 300)
        is_bad = trial.symptom == Symptom.NON_FINITE and step == trial.steps
        evaluation = None
        if step % 400 == 0:
            value = math.inf if is_bad else loss / 3
            evaluation = Evaluation(
                bin_loss_raw=(value,) * NUM_BINS,
                bin_loss_ema=(value * 0.9,) * NUM_BINS,
                score_raw=math.nan if is_bad else 1 + loss,
                score_ema=math.nan if is_bad else 0.9 + loss,
                bin_x0_error=(0.1, math.inf if is_bad else 0.2, math.nan if is_bad else 0.3, 30.0),
                shuffled_loss=None if step == 400 else loss / 2,
            )
        reports.append(
            Report(
                step=step,
                learning_rate=trial.params["learning_rate"] * min(1.0, step / 100),
                loss=loss,
                bin_loss=(math.nan if is_bad else loss / 3, loss / 7, loss / 11, loss / 13),
                bin_count=(1600, 1599, 1601, 1600),
                bin_nonfinite=(3 if is_bad else 0, 0, 0, 0),
                max_batch_loss=1e300 if is_bad else 2 * loss,
                grad_norm_median=0.1 + 0.2,
                grad_norm_max=math.inf if is_bad else 1 / 3,
                clip_rate=0.01,
                clip_coef_mean=0.99,
                clip_coef_cv=0.001,
                outlier_norm_rate=0.04,
                clamped_fraction=0.0,
                bin_grad_norm=(
                    math.nan if is_bad else 5.1,
                    1 / 3,
                    0.9,
                    math.inf if is_bad else 1.0,
                ),
                bin_grad_count=(0 if is_bad else 16, 16, 17, 15),
                bin_grad_cosine=COSINES if step == 400 and not is_bad else None,
                nonfinite_steps=7 if is_bad else 0,
                scaler_skips=2,
                first_nonfinite_step=step - 6 if is_bad else None,
                first_nonfinite_bins=(0, 3) if is_bad else (),
                train_seconds=step / 400,
                evaluation=evaluation,
                batch_losses=(loss, math.nan, math.inf) if is_bad else (loss, loss / 2),
                grad_norms=(0.1, math.inf, math.nan) if is_bad else (0.1, 1 / 3),
                frozen_parameters=("head.weight", "0.weight") if step == 800 else (),
                lr_gauge_octaves=0.5 if evaluation else None,
            )
        )
    return tuple(reports)


def verdicts_of(trial: TrialRecord) -> tuple[Verdict, ...]:
    if not trial.rule:
        return ()
    return (
        Verdict(
            rule=trial.rule,
            symptom=Symptom(trial.symptom),
            severity=trial.severity,
            value=math.inf if trial.symptom == Symptom.NON_FINITE else 0.97,
            threshold=0.65,
            limit="R1c.midpoint",
            step=trial.verdict_step or trial.steps,
            timestep_bin=None if trial.timestep_low is None else NUM_BINS - 1,
            timestep_low=trial.timestep_low,
            timestep_high=trial.timestep_high,
            reason=trial.reason,
            advice=trial.advice,
        ),
    )


def write(
    path: Path,
    records: Iterable[TrialRecord],
    space: dict[str, object] | None = None,
    *,
    with_tables: bool = False,
    **study_fields: Any,
) -> Path:
    """The study's folder, as a run would leave it."""
    store = StudyStore(path)
    trainer = {"clipping": "global_norm", **(study_fields.pop("trainer", None) or {})}
    study = {
        "name": path.name,
        "space": SPACE if space is None else space,
        "trainer": trainer,
        **study_fields,
    }
    store.create(study, fingerprint="synthetic")
    records = list(records)
    if with_tables:
        for item in records:
            store.end_trial(item, FACTS, reports_of(item), verdicts_of(item))
    store.write_trials(records)
    return path
