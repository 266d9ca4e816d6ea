"""What telemetry adds to the training loop: paired, window by window, in one run.

python -m benchmarks.telemetry_cost
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from unittest import mock

import torch

from benchmarks.document import machine, table, write_section
from stabsearch.spec import TrainerSpec
from stabsearch.spec_file import load_study
from stabsearch.training import trainer as trainer_module
from stabsearch.training.clipping import ClipRecord
from stabsearch.training.trainer import Trainer

STUDY = Path(__file__).parent.parent / "search_spaces" / "digits_lr_clip.yaml"
NUM_PAIRS = 400
WARM_UP_PAIRS = 20


class NoTelemetry:
    def observe(self, sample_loss: torch.Tensor, clip: ClipRecord | None) -> None:
        pass


def time_bare(trainer: Trainer, num_steps: int) -> float:
    # Where nothing clips, the norm is telemetry: the bare loop never looks at it.
    never = 1 << 40
    trainer.step = max(trainer.step, 1)  # 0 is a multiple of everything
    with mock.patch.object(trainer_module, "UNCLIPPED_NORM_EVERY", never):
        started = time.perf_counter()
        trainer.train_steps(num_steps, NoTelemetry())
        return time.perf_counter() - started


def time_with_telemetry(trainer: Trainer) -> float:
    started = time.perf_counter()
    trainer.train_window()
    return time.perf_counter() - started


def measure(spec: TrainerSpec) -> tuple[float, float, float]:
    """(bare step in ms, median ratio, its standard error) over pairs of windows."""
    torch.set_num_threads(1)
    # Budgets that are never reached, and no evaluation: it is not telemetry.
    steps = spec.report_every * (NUM_PAIRS + WARM_UP_PAIRS + 1)
    spec = spec.model_copy(update={"max_train_steps": steps, "eval_every": 10**9})
    bare, observed = Trainer(spec, 0), Trainer(spec, 0)
    bare_times, ratios = [], []
    for pair in range(NUM_PAIRS + WARM_UP_PAIRS):
        # Alternate the order: the second of a pair finds the caches warm.
        if pair % 2:
            with_telemetry = time_with_telemetry(observed)
            without = time_bare(bare, spec.report_every)
        else:
            without = time_bare(bare, spec.report_every)
            with_telemetry = time_with_telemetry(observed)
        if pair >= WARM_UP_PAIRS:
            bare_times.append(without / spec.report_every * 1e3)
            ratios.append(with_telemetry / without)
    quartiles = statistics.quantiles(ratios, n=4)
    # Of a median, from the inter-quartile range of a normal distribution.
    error = 1.253 * (quartiles[2] - quartiles[0]) / 1.349 / len(ratios) ** 0.5
    return statistics.median(bare_times), statistics.median(ratios), error


def main() -> None:
    trainer = load_study(STUDY).trainer
    rows = []
    for width, batch_size, max_grad_norm in (
        (64, 64, 1.0),
        (64, 64, None),
        (256, 64, 1.0),
        (256, 64, None),
        (64, 512, 1.0),
    ):
        model = trainer.model.model_copy(update={"width": width})
        spec = trainer.model_copy(
            update={"model": model, "batch_size": batch_size, "max_grad_norm": max_grad_norm}
        )
        bare_ms, ratio, error = measure(spec)
        clipping = "no clipping" if max_grad_norm is None else f"clip {max_grad_norm:g}"
        rows.append(
            [
                f"mlp, width {width}, batch {batch_size}, {clipping}",
                f"{bare_ms:.2f} ms",
                f"{(ratio - 1) * 100:+.1f}% ± {error * 100:.1f}%",
            ]
        )
    write_section(
        "telemetry_cost",
        "What telemetry costs",
        f"`make bench`; {machine()}.\n\n"
        "Per-timestep losses, gradient norms, clipping record and the report, against the same "
        "loop without them (and, where nothing clips, without the norm); median of "
        f"{NUM_PAIRS} pairs of {trainer.report_every}-step windows, one torch thread. "
        "Target: at most 3%.\n\n" + table(["model", "bare step", "telemetry adds"], rows),
    )


if __name__ == "__main__":
    main()
