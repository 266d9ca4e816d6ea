"""Grids in, studies on disk out: every trial that is missing is trained to its end."""

from __future__ import annotations

import functools
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.truth.grids import GRIDS, MOST_SEEDS, STORAGE, Grid, Job
from stabsearch.records import Outcome, Report, TrialFacts
from stabsearch.results.store import StudyStore
from stabsearch.search.ledger import LiveTrial
from stabsearch.spec import TrainerSpec

if TYPE_CHECKING:
    from stabsearch.diffusion.prepared_data import PreparedData

PROCESSES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trial that came to its end."""

    job: Job
    facts: TrialFacts
    reports: tuple[Report, ...]
    started_at: float


def generate(
    grids: Sequence[Grid] = GRIDS, storage: Path = STORAGE, processes: int = PROCESSES
) -> None:
    """Train what is missing. May be killed and started again at any time."""
    stores = {grid.name: open_store(grid, storage) for grid in grids}
    jobs = missing_jobs(grids, stores)
    if not jobs:
        return
    started = time.monotonic()
    work = [(job, trainer_of(grids, job)) for job in jobs]
    # Fresh processes: forking one that has used torch's threads may hang.
    with multiprocessing.get_context("spawn").Pool(min(processes, len(jobs)), begin) as pool:
        for done, trained in enumerate(pool.imap_unordered(train, work), 1):
            keep(stores[trained.job.grid], trained)
            left = (time.monotonic() - started) / done * (len(jobs) - done)
            print(
                f"\r{done} of {len(jobs)} trials, {left / 60:.0f} min left "
                f"({trained.job.grid} {trained.job.trial_id})    ",
                end="\n" if done == len(jobs) else "",
                flush=True,
            )


def open_store(grid: Grid, storage: Path) -> StudyStore:
    """The grid's folder, made if it is not there."""
    spec = grid.study(storage)
    store = StudyStore(spec.path)
    study, fingerprint = spec.model_dump(mode="json"), grid.fingerprint()
    store.create(study, fingerprint)
    store.take_over(study, fingerprint)
    return store


def missing_jobs(grids: Sequence[Grid], stores: dict[str, StudyStore]) -> list[Job]:
    """One seed of every grid before the next seed, so that what a cut leaves is of use."""
    there = {
        (name, record.trial_id)
        for name, store in stores.items()
        for record in store.finished_records()
    }
    jobs = [job for seed in range(MOST_SEEDS) for grid in grids for job in grid.jobs(seed)]
    return [job for job in jobs if (job.grid, job.trial_id) not in there]


def trainer_of(grids: Sequence[Grid], job: Job) -> TrainerSpec:
    grid = next(grid for grid in grids if grid.name == job.grid)
    return grid.study().trainer_for(job.params)


def begin() -> None:
    """Prepare a worker process."""
    import torch

    from stabsearch.training.memory import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(1)


def train(work: tuple[Job, TrainerSpec]) -> Trained:
    """Train a trial to its end, whatever becomes of it."""
    from stabsearch.training.trainer import Trainer

    job, spec = work
    started_at = time.time()
    trainer = Trainer(spec, job.seed, prepared(spec.data.model_dump_json()))
    reports = []
    while not trainer.is_finished:
        reports.append(trainer.train_window())
    return Trained(job=job, facts=trainer.facts, reports=tuple(reports), started_at=started_at)


@functools.cache
def prepared(data: str) -> PreparedData:
    """The examples, loaded once per process."""
    from stabsearch.diffusion.prepared_data import prepare_data
    from stabsearch.spec import DataSpec

    return prepare_data(DataSpec.model_validate_json(data))


def keep(store: StudyStore, trained: Trained) -> None:
    """Store a trial, without a verdict."""
    job = trained.job
    trial = LiveTrial(
        trial_id=job.trial_id,
        setting=job.setting,
        seed=job.seed,
        params=job.params,
        max_train_steps=trained.facts.max_train_steps,
        facts=trained.facts,
        reports={report.step: report for report in trained.reports},
        attempts=1,
        started_at=trained.started_at,
    )
    store.end_trial(trial.record(Outcome.COMPLETED), trained.facts, trained.reports, ())
