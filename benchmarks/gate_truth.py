"""Are the gate's verdicts right? The demo's settings, trained to the end without the gate.

python -m benchmarks.gate_truth [SEED ...]      searcher seeds; 0 1 2 by default
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from benchmarks.document import machine, table, write_section
from stabsearch.records import Outcome, Params, StoppedBy, TrialRecord
from stabsearch.search.study import run_study
from stabsearch.spec import StudySpec, TrainerSpec
from stabsearch.spec_file import load_study

STUDY = Path(__file__).parent.parent / "search_spaces" / "digits_tpe.yaml"
EXCURSION_GRACE_STEPS = 100


class Truth(StrEnum):
    """How a trial ends when nobody stops it."""

    OK = "OK"
    """Within half a unit u = L_iso - L_lin of the best trial's loss."""
    DEGRADED = "degraded"
    UNSTABLE = "unstable"
    """Dead at the end (no better than half-way to the constant prediction), or a catastrophic
    excursion (a batch loss above 3 C0, 100 steps or more after warm-up)."""


@dataclass(frozen=True)
class FullRun:
    """A trial trained to the end without the gate."""

    params: Params
    final_loss: float
    """Held-out loss of the raw weights."""
    had_excursion: bool
    had_nonfinite: bool
    dead_above: float
    unit: float


def train_to_the_end(job: tuple[TrainerSpec, Params, int]) -> FullRun:
    import torch

    from stabsearch.training.trainer import Trainer

    torch.set_num_threads(1)
    spec, params, seed = job
    trainer = Trainer(spec, seed)
    facts = trainer.facts
    late = facts.lr_warmup_steps + EXCURSION_GRACE_STEPS
    reports = []
    while not trainer.is_finished:
        reports.append(trainer.train_window())
    reference = facts.reference
    return FullRun(
        params=params,
        final_loss=trainer.evaluate().loss_raw,
        had_excursion=any(
            r.max_batch_loss > 3 * reference.constant for r in reports if r.step > late
        ),
        had_nonfinite=any(r.nonfinite_steps for r in reports),
        dead_above=(reference.constant + reference.isotropic) / 2,
        unit=reference.unit,
    )


def truth_of(run: FullRun, best_loss: float) -> Truth:
    is_dead = not run.final_loss <= run.dead_above
    if is_dead or run.had_excursion or run.had_nonfinite:
        return Truth.UNSTABLE
    return Truth.OK if run.final_loss <= best_loss + 0.5 * run.unit else Truth.DEGRADED


@dataclass(frozen=True)
class Comparison:
    """Verdicts and truths of the same settings, in the same order."""

    records: list[TrialRecord]
    truths: list[Truth]

    def pruned(self, truth: Truth) -> int:
        """Trials of a truth that the gate stopped."""
        return sum(
            record.stopped_by is StoppedBy.GATE
            for record, t in zip(self.records, self.truths, strict=True)
            if t is truth
        )

    def count(self, truth: Truth) -> int:
        return self.truths.count(truth)

    def budget_of_unstable(self) -> float:
        """Mean share of its budget that an unstable trial consumed."""
        shares = [
            record.steps / record.max_train_steps
            for record, truth in zip(self.records, self.truths, strict=True)
            if truth is Truth.UNSTABLE
        ]
        return sum(shares) / len(shares) if shares else float("nan")


def compare(study: StudySpec) -> Comparison:
    """Run the study with the gate, and its settings without."""
    with tempfile.TemporaryDirectory() as storage:
        result = run_study(study.model_copy(update={"storage": storage}))
        records = result.results.records()
    failed = [r.reason for r in records if r.outcome is Outcome.FAILED]
    if failed:
        raise RuntimeError(failed[0])
    jobs = [(study.trainer_for(r.params), r.params, r.seed) for r in records]
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        runs = pool.map(train_to_the_end, jobs, chunksize=1)
    return Comparison(records, list(truths_of(runs)))


def truths_of(runs: list[FullRun]) -> Iterable[Truth]:
    best_loss = min(run.final_loss for run in runs if run.final_loss == run.final_loss)
    return (truth_of(run, best_loss) for run in runs)


def main() -> None:
    seeds = [int(argument) for argument in sys.argv[1:]] or [0, 1, 2]
    study = load_study(STUDY)
    rows, reasons = [], Counter[str]()
    for seed in seeds:
        searcher = study.searcher.model_copy(update={"seed": seed})
        compared = compare(study.model_copy(update={"searcher": searcher}))
        reasons.update(
            f"{record.rule} {record.symptom} ({truth})"
            for record, truth in zip(compared.records, compared.truths, strict=True)
            if record.stopped_by is StoppedBy.GATE
        )
        rows.append(
            [
                str(seed),
                *(f"{compared.pruned(truth)} of {compared.count(truth)}" for truth in Truth),
                f"{compared.budget_of_unstable():.0%}",
            ]
        )
    write_section(
        "gate_truth",
        "The gate's verdicts against training to the end",
        f"`make gate-truth`; {machine()}.\n\n"
        f"The {study.trials} settings of `{STUDY.name}`, searched with the gate, then trained to "
        "the end without it. Pruned by the gate, of the settings that end OK (within u/2 of the "
        "best held-out loss), degraded, or unstable (dead, or a catastrophic excursion). "
        "Targets: 0 of the OK ones, at least 85% of the unstable ones.\n\n"
        + table(
            ["searcher seed", *(f"{t} and pruned" for t in Truth), "budget an unstable one used"],
            rows,
        )
        + "\n\nWhat the gate said: "
        + ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
        + ".",
    )


if __name__ == "__main__":
    main()
