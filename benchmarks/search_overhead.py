"""A whole search's wall time against the pure training time of its trials.

python -m benchmarks.search_overhead
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.document import machine, table, write_section
from stabsearch.results.frames import load

STUDY = Path(__file__).parent.parent / "search_spaces" / "digits_tpe.yaml"
RAY_START = "import ray; ray.init(include_dashboard=False, logging_level='ERROR'); ray.shutdown()"
NUM_RUNS = 3
NUM_WORKERS = 2


def timed(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    rows = []
    for _ in range(NUM_RUNS):
        ray_seconds = timed([sys.executable, "-c", RAY_START])
        with tempfile.TemporaryDirectory() as storage:
            began = time.time()
            wall = timed(
                [sys.executable, "-m", "stabsearch", "run", str(STUDY), "--storage", storage]
            )
            trials = load(Path(storage) / "digits_tpe").trials
        # A worker's first trial is under way once Ray is up and the worker has imported torch.
        start_up = float((trials.ended_at - trials.train_seconds).min()) - began
        training = float(trials.train_seconds.sum()) / NUM_WORKERS
        searching = float(trials.ended_at.max()) - began - start_up
        rows.append(
            [
                f"{wall:.1f} s",
                f"{ray_seconds:.1f} s",
                f"{start_up:.1f} s",
                f"{searching:.1f} s",
                f"{wall - start_up - searching:.1f} s",
                f"{training:.1f} s",
                f"{searching / training:.2f}",
                f"{(wall - start_up) / training:.2f}",
                f"{(wall - ray_seconds) / training:.2f}",
            ]
        )
    write_section(
        "search_overhead",
        "A whole search against pure training",
        f"`make bench`; {machine()}.\n\n"
        f"`stabsearch run {STUDY.name}` on 2 workers, from the start of the process to its exit, "
        "against the time its trials spent training, divided by the workers. Start-up: until the "
        "first trial trains (interpreter, Ray, worker processes that import torch). Close: "
        "recommendation, map, end of Ray. Ray alone: `ray.init` and `ray.shutdown` in a fresh "
        "process, the strictest reading of what Ray's start-up is. Target: (wall - start-up) / "
        "training at most 1.25.\n\n"
        + table(
            [
                "wall",
                "Ray alone",
                "start-up",
                "search",
                "close",
                "training / workers",
                "search / training",
                "(wall - start-up) / training",
                "(wall - Ray alone) / training",
            ],
            rows,
        ),
    )


if __name__ == "__main__":
    main()
