"""Numbers to choose thresholds by: tuning grids only, and printed only.

A hold-out grid is never loaded here.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Sequence

import numpy as np

from benchmarks.document import table
from benchmarks.truth.generate import PROCESSES
from benchmarks.truth.grids import GRIDS, Grid, Split
from benchmarks.truth.labels import Label
from benchmarks.truth.replay import OURS, StoredTrial, load, replay
from benchmarks.truth.score import Case, cases_of, score
from stabsearch.records import Evaluation, Severity
from stabsearch.thresholds import DEFAULTS

KAPPA_SHARES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
FACTORS = (0.5, 0.7, 1.0, 1.4, 2.0)
NEAR = 1.5
FAR = 4.0
TUNING = tuple(grid for grid in GRIDS if grid.split is Split.TUNING)


def main(prefixes: Sequence[str]) -> None:
    """The gauge, and the thresholds whose names begin with a prefix (all of them: ``R``)."""
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        loaded = pool.map(load, TUNING, 1)
    trials = {grid.name: found for grid, found in zip(TUNING, loaded, strict=True) if found}
    print(gauge_table(trials))
    names = [name for name in DEFAULTS if name.startswith(tuple(prefixes))]
    if names:
        print(threshold_table(names))


# --- the gauge --------------------------------------------------------------------------------


def gauge_table(trials: dict[str, list[StoredTrial]]) -> str:
    """kappa, and the difference of losses in units of u, against octaves from the best learning
    rate; of trials that are not unstable."""
    rows = []
    for name, found in trials.items():
        for share in KAPPA_SHARES:
            points = readings(found, share)
            x_raw, x_ema, kappa, units = points.T
            for what, by, x, y in (
                ("kappa", "raw", x_raw, kappa),
                ("kappa", "EMA", x_ema, kappa),
                ("units", "raw", x_raw, units),
                ("units", "EMA", x_ema, units),
            ):
                numbers = (
                    crossing(x, y),
                    slope(x, y, -FAR, 0),
                    slope(x, y, 0, FAR),
                    *(typical(x, y, octave) for octave in range(-4, 5)),
                )
                head = [name, f"{share:.0%}", what, by, str(len(points))]
                rows.append([*head, *map(number, numbers)])
    header = ["grid", "at", "gauge", "best by", "n", "at best", "slope below", "slope above"]
    return table([*header, *(f"{octave:+d}" for octave in range(-4, 5))], rows)


def readings(trials: Sequence[StoredTrial], share: float) -> np.ndarray:
    """``[n, 4]``: octaves by raw and by EMA, kappa, (EMA loss - raw loss) / u."""
    rows = []
    for trial in trials:
        evaluation = evaluation_at(trial, share)
        if trial.label is Label.UNSTABLE or evaluation is None:
            continue
        units = (evaluation.loss_ema - evaluation.loss_raw) / trial.facts.reference.unit
        if math.isfinite(units):
            rows.append((trial.octaves, trial.octaves_ema, evaluation.kappa, units))
    return np.array(rows).reshape(-1, 4)


def evaluation_at(trial: StoredTrial, share: float) -> Evaluation | None:
    step = share * trial.facts.max_train_steps
    return next((r.evaluation for r in trial.reports if r.evaluation and r.step >= step), None)


def crossing(x: np.ndarray, y: np.ndarray) -> float:
    """``y`` at the best learning rate, on the line through the trials near it."""
    near = np.abs(x) <= NEAR
    if near.sum() < 3 or np.ptp(x[near]) == 0:
        return math.nan
    return float(np.polyval(np.polyfit(x[near], y[near], 1), 0.0))


def slope(x: np.ndarray, y: np.ndarray, low: float, high: float) -> float:
    """Change of y per octave between two distances from the best."""
    inside = (x >= low) & (x <= high)
    if inside.sum() < 3 or np.ptp(x[inside]) == 0:
        return math.nan
    return float(np.polyfit(x[inside], y[inside], 1)[0])


def typical(x: np.ndarray, y: np.ndarray, octave: float) -> float:
    near = np.abs(x - octave) <= 0.5
    return float(np.median(y[near])) if near.any() else math.nan


def number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


# --- thresholds -------------------------------------------------------------------------------


def threshold_table(names: Sequence[str]) -> str:
    """Every threshold at other values, the rest as they are."""
    changes = [
        (name, DEFAULTS[name] * factor) for name in names for factor in FACTORS if DEFAULTS[name]
    ]
    with multiprocessing.get_context("spawn").Pool(PROCESSES, _load_all) as pool:
        rows = pool.map(threshold_row, changes, 1)
    return table(
        [
            "threshold",
            "value",
            "OK pruned",
            "OK penalised or pruned",
            "knowable called",
            "called in the end",
            "budget of an unstable one",
            "timid pruned",
            "degraded pruned",
            "OK with a verdict of the rule",
            "others with one",
        ],
        rows,
    )


_LOADED: dict[str, list[StoredTrial]] = {}


def _load_all() -> None:
    _LOADED.update({grid.name: load(grid) for grid in TUNING})


def threshold_row(change: tuple[str, float]) -> list[str]:
    name, value = change
    cases = [case for grid in TUNING for case in judged(grid, {name: value})]
    found = score(cases)
    rule = name.split(".")[0]
    spoken = [case for case in cases if speaks(case, rule)]
    spoken_ok = sum(case.label is Label.OK for case in spoken)
    is_default = value == DEFAULTS[name]
    return [
        name,
        f"**{value:.3g}**" if is_default else f"{value:.3g}",
        str(found.false_prunes),
        str(found.false_penalties),
        str(found.knowable_recall),
        str(found.recall[1.0]),
        f"{found.unstable_budget:.1%}",
        str(found.pruned_timid),
        str(found.pruned_degraded),
        str(spoken_ok),
        str(len(spoken) - spoken_ok),
    ]


def judged(grid: Grid, thresholds: dict[str, float]) -> list[Case]:
    trials = _LOADED[grid.name]
    settings = {"name": OURS, "thresholds": thresholds}
    return cases_of(grid.name, trials, replay(trials, settings))


def speaks(case: Case, rule: str) -> bool:
    return any(
        said.verdict.rule.startswith(rule) and said.verdict.severity > Severity.NONE
        for said in case.replayed.said
    )
