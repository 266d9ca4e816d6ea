"""Runs study files end to end, as a user does, and keeps their answers.

python -m benchmarks.search_spaces [NAME ...]     all of search_spaces/, or those named
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.document import machine, write_section
from stabsearch.recommend.describe import describe
from stabsearch.recommend.pick import recommend
from stabsearch.results.frames import load

SPACES = Path(__file__).parent.parent / "search_spaces"


def comment_of(file: Path) -> str:
    """What the file says it is for."""
    lines = [line for line in file.read_text().splitlines() if line.startswith("#")]
    return " ".join(line.removeprefix("#").strip() for line in lines) or "The demo."


def signals_of(path: Path) -> str:
    """What the reports of the stable trials say of their gradients, in a sentence."""
    results = load(path)
    stable = results.trials[results.trials.is_stable].trial_id
    reports = results.reports[results.reports.trial_id.isin(stable)]
    measured = reports.grad_effective_bins.dropna()
    if measured.empty:
        return "No trial was stable."
    timesteps = results.timesteps[results.timesteps.trial_id.isin(stable)]
    share = timesteps.groupby("timestep_bin").grad_share.mean()
    largest = int(share.idxmax())
    rows = timesteps[timesteps.timestep_bin == largest]
    return (
        f"In the stable trials the gradient comes from {measured.median():.1f} of "
        f"{len(share)} timestep bins (median of N_eff), most of it from timesteps "
        f"{rows.timestep_low.min()}-{rows.timestep_high.max()} "
        f"({share.max():.0%}); {int(reports.nonfinite_steps.sum())} steps were not finite and "
        f"{int(reports.scaler_skips.sum())} were skipped by a loss scaler."
    )


def run(file: Path) -> str:
    """Run a study from nothing in a process of its own; its answer in Markdown."""
    with tempfile.TemporaryDirectory() as storage:
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "stabsearch", "run", str(file), "--storage", storage],
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - started
        if done.returncode not in (0, 3):
            raise RuntimeError(f"{file} ended with {done.returncode}:\n{done.stderr}")
        results = load(next(Path(storage).iterdir()))
        answer = describe(recommend(results), results.trials)
        return (
            f"{comment_of(file)}\n\n{machine()}; {len(results.trials)} trials in {seconds:.0f} s. "
            f"{signals_of(results.path)}\n\n```text\n{answer}\n```"
        )


def main() -> None:
    names = sys.argv[1:] or sorted(file.stem for file in SPACES.glob("*.yaml"))
    for name in names:
        write_section(
            f"space_{name}", f"`search_spaces/{name}.yaml`", run(SPACES / f"{name}.yaml")
        )


if __name__ == "__main__":
    main()
