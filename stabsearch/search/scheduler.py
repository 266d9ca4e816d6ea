"""Verdicts first, rank second: a scheduler around any Ray scheduler that stops trials.

Ray's own schedulers rank trials by a number, and a NaN has no rank: ASHA never stops one. Here a
trial that is unstable by its own record is stopped whatever its rank, and the inner scheduler is
asked about the others, with finite scores only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    TrialScheduler,
)

from stabsearch.records import (
    Action,
    Decision,
    Outcome,
    Purpose,
    Report,
    Severity,
    StoppedBy,
    TrialFacts,
    TrialRecord,
    Verdict,
)
from stabsearch.search.guard import guarded
from stabsearch.search.ledger import Ledger, LiveTrial
from stabsearch.search.packet import PACKET_KEY, SCORE_KEY, STEP_KEY, Packet
from stabsearch.spec import SchedulerSpec
from stabsearch.stability.baselines.rank import MedianStopping

CONTINUE = Decision(action=Action.CONTINUE)

MAX_HOLD_SECONDS = 60.0
"""How long an ended trial's worker is held while another trial waits for its own."""


@dataclass(frozen=True, slots=True)
class RankedTrial:
    """What an inner scheduler sees of a trial: our id, the same before and after a restart."""

    trial_id: str


class MedianScheduler(FIFOScheduler):  # type: ignore[misc]
    """The median rule as Ray Tune has it (``MedianStopping``), without a need for its controller.

    Ray's own cannot be filled again from files, and lets young trials wait for others.
    """

    def __init__(self, grace_steps: int) -> None:
        super().__init__()
        self._rule = MedianStopping(grace_steps)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        del tune_controller
        is_behind = self._rule.observe(trial.trial_id, result[STEP_KEY], result[SCORE_KEY])
        return str(TrialScheduler.STOP if is_behind else TrialScheduler.CONTINUE)


def _grace_steps(spec: SchedulerSpec, max_train_steps: int) -> int:
    return max(1, round(spec.grace_fraction * max_train_steps))


INNER_SCHEDULERS: dict[str, Callable[[SchedulerSpec, int], TrialScheduler]] = {
    "none": lambda spec, max_train_steps: FIFOScheduler(),  # noqa: ARG005
    "asha": lambda spec, max_train_steps: AsyncHyperBandScheduler(
        time_attr=STEP_KEY,
        metric=SCORE_KEY,
        mode="min",
        # One more than a trial can reach: the end of the budget is not a decision of rank.
        max_t=max_train_steps + 1,
        grace_period=_grace_steps(spec, max_train_steps),
        reduction_factor=spec.reduction_factor,
    ),
    "median": lambda spec, max_train_steps: MedianScheduler(_grace_steps(spec, max_train_steps)),
}


class StabilityGate(FIFOScheduler):  # type: ignore[misc]
    """Stops what the analyzer calls unstable, what has answered its question, and what the gauge
    says is far from the best rate; leaves every other decision to ``inner``.

    The first of the reasons that holds is the one that is recorded, in this order.
    """

    def __init__(
        self,
        spec: SchedulerSpec,
        max_train_steps: int,
        ledger: Ledger,
        *,
        spares_whole: bool = False,
    ) -> None:
        super().__init__()
        self.ledger = ledger
        self._spec = spec
        self._spares_whole = spares_whole
        """Trials of the whole budget are few, and each is to be an answer: as in a boundary
        search, where one that ranks behind short ones would leave the study without any."""
        self._inner_name = spec.inner
        self._ended_at: dict[str, float] = {}
        """Trials that have their outcome and still hold their worker; monotonic time."""
        self._saved: set[str] = set()
        """Ended short trials that have written their state to disk, or cannot."""
        self._inner = INNER_SCHEDULERS[spec.inner](spec, max_train_steps)

    def replay(
        self, trial_id: str, scores: Iterable[tuple[int, float]], constant_score: float
    ) -> None:
        """Show the inner scheduler the (step, score)s that it saw of a trial before a restart."""
        ranked = RankedTrial(trial_id)
        self._inner.on_trial_add(None, ranked)
        for step, score in scores:
            bounded = finite_score(score, constant_score)
            self._inner.on_trial_result(None, ranked, _inner_result(step, bounded))

    def replay_ended(self, record: TrialRecord, scores: Iterable[tuple[int, float]]) -> None:
        """The same of an ended trial with a constant score, from all of its scores."""
        assert record.constant_score is not None
        self.replay(record.trial_id, scores_shown(record, scores), record.constant_score)

    @guarded(None)
    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._saved.discard(trial.config["trial_id"])  # one that goes on will end once more
        self._inner.on_trial_add(tune_controller, RankedTrial(trial.config["trial_id"]))

    @guarded(TrialScheduler.STOP)
    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        trial_id: str = trial.config["trial_id"]
        if self.ledger.is_live(trial_id):
            self._take_in(tune_controller, trial_id, result[PACKET_KEY])
        if self.ledger.is_live(trial_id) or self._is_to_be_saved(trial, result[PACKET_KEY]):
            return str(TrialScheduler.CONTINUE)
        return self._release(trial_id)

    def _is_to_be_saved(self, trial: Any, packet: Packet) -> bool:
        """Whether the worker of an ended short trial has still to write its state to disk."""
        trial_id = trial.config["trial_id"]
        if packet.is_saved or packet.failure is not None:
            self._saved.add(trial_id)
        is_short = self.ledger.record(trial_id).stopped_by is StoppedBy.PROBE
        return is_short and trial.config["may_go_on"] and trial_id not in self._saved

    def _release(self, trial_id: str) -> str:
        """STOP an ended trial, but not while another one waits for its worker to come up.

        Ray gives a free worker to a trial whose own worker is still starting, and kills that one.
        Where trials are shorter than the start of a process that goes on for ever: the search
        runs on one worker and starts processes all the time.
        """
        ended_at = self._ended_at.setdefault(trial_id, time.monotonic())
        is_due = time.monotonic() - ended_at > MAX_HOLD_SECONDS
        if self.ledger.is_any_starting and not is_due:
            return str(TrialScheduler.CONTINUE)
        del self._ended_at[trial_id]
        return str(TrialScheduler.STOP)

    def _take_in(self, tune_controller: Any, trial_id: str, packet: Packet) -> None:
        """Put a packet's reports on disk; end the trial if one of them, or a failure, says so."""
        for judged in packet.reports:
            assert packet.facts is not None
            self.ledger.receive(trial_id, packet.facts, judged.report, judged.verdicts)
            decision = self._decide(
                tune_controller, trial_id, packet.facts, judged.report, judged.verdicts
            )
            if decision.action is Action.STOP:
                self.ledger.end(
                    trial_id,
                    _outcome(decision, judged.verdicts),
                    decision.stopped_by,
                    decision.reason,
                )
                return
        if packet.failure is not None:
            self.ledger.end(trial_id, Outcome.FAILED, reason=packet.failure)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Nothing: Ray calls this also for a worker that it replaces. See SettingSearcher."""

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Nothing: the trial got its outcome with the decision that ended it."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Nothing: a removed trial has no reports to rank."""

    def debug_string(self) -> str:
        return f"StabilityGate around {self._inner_name}"

    def _decide(
        self,
        tune_controller: Any,
        trial_id: str,
        facts: TrialFacts,
        report: Report,
        verdicts: tuple[Verdict, ...],
    ) -> Decision:
        trial = self.ledger.live(trial_id)
        for_good = self._by_verdict(verdicts) or _by_budget(facts, report)
        answered = _by_purpose(trial, report)
        is_spared = self._spares_whole and trial.purpose is Purpose.SEARCH
        is_gauged = not (answered or is_spared)
        if decision := for_good or (is_gauged and self._by_gauge(trial, facts, report)):
            return decision
        # The score is shown in any case: the inner one has seen them all if a short trial goes on.
        ranked = self._rank(tune_controller, trial_id, facts, report)
        return answered or (CONTINUE if is_spared else ranked)

    def _by_verdict(self, verdicts: tuple[Verdict, ...]) -> Decision | None:
        prune = next((v for v in verdicts if v.severity is Severity.PRUNE), None)
        if prune is None or not self._spec.gate:
            return None
        return Decision(action=Action.STOP, stopped_by=StoppedBy.GATE, reason=prune.reason)

    def _by_gauge(self, trial: LiveTrial, facts: TrialFacts, report: Report) -> Decision | None:
        """One look, at the first evaluation from ``gauge_fraction`` on: later the average has
        caught up with a low rate, and a decaying rate has changed what the gauge sees."""
        limit, octaves = self._spec.gauge_octaves, report.lr_gauge_octaves
        due = self._spec.gauge_fraction * facts.max_train_steps
        if limit is None or octaves is None or not trial.is_first_evaluation_from(due, report):
            return None
        if abs(octaves) <= limit or not trial.purpose.is_search:
            return None
        side = "above" if octaves > 0 else "below"
        return Decision(
            action=Action.STOP,
            stopped_by=StoppedBy.GAUGE,
            reason=f"by the gauge its learning rate is about {abs(octaves):.1f} octaves {side} "
            f"the best one at step {report.step}; up to {limit:g} may go on",
        )

    def _rank(
        self, tune_controller: Any, trial_id: str, facts: TrialFacts, report: Report
    ) -> Decision:
        if report.evaluation is None:
            return CONTINUE
        if not self.ledger.live(trial_id).purpose.is_search:
            return CONTINUE  # a confirmation asks whether a setting holds, not how it ranks
        score = finite_score(report.evaluation.score_ema, facts.reference.constant_score)
        action = self._inner.on_trial_result(
            tune_controller, RankedTrial(trial_id), _inner_result(report.step, score)
        )
        if action != TrialScheduler.STOP:
            return CONTINUE
        return Decision(
            action=Action.STOP,
            stopped_by=StoppedBy.RANK,
            reason=f"score {score:.4g} at step {report.step} ranks behind other trials "
            f"({self._inner_name})",
        )


class StudyCallback(tune.Callback):  # type: ignore[misc]
    """Tells the ledger when a worker begins a trial, or is lost."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    @guarded(None)
    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        del iteration, trials, info
        self.ledger.begin(trial.config["trial_id"])

    @guarded(None)
    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The worker was lost; Ray starts the trial on another one."""
        del iteration, trials, info
        self.ledger.await_start(trial.config["trial_id"])


class SilentReporter(tune.ProgressReporter):  # type: ignore[misc]
    """In the place of Ray's own progress output; the study's observer speaks instead."""

    def should_report(self, trials: list[Any], done: bool = False) -> bool:
        del trials, done
        return False

    def report(self, trials: list[Any], done: bool, *sys_info: Any) -> None:
        """Never asked."""


class AbortStopper(tune.Stopper):  # type: ignore[misc]
    """Ends the study in order when something of ours has failed."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        del trial_id, result
        return False

    def stop_all(self) -> bool:
        return self.ledger.fatal is not None


def scores_shown(
    record: TrialRecord, scores: Iterable[tuple[int, float]]
) -> list[tuple[int, float]]:
    """Of an ended trial's (step, score)s those that the inner scheduler saw: not that of the last
    report if it completed there, or was stopped by its verdict or the gauge."""
    is_last_shown = record.stopped_by in (StoppedBy.RANK, StoppedBy.PROBE)
    return [(step, score) for step, score in scores if step < record.steps or is_last_shown]


def _by_budget(facts: TrialFacts, report: Report) -> Decision | None:
    return Decision(action=Action.STOP) if report.step >= facts.max_train_steps else None


def _by_purpose(trial: LiveTrial, report: Report) -> Decision | None:
    if trial.stop_at is None or report.step < trial.stop_at:
        return None
    is_sound = all(v.severity < Severity.PENALISE for v in trial.verdicts.values())
    within = f"a short trial: at step {report.step} it is within the edge"
    # What a rule said is the better reason where one has spoken.
    return Decision(
        action=Action.STOP, stopped_by=StoppedBy.PROBE, reason=within if is_sound else ""
    )


def finite_score(score: float, constant_score: float) -> float:
    """A score that a scheduler can rank: no worse than the best constant prediction's."""
    return min(score, constant_score) if math.isfinite(score) else constant_score


def _inner_result(step: int, score: float) -> dict[str, Any]:
    return {STEP_KEY: step, SCORE_KEY: score, "training_iteration": step}


def _outcome(decision: Decision, verdicts: tuple[Verdict, ...]) -> Outcome:
    if decision.stopped_by is StoppedBy.NOBODY:
        return Outcome.COMPLETED
    prunes = {v.symptom for v in verdicts if v.severity is Severity.PRUNE}
    if decision.stopped_by is StoppedBy.GATE and any(p.is_divergence for p in prunes):
        return Outcome.DIVERGED
    return Outcome.STOPPED
