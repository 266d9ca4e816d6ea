"""Outcomes and oracles in, the section of docs/benchmarks.md out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.answer.blackbox import Oracle, Setting
from benchmarks.answer.methods import METHODS, TRIALS
from benchmarks.answer.replay import Outcome, by_method, kept, known
from benchmarks.answer.virtual import WORKERS
from benchmarks.document import machine, table, write_section
from benchmarks.truth.grids import GRIDS, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One search, and the oracle of its grid."""

    outcome: Outcome
    oracle: Oracle


Cases = dict[str, list[Case]]
"""By method."""


def main(grids: Sequence[str], *, is_written: bool = True) -> None:
    by_grid = {grid: cases for grid in grids if (cases := cases_of(grid))}
    text = "\n\n".join(body(by_grid))
    if is_written:
        write_section("answer", "The answer, and what it costs", text)
    else:
        print(text)


def cases_of(grid: str) -> Cases:
    there = known(grid)
    if there is None:
        return {}
    oracle = there[1]
    return {
        method: [Case(outcome=outcome, oracle=oracle) for outcome in outcomes]
        for method, outcomes in by_method(kept(grid)).items()
    }


def body(by_grid: Mapping[str, Cases]) -> Iterable[str]:
    yield (
        f"`make answer`; {machine()}.\n\n"
        f"Every method searches the same space with at most {TRIALS} trials and {WORKERS} "
        "workers, by replay: a trial is the stored one of the nearest logged learning rate at "
        "its clip (`benchmarks/truth`), with one of the grid's seeds. Steps are in units of a "
        "trial that trains to its end. Regret: the mean score of the answered setting (over the "
        "grid's seeds, a dead trial counting as the best constant) above the best setting's; "
        "beside it the same of the held-out loss. Worst: the worst mean score within one octave "
        "of learning rate, above the lowest that any setting has. Fails: share of the grid's "
        "seeds that are labelled unstable, at the answer and at the setting nearest to twice its "
        "learning rate. Means over the repetitions, and their range."
    )
    yield table(["method", "settings"], [[name, entry.what] for name, entry in METHODS.items()])
    for split in Split:
        grids = [g.name for g in GRIDS if g.split is split and g.name in by_grid]
        if grids:
            yield f"**All {split} grids** ({', '.join(f'`{grid}`' for grid in grids)})."
            yield cases_table(pooled([by_grid[grid] for grid in grids]))
    for grid in GRIDS:
        if grid.name in by_grid:
            blackbox, oracle = known(grid.name) or (None, None)
            assert blackbox is not None
            assert oracle is not None
            yield (
                f"**`{grid.name}`**: {grid.task}; for {grid.split}; {len(blackbox.seeds)} of "
                f"{grid.seeds} seeds, best score {oracle.best_score:.3f}, lowest possible worst "
                f"score {oracle.best_worst:.3f}."
            )
            yield cases_table(by_grid[grid.name])


def pooled(groups: Iterable[Cases]) -> Cases:
    """All cases by method."""
    pool: Cases = {}
    for cases in groups:
        for method, them in cases.items():
            pool.setdefault(method, []).extend(them)
    return pool


def cases_table(cases: Cases) -> str:
    ours = [method for method in cases if METHODS[method].is_ours]
    reference = mean_steps(cases[ours[-1]]) if ours else math.nan
    header = [
        "method", "searches", "steps", "of ours", "time", "regret", "of the loss", "worst",
        "fails", "fails at 2x", "no answer",
    ]  # fmt: skip
    return table(header, [[name, *cells(them, reference)] for name, them in cases.items()])


def cells(cases: Sequence[Case], reference: float) -> list[str]:
    answered = [
        (case.oracle, case.outcome.answer) for case in cases if case.outcome.answer is not None
    ]

    def values(of: Callable[[Oracle, Setting], float]) -> list[float]:
        return [of(oracle, answer) for oracle, answer in answered]

    steps = [case.outcome.full_trials for case in cases]
    return [
        str(len(cases)),
        f"{mean_steps(cases):.1f} ({min(steps):.1f}-{max(steps):.1f})",
        f"{mean_steps(cases) / reference:.1f}x",
        f"{statistics.fmean(case.outcome.wall for case in cases):.1f}",
        spread(values(Oracle.regret)),
        spread(values(Oracle.loss_regret)),
        spread(values(Oracle.worst_regret)),
        percent(values(lambda oracle, answer: oracle.failures[answer])),
        percent(values(lambda oracle, answer: oracle.failures[oracle.doubled(answer)])),
        str(len(cases) - len(answered)),
    ]


def mean_steps(cases: Sequence[Case]) -> float:
    return statistics.fmean(case.outcome.full_trials for case in cases)


def spread(values: Sequence[float]) -> str:
    """Mean and largest, in percent."""
    return f"{statistics.fmean(values):.1%} (to {max(values):.0%})" if values else "-"


def percent(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.1%}" if values else "-"
