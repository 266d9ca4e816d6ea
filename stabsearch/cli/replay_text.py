"""A study judged again, in words: who flips, what it would have cost or saved, who spoke."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stabsearch.cli.explain_text import fate_words
from stabsearch.recommend.words import count, number, params_text, percent
from stabsearch.records import Ending, Verdict
from stabsearch.stability.replay import Replay

LABEL_WIDTH = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyReplay:
    """Trials of one study, judged again."""

    name: str
    asked: str
    """What was changed, in words; empty if nothing was."""
    gate: bool
    settings: Mapping[str, Any]
    trials: tuple[Replay, ...]
    num_judged_otherwise: int
    """Trials of which this version of stabsearch, by the study's own thresholds, says something
    else than was said when they ran."""
    num_compared: int = 0
    """Trials that the answer counts as unstable for what others did."""

    @property
    def flips(self) -> list[Replay]:
        return [trial for trial in self.trials if trial.is_flipped]

    @property
    def earlier(self) -> list[Replay]:
        """Pruned as before, and sooner."""
        return [t for t in self.trials if not t.is_flipped and t.steps_saved]

    @property
    def steps_taken(self) -> int:
        return sum(trial.before.steps for trial in self.trials)

    @property
    def steps_saved(self) -> int:
        return sum(trial.steps_saved for trial in self.trials)

    @property
    def steps_added(self) -> int:
        return sum(trial.steps_added for trial in self.trials)


def lines_of(replay: StudyReplay) -> Iterator[str]:
    """The replay, line by line."""
    yield from _labelled("REPLAY", [_title(replay)])
    yield from _labelled("ENDINGS", [_endings(replay)])
    flips = [_flip(trial) for trial in replay.flips]
    yield from _labelled("FLIPS", flips or ["none: every trial ends as it did"])
    if replay.earlier:
        yield from _labelled("SOONER", [_flip(trial) for trial in replay.earlier])
    yield from _labelled("STEPS", [_steps(replay)])
    yield from _labelled("VERDICTS", list(_verdicts(replay)) or ["none, then and now"])
    yield from _labelled("NOTES", list(_notes(replay)))


def _title(replay: StudyReplay) -> str:
    gate = "the gate stops who is pruned" if replay.gate else "no gate: nobody is stopped"
    asked = replay.asked or "the study's own thresholds"
    trials = count(len(replay.trials), "trial")
    return f"{replay.name}: {trials} judged again by {asked}; {gate}"


def _endings(replay: StudyReplay) -> str:
    before = Counter(trial.before.ending for trial in replay.trials)
    after = Counter(trial.after.ending for trial in replay.trials)
    return ", ".join(
        f"{before[ending]} {ENDING_WORDS[ending]}"
        if before[ending] == after[ending]
        else f"{before[ending]} -> {after[ending]} {ENDING_WORDS[ending]}"
        for ending in Ending
        if before[ending] or after[ending]
    )


ENDING_WORDS = {
    Ending.STABLE: "stable",
    Ending.UNSTABLE: "unstable",
    Ending.POOR: "poor",
    Ending.PRUNED: "pruned",
    Ending.BEHIND: "behind",
    Ending.FAR: "far from the best rate",
    Ending.WITHIN: "short and within the edge",
    Ending.FAILED: "failed",
    Ending.RUNNING: "running",
    Ending.GOES_ON: "going on",
}


def _flip(trial: Replay) -> str:
    record = trial.record
    after = fate_words(trial.after)
    reason = trial.after.verdict.reason if trial.after.verdict else ""
    why = (
        f": {reason}"
        if trial.after.ending in (Ending.PRUNED, Ending.UNSTABLE, Ending.POOR)
        else ""
    )
    return (
        f"{record.trial_id}  {params_text(record.params)}  {fate_words(trial.before)} -> "
        f"{after}{why}"
    )


def _steps(replay: StudyReplay) -> str:
    taken = max(1, replay.steps_taken)
    parts = [f"{replay.steps_taken:,} taken"]
    if replay.steps_saved:
        share = percent(replay.steps_saved / taken)
        parts.append(f"{replay.steps_saved:,} of them ({share}) would have been saved")
    if replay.steps_added:
        parts.append(f"up to {replay.steps_added:,} more would have been taken")
    return "; ".join(parts if len(parts) > 1 else [*parts, "no more and no fewer"])


def verdict_counts(replay: StudyReplay) -> dict[tuple[str, str, str], dict[str, int]]:
    """(rule, symptom, severity) -> in how many trials it was said, is said, is new, is gone."""
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    for trial in replay.trials:
        groups: dict[str, Sequence[Verdict]] = {
            "before": trial.stored,
            "after": trial.verdicts,
            "added": trial.added,
            "removed": trial.removed,
        }
        for group, verdicts in groups.items():
            for verdict in verdicts:
                key = (verdict.rule, verdict.symptom.value, verdict.severity.name.lower())
                counts.setdefault(key, Counter())[group] += 1
    return {
        key: {group: counts[key][group] for group in ("before", "after", "added", "removed")}
        for key in sorted(counts)
    }


def _verdicts(replay: StudyReplay) -> Iterator[str]:
    rows = verdict_counts(replay)
    names = {key: " ".join(key) for key in rows}
    width = max((len(name) for name in names.values()), default=0)
    if rows:
        yield f"{'in how many trials':<{width}} then -> now"
    for key, row in rows.items():
        changes = [
            f"{sign}{row[group]}"
            for sign, group in (("+", "added"), ("-", "removed"))
            if row[group]
        ]
        numbers = f"{row['before']:>4} -> {row['after']:<4} {' '.join(changes)}".rstrip()
        yield f"{names[key]:<{width}} {numbers}"


def _notes(replay: StudyReplay) -> Iterator[str]:
    if replay.num_judged_otherwise:
        yield (
            f"By the study's own thresholds this version of stabsearch judges "
            f"{count(replay.num_judged_otherwise, 'trial')} otherwise than when they ran: not all "
            "of the above comes from what was asked."
        )
    if replay.num_compared:
        is_one = replay.num_compared == 1
        yield (
            f"Every trial is judged by its own reports. {count(replay.num_compared, 'trial')} "
            f"{'counts' if is_one else 'count'} as unstable in the answer all the same, beside "
            "others that had learned at lower rates: `stabsearch explain` says why."
        )
    if any(trial.after.ending is Ending.GOES_ON for trial in replay.trials):
        yield "A pruned trial has no reports after its end: who goes on may be pruned later."
    yield (
        "Other trials are taken as they were: the searcher might have proposed others. Nothing "
        "was written to the study."
    )


def asked_words(
    *, judge: str | None, preset: str | None, changes: Mapping[str, tuple[float, float]]
) -> str:
    """What was asked for; ``changes``: name -> (value, the value that it replaces)."""
    parts = [f"judge {judge}"] if judge else []
    parts += [f"preset {preset}"] if preset else []
    parts += [
        f"{name}={number(value)} (is {number(now)})" for name, (value, now) in changes.items()
    ]
    return ", ".join(parts)


def _labelled(label: str, texts: Sequence[str]) -> Iterator[str]:
    for i, text in enumerate(texts):
        yield f"{'' if i else label:<{LABEL_WIDTH}}{text}".rstrip()
