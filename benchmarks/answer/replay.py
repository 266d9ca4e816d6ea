"""Every method on every grid, many times; what each search came to is kept, a file per grid."""

from __future__ import annotations

import functools
import json
import multiprocessing
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.answer.blackbox import Blackbox, Oracle, Setting, load_blackbox
from benchmarks.answer.methods import METHODS, TRIALS
from benchmarks.answer.ours import Stabsearch
from benchmarks.answer.virtual import run_search
from benchmarks.truth.grids import grid_named

FOLDER = Path(__file__).parent.parent.parent / "results" / "answer"
PROCESSES = 2
REPETITIONS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One search of one method, as it is kept."""

    method: str
    repetition: int
    answer: Setting | None
    proposed: tuple[float, float | None] | None
    """The answer before it was moved to the nearest setting of the grid."""
    full_trials: float
    """Optimizer steps, in units of a trial that trains to its end."""
    wall: float
    """Time until the last trial ended, in the same units."""
    trials: int
    seeds: tuple[int, ...]
    """Of the grid, that its trials had."""
    fingerprint: str
    """Of the grid."""
    edge: float | None = None
    """lr50 at the answered setting, of methods that say where the edge is."""
    edge_interval: tuple[float, float] | None = None
    """Where it lies with 90% probability, as they say."""

    @property
    def given(self) -> Setting | None:
        """The answer at the rate that the method gave, which the grid need not have."""
        if self.answer is None or self.proposed is None:
            return None
        return Setting(self.answer.clip_index, self.proposed[0])


Task = tuple[str, str, int]
"""Grid, method, repetition."""


def replay(
    grids: Sequence[str], methods: Sequence[str], repetitions: int = REPETITIONS
) -> dict[str, list[Outcome]]:
    """Search, by grid; grids without a complete seed are left out."""
    grids = [grid for grid in grids if known(grid) is not None]
    tasks = [(g, m, r) for g in grids for m in methods for r in range(repetitions)]
    found: dict[str, list[Outcome]] = {grid: [] for grid in grids}
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        for done, ((grid, _, _), outcome) in enumerate(
            zip(tasks, pool.imap(search, tasks, chunksize=5), strict=True), 1
        ):
            found[grid].append(outcome)
            end = "\n" if done == len(tasks) else ""
            print(f"\r{done} of {len(tasks)} searches ({grid})    ", end=end, flush=True)
    return found


def search(task: Task) -> Outcome:
    """One search."""
    grid, method, repetition = task
    there = known(grid)
    assert there is not None
    blackbox, _ = there
    search = METHODS[method].make(blackbox, TRIALS, repetition)
    result = run_search(search, blackbox, repetition)
    edge = search.edge if isinstance(search, Stabsearch) else None
    return Outcome(
        method=method,
        repetition=repetition,
        answer=result.answer,
        proposed=result.proposed,
        full_trials=result.steps / blackbox.max_train_steps,
        wall=result.wall_steps / blackbox.max_train_steps,
        trials=result.trials,
        seeds=tuple(blackbox.seeds),
        fingerprint=blackbox.grid.fingerprint(),
        edge=edge.learning_rate if edge else None,
        edge_interval=(edge.learning_rate_low, edge.learning_rate_high) if edge else None,
    )


@functools.lru_cache(maxsize=2)
def known(grid: str) -> tuple[Blackbox, Oracle] | None:
    """A grid by name, loaded once per process."""
    return load_blackbox(grid_named(grid))


def keep(found: dict[str, list[Outcome]], folder: Path = FOLDER) -> None:
    """Write the outcomes. Those of other methods stay, if they searched the same seeds."""
    (folder / "searches").mkdir(parents=True, exist_ok=True)
    for grid, outcomes in found.items():
        methods = {outcome.method for outcome in outcomes}
        seeds = {outcome.seeds for outcome in outcomes}
        others = [o for o in kept(grid, folder) if o.method not in methods and o.seeds in seeds]
        text = json.dumps([asdict(outcome) for outcome in (*others, *outcomes)], indent=0)
        _path(grid, folder).write_text(text)


def kept(grid: str, folder: Path = FOLDER) -> list[Outcome]:
    """What was kept of a grid as it is now; nothing, if nothing was."""
    path = _path(grid, folder)
    lines = json.loads(path.read_text()) if path.exists() else []
    fingerprint = grid_named(grid).fingerprint()
    return [_outcome(line) for line in lines if line["fingerprint"] == fingerprint]


def by_method(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    """In the order of METHODS; methods without an outcome are left out."""
    groups = {name: [o for o in outcomes if o.method == name] for name in METHODS}
    return {name: group for name, group in groups.items() if group}


def _path(grid: str, folder: Path) -> Path:
    return folder / "searches" / f"{grid}.json"


def _outcome(line: dict) -> Outcome:
    answer, proposed, seeds = (line.pop(name) for name in ("answer", "proposed", "seeds"))
    interval = line.pop("edge_interval", None)
    return Outcome(
        **line,
        answer=Setting(**answer) if answer else None,
        proposed=tuple(proposed) if proposed else None,
        seeds=tuple(seeds),
        edge_interval=tuple(interval) if interval else None,
    )
