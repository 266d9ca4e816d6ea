"""How well a search knows the edge: against full grids, and where it is known exactly."""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from benchmarks.answer import linear
from benchmarks.answer.blackbox import Setting, setting_of
from benchmarks.answer.methods import METHODS
from benchmarks.answer.replay import Outcome, by_method, kept, known
from benchmarks.document import table
from benchmarks.truth.grids import grid_named
from benchmarks.truth.replay import load, replay_trial

LINEAR_TARGET, GRID_TARGET = 0.05, 0.5
MOMENTA = (0.0, 0.5, 0.9)


def against_grids(grids: list[str]) -> Iterator[str]:
    """The edge that searches find, against that of the whole grid."""
    yield (
        "**The edge.** The grid's: between the highest logged rate at which fewer than half of "
        "the trials, trained to their end, are called unstable by the rules, and the next one; "
        "its cost is one training of every rate at that clip, or of every setting of the grid. "
        "Octaves between it and the lr50 of "
        "a search: median and 90% quantile over the searches; beside it the median against the "
        "edge of the labels, which call a run that lost some progress and lived degraded, not "
        "unstable. Inside: searches whose 90% interval reaches the grid's edge, and that of the "
        "labels. Cost: of the whole search, its full trainings included. Target: "
        f"{GRID_TARGET} octave at a tenth of the cost."
    )
    header = [
        "grid", "method", "searches", "octaves off", "9 in 10 within", "by labels", "inside",
        "cost of that clip's rates", "of the whole grid",
    ]  # fmt: skip
    yield table(header, [row for grid in grids for row in grid_rows(grid)])


def known_exactly() -> Iterator[str]:
    """The edge of a trainer that is simple enough to compute it."""
    yield (
        "**An edge that is known exactly**: full-batch descent with momentum on a linear denoiser "
        "of the digits (`benchmarks/answer/linear.py`), lr_max = 2 (1 + beta) / lambda_max, 14.9 "
        "octaves to search. Found: between the highest rate that a short trial was within the "
        f"edge at and the lowest beyond it. Target: {LINEAR_TARGET} octave in 10 probes."
    )
    header = ["beta", "lr_max", "found", "octaves off", "probes", "met"]
    yield table(header, [linear_row(linear.find(momentum)) for momentum in MOMENTA])


def linear_row(found: linear.Found) -> list[str]:
    return [
        f"{found.momentum:g}",
        f"{found.lr_max:.4f}",
        f"{found.found:.4f}",
        f"{found.error_octaves:+.3f}",
        str(found.probes),
        "yes" if abs(found.error_octaves) <= LINEAR_TARGET else "**no**",
    ]


def grid_rows(name: str) -> Iterator[list[str]]:
    """One per method that says where the edge is."""
    there = known(name)
    if there is None:
        return
    blackbox, oracle = there
    verdicts = unstable_by_rules(name)
    for method, outcomes in by_method(kept(name)).items():
        if not METHODS[method].is_ours:
            continue
        compared = [
            (outcome, rules, labels)
            for outcome in outcomes
            if (rules := compare(outcome, verdicts))
            and (labels := compare(outcome, oracle.failures))
        ]
        if not compared:
            continue
        searches, by_rules, by_labels = zip(*compared, strict=True)
        off = sorted(each.octaves for each in by_rules)
        spent = statistics.fmean(outcome.full_trials for outcome in searches)
        on_clip = statistics.fmean(
            outcome.full_trials / blackbox.num_rates(outcome.answer.clip_index)
            for outcome in searches
        )
        yield [
            f"`{name}`",
            method,
            str(len(off)),
            f"{statistics.median(off):.2f}",
            f"{off[math.ceil(0.9 * len(off)) - 1]:.2f}",
            f"{statistics.median(each.octaves for each in by_labels):.2f}",
            ", ".join(str(sum(each.is_inside for each in them)) for them in (by_rules, by_labels)),
            f"{on_clip:.2f}",
            f"{spent / len(blackbox.settings()):.2f}",
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The edge that a search found, and the grid's."""

    octaves: float
    """Between them."""
    is_inside: bool
    """Whether the search's interval reaches the two rates that the grid's lies between."""


def compare(outcome: Outcome, unstable: Mapping[Setting, float]) -> Comparison | None:
    """None if the search, or the grid at that clip, has no edge."""
    if outcome.answer is None or outcome.edge is None or outcome.edge_interval is None:
        return None
    bracket = grid_bracket(unstable, outcome.answer.clip_index)
    if bracket is None:
        return None
    low, high = outcome.edge_interval
    return Comparison(
        octaves=abs(math.log2(outcome.edge / math.sqrt(math.prod(bracket)))),
        is_inside=low <= bracket[1] and bracket[0] <= high,
    )


@functools.cache
def unstable_by_rules(name: str) -> dict[Setting, float]:
    """Of every setting, the share of its logged trials that the rules call unstable by their end:
    what a study that trained the whole grid would go by."""
    grid = grid_named(name)
    called: dict[Setting, list[bool]] = {}
    for trial in load(grid):
        said = replay_trial(trial.facts, trial.reports, {"name": "rules"})
        called.setdefault(setting_of(grid, trial), []).append(said.called_step is not None)
    return {setting: statistics.fmean(them) for setting, them in called.items()}


def grid_bracket(unstable: Mapping[Setting, float], clip_index: int) -> tuple[float, float] | None:
    """The logged rates of a clip between which half of the trials become unstable; None if
    nowhere."""
    there = sorted(
        (s for s in unstable if s.clip_index == clip_index), key=lambda s: s.learning_rate
    )
    for below, above in itertools.pairwise(there):
        if unstable[below] < 0.5 <= unstable[above]:
            return below.learning_rate, above.learning_rate
    return None
