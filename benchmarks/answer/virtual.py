"""Virtual workers: one search after another, in optimizer steps instead of seconds.

A worker trains one trial at a time, every step takes as long as every other, and a trial that is
stopped frees its worker at once. What a method decides, and when, is as it would be with real
workers that are equally fast; what its own thinking costs is left out.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from benchmarks.answer.blackbox import Blackbox, Course, SeedDraw, Setting
from benchmarks.truth.grids import Clip
from stabsearch.records import Report

WORKERS = 2
"""Trials at the same time: what the machine of the benchmarks has."""


class NoTrial(Enum):
    """In the place of a proposal."""

    WAIT = auto()
    """Not before something has happened to a running trial."""
    FINISHED = auto()
    """Never again."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Proposal:
    """A trial that a method wants to run. The same object comes back with its reports."""

    number: int
    """Of the setting, from 0."""
    learning_rate: float
    clip: Clip
    replicate: int = 0
    """Which trial of that setting."""
    first_step: int = 0
    """Where it begins: later than 0 if it is an earlier trial that goes on."""


class Method(Protocol):
    """A search. Its calls come in the order of virtual time."""

    def propose(self) -> Proposal | NoTrial:
        """A worker is free."""
        ...

    def begin(self, proposal: Proposal, course: Course) -> None:
        """The trial that was proposed starts. Of ``course`` it may know what lies behind it."""
        ...

    def report(self, proposal: Proposal, report: Report, *, is_last: bool) -> bool:
        """A running trial reports; whether it goes on. After its last report it cannot."""
        ...

    def answer(self) -> tuple[float, Clip] | None:
        """The (learning rate, clip) that the method returns when no trial runs any more; None if
        it has none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What one search came to."""

    answer: Setting | None
    """As the nearest setting of the grid."""
    proposed: tuple[float, Clip] | None
    """As the method said it."""
    steps: int
    """Optimizer steps of all trials."""
    wall_steps: int
    """Steps of virtual time until the last trial ended."""
    trials: int


def run_search(
    method: Method, blackbox: Blackbox, repetition: int, workers: int = WORKERS
) -> Search:
    """Let a method search a grid."""
    draw = SeedDraw(blackbox.seeds, repetition)
    due: list[tuple[int, int, int, Proposal, Course]] = []
    """Heap of (time, order of starting, index of the report, trial, its course)."""
    idle, now, steps, trials = workers, 0, 0, 0
    while True:
        while idle:
            proposed = method.propose()
            if isinstance(proposed, NoTrial):
                break
            setting = blackbox.snap(proposed.learning_rate, proposed.clip)
            course = blackbox.course(setting, draw.of(proposed.replicate))
            method.begin(proposed, course)
            done = proposed.first_step
            index = next(i for i, each in enumerate(course.reports) if each.step > done)
            at = now + course.reports[index].step - done
            heapq.heappush(due, (at, trials, index, proposed, course))
            idle -= 1
            trials += 1
        if not due:
            if proposed is NoTrial.WAIT:
                raise RuntimeError(f"{type(method).__name__} waits, and nothing is running")
            break
        now, place, index, proposal, course = heapq.heappop(due)
        report, is_last = course.reports[index], index + 1 == len(course.reports)
        if method.report(proposal, report, is_last=is_last) and not is_last:
            at = now - report.step + course.reports[index + 1].step
            heapq.heappush(due, (at, place, index + 1, proposal, course))
        else:
            steps += report.step - proposal.first_step
            idle += 1
    answer = method.answer()
    return Search(
        answer=None if answer is None else blackbox.snap(*answer),
        proposed=answer,
        steps=steps,
        wall_steps=now,
        trials=trials,
    )
