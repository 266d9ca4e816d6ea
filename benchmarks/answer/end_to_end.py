"""A handful of searches for real: processes, Ray, training, the answer; wall time and steps.

    stabsearch run <study>                                                   ours
    Tuner(OptunaSearch, AsyncHyperBandScheduler, 32 samples, 2 at a time)    Ray Tune's

on the space and the trainer of ``search_spaces/digits_lr_clip.yaml``. Each is a fresh process,
timed from its start to its exit.

python -m benchmarks.answer.end_to_end SEED FILE    Ray Tune's search, in its own process
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.answer.methods import STRATEGIES, TRIALS
from benchmarks.answer.replay import FOLDER
from benchmarks.answer.virtual import WORKERS
from benchmarks.document import machine, table
from stabsearch.spec import LogUniform
from stabsearch.spec_file import load_study

STUDY = Path(__file__).parent.parent.parent / "search_spaces" / "digits_lr_clip.yaml"
RAY = "Ray Tune: OptunaSearch + ASHA"
SCORE = "score"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One search."""

    method: str
    seed: int
    wall_seconds: float
    steps: int
    full_trials: float
    learning_rate: float | None
    max_grad_norm: float | None


def run(repetitions: int, folder: Path = FOLDER) -> None:
    """Search, one after the other, and keep what came out."""
    runs = []
    for seed in range(repetitions):
        for search in (run_ours, run_ours_confirmed, run_ray):
            runs.append(search(seed))
            print(runs[-1], flush=True)
            _path(folder).parent.mkdir(parents=True, exist_ok=True)
            _path(folder).write_text(json.dumps([asdict(r) for r in runs], indent=0))


def kept(folder: Path = FOLDER) -> list[Run]:
    path = _path(folder)
    return [Run(**line) for line in json.loads(path.read_text())] if path.exists() else []


def section(runs: Sequence[Run]) -> Iterator[str]:
    """Of the document."""
    rows = [
        [
            r.method,
            str(r.seed),
            f"{r.wall_seconds:.0f} s",
            str(r.steps),
            f"{r.full_trials:.1f}",
            "-" if r.learning_rate is None else f"{r.learning_rate:.2g}",
            "-" if r.max_grad_norm is None else f"{r.max_grad_norm:.2g}",
        ]
        for r in runs
    ]
    header = ["method", "seed", "wall", "steps", "full trials", "learning_rate", "max_grad_norm"]
    yield (
        f"`python -m benchmarks.answer --kept --end-to-end N`; {machine()}: `{STUDY.name}`, at "
        f"most {TRIALS} trials, {WORKERS} workers, from the start of the process to its exit. "
        "Ray Tune with its defaults: one report per evaluation, a worker process per trial."
    )
    yield table(header, rows)


def run_ours_confirmed(seed: int) -> Run:
    """With the confirmation that the study file asks for: 5 seeds, and 5 at twice the rate."""
    return run_ours(seed, is_confirmed=True)


def run_ours(seed: int, *, is_confirmed: bool = False) -> Run:
    """``stabsearch run``, with the strategy that the peers are held against."""
    from stabsearch.recommend.pick import recommend
    from stabsearch.results.frames import load

    name, strategy = list(STRATEGIES.items())[-1]
    with tempfile.TemporaryDirectory(prefix="stabsearch-answer-") as folder:
        file = Path(folder) / "study.yaml"
        fields = {
            "extends": str(STUDY),
            **strategy,
            "searcher": {**strategy.get("searcher", {}), "seed": seed},
            "resources": {"workers": WORKERS},
            "trials": TRIALS,
            "storage": folder,
        }
        if not is_confirmed:
            fields["confirm"] = None
        file.write_text(json.dumps(fields))  # JSON is YAML
        wall = timed([sys.executable, "-m", "stabsearch", "run", str(file)])
        results = load(Path(folder) / load_study(file).name)
        answer = recommend(results)
        steps = int(results.trials["steps"].sum())
    params: dict[str, Any] = answer.params or {}
    return Run(
        method=f"stabsearch: {name}" + ", confirmed" * is_confirmed,
        seed=seed,
        wall_seconds=wall,
        steps=steps,
        full_trials=steps / load_study(STUDY).longest_trial,
        learning_rate=params.get("learning_rate"),
        max_grad_norm=params.get("max_grad_norm"),
    )


def run_ray(seed: int) -> Run:
    """The same search as a user of Ray Tune writes it."""
    with tempfile.TemporaryDirectory(prefix="stabsearch-answer-") as folder:
        file = Path(folder) / "found.json"
        wall = timed([sys.executable, "-m", "benchmarks.answer.end_to_end", str(seed), str(file)])
        found = json.loads(file.read_text())
    return Run(
        method=RAY,
        seed=seed,
        wall_seconds=wall,
        steps=found["steps"],
        full_trials=found["steps"] / load_study(STUDY).longest_trial,
        learning_rate=found["config"].get("learning_rate"),
        max_grad_norm=found["config"].get("max_grad_norm"),
    )


def timed(command: list[str]) -> float:
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return time.perf_counter() - started


def train(config: dict[str, Any], trainer: str) -> None:
    """A training function for Ray Tune: one report per evaluation."""
    import torch
    from ray import tune

    from stabsearch.spec import TrainerSpec
    from stabsearch.training.memory import keep_freed_memory
    from stabsearch.training.trainer import Trainer

    keep_freed_memory()
    torch.set_num_threads(1)
    fields = {**json.loads(trainer), **config}
    run = Trainer(TrainerSpec.model_validate(fields), 0)
    while not run.is_finished:
        report = run.train_window()
        if report.evaluation is not None:
            tune.report({SCORE: report.evaluation.score_ema, "step": report.step})


def search_with_ray(seed: int, file: Path) -> None:
    """In a process of its own."""
    import ray
    from ray import tune
    from ray.tune.schedulers import AsyncHyperBandScheduler
    from ray.tune.search.optuna import OptunaSearch

    spec = load_study(STUDY)
    domains = spec.searched()
    assert all(isinstance(domain, LogUniform) for domain in domains.values())
    evaluations = spec.trainer.max_train_steps // spec.trainer.eval_every
    ray.init(num_cpus=WORKERS, include_dashboard=False)
    with tempfile.TemporaryDirectory(prefix="stabsearch-answer-") as storage:
        tuner = tune.Tuner(
            tune.with_parameters(train, trainer=spec.trainer.model_dump_json()),
            param_space={n: tune.loguniform(d.low, d.high) for n, d in domains.items()},
            tune_config=tune.TuneConfig(
                metric=SCORE,
                mode="min",
                search_alg=OptunaSearch(seed=seed),
                scheduler=AsyncHyperBandScheduler(max_t=evaluations),
                num_samples=TRIALS,
                max_concurrent_trials=WORKERS,
            ),
            run_config=tune.RunConfig(storage_path=storage, verbose=0),
        )
        results = tuner.fit()
        best = results.get_best_result()
        steps = sum(result.metrics.get("step", 0) for result in results)
    ray.shutdown()
    file.write_text(json.dumps({"steps": steps, "config": best.config}))


def _path(folder: Path) -> Path:
    return folder / "end_to_end.json"


if __name__ == "__main__":
    search_with_ray(int(sys.argv[1]), Path(sys.argv[2]))
