"""What torch.compile gains: paired, window by window, in one run.

python -m benchmarks.compile_gain [--device cuda]
"""

from __future__ import annotations

import argparse
import time

import torch

from benchmarks.document import machine, table, write_section
from benchmarks.training_cost import Nobody, seconds, summary
from stabsearch.spec import ModelSpec, TrainerSpec
from stabsearch.training.memory import keep_freed_memory
from stabsearch.training.trainer import Trainer

WINDOW_STEPS = 20
MODELS = {"mlp": 100, "unet": 30, "dit": 30}
"""Model -> pairs of windows."""


def measure(name: str, pairs: int, device: str) -> list[str]:
    """A row: bare step, what compiling takes, and what it changes."""
    keep_freed_memory()  # as a worker does
    torch.set_num_threads(1)
    spec = TrainerSpec(
        model=ModelSpec(name=name),
        max_train_steps=10**7,
        grad_norm_every=0,
        device=device,
        precision="bf16" if device == "cuda" else "fp32",
    )
    plain = Trainer(spec, 0)
    compiled = Trainer(spec.model_copy(update={"compile": True}), 0)
    started = time.perf_counter()
    compiled.train_steps(3, Nobody())
    compiling = time.perf_counter() - started
    plain.train_steps(WINDOW_STEPS, Nobody())
    times = []
    for number in range(pairs):
        taken = {}
        for trainer in (plain, compiled) if number % 2 else (compiled, plain):
            taken[trainer] = seconds(
                lambda t=trainer: t.train_steps(WINDOW_STEPS, Nobody()),  # type: ignore[misc]
                device,
            )
        times.append((taken[plain], taken[compiled]))
    change, error = summary([after / before - 1 for before, after in times])
    step_ms = sorted(before for before, _ in times)[pairs // 2] / WINDOW_STEPS * 1e3
    return [
        name,
        f"{step_ms:.2f} ms",
        f"{compiling:.0f} s",
        f"{change * 100:+.1f}% ± {error * 100:.1f}%",
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    device = parser.parse_args().device
    rows = [measure(name, pairs, device) for name, pairs in MODELS.items()]
    where = torch.cuda.get_device_name() + ", bf16" if device == "cuda" else "one torch thread"
    write_section(
        f"compile_gain_{device}",
        f"What `compile: true` gains ({device})",
        f"`make bench`; {machine()}; {where}.\n\n"
        "The training loop without measurements, batch 64, against the same with the model "
        "compiled; every worker process compiles once per model.\n\n"
        + table(["model", "step", "compiling takes", "changes the step by"], rows),
    )


if __name__ == "__main__":
    main()
