"""What Ray Tune runs: a Trainer, judged beside its reports.

Runs inside a Ray worker, which trains many trials one after the other (``reset_config``). torch is
imported in the worker only: the driver, which names this class to Ray, never needs it.
"""

from __future__ import annotations

import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from stabsearch.records import JudgedReport, Severity, TrialFacts
from stabsearch.search.packet import PACKET_KEY, STEP_KEY, Packet
from stabsearch.spec import TrainerSpec
from stabsearch.stability.judges import make_judge

if TYPE_CHECKING:
    from stabsearch.diffusion.prepared_data import PreparedData
    from stabsearch.training.trainer import Trainer

PACKET_SECONDS = 0.5
"""A packet is sent when this much time has passed since the last."""
IDLE_SECONDS = 0.05
CHECKPOINT_SECONDS = 10.0
"""At most this much training (or one report, if that takes longer) is lost with a worker."""


class TrialTrainable(tune.Trainable):  # type: ignore[misc]
    """One trial at a time; the worker process stays."""

    def setup(self, config: dict[str, Any], data: PreparedData | None = None) -> None:
        """``data`` lies in shared memory, once per node; None: the worker loads it itself."""
        self._failure: str | None = None
        self._facts: TrialFacts | None = None
        self._trainer: Trainer | None = None  # frees the last trial's memory first
        self._checkpoint = Path(config["checkpoint"])
        self._is_gated = config["gate"]
        self._stop_at: int | None = config["stop_at"]
        self._may_go_on: bool = config["may_go_on"]
        self._is_to_be_saved = False
        """A short trial that has answered: it may go on from here."""
        self._is_over = False
        self._saved_at = time.monotonic()
        try:
            self._begin(config, data)
        except (Exception, SystemExit):  # a user's code may exit, and must not take Ray along
            self._fail()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial; tells Ray that this worker can be used again."""
        self.setup(new_config)  # Ray's wrapper adds the data
        return True

    def step(self) -> dict[str, Any]:
        """Train until the packet is due, the trial is over, or a verdict says to stop."""
        reports: list[JudgedReport] = []
        is_saved = False
        try:
            if not self._is_over and self._trainer is not None:
                self._train(self._trainer, reports)
            elif self._is_to_be_saved and self._trainer is not None:
                self._save(self._trainer)  # by now all of it has reached the driver
                self._is_to_be_saved, is_saved = False, True
            else:
                time.sleep(IDLE_SECONDS)  # the gate holds this worker for a moment
        except (Exception, SystemExit):
            self._fail()
        packet = Packet(
            facts=self._facts, reports=tuple(reports), failure=self._failure, is_saved=is_saved
        )
        return {
            PACKET_KEY: packet,
            STEP_KEY: reports[-1].report.step if reports else 0,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Ray asks for this method before it reuses a worker; our own checkpoints are below."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Never called: no Ray checkpoint is ever taken."""

    def _begin(self, config: dict[str, Any], data: PreparedData | None) -> None:
        import torch

        from stabsearch.training.memory import keep_freed_memory
        from stabsearch.training.trainer import Trainer

        keep_freed_memory()
        if config["search_path"] not in sys.path:
            sys.path.append(config["search_path"])
        torch.set_num_threads(config["num_threads"])
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        spec = TrainerSpec.model_validate(config["trainer"])
        trainer = Trainer(spec, config["seed"], data)
        self._identity = {"trainer": config["trainer"], "seed": config["seed"]}
        self._study_facts = {
            "reached": config["reached"],
            "sampler_check": config["sampler_check"],
        }
        self._analyzer = make_judge(config["analyzer"], self._facts_of(trainer))
        self._restore(trainer)
        self._facts = self._facts_of(trainer)
        self._trainer = trainer
        # Its worker was lost after it had ended and was saved, and before that was known.
        self._is_over = self._is_to_be_saved = self._has_answered(trainer.step)

    def _facts_of(self, trainer: Trainer) -> TrialFacts:
        """What the trainer knows of its trial, and what the study knows besides."""
        return replace(trainer.facts, **self._study_facts)

    def _train(self, trainer: Trainer, reports: list[JudgedReport]) -> None:
        # Here every report so far has reached the driver: a checkpoint leaves no gap in them.
        self._save_if_due(trainer)
        due = time.monotonic() + PACKET_SECONDS
        while True:
            report = trainer.train_window()
            self._facts = self._facts_of(trainer)
            judged = self._analyzer.judge(report)
            reports.append(judged)
            is_pruned = any(verdict.severity is Severity.PRUNE for verdict in judged.verdicts)
            is_stopped = is_pruned and self._is_gated
            has_answered = self._has_answered(report.step)
            self._is_over = trainer.is_finished or has_answered or is_stopped
            self._is_to_be_saved = self._may_go_on and has_answered and not is_stopped
            if self._is_over or time.monotonic() >= due:
                return

    def _has_answered(self, step: int) -> bool:
        return self._stop_at is not None and step >= self._stop_at

    def _restore(self, trainer: Trainer) -> None:
        """Go on from this trial's checkpoint, if there is one. A trial can always start afresh:
        a file that is damaged, or that another study of the same name left, is ignored."""
        from stabsearch.training import checkpoint

        try:
            state = checkpoint.load(self._checkpoint)
        except (OSError, ValueError):
            return
        if state.get("identity") != self._identity:
            return
        trainer.load_state_dict(state["trainer"])
        self._analyzer.load_state_dict(state["analyzer"])

    def _save_if_due(self, trainer: Trainer) -> None:
        if time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        from stabsearch.training import checkpoint

        self._checkpoint.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save(
            self._checkpoint,
            {
                "identity": self._identity,
                "trainer": trainer.state_dict(),
                "analyzer": self._analyzer.state_dict(),
            },
        )
        self._saved_at = time.monotonic()

    def _fail(self) -> None:
        self._is_over = True
        self._failure = traceback.format_exc(limit=-6).strip()
        self._trainer = None
