"""What the answers are worth: each is trained again, under seeds that no search has seen.

Every setting that some search answered is trained with the grid's own trainer

    same      10 fresh seeds, later 30 more; of settings that may be best 4 before them
    doubled   10 fresh seeds at twice its learning rate
    longer    up to 10 fresh seeds for 4 times as many steps, the schedule stretched

and so are ours, for the first two, at the rate that the search itself gave: the grid's nearest is
a quarter of an octave off at most, or half of one where its rates are an octave apart. All are
labelled as the grid's own trials are (``benchmarks/truth/labels.py``), among the trials of the
grid's first seed: unstable is failed. The settings that were answered most often come first.
Before them the settings with the best scores of the grid (``same``): what an answer's score is
compared with; and the one with the best surroundings, which is what a search looks for. The grid's
few seeds both choose its best setting and score it, which flatters it; so would ten fresh ones, by
less (``Regret``). One file per training; what is there is not trained again.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import multiprocessing
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path

import numpy as np

from benchmarks.answer.blackbox import Setting
from benchmarks.answer.methods import OURS
from benchmarks.answer.replay import FOLDER, PROCESSES, Outcome, known
from benchmarks.truth.generate import begin, prepared
from benchmarks.truth.grids import STORAGE, grid_named
from benchmarks.truth.labels import Course, Label, course_of, label_grid
from benchmarks.truth.replay import load
from stabsearch.records import Report, TrialFacts
from stabsearch.results.store import StudyStore
from stabsearch.spec import TrainerSpec

FIRST_SEED = 1000
SEEDS = 10
REGRET_SEEDS = 40
"""Seeds of a setting differ by a tenth: a mean of ten is as uncertain as the regret is large."""
LONGER = 4
FEWEST_LONGER = 3
LONGER_SECONDS = 60.0
"""Time that the longer trainings of a setting may take on all processes; fewer seeds if they would
take more."""
FRESH_ID = "fresh"

NEAR_BEST, MOST_NEAR_BEST = 0.08, 14
"""Settings of a grid whose score is at most this share above the best one's may be the best; at
most so many of them are trained again."""
ROUNDS = ((4, 0.06), (SEEDS, 0.03))
"""(fresh seeds, share above the lowest mean by them): of those only the ones so near get further
seeds. Two settings' scores differ by 3 to 6% from seed to seed, so that one that is as good lies
three standard errors away."""


class Kind(StrEnum):
    SAME = "same"
    DOUBLED = "doubled"
    LONGER = "longer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One training."""

    grid: str
    setting: Setting
    kind: Kind
    seed: int

    def path(self, folder: Path) -> Path:
        setting = f"{self.setting.clip_index}_{self.setting.learning_rate:g}"
        return folder / "fresh" / self.grid / setting / f"{self.kind}_{self.seed}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fresh:
    """What became of it, as it is kept."""

    fingerprint: str
    """Of the grid."""
    failed: bool
    ends_dead: bool
    had_excursion: bool
    score: float
    """Of the averaged weights at the end; NaN and infinity as they were."""
    eval_loss: float
    steps: int
    train_seconds: float


def train_answers(
    outcomes: dict[str, list[Outcome]], minutes: float = math.inf, folder: Path = FOLDER
) -> None:
    """Train what is missing, until the time is up. May be killed and started again."""
    until = time.monotonic() + 60 * minutes
    _train(first_jobs(outcomes), until, folder)
    _train(given_jobs(outcomes), until, folder)
    for seeds in (SEEDS, REGRET_SEEDS):
        _train(later_jobs(outcomes, seeds, folder), until, folder)


def _train(jobs: Iterable[Job], until: float, folder: Path) -> None:
    todo = [job for job in dict.fromkeys(jobs) if read(job, folder) is None]
    if not todo:
        return
    started = time.monotonic()
    waiting, running, done = iter(todo), set[Future[None]](), 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context, initializer=begin) as pool:
        while True:
            is_time = time.monotonic() < until
            while is_time and len(running) < PROCESSES and (job := next(waiting, None)):
                running.add(pool.submit(train_and_keep, job, folder))
            if not running:
                break
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                future.result()
                done += 1
            left = (time.monotonic() - started) / done * (len(todo) - done)
            print(f"\r{done} of {len(todo)} trainings, {left / 60:.0f} min left    ", end="")
    print(flush=True)


def first_jobs(outcomes: dict[str, list[Outcome]]) -> Iterator[Job]:
    """The trainings: of the settings that may be best, then of the most frequent answers."""
    for grid in outcomes:
        for setting in near_best(grid):
            yield from _jobs(grid, setting, Kind.SAME, ROUNDS[0][0])
        yield from _jobs(grid, safest(grid), Kind.SAME)
    for grid, setting in answers_of(outcomes):
        for kind in Kind:
            yield from _jobs(grid, setting, kind)


def given_jobs(outcomes: dict[str, list[Outcome]]) -> Iterator[Job]:
    """Of our answers at the rates that the searches gave."""
    for grid, setting in given_of(outcomes):
        for kind in (Kind.SAME, Kind.DOUBLED):
            yield from _jobs(grid, setting, kind)


def later_jobs(
    outcomes: dict[str, list[Outcome]], seeds: int, folder: Path = FOLDER
) -> Iterator[Job]:
    """Up to so many seeds of what the regret compares; when the rounds before are trained."""
    compared = [
        (grid, setting)
        for grid in outcomes
        for setting in (*contenders(grid, folder), safest(grid))
    ]
    for grid, setting in (*compared, *answers_of(outcomes), *given_of(outcomes)):
        yield from _jobs(grid, setting, Kind.SAME, seeds)


def answers_of(outcomes: dict[str, list[Outcome]]) -> list[tuple[str, Setting]]:
    """Grids and answers, the most frequent first."""
    counts = Counter(
        (grid, outcome.answer)
        for grid, them in outcomes.items()
        for outcome in them
        if outcome.answer is not None
    )
    return [key for key, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def given_of(outcomes: dict[str, list[Outcome]]) -> list[tuple[str, Setting]]:
    """Grids and our answers, at the rates that the searches gave."""
    return list(
        dict.fromkeys(
            (grid, outcome.given)
            for grid, them in outcomes.items()
            for outcome in them
            if outcome.method == OURS and outcome.given is not None
        )
    )


def _jobs(grid: str, setting: Setting, kind: Kind, seeds: int | None = None) -> Iterator[Job]:
    for k in range(seeds or seeds_of(grid, kind)):
        yield Job(grid=grid, setting=setting, kind=kind, seed=FIRST_SEED + k)


@functools.cache
def near_best(grid: str) -> list[Setting]:
    """The settings that may be the grid's best, the best by its own seeds first."""
    there = known(grid)
    assert there is not None
    regret = there[1].regret
    found = sorted(there[1].score, key=regret)[:MOST_NEAR_BEST]
    return [setting for setting in found if regret(setting) <= NEAR_BEST]


def safest(grid: str) -> Setting:
    """The setting with the lowest worst score around it, by the grid's own seeds."""
    there = known(grid)
    assert there is not None
    return there[1].safest


def contenders(grid: str, folder: Path = FOLDER) -> list[Setting]:
    """Of the settings that may be the best those that still may, by the rounds of fresh seeds that
    are trained."""
    settings = near_best(grid)
    for seeds, within in ROUNDS:
        first = [_scores(grid, setting, folder)[:seeds] for setting in settings]
        if min(map(len, first)) < seeds:
            break
        means = [statistics.fmean(them) for them in first]
        bar = (1 + within) * min(means)
        settings = [s for s, mean in zip(settings, means, strict=True) if mean <= bar]
    return settings


@functools.cache
def seeds_of(grid: str, kind: Kind) -> int:
    """How many seeds a kind of training gets."""
    if kind is not Kind.LONGER:
        return SEEDS
    records = StudyStore(grid_named(grid).study(STORAGE).path).finished_records()
    seconds = LONGER * statistics.median(record.train_seconds for record in records)
    return min(SEEDS, max(FEWEST_LONGER, int(LONGER_SECONDS * PROCESSES / seconds)))


def trainer_of(job: Job) -> TrainerSpec:
    """The grid's trainer at the setting, or at what the kind of training makes of it."""
    grid = grid_named(job.grid)
    factor = 2.0 if job.kind is Kind.DOUBLED else 1.0
    clip = list(grid.learning_rates)[job.setting.clip_index]
    fields = json.loads(
        grid.study()
        .trainer_for({"learning_rate": factor * job.setting.learning_rate, "max_grad_norm": clip})
        .model_dump_json()
    )
    if job.kind is Kind.LONGER:
        for name in ("max_train_steps", "report_every", "eval_every"):
            fields[name] *= LONGER
    return TrainerSpec.model_validate(fields)


def train_and_keep(job: Job, folder: Path) -> None:
    """In a process of its own."""
    from stabsearch.training.trainer import Trainer

    spec = trainer_of(job)
    trainer = Trainer(spec, job.seed, prepared(spec.data.model_dump_json()))
    reports = []
    while not trainer.is_finished:
        reports.append(trainer.train_window())
    keep(job, judge(job, spec.learning_rate, trainer.facts, reports), folder)


def judge(job: Job, learning_rate: float, facts: TrialFacts, reports: Sequence[Report]) -> Fresh:
    """Its label among the trials of the grid's first seed."""
    grid = grid_named(job.grid)
    peers = grid_courses(job.grid)
    clip = list(grid.learning_rates)[job.setting.clip_index]
    course = course_of(FRESH_ID, peers[0].seed, learning_rate, clip, facts, reports)
    truth = label_grid([*peers, course])[FRESH_ID]
    last = reports[-1].evaluation
    assert last is not None
    return Fresh(
        fingerprint=grid.fingerprint(),
        failed=truth.label is Label.UNSTABLE,
        ends_dead=truth.ends_dead,
        had_excursion=truth.had_excursion,
        score=last.score_ema,
        eval_loss=last.loss_ema,
        steps=reports[-1].step,
        train_seconds=reports[-1].train_seconds,
    )


@functools.lru_cache(maxsize=2)
def grid_courses(grid: str) -> list[Course]:
    """The trials of a grid's first seed."""
    return [trial.course for trial in load(replace(grid_named(grid), seeds=1))]


def keep(job: Job, fresh: Fresh, folder: Path) -> None:
    path = job.path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(fresh)))
    temporary.replace(path)


def read(job: Job, folder: Path = FOLDER) -> Fresh | None:
    """What is kept of a training; None if it is missing, or of another grid of that name."""
    path = job.path(folder)
    if not path.exists():
        return None
    fresh = Fresh(**json.loads(path.read_text()))
    return fresh if fresh.fingerprint == grid_named(job.grid).fingerprint() else None


def trainings(grid: str, setting: Setting, kind: Kind, folder: Path = FOLDER) -> list[Fresh]:
    """All that is known of a setting, in the order of the seeds, up to the first that is
    missing: so that the k-th of two settings have the same seed."""
    seeds = range(FIRST_SEED, FIRST_SEED + REGRET_SEEDS)
    jobs = (Job(grid=grid, setting=setting, kind=kind, seed=seed) for seed in seeds)
    found = (read(job, folder) for job in jobs)
    return [fresh for fresh in itertools.takewhile(lambda each: each is not None, found) if fresh]


@dataclass(frozen=True, slots=True, kw_only=True)
class Regret:
    """How far a setting's expected score is above the best one's, as a share of it.

    The expectation of the best setting's is not known without bias. The lowest mean is lower than
    that by the luck of its seeds; the setting that other seeds choose may not be the best.
    """

    at_least: float
    """Against the setting that all seeds but one choose, on that one; mean over the seeds."""
    at_most: float
    """Against the lowest mean."""


def regret(grid: str, setting: Setting, folder: Path = FOLDER) -> Regret | None:
    """Of a setting, among those that may be the best; on the fresh seeds that all of them were
    trained with. None if those are fewer than ``SEEDS``."""
    settings = dict.fromkeys((setting, *contenders(grid, folder)))
    scores = [_scores(grid, each, folder) for each in settings]
    number = min(map(len, scores))
    if number < SEEDS:
        return None
    mine, *_ = matrix = np.array([them[:number] for them in scores])
    if not np.isfinite(mine).all():
        return Regret(at_least=math.inf, at_most=math.inf)
    matrix = matrix[np.isfinite(matrix).all(axis=1)]
    chosen = [matrix[np.delete(matrix, k, axis=1).mean(axis=1).argmin(), k] for k in range(number)]
    return Regret(
        at_least=float(mine.mean() / statistics.fmean(chosen) - 1),
        at_most=float(mine.mean() / matrix.mean(axis=1).min() - 1),
    )


def _scores(grid: str, setting: Setting, folder: Path) -> tuple[float, ...]:
    """By seed; infinite where it died."""
    return tuple(
        math.inf if fresh.ends_dead else fresh.score
        for fresh in trainings(grid, setting, Kind.SAME, folder)
    )


def failure_rate(them: Iterable[Fresh]) -> float | None:
    """Share that failed; None of none."""
    failed = [fresh.failed for fresh in them]
    return statistics.fmean(failed) if failed else None
