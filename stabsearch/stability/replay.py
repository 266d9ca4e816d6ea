"""Stored reports judged again, by the same rules or others, without training.

Only what was stored can be judged. A trial that the gate stopped has no reports after that; under
more lenient thresholds it would have gone on, and what then is not known. What other trials did is
taken as it was: the searcher's proposals, and who was stopped by rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stabsearch.records import (
    Ending,
    JudgedReport,
    Report,
    Severity,
    StoppedBy,
    TrialFacts,
    TrialRecord,
    Verdict,
    deciding_verdict,
)
from stabsearch.stability.judges import make_judge

Settings = Mapping[str, Any]
"""The ``analyzer`` section of a study, as ``make_judge`` takes it."""


def judge_again(
    facts: TrialFacts, reports: Iterable[Report], settings: Settings, *, gate: bool
) -> tuple[JudgedReport, ...]:
    """The reports, in the order of steps, with the verdicts that each adds.

    With ``gate`` they end at the first verdict of severity PRUNE, as the trial would have.
    """
    judge = make_judge(settings, facts)
    judged = []
    for report in reports:
        judged.append(judge.judge(report))
        if gate and any(v.severity is Severity.PRUNE for v in judged[-1].verdicts):
            break
    return tuple(judged)


def verdicts_of(judged: Iterable[JudgedReport]) -> tuple[Verdict, ...]:
    """All verdicts, in the order in which they were said."""
    return tuple(verdict for item in judged for verdict in item.verdicts)


STAYS = (Ending.BEHIND, Ending.FAR, Ending.FAILED, Ending.RUNNING)
"""Endings that no verdict brought about, and none changes unless it is a prune."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """How a trial ends under one judgement."""

    ending: Ending
    steps: int
    """Optimizer steps up to there; for GOES_ON those that are known."""
    verdict: Verdict | None
    """The verdict that decided; None if nothing was wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """One trial, as it was judged and judged again."""

    record: TrialRecord
    before: Fate
    after: Fate
    stored: tuple[Verdict, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def is_flipped(self) -> bool:
        """Whether the trial ends in another way."""
        return self.before.ending is not self.after.ending

    @property
    def added(self) -> tuple[Verdict, ...]:
        """Verdicts that were not said: another rule, symptom or severity."""
        return _without(self.verdicts, self.stored)

    @property
    def removed(self) -> tuple[Verdict, ...]:
        """Verdicts that are said no more."""
        return _without(self.stored, self.verdicts)

    @property
    def steps_saved(self) -> int:
        """Steps that the trial would not have taken."""
        return max(0, self.before.steps - self.after.steps)

    @property
    def steps_added(self) -> int:
        """Steps that it would have taken besides, at most: up to the end of its budget."""
        goes_on = self.after.ending is Ending.GOES_ON
        return self.record.max_train_steps - self.after.steps if goes_on else 0


def replay_trial(
    record: TrialRecord,
    facts: TrialFacts | None,
    reports: Sequence[Report],
    stored: Sequence[Verdict],
    settings: Settings,
    *,
    gate: bool,
) -> Replay:
    """Judge a trial again. ``facts`` is None for one that has not reported yet."""
    before = Fate(
        ending=record.ending,
        steps=reports[-1].step if reports else record.steps,
        verdict=deciding_verdict(stored),
    )
    judged = judge_again(facts, reports, settings, gate=gate) if facts else ()
    return Replay(
        record=record,
        before=before,
        after=fate_of(record, before.steps, judged, gate=gate),
        stored=tuple(stored),
        verdicts=verdicts_of(judged),
    )


def fate_of(
    record: TrialRecord, steps: int, judged: Sequence[JudgedReport], *, gate: bool
) -> Fate:
    """What becomes of a trial that took ``steps`` steps, if it is judged like that."""
    verdicts = verdicts_of(judged)
    deciding = deciding_verdict(verdicts)
    worst = deciding.severity if deciding else Severity.NONE
    ending = record.ending
    if gate and worst is Severity.PRUNE:
        ending, steps = Ending.PRUNED, judged[-1].report.step
    elif ending is Ending.PRUNED and steps < record.max_train_steps:
        ending = Ending.GOES_ON
    elif ending not in STAYS:
        ending = Ending.WITHIN if record.stopped_by is StoppedBy.PROBE else Ending.STABLE
        if deciding and worst >= Severity.PENALISE:
            ending = Ending.UNSTABLE if deciding.symptom.is_divergence else Ending.POOR
    return Fate(ending=ending, steps=steps, verdict=deciding)


def _without(verdicts: Iterable[Verdict], others: Iterable[Verdict]) -> tuple[Verdict, ...]:
    known = {(v.rule, v.symptom, v.severity) for v in others}
    return tuple(v for v in verdicts if (v.rule, v.symptom, v.severity) not in known)
