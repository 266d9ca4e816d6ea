"""Stored reports before a judge again: what it says, and when.

A judge never sees a label, and every trial is judged to its end, so that one replay tells both
what the gate would have stopped and what would have been said without it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.truth.grids import STORAGE, Grid
from benchmarks.truth.labels import Course, Label, Truth, course_of, label_grid, optima
from stabsearch.records import Report, Severity, TrialFacts, Verdict
from stabsearch.results.store import StudyStore
from stabsearch.stability.baselines import BASELINES
from stabsearch.stability.baselines.rank import RANK_RULES, rank_stops
from stabsearch.stability.reached import Reached
from stabsearch.stability.replay import Settings, judge_again

JUDGES: dict[str, Settings] = {
    "rules": {"name": "rules"},
    "rules, strict": {"name": "rules", "preset": "strict"},
    "rules, lenient": {"name": "rules", "preset": "lenient"},
    **{name: {"name": name} for name in BASELINES},
    **{name: {"name": name} for name in RANK_RULES},
}
"""Ours, and what they are measured against; the last ones compare trials."""
OURS = "rules"

ORDER_SEED = 0
"""Of the order in which a grid's trials are thought to have run."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredTrial:
    """A trial of a grid, with its label."""

    course: Course
    truth: Truth
    facts: TrialFacts
    reports: tuple[Report, ...]
    octaves: float
    """Of its learning rate above its clip's best by the raw weights' loss."""
    octaves_ema: float
    """The same by the averaged weights' loss."""

    @property
    def label(self) -> Label:
        return self.truth.label


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A verdict, and when the judge gave it."""

    step: int
    """Of the report that brought it; the symptom may be older."""
    verdict: Verdict

    @property
    def is_call(self) -> bool:
        """Whether it keeps the setting from being called stable, as a divergence does."""
        severity, symptom = self.verdict.severity, self.verdict.symptom
        return severity is Severity.PRUNE or (
            severity is Severity.PENALISE and symptom.is_divergence
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """All that a judge said of a trial, by step."""

    said: tuple[Said, ...]
    gauge: tuple[tuple[int, float], ...] = ()
    """(step, octaves above the best learning rate), where it was filled in."""
    rank_stop: int | None = None
    """When a rule of rank would have stopped it; those say nothing."""

    @property
    def called_step(self) -> int | None:
        """When it was first said to be unstable."""
        return next((said.step for said in self.said if said.is_call), self.rank_stop)

    @property
    def pruned_step(self) -> int | None:
        """When the gate would have stopped it."""
        prunes = (s.step for s in self.said if s.verdict.severity is Severity.PRUNE)
        return next(prunes, self.rank_stop)


def load(grid: Grid, storage: Path = STORAGE) -> list[StoredTrial]:
    """The trials of a grid's complete seeds: "the best of its seed" means nothing in a part."""
    store = StudyStore(grid.study(storage).path)
    courses: list[Course] = []
    stored: dict[str, tuple[TrialFacts, tuple[Report, ...]]] = {}
    if not store.path.exists():
        return []
    there = {record.trial_id for record in store.finished_records()}
    for seed in range(grid.seeds):
        jobs = list(grid.jobs(seed))
        if not all(job.trial_id in there for job in jobs):
            continue
        for job in jobs:
            facts = store.trial_facts(job.trial_id)
            reports = store.trial_reports(job.trial_id)
            stored[job.trial_id] = facts, reports
            rate, clip = job.params["learning_rate"], job.params["max_grad_norm"]
            assert isinstance(rate, float)
            assert clip is None or isinstance(clip, float)
            courses.append(course_of(job.trial_id, seed, rate, clip, facts, reports))
    return labelled(courses, stored)


def labelled(
    courses: Sequence[Course], stored: Mapping[str, tuple[TrialFacts, tuple[Report, ...]]]
) -> list[StoredTrial]:
    truths, best = label_grid(courses), optima(courses)
    return [
        StoredTrial(
            course=course,
            truth=truths[course.trial_id],
            facts=stored[course.trial_id][0],
            reports=stored[course.trial_id][1],
            octaves=math.log2(course.learning_rate / best[course.clip].raw),
            octaves_ema=math.log2(course.learning_rate / best[course.clip].ema),
        )
        for course in courses
    ]


def replay(trials: Sequence[StoredTrial], settings: Settings) -> dict[str, Replayed]:
    """What a judge says of every trial of a grid, by trial_id.

    The trials come in a seeded random order, as a searcher would propose them, and each is told
    what those before it reached, up to where the gate stopped them.
    """
    if settings["name"] in RANK_RULES:
        return replay_ranks(trials, settings["name"])
    reached = Reached()
    found = {}
    for trial in in_order(trials):
        facts = replace(trial.facts, reached=reached.curve())
        replayed = replay_trial(facts, trial.reports, settings)
        found[trial.course.trial_id] = replayed
        end = replayed.pruned_step or facts.max_train_steps
        reached.add(trial.facts, (report for report in trial.reports if report.step <= end))
    return found


def replay_ranks(trials: Sequence[StoredTrial], name: str) -> dict[str, Replayed]:
    """The same for a rule of rank: one trial after the other, by the score that a search has."""
    histories = {
        trial.course.trial_id: [
            (report.step, report.evaluation.score_ema)
            for report in trial.reports
            if report.evaluation is not None
        ]
        for trial in in_order(trials)
    }
    budget = trials[0].facts.max_train_steps if trials else 0
    stops = rank_stops(RANK_RULES[name](budget), histories)
    return {trial_id: Replayed(said=(), rank_stop=step) for trial_id, step in stops.items()}


def in_order(trials: Sequence[StoredTrial]) -> Iterator[StoredTrial]:
    """The trials as they are thought to have run, one after the other."""
    order = sorted(trials, key=lambda trial: trial.course.trial_id)
    random.Random(ORDER_SEED).shuffle(order)
    yield from order


def replay_trial(facts: TrialFacts, reports: Sequence[Report], settings: Settings) -> Replayed:
    """What a judge says of one trial."""
    said: list[Said] = []
    gauge: list[tuple[int, float]] = []
    for judged in judge_again(facts, reports, settings, gate=False):
        step = judged.report.step
        said.extend(Said(step=step, verdict=verdict) for verdict in judged.verdicts)
        if (octaves := judged.report.lr_gauge_octaves) is not None:
            gauge.append((step, octaves))
    return Replayed(said=tuple(said), gauge=tuple(gauge))
