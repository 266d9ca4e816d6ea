"""Scores in, the section of docs/benchmarks.md out."""

from __future__ import annotations

import math
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.document import machine, table, write_section
from benchmarks.truth.generate import PROCESSES
from benchmarks.truth.grids import GRIDS, Grid, Split
from benchmarks.truth.labels import Label
from benchmarks.truth.replay import JUDGES, OURS, load, replay
from benchmarks.truth.score import (
    GAUGE_SHARES,
    SHARES,
    Case,
    Score,
    cases_of,
    gauge_score,
    is_pruned,
    missed,
    rules_said,
    score,
)
from stabsearch.records import Severity

Cases = dict[str, list[Case]]
"""By judge."""
LISTED = 12
"""Trials named at most in a list of the wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the document that is written by itself."""

    name: str
    title: str
    command: str
    introduction: str
    splits: tuple[Split, ...]


SECTIONS = (
    Section(
        name="truth",
        title="Verdicts against trials whose end is known",
        command="make truth",
        introduction="Every trial of these grids was trained to its end and labelled by its raw "
        "losses (`benchmarks/truth/labels.py`): *OK* ends within u/2 of the best of its seed, "
        "with raw or averaged weights; *unstable* ends dead or had a catastrophic excursion; "
        "*timid* is below the best learning rate and not OK; *degraded* is the rest. "
        "*Knowable*: unstable, and its own curve shows it by 10% of the budget. Then its "
        "reports were judged again. Thresholds are chosen by the tuning grids only (`python "
        "-m benchmarks.truth --tune`); the hold-out grids have another optimizer, other "
        "networks, and a width that no tuning grid of their schedule has. `adamw_short` was "
        "added when the first scores of `dit` and `unet` showed that calls come late in short "
        "trainings, so in that respect those two are no longer unseen. The grids of other "
        "data came last. `patches_sgd` was one of them until it showed that L_iso is no bar "
        "for data whose numbers go together; `colour_sgd` took its place. In `adamw_constant` "
        "and `v_layernorm` a clip of 1 and none often make the same trial; the hold-out grids "
        "have no such twins.",
        splits=(Split.TUNING, Split.HOLD_OUT, Split.OTHER_DATA),
    ),
    Section(
        name="truth_unseen",
        title="Verdicts against trials whose end is known: unseen grids",
        command="python -m benchmarks.truth --splits unseen",
        introduction="Grids that were written when the rules and the search were as they are, and "
        "measured once: images, a path, an optimizer and a weighting that no other grid has. The "
        "words are those of the section above.",
        splits=(Split.UNSEEN,),
    ),
)


def main(splits: Sequence[Split] = tuple(Split)) -> None:
    """Write the sections whose splits are all asked for, if there is anything of them."""
    for section in SECTIONS:
        grids = [grid for grid in GRIDS if grid.split in section.splits]
        if set(section.splits) <= set(splits) and (by_grid := replay_all(grids)):
            text = [f"`{section.command}`; {machine()}.", section.introduction]
            text += body(grids, by_grid)
            write_section(section.name, section.title, "\n\n".join(text))


def replay_all(grids: Sequence[Grid]) -> dict[str, Cases]:
    """Every judge on every grid that has a complete seed."""
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        found = dict(zip((g.name for g in grids), pool.map(judged, grids, 1), strict=True))
    return {name: cases for name, cases in found.items() if cases[OURS]}


def judged(grid: Grid) -> Cases:
    trials = load(grid)
    if not trials:
        return {OURS: []}
    return {
        name: cases_of(grid.name, trials, replay(trials, settings))
        for name, settings in JUDGES.items()
    }


def body(grids: Sequence[Grid], by_grid: Mapping[str, Cases]) -> Iterable[str]:
    pools = pooled(by_grid)
    if missing := [f"`{grid.name}`" for grid in grids if grid.name not in by_grid]:
        yield f"Without {', '.join(missing)}: no seed of it was trained to its end this time."
    yield labels_table(by_grid)
    yield "**The rules.** " + (
        "Called: pruned, or penalised for a divergence. Knowable: called by 10% of the budget, of "
        "those knowable by then. OK pruned: with the exact one-sided 95% upper bound. Targets, "
        "on the hold-out grids: at least 90% of the knowable ones called, at most 0.5% of the OK "
        "ones pruned (upper bound at most 1.5%), at most 20% of its budget for an unstable one."
    )
    yield score_table({**{f"`{name}`": c[OURS] for name, c in by_grid.items()}, **ours(pools)})
    for split in Split:
        if split in pools:
            yield (
                f"**Side by side, {split} grids.** `median` and `asha` compare the held-out "
                "scores of trials that run one after the other."
                if split is Split.TUNING
                else f"**Side by side, {split} grids.**"
            )
            yield score_table(
                {judge: pools[split].get(judge, []) for judge in JUDGES}, first="judge"
            )
    yield "**What our rules said of OK trials**, in how many of them:"
    yield said_of_ok(by_grid)
    yield from wrong(pools)
    yield (
        "**The learning-rate gauge** (`lr_gauge_octaves`), read at 10% and 20% of the budget, of "
        "trials that are not unstable. AUC: that a learning rate above twice (below half) the "
        "best one of its clip reads higher (lower) than the others; beside it what the training "
        "loss "
        "would have given. Error: mean distance from log2(lr / best), in octaves; the best one by "
        "the raw, or by the averaged weights at the end."
    )
    yield gauge_table(by_grid)


def pooled(by_grid: Mapping[str, Cases]) -> dict[Split, Cases]:
    """All cases of the grids of a split, by judge."""
    pools: dict[Split, Cases] = {}
    for grid in GRIDS:
        for judge, cases in by_grid.get(grid.name, {}).items():
            pools.setdefault(grid.split, {}).setdefault(judge, []).extend(cases)
    return pools


def ours(pools: Mapping[Split, Cases]) -> dict[str, list[Case]]:
    return {f"**{split}**": cases[OURS] for split, cases in pools.items()}


def labels_table(by_grid: Mapping[str, Cases]) -> str:
    rows = []
    for grid in GRIDS:
        if grid.name in by_grid:
            cases = by_grid[grid.name][OURS]
            rows.append([f"`{grid.name}`", str(grid.split), grid.task, *counts(cases)])
    for split, cases in ours(pooled(by_grid)).items():
        rows.append([split, "", "", *counts(cases)])
    return table(
        ["grid", "for", "task", "trials", *(str(label) for label in Label), "knowable"], rows
    )


def counts(cases: Sequence[Case]) -> list[str]:
    labels = Counter(case.label for case in cases)
    knowable = sum(case.is_knowable for case in cases)
    return [str(n) for n in (len(cases), *(labels[label] for label in Label), knowable)]


def score_table(groups: Mapping[str, Sequence[Case]], first: str = "grid") -> str:
    header = [
        first,
        *(f"called by {share * 100:g}%" for share in SHARES),
        "knowable",
        "OK pruned",
        "at most",
        "OK penalised or pruned",
        "timid pruned",
        "degraded pruned",
        "budget of an unstable one",
        "of an OK one",
    ]
    return table(header, [[name, *score_cells(score(cases))] for name, cases in groups.items()])


def score_cells(found: Score) -> list[str]:
    return [
        *(percent(found.recall[share].value) for share in SHARES),
        f"{percent(found.knowable_recall.value)} ({found.knowable_recall})",
        str(found.false_prunes),
        f"{found.false_prunes.upper:.1%}",
        str(found.false_penalties),
        str(found.pruned_timid),
        str(found.pruned_degraded),
        percent(found.unstable_budget),
        percent(found.ok_budget),
    ]


def percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0%}"


def said_of_ok(by_grid: Mapping[str, Cases]) -> str:
    """Rules by severity and symptom, and the grids in which they spoke."""
    said: dict[tuple[str, str], dict[str, int]] = {}
    numbers = {}
    for name, cases in by_grid.items():
        ok = [case for case in cases[OURS] if case.label is Label.OK]
        numbers[name] = len(ok)
        for severity in (Severity.PRUNE, Severity.PENALISE, Severity.WARN):
            for what, number in rules_said(ok, severity).items():
                said.setdefault((severity.name.lower(), what), {})[name] = number
    worst_first = sorted(said, key=lambda key: (-Severity[key[0].upper()], key[1]))
    return table(
        ["severity", "rule", *(f"`{name}` ({number})" for name, number in numbers.items())],
        [[*key, *(str(said[key].get(name, 0)) for name in by_grid)] for key in worst_first],
    )


def wrong(pools: Mapping[Split, Cases]) -> Iterable[str]:
    """The trials behind the misses."""
    for split, cases in pools.items():
        pruned = [c for c in cases[OURS] if c.label is Label.OK and is_pruned(c)]
        yield f"OK and pruned, {split}: {named(pruned, first_call)}."
        yield f"Knowable and not called by 10%, {split}: {named(missed(cases[OURS]), known)}."


def first_call(case: Case) -> str:
    said = next(s for s in case.replayed.said if s.verdict.severity is Severity.PRUNE)
    return f"{said.verdict.rule} at {case.share(said.step):.0%}"


def known(case: Case) -> str:
    called = case.replayed.called_step
    return f"knowable at {case.share(case.trial.truth.knowable_step):.1%}, " + (
        "never called" if called is None else f"called at {case.share(called):.0%}"
    )


def named(cases: Sequence[Case], why: Callable[[Case], str]) -> str:
    if not cases:
        return "none"
    more = f"; and {len(cases) - LISTED} more" if len(cases) > LISTED else ""
    return "; ".join(f"{case.name}: {why(case)}" for case in cases[:LISTED]) + more


def gauge_table(by_grid: Mapping[str, Cases]) -> str:
    rows = []
    for name, cases in by_grid.items():
        for share in GAUGE_SHARES:
            found = gauge_score([c for c in cases[OURS] if c.label is not Label.UNSTABLE], share)
            numbers = (
                found.spearman, found.auc_high, found.loss_auc_high, found.auc_low,
                found.error, found.error_near, found.error_ema,
            )  # fmt: skip
            rows.append(
                [
                    f"`{name}`",
                    f"{share:.0%}",
                    str(found.read),
                    *("-" if math.isnan(x) else f"{x:.2f}" for x in numbers),
                ]
            )
    return table(
        [
            "grid",
            "at",
            "read",
            "Spearman",
            "AUC too high",
            "loss in its place",
            "AUC too low",
            "error",
            "within 2 octaves",
            "error, averaged weights",
        ],
        rows,
    )
