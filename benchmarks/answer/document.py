"""Outcomes and oracles in, the section of docs/benchmarks.md out."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.answer import edges, end_to_end
from benchmarks.answer.blackbox import Oracle, Setting
from benchmarks.answer.fresh import (
    LONGER,
    MOST_NEAR_BEST,
    NEAR_BEST,
    REGRET_SEEDS,
    ROUNDS,
    SEEDS,
    Fresh,
    Kind,
    Regret,
    contenders,
    failure_rate,
    near_best,
    regret,
    safest,
    trainings,
)
from benchmarks.answer.methods import METHODS, OURS, TRIALS
from benchmarks.answer.replay import Outcome, by_method, kept, known
from benchmarks.answer.virtual import WORKERS
from benchmarks.document import machine, table, write_section
from benchmarks.truth.grids import GRIDS, Split, grid_named


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One search, and the oracle of its grid."""

    grid: str
    outcome: Outcome
    oracle: Oracle

    def failure_rate(self, kind: Kind, *, as_given: bool = False) -> float | None:
        """Share of the fresh trainings of its answer that failed; None of none."""
        answer = self.answer(as_given=as_given)
        return None if answer is None else failure_rate(fresh_trainings(self.grid, answer, kind))

    def fresh_regret(self, *, as_given: bool = False) -> Regret | None:
        """Of its answer, on the fresh seeds; None where too few of those are trained."""
        answer = self.answer(as_given=as_given)
        return None if answer is None else fresh_regret(self.grid, answer)

    def answer(self, *, as_given: bool) -> Setting | None:
        """The setting of the grid that was answered, or what the search gave."""
        return self.outcome.given if as_given else self.outcome.answer


fresh_trainings, fresh_regret = functools.cache(trainings), functools.cache(regret)

STEPS_TARGET, WORST_TARGET, REGRET_TARGET = 1 / 3, 0.05, 0.02

TITLE = "The answer, and what it costs"

Cases = dict[str, list[Case]]
"""By method."""


def main(grids: Sequence[str], *, is_written: bool = True) -> None:
    """A section on what is compared, one for searches for real, and one for every split: each is
    written if there is anything of it."""
    by_grid = {grid: cases for grid in grids if (cases := cases_of(grid))}
    for name, title, paragraphs in sections(by_grid):
        text = "\n\n".join(paragraphs)
        if is_written:
            write_section(name, title, text)
        else:
            print(f"## {title}\n\n{text}\n")


def sections(by_grid: Mapping[str, Cases]) -> Iterator[tuple[str, str, Iterable[str]]]:
    """Name, title and paragraphs."""
    yield "answer", TITLE, introduction()
    if runs := end_to_end.kept():
        yield "answer_for_real", f"{TITLE}: for real", end_to_end.section(runs)
    for split in Split:
        there = {g.name: by_grid[g.name] for g in GRIDS if g.split is split and g.name in by_grid}
        if there:
            name = f"answer_{split.name.lower()}"
            yield name, f"{TITLE}: {split} grids", of_split(split, there)
    rows = [row for grid, cases in by_grid.items() if (row := regret_row(grid, cases))]
    if rows:
        yield "answer_regret", f"{TITLE}: regret by grid", regret_by_grid(rows)


def cases_of(grid: str) -> Cases:
    there = known(grid)
    if there is None:
        return {}
    oracle = there[1]
    return {
        method: [Case(grid=grid, outcome=outcome, oracle=oracle) for outcome in outcomes]
        for method, outcomes in by_method(kept(grid)).items()
    }


def introduction() -> Iterator[str]:
    yield (
        f"`make answer`; {machine()}.\n\n"
        f"Every method searches the same space with at most {TRIALS} trials and {WORKERS} "
        "workers, by replay: a trial is the stored one of the nearest logged learning rate at "
        "its clip (`benchmarks/truth`), with one of the grid's seeds: as in a study, the same for "
        "every setting of a search. Repetitions take turns at the seeds; what else differs "
        "between them is the method's own randomness, of which `boundary` has little. Steps are "
        "in units of a trial that trains to its end. Regret: the mean score of the answered "
        "setting (over the grid's seeds, a dead trial counting as the best constant) above the "
        "best setting's; beside it the same of the held-out loss. Worst: the worst mean score "
        "within one octave "
        "of learning rate, above the lowest of all settings that have an octave of the grid on "
        "both sides; where no rate is logged an octave away, the score there is interpolated. "
        "Fails: share of the grid's seeds that are labelled unstable, at the answer and at the "
        "setting nearest to twice its learning rate. Means over the repetitions, and their "
        "range."
    )
    yield (
        "No constant was chosen by a hold-out grid or one of other data. But they are not unseen: "
        "how small budgets are searched, the choice of the clip, and that short trials go on were "
        "changed after these had been measured, because of what the answers had missed there; and "
        "of variants that were equal on the tuning grids the one that was better on these was "
        "kept. The unseen grids came after all of it."
    )
    yield (
        "Fresh: every answered setting (as the grid has it) was trained again under "
        f"{SEEDS} to {REGRET_SEEDS} seeds that no search has seen, {SEEDS} at twice its learning "
        f"rate, and as many or fewer for {LONGER} times as many steps with the schedule "
        "stretched; failed is what the grid's labels call unstable. Rates as given: those of "
        f"`{OURS}` were trained again at the rate that the search gave, too, because the grid's "
        "nearest one is up to a quarter of an octave off, and on `v_layernorm` half of one. "
        "Searches: those whose answer "
        "was measured so. Regret: the answer's mean score on those seeds above the best one's, "
        f"which is one of the settings within {NEAR_BEST:.0%} of the grid's best "
        f"({MOST_NEAR_BEST} at most) or the answer itself. At most: above their lowest mean, "
        "which is lower than that setting's expectation by the luck of its seeds. At least: above "
        "the setting that all seeds but one choose, on that one. The grid's own seeds, of which "
        "it has two to six, flatter its best setting more (docs/decisions.md)."
    )
    yield table(["method", "settings"], [[name, entry.what] for name, entry in METHODS.items()])
    yield from edges.known_exactly()


def of_split(split: Split, by_grid: Mapping[str, Cases]) -> Iterator[str]:
    names = ", ".join(f"`{grid}`" for grid in by_grid)
    yield f"{machine()}. All of {names}:"
    pool = pooled(by_grid.values())
    yield cases_table(pool)
    yield from fresh_table(pool)
    yield from targets(split, pool)
    yield from edges.against_grids([*by_grid])
    for name, cases in by_grid.items():
        grid, (blackbox, oracle) = grid_named(name), known(name) or (None, None)
        assert blackbox is not None
        assert oracle is not None
        yield (
            f"**`{name}`**: {grid.task}; {len(blackbox.seeds)} of {grid.seeds} seeds, best score "
            f"{oracle.best_score:.3f}, lowest possible worst score {oracle.best_worst:.3f}."
        )
        yield cases_table(cases)
        yield from fresh_table(cases)


def regret_by_grid(rows: list[list[str]]) -> Iterator[str]:
    """What the pooled regret is made of."""
    rounds = " and ".join(f"by {n} fresh seeds at most {within:.0%}" for n, within in ROUNDS)
    yield (
        f"{machine()}. Of `{OURS}`, where its answers were trained under fresh seeds; the bounds "
        "are explained in the first of these sections. May be best: settings whose score, by the "
        f"grid's own seeds, is at most {NEAR_BEST:.0%} above its best; still: of those the ones "
        f"{rounds} above the lowest mean, which all got "
        "the number of seeds that is given. Of the safest: the regret of the setting with the "
        "lowest worst score around it, by the grid's own seeds, which is what the search looks "
        "for: what it would have if it knew all."
    )
    header = [
        "grid", "for", "may be best", "still", "fresh seeds", "searches", "at least", "at most",
        "by the grid's own seeds", "of the safest",
    ]  # fmt: skip
    yield table(header, rows)


def regret_row(grid: str, cases: Cases) -> list[str] | None:
    """None where nothing is known."""
    mine = cases.get(OURS, [])
    regrets = fresh_regrets(mine)
    if not regrets:
        return None
    low, high = mean_regret(regrets)
    own = [case.oracle.regret(case.outcome.answer) for case in mine if case.outcome.answer]
    left = contenders(grid)
    seeds = min(len(fresh_trainings(grid, setting, Kind.SAME)) for setting in left)
    of_safest = fresh_regret(grid, safest(grid))
    return [
        f"`{grid}`",
        str(grid_named(grid).split),
        str(len(near_best(grid))),
        str(len(left)),
        str(seeds),
        f"{len(regrets)} of {len(mine)}",
        f"{low:.1%}",
        f"{high:.1%}",
        f"{statistics.fmean(own):.1%}",
        f"{of_safest.at_least:.1%} to {of_safest.at_most:.1%}" if of_safest else "-",
    ]


def pooled(groups: Iterable[Cases]) -> Cases:
    """All cases by method."""
    pool: Cases = {}
    for cases in groups:
        for method, them in cases.items():
            pool.setdefault(method, []).extend(them)
    return pool


def cases_table(cases: Cases) -> str:
    reference = mean_steps(cases[OURS]) if OURS in cases else math.nan
    header = [
        "method", "searches", "steps", "of ours", "time", "regret", "of the loss", "worst",
        "fails", "fails at 2x", "no answer",
    ]  # fmt: skip
    return table(header, [[name, *cells(them, reference)] for name, them in cases.items()])


def fresh_table(cases: Cases) -> Iterator[str]:
    """Nothing where no answer has been trained again."""
    rows = []
    for name, them in cases.items():
        if measured(them, Kind.SAME):
            by_kind = {kind: trained_again(them, kind) for kind in Kind}
            rates = (measured(them, kind) for kind in Kind)
            regrets = fresh_regrets(them)
            rows.append(
                [
                    name,
                    f"{len(measured(them, Kind.SAME))} of {len(them)}",
                    str(len(by_kind[Kind.SAME])),
                    str(sum(len(t) for settings in by_kind.values() for t in settings.values())),
                    *(f"{statistics.fmean(r):.1%}" if r else "-" for r in rates),
                    between(regrets) if regrets else "-",
                ]
            )
    if rows:
        header = ["method", "searches", "settings", "trainings", "fresh: fails", "at 2x"]
        yield table([*header, f"{LONGER}x longer", "regret, at least to at most"], rows)


def trained_again(
    cases: Sequence[Case], kind: Kind, *, as_given: bool = False
) -> dict[tuple[str, Setting], list[Fresh]]:
    """The fresh trainings of the answers, by grid and setting; those without any are left out."""
    answers = {(case.grid, case.answer(as_given=as_given)) for case in cases}
    return {
        (grid, answer): found
        for grid, answer in answers
        if answer is not None and (found := fresh_trainings(grid, answer, kind))
    }


def measured(cases: Sequence[Case], kind: Kind, *, as_given: bool = False) -> list[float]:
    """Failure rates of the answers that were trained again, one per search."""
    rates = (case.failure_rate(kind, as_given=as_given) for case in cases)
    return [rate for rate in rates if rate is not None]


def fresh_regrets(cases: Sequence[Case], *, as_given: bool = False) -> list[Regret]:
    """One per search where it is known."""
    regrets = (case.fresh_regret(as_given=as_given) for case in cases)
    return [regret for regret in regrets if regret is not None]


def between(regrets: Sequence[Regret]) -> str:
    """Means of both bounds, and of how many searches; answers of which a seed died apart."""
    alive = [regret for regret in regrets if math.isfinite(regret.at_most)]
    died = len(regrets) - len(alive)
    text = f"{died} died" if died else ""
    if alive:
        low, high = mean_regret(alive)
        text = f"{low:.1%} to {high:.1%} of {len(alive)}" + (f"; {text}" if text else "")
    return text


def mean_regret(regrets: Sequence[Regret]) -> tuple[float, float]:
    """Of searches: at least, at most."""
    return (
        statistics.fmean(regret.at_least for regret in regrets),
        statistics.fmean(regret.at_most for regret in regrets),
    )


def targets(split: Split, cases: Cases) -> Iterator[str]:
    """What was aimed at, and what came out."""
    if OURS not in cases:
        return
    mine = [case for case in cases[OURS] if case.outcome.answer is not None]
    answered = [(case.oracle, case.outcome.answer) for case in mine if case.outcome.answer]
    worst = [oracle.worst_regret(answer) for oracle, answer in answered]
    own = [oracle.regret(answer) for oracle, answer in answered]
    loss = statistics.fmean(oracle.loss_regret(answer) for oracle, answer in answered)
    yield f"**Targets, {split} grids, `{OURS}`.**"
    yield table(
        ["target", "measured", "met"],
        [
            steps_target(cases),
            own_doubled_target(answered),
            doubled_target("the same, on fresh seeds", mine),
            doubled_target("the same, at the rates as given", mine, as_given=True),
            [
                "worst score within an octave at most 5% above the lowest possible",
                share_within(worst, WORST_TARGET),
                met(statistics.fmean(worst) <= WORST_TARGET),
            ],
            [
                "regret at most 2%, by the grid's own seeds",
                f"{share_within(own, REGRET_TARGET)}; {loss:.1%} of the held-out loss",
                met(statistics.fmean(own) <= REGRET_TARGET),
            ],
            fresh_regret_target("the same, on fresh seeds", mine),
            fresh_regret_target("the same, at the rates as given", mine, as_given=True),
        ],
    )


def share_within(values: Sequence[float], most: float) -> str:
    number = sum(value <= most for value in values)
    return f"{statistics.fmean(values):.1%} on average, at most {most:.0%} in {number} of " + (
        f"{len(values)} searches"
    )


def own_doubled_target(answered: Sequence[tuple[Oracle, Setting]]) -> list[str]:
    failed = sum(oracle.failures[oracle.doubled(answer)] > 0 for oracle, answer in answered)
    return [
        "no failure at twice the learning rate, by the grid's own seeds",
        f"{failed} of {len(answered)} searches have one",
        met(failed == 0),
    ]


def doubled_target(target: str, cases: Sequence[Case], *, as_given: bool = False) -> list[str]:
    rates = measured(cases, Kind.DOUBLED, as_given=as_given)
    if not rates:
        return [target, "no answer was trained again", "not measured"]
    by_setting = trained_again(cases, Kind.DOUBLED, as_given=as_given)
    trained = [training for them in by_setting.values() for training in them]
    failed = sum(rate > 0 for rate in rates)
    said = f"{failed} of {len(rates)} searches whose answer was trained again have one"
    failures = sum(training.failed for training in trained)
    dead = sum(training.ends_dead for training in trained)
    said += f" ({failures} of {len(trained)} trainings; {dead} end dead)"
    return [target, said, met(failed == 0)]


def fresh_regret_target(
    target: str, cases: Sequence[Case], *, as_given: bool = False
) -> list[str]:
    regrets = fresh_regrets(cases, as_given=as_given)
    if not regrets:
        return [target, "not known of any search", "not measured"]
    low, high = mean_regret(regrets)
    said = met(high <= REGRET_TARGET) if not low <= REGRET_TARGET < high else "**not known**"
    return [target, f"{low:.1%} to {high:.1%} on average, of {len(regrets)} searches", said]


def steps_target(cases: Cases) -> list[str]:
    """Against the cheapest peer whose answers fail no more often than ours."""
    target = "at most 1/3 of the steps of the cheapest peer with the same failure rate"
    mine = measured(cases[OURS], Kind.SAME)
    if not mine:
        return [target, "no answer was trained again", "not measured"]
    peers = {
        peer: mean_steps(them)
        for peer, them in cases.items()
        if not METHODS[peer].is_ours
        and (rates := measured(them, Kind.SAME))
        and statistics.fmean(rates) <= statistics.fmean(mine)
    }
    if not peers:
        return [target, "every peer's answers fail more often", met(True)]
    cheapest = min(peers, key=lambda peer: peers[peer])
    steps = mean_steps(cases[OURS])
    share = steps / peers[cheapest]
    return [
        target,
        f"{share:.2f} of those of {cheapest} ({steps:.1f} against {peers[cheapest]:.1f})",
        met(share <= STEPS_TARGET),
    ]


def met(is_met: bool) -> str:
    return "yes" if is_met else "**no**"


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
