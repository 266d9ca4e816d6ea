"""The driver's account of a study: every trial, every report, on disk before anyone acts.

Scheduler, searcher and callbacks share one ledger; only the ledger writes files.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from stabsearch.errors import StudyAborted, exception_line
from stabsearch.records import (
    JudgedReport,
    Look,
    Outcome,
    Params,
    Purpose,
    Report,
    Severity,
    StoppedBy,
    TrialFacts,
    TrialRecord,
    Verdict,
    deciding_verdict,
)
from stabsearch.results.store import StudyStore
from stabsearch.results.stored_trial import StoredTrial, read_trials
from stabsearch.search.observer import StudyObserver
from stabsearch.search.peers import Peers

logger = logging.getLogger(__name__)

T = TypeVar("T")

FAILURES_BEFORE_ABORT = 3

FLUSH_SECONDS, FLUSH_SHARE = 2.0, 0.01
"""A running trial's Parquet files are at most this old, or older where writing them takes more
than this share of the time: long trials have large ones. Its journal never is."""


@dataclass(slots=True, kw_only=True)
class LiveTrial:
    """A trial that has no outcome yet."""

    trial_id: str
    setting: int
    seed: int
    params: Params
    max_train_steps: int
    purpose: Purpose = Purpose.SEARCH
    stop_at: int | None = None
    """Step at which a probe has answered its question; None: it trains its whole budget."""
    peer_kind: str = ""
    """Trials of the same kind are compared; see ``StudySpec.peer_kind``."""
    look_steps: tuple[int, ...] = ()
    """Where its record takes a look, ascending."""
    before: StoredTrial | None = None
    """What it was when it had ended as a shorter trial, of one that goes on."""
    facts: TrialFacts | None = None
    reports: dict[int, Report] = field(default_factory=dict)
    """By step: a trial that was started again repeats steps, with the same result."""
    verdicts: dict[tuple[str, str, Severity], Verdict] = field(default_factory=dict)
    attempts: int = 0
    started_at: float = 0.0
    flush_due: float = 0.0

    def record(
        self,
        outcome: Outcome = Outcome.RUNNING,
        stopped_by: StoppedBy = StoppedBy.NOBODY,
        reason: str = "",
    ) -> TrialRecord:
        """The trial as a row of trials.parquet."""
        reports = self.ordered_reports()
        deciding = deciding_verdict(self.verdicts.values())
        evaluation = _last(r.evaluation for r in reports)
        return TrialRecord(
            trial_id=self.trial_id,
            setting=self.setting,
            seed=self.seed,
            params=self.params,
            outcome=outcome,
            stopped_by=stopped_by,
            severity=max((v.severity for v in self.verdicts.values()), default=Severity.NONE),
            rule=deciding.rule if deciding else "",
            symptom=deciding.symptom if deciding else "",
            reason=reason or (deciding.reason if deciding else ""),
            advice=deciding.advice if deciding else "",
            verdict_step=deciding.step if deciding else None,
            timestep_low=deciding.timestep_low if deciding else None,
            timestep_high=deciding.timestep_high if deciding else None,
            steps=reports[-1].step if reports else 0,
            max_train_steps=self.max_train_steps,
            score=_finite(evaluation.score_ema) if evaluation else None,
            score_raw=_finite(evaluation.score_raw) if evaluation else None,
            eval_loss=_finite(evaluation.loss_ema) if evaluation else None,
            kappa=_finite(evaluation.kappa) if evaluation else None,
            lr_gauge_octaves=_last(r.lr_gauge_octaves for r in reports),
            constant_score=self.facts.reference.constant_score if self.facts else None,
            clip_rate=_summary(statistics.fmean, (r.clip_rate for r in reports)),
            grad_norm_median=_median_norm(reports),
            nonfinite_steps=sum(r.nonfinite_steps for r in reports),
            remarks=" ".join(self.facts.remarks) if self.facts else "",
            attempts=self.attempts,
            train_seconds=reports[-1].train_seconds if reports else 0.0,
            started_at=self.started_at,
            ended_at=None if outcome is Outcome.RUNNING else time.time(),
            purpose=self.purpose,
            clip_coef_mean=_summary(statistics.fmean, (r.clip_coef_mean for r in reports)),
            constant_loss=self.facts.reference.constant if self.facts else None,
            loss_unit=self.facts.reference.unit if self.facts else None,
            grad_norm_late=_late_norm(reports),
            looks=_looks(reports, self.look_steps),
        )

    @property
    def went_on_at(self) -> int | None:
        """Step at which it had ended as a shorter trial; None of one that does not go on."""
        return None if self.before is None else self.before.record.steps

    def take_up(self, before: StoredTrial) -> None:
        """Go on from where it had ended as a shorter trial."""
        self.before, self.facts = before, before.facts
        self.reports = {report.step: report for report in before.reports}
        self.add_verdicts(before.verdicts)

    def as_it_was_at(self, step: int) -> StoredTrial:
        """What it was when it had ended there as a shorter trial."""
        then = replace(
            self,
            reports={s: r for s, r in self.reports.items() if s <= step},
            verdicts={k: v for k, v in self.verdicts.items() if v.step <= step},
            purpose=Purpose.PROBE,
        )
        return StoredTrial(
            record=then.record(Outcome.STOPPED, StoppedBy.PROBE),
            facts=self.facts,
            reports=tuple(then.ordered_reports()),
            verdicts=tuple(then.verdicts.values()),
        )

    @property
    def may_go_on(self) -> bool:
        """Whether its state is kept when it has ended as a short trial."""
        return self.stop_at is not None and self.stop_at in self.look_steps

    def add_verdicts(self, verdicts: Iterable[Verdict]) -> None:
        """A trial that was started again says the same once more."""
        for verdict in verdicts:
            key = (verdict.rule, verdict.symptom, verdict.severity)
            self.verdicts.setdefault(key, verdict)

    def ordered_reports(self) -> list[Report]:
        return [self.reports[step] for step in sorted(self.reports)]

    def account(self) -> list[JudgedReport]:
        """Its reports, each with the verdicts that came with it."""
        reports = self.ordered_reports()
        found, before = [], -math.inf
        for report in reports:
            now = (v for v in self.verdicts.values() if before < v.step <= report.step)
            found.append(JudgedReport(report=report, verdicts=tuple(now)))
            before = report.step
        return found

    def scores(self) -> list[tuple[int, float]]:
        """(step, score) of every evaluation so far."""
        return [(r.step, r.evaluation.score_ema) for r in self.ordered_reports() if r.evaluation]

    def is_first_evaluation_from(self, step: float, report: Report) -> bool:
        """Whether ``report`` holds the trial's first evaluation at or after ``step``."""
        return (
            report.evaluation is not None
            and report.step >= step
            and not any(
                step <= r.step < report.step for r in self.reports.values() if r.evaluation
            )
        )

    def worst_score(self) -> float:
        """What stands in for a score that is not finite."""
        finite = [score for _, score in self.scores() if math.isfinite(score)]
        return max(finite, default=0.0)

    def forget_from(self, step: int) -> None:
        """Drop what an earlier attempt said of this step and later: it is being said again."""
        if self.reports and step <= next(reversed(self.reports)):
            self.reports = {s: r for s, r in self.reports.items() if s < step}
            self.verdicts = {k: v for k, v in self.verdicts.items() if v.step < step}


def make_trial_id(setting: int, seed: int) -> str:
    """Sorts in the order of proposal."""
    return f"{setting:04d}-{seed}"


class Ledger:
    """All trials of a study. Every change is written before the method returns."""

    def __init__(self, store: StudyStore, observer: StudyObserver) -> None:
        self._store = store
        self._observer: StudyObserver | None = observer
        there = store.finished_records() if store.path.exists() else []
        self._failed_before = [r for r in there if r.outcome is Outcome.FAILED]
        self._finished = {r.trial_id: r for r in there if r.outcome is not Outcome.FAILED}
        self._live: dict[str, LiveTrial] = {}
        self._starting: set[str] = set()
        self._untouched: set[str] = set()
        """Trials that are to go on and have not begun to: their files stay as they are."""
        self._lost: dict[str, TrialRecord] = {}
        """How trials failed that went on; they are finished as what they had been before."""
        self.peers = Peers()
        self.fatal: Exception | None = None
        """Set when the study cannot go on; nothing may raise inside Ray Tune's loop."""
        self.is_over = False
        """Set when this run has nothing left to train: what failed in it only the next one may."""

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles what its scheduler refers to, for a restore that we never use."""
        return {}

    def add(self, trial: LiveTrial) -> None:
        """Take in a proposed trial, or one that an earlier run left unfinished."""
        if trial.before is not None:
            self._finished.pop(trial.trial_id, None)
            self._untouched.add(trial.trial_id)
        self._live[trial.trial_id] = trial

    def go_on(self, trial: LiveTrial) -> None:
        """Let a short trial that has ended train longer, as ``trial`` says."""
        before = self._finished[trial.trial_id]
        trial.take_up(next(read_trials(self._store.path, [before])))
        trial.attempts = before.attempts - 1  # it is started again, and no worker was lost
        trial.started_at = before.started_at
        self.add(trial)

    def await_start(self, trial_id: str) -> None:
        """Ray has the trial and is looking for a worker, or for another one."""
        self._starting.add(trial_id)

    @property
    def is_any_starting(self) -> bool:
        """Whether a trial waits for its worker process."""
        return bool(self._starting)

    def begin(self, trial_id: str) -> None:
        """A worker starts, or starts again, a trial."""
        self._starting.discard(trial_id)
        if trial_id not in self._live:
            return  # it has its outcome; only the worker that the gate still held was lost
        self._untouched.discard(trial_id)
        trial = self._live[trial_id]
        trial.attempts += 1
        trial.started_at = trial.started_at or time.time()
        self._store.begin_trial(
            trial_id,
            {
                "setting": trial.setting,
                "seed": trial.seed,
                "params": trial.params,
                "attempts": trial.attempts,
                "started_at": trial.started_at,
                "purpose": trial.purpose,
                "stop_at": trial.stop_at,
                "went_on_at": trial.went_on_at,
            },
            trial.account() if trial.went_on_at is not None else (),
        )
        record = trial.record()
        self._store.write_trials([record])
        self._tell("on_trial_start", record)

    def receive(
        self, trial_id: str, facts: TrialFacts, report: Report, verdicts: tuple[Verdict, ...]
    ) -> None:
        """Put a report on disk."""
        self._store.append_report(trial_id, report, verdicts)
        trial = self._live[trial_id]
        trial.facts = facts
        trial.forget_from(report.step)
        trial.reports[report.step] = report
        trial.add_verdicts(verdicts)
        if time.monotonic() >= trial.flush_due:
            self._flush(trial, facts)
        self._tell("on_report", trial.record(), report, verdicts)

    def end(
        self,
        trial_id: str,
        outcome: Outcome,
        stopped_by: StoppedBy = StoppedBy.NOBODY,
        reason: str = "",
    ) -> None:
        """Give a trial its outcome and complete its files."""
        self._starting.discard(trial_id)
        trial = self._live.pop(trial_id)
        record = trial.record(outcome, stopped_by, reason)
        if trial.facts is not None:
            self.peers.add(trial.peer_kind, trial.facts, trial.ordered_reports())
        if trial.before is not None and outcome is Outcome.FAILED:
            self._fall_back(trial.before, record)
        else:
            self._finish(trial, record)
        self._tell("on_trial_end", record)
        self._abort_if_nothing_works()

    def _finish(self, trial: LiveTrial, record: TrialRecord) -> None:
        self._finished[record.trial_id] = record
        self._store.end_trial(
            record, trial.facts, trial.ordered_reports(), list(trial.verdicts.values())
        )
        if not (trial.may_go_on and record.stopped_by is StoppedBy.PROBE):
            self._store.checkpoint_path(record.trial_id).unlink(missing_ok=True)

    def _fall_back(self, before: StoredTrial, failed: TrialRecord) -> None:
        """The machine takes nothing from what the short trial had shown. Its checkpoint and its
        journal stay: from there it goes on when the study runs again."""
        self._lost[failed.trial_id] = failed
        record = _fallen_back(before, failed)
        self._finished[failed.trial_id] = record
        self._store.end_trial(
            record, before.facts, before.reports, before.verdicts, keep_journal=True
        )

    def close(self) -> None:
        """Bring the Parquet files of unfinished trials up to date; end all file access."""
        for trial in self._live.values():
            if trial.facts is not None and trial.trial_id not in self._untouched:
                self._flush(trial, trial.facts)
        self._store.close()

    def is_live(self, trial_id: str) -> bool:
        return trial_id in self._live

    def live(self, trial_id: str) -> LiveTrial:
        return self._live[trial_id]

    def record(self, trial_id: str) -> TrialRecord:
        """How a finished trial ended last: one that failed while it went on has failed."""
        return self._lost.get(trial_id) or self._finished[trial_id]

    def finished(self) -> Sequence[TrialRecord]:
        return list(self._finished.values())

    def as_they_were(self) -> Sequence[TrialRecord]:
        """The records that trials which go on had as shorter ones."""
        return [t.before.record for t in self._live.values() if t.before is not None]

    def lost(self) -> Sequence[TrialRecord]:
        """How trials failed while they went on, in this run. ``finished`` has them as the shorter
        ones that they were."""
        return list(self._lost.values())

    def failed(self) -> Sequence[TrialRecord]:
        """Trials that failed in an earlier run: they get another chance in this one."""
        return self._failed_before

    def observe_start(self, *arguments: Any, **keywords: Any) -> None:
        self._tell("on_study_start", *arguments, **keywords)

    def observe_end(self, *arguments: Any, **keywords: Any) -> None:
        self._tell("on_study_end", *arguments, **keywords)

    def _flush(self, trial: LiveTrial, facts: TrialFacts) -> None:
        begun = time.monotonic()
        self._store.write_trial_tables(
            trial.trial_id, facts, trial.ordered_reports(), list(trial.verdicts.values())
        )
        self._store.write_trials([trial.record()])
        now = time.monotonic()
        trial.flush_due = now + max(FLUSH_SECONDS, (now - begun) / FLUSH_SHARE)

    def _abort_if_nothing_works(self) -> None:
        """A study whose first trials all fail has a broken model, not unlucky settings."""
        outcomes = [record.outcome for record in self._finished.values()]
        if len(outcomes) >= FAILURES_BEFORE_ABORT and set(outcomes) == {Outcome.FAILED}:
            first = next(iter(self._finished.values()))
            self.fatal = StudyAborted(
                f"the first {len(outcomes)} trials all failed. The first one said: "
                f"{exception_line(first.reason)}\n`stabsearch explain {self._store.path} "
                f"{first.trial_id}` shows where."
            )

    def _tell(self, event: str, *arguments: Any, **keywords: Any) -> None:
        if self._observer is None:
            return
        try:
            getattr(self._observer, event)(*arguments, **keywords)
        except Exception:
            logger.exception("The study's observer failed and is not called again.")
            self._observer = None


def _fallen_back(before: StoredTrial, failed: TrialRecord) -> TrialRecord:
    """The row of a trial that failed while it went on: what it had been, and what happened."""
    remark = (
        f"Trial {failed.trial_id} failed when it went on, at step {failed.steps} "
        f"({exception_line(failed.reason)}): it counts as the short one that it was."
    )
    remarks = before.facts.remarks if before.facts else ()
    return replace(
        before.record,
        attempts=max(failed.attempts, before.record.attempts),
        reason=f"a short trial that failed when it went on: {failed.reason}",
        remarks=" ".join((*remarks, remark)),
    )


def _looks(reports: Sequence[Report], steps: Iterable[int]) -> tuple[Look, ...]:
    """What ``reports``, in order, had shown by each of the steps that they came to."""
    last = reports[-1].step if reports else 0
    return tuple(_look(reports, step) for step in steps if step <= last)


def _look(reports: Sequence[Report], step: int) -> Look:
    until = [report for report in reports if report.step <= step]
    evaluation = _last(report.evaluation for report in until)
    return Look(
        step=step,
        score=_finite(evaluation.score_ema) if evaluation else None,
        lr_gauge_octaves=_last(report.lr_gauge_octaves for report in until),
        grad_norm_median=_median_norm(until),
        grad_norm_late=_late_norm(until),
    )


def _last(values: Iterable[T | None]) -> T | None:
    """The last that is not None."""
    return next((value for value in reversed(list(values)) if value is not None), None)


def _median_norm(reports: Sequence[Report]) -> float | None:
    return _summary(statistics.median, (r.grad_norm_median for r in reports))


def _late_norm(reports: Sequence[Report]) -> float | None:
    return _median_norm(reports[-math.ceil(len(reports) / 4) :])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _summary(function: Any, values: Iterable[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return float(function(known)) if known else None
