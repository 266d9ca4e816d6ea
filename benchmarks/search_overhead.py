"""A whole search's wall time against the pure training time of its trials.

python -m benchmarks.search_overhead
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from benchmarks.document import machine, table, write_section
from stabsearch.results.frames import Results, load

STUDY = Path(__file__).parent.parent / "search_spaces" / "digits_lr_clip.yaml"
RAY_START = "import ray; ray.init(include_dashboard=False, logging_level='ERROR'); ray.shutdown()"
NUM_RUNS = 3


def timed(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def run_study_command(storage: Path, changes: dict[str, object]) -> tuple[float, Results]:
    """Wall seconds of `stabsearch run`, from process start to exit, and its results."""
    storage.mkdir()
    file = storage / "study.yaml"
    file.write_text(yaml.safe_dump({"extends": str(STUDY), "storage": str(storage), **changes}))
    seconds = timed([sys.executable, "-m", "stabsearch", "run", str(file)])
    return seconds, load(storage / "digits_lr_clip")


def main() -> None:
    rows = []
    for _ in range(NUM_RUNS):
        ray_seconds = timed([sys.executable, "-c", RAY_START])
        with tempfile.TemporaryDirectory() as folder:
            shortest = {"trials": 2, "trainer": {"max_train_steps": 25, "eval_every": 25}}
            fixed, _ = run_study_command(Path(folder) / "shortest", shortest)
            wall, results = run_study_command(Path(folder) / "whole", {})
        trials = results.trials
        workers = 2
        training = float(trials.train_seconds.sum()) / workers
        rows.append(
            [
                f"{wall:.1f} s",
                f"{training:.1f} s",
                f"{ray_seconds:.1f} s",
                f"{fixed:.1f} s",
                f"{(wall - ray_seconds) / training:.2f}",
                f"{(wall - fixed) / training:.2f}",
            ]
        )
    write_section(
        "search_overhead",
        "A whole search against pure training",
        f"`make bench`; {machine()}.\n\n"
        f"`stabsearch run {STUDY.name}` on 2 workers, from the start of the process to its exit, "
        "against the time its trials spent training, divided by the workers. Ray alone: "
        "`ray.init` and `ray.shutdown` in a fresh process. Fixed: the same command with 2 trials "
        "of 25 steps, which pays for imports, Ray, worker processes that import torch, the "
        "recommendation and the map. Target: (wall - start-up) / training at most 1.25.\n\n"
        + table(
            [
                "wall",
                "training / workers",
                "Ray alone",
                "fixed",
                "(wall - Ray) / training",
                "(wall - fixed) / training",
            ],
            rows,
        ),
    )


if __name__ == "__main__":
    main()
