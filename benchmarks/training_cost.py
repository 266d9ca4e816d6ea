"""What telemetry and ghost norms add to the training loop: paired, window by window, in one run.

python -m benchmarks.training_cost [--device cuda]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.document import machine, table, write_section
from stabsearch.spec import ModelSpec, TrainerSpec
from stabsearch.training.memory import keep_freed_memory
from stabsearch.training.telemetry import StepRecord
from stabsearch.training.trainer import Trainer

WINDOW_STEPS = 25
GRAD_NORM_EVERY = 10
MODELS: dict[str, tuple[dict[str, int], float | None, int]] = {
    "mlp, clip 1": ({"width": 64}, 1.0, 300),
    "mlp, no clipping": ({"width": 64}, None, 300),
    "mlp, width 256, clip 1": ({"width": 256}, 1.0, 60),
    "unet, clip 1": ({"width": 32}, 1.0, 24),
    "dit, clip 1": ({"width": 64}, 1.0, 24),
}
"""Name -> (options, max_grad_norm, rounds of windows)."""


class Nobody:
    def observe(self, step: StepRecord) -> None:
        pass


def wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], device: str) -> float:
    wait_for(device)
    started = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - started


def trainer_of(spec: TrainerSpec, grad_norm_every: int) -> Trainer:
    return Trainer(spec.model_copy(update={"grad_norm_every": grad_norm_every}), 0)


def measure(spec: TrainerSpec, rounds: int) -> tuple[float, list[tuple[float, float]]]:
    """(bare step in ms, [(median of what is added, its standard error)]) of the two variants."""
    keep_freed_memory()  # as a worker does
    torch.set_num_threads(1)
    # Budgets that are never reached, and no evaluation: it is not telemetry.
    spec = spec.model_copy(
        update={"max_train_steps": 10**7, "report_every": WINDOW_STEPS, "eval_every": 10**9}
    )
    bare, observed, measured = (trainer_of(spec, n) for n in (0, 0, GRAD_NORM_EVERY))
    loops: list[Callable[[], object]] = [
        lambda: bare.train_steps(WINDOW_STEPS, Nobody()),
        observed.train_window,
        measured.train_window,
    ]
    for loop in loops * 3:
        loop()
    times: list[list[float]] = []
    for number in range(rounds):
        # Another loop goes first every time: the first finds other caches than the last.
        order = [(number + i) % 3 for i in range(3)]
        taken = {i: seconds(loops[i], spec.device) for i in order}
        times.append([taken[i] for i in range(3)])
    added = [summary([t[i] / t[0] - 1 for t in times]) for i in (1, 2)]
    return statistics.median(t[0] for t in times) / WINDOW_STEPS * 1e3, added


def summary(values: list[float]) -> tuple[float, float]:
    """Median and its standard error, from the inter-quartile range of a normal distribution."""
    low, median, high = statistics.quantiles(values, n=4)
    return median, 1.253 * (high - low) / 1.349 / len(values) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    device = parser.parse_args().device
    rows = []
    for name, (options, max_grad_norm, rounds) in MODELS.items():
        spec = TrainerSpec(
            model=ModelSpec(name=name.partition(",")[0], **options),
            max_grad_norm=max_grad_norm,
            device=device,
            precision="bf16" if device == "cuda" else "fp32",
        )
        bare_ms, added = measure(spec, rounds)
        cells = [f"{median * 100:+.1f}% ± {error * 100:.1f}%" for median, error in added]
        rows.append([name, f"{bare_ms:.2f} ms", *cells])
    where = torch.cuda.get_device_name() + ", bf16" if device == "cuda" else "one torch thread"
    write_section(
        f"training_cost_{device}",
        f"What telemetry and ghost norms cost ({device})",
        f"`make bench`; {machine()}; {where}.\n\n"
        "The training loop (guard against non-finite gradients and EMA included), batch 64, with "
        "nobody watching; with telemetry (per-timestep losses, norms, clipping record, report); "
        f"with telemetry and ghost norms every {GRAD_NORM_EVERY} steps. Medians over rounds of "
        f"{WINDOW_STEPS}-step windows, the three loops taking turns. Targets: at most 2% and 5%."
        "\n\n" + table(["model", "bare step", "telemetry adds", "with ghost norms"], rows),
    )


if __name__ == "__main__":
    main()
