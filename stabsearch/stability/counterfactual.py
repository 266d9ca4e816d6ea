"""What would have changed a verdict: the threshold, or the preset, that would not have said it.

Found by judging the stored reports again with other numbers, so it holds for every rule, however
its number is made. A trial that was stopped is known up to there only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from stabsearch.records import JudgedReport, Report, Severity, TrialFacts, Verdict
from stabsearch.stability.judges import RULES_JUDGE
from stabsearch.stability.replay import judge_again, verdicts_of
from stabsearch.thresholds import THRESHOLDS, Preset, resolve

MAX_ROUNDS = 8
"""So often a threshold is moved before the search for a silence is given up."""
FIRST_STEP = 0.02
"""How far the search for a threshold goes at first, relative to the threshold."""
STEP_GROWTH = 4.0
MAX_STEPS = 10
PRECISION = 0.005
"""Relative width at which the bisection ends."""

Says = Callable[[Sequence[JudgedReport]], list[Verdict]]
"""What of a judgement is to be silenced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A threshold at which, or beyond which, a verdict is not said."""

    name: str
    now: float
    value: float

    def __str__(self) -> str:
        side = "more" if self.value > self.now else "less"
        return f"{self.name} of {self.value:g} or {side} (is {self.now:g})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counterfactual:
    """What would have silenced a verdict."""

    verdict: Verdict
    ended_trial: bool
    changes: tuple[Change, ...]
    """Thresholds that together do; empty if none were found."""
    remaining: Severity
    """What the rule says of the symptom then; NONE if nothing."""
    pruned_by: Verdict | None
    """Who ends the trial then all the same; None if nobody does, or if the verdict did not."""
    presets: tuple[Preset, ...]
    """Presets that would not have said it, everything else unchanged."""
    obstacle: str
    """Why there are no changes, as a sentence; else empty."""

    def __str__(self) -> str:
        """One or two sentences."""
        sentences = [self.obstacle]
        if self.changes:
            sentences = [f"{in_words(self.changes)} {self._effect()}."]
        if self.presets:
            plural = "s" * (len(self.presets) > 1)
            names = " and ".join(self.presets)
            not_say = "do not say it" if plural else "does not say it"
            sentences.append(f"Preset{plural} {names} {not_say}.")
        return " ".join(sentences)

    def _effect(self) -> str:
        if self.pruned_by is not None:
            other = self.pruned_by
            return (
                f"would have {self._silence()}, but {other.rule} prunes the trial at step "
                f"{other.step} all the same"
            )
        if self.ended_trial:
            rest = f", with {_a(self.remaining)}" if self.remaining else ""
            return f"would have let it go on{rest}"
        return f"would have {self._silence()}"

    def _silence(self) -> str:
        return f"made it {_a(self.remaining)}" if self.remaining else "kept it silent"


class Hindsight:
    """One trial's stored reports, to be judged again and again."""

    def __init__(
        self,
        facts: TrialFacts,
        reports: Sequence[Report],
        settings: Mapping[str, Any],
        *,
        gate: bool,
    ) -> None:
        """``settings``: the study's ``analyzer`` section; see ``make_judge``."""
        self._facts = facts
        self._reports = reports
        self._settings = settings
        self._gate = gate
        self._is_rules = settings.get("name", RULES_JUDGE) == RULES_JUDGE
        self._own: Mapping[str, float] = settings.get("thresholds") or {}

    @cached_property
    def presets(self) -> dict[Preset, tuple[JudgedReport, ...]]:
        """The judgement of every preset other than the study's, its own thresholds kept."""
        if not self._is_rules:
            return {}
        now = Preset(self._settings.get("preset", Preset.DEFAULT))
        return {preset: self._judge(preset=preset) for preset in Preset if preset is not now}

    def of(self, verdict: Verdict) -> Counterfactual:
        """What would have silenced a verdict of this trial."""
        ended_trial = self._gate and verdict.severity is Severity.PRUNE
        obstacle = self._obstacle(verdict)
        changes: tuple[Change, ...] = ()
        if not obstacle:
            changes, obstacle = self._silence(lambda judged: _says(judged, verdict))
        judged = self._judge(**self._changed({change.name: change.value for change in changes}))
        rest = [v for v in verdicts_of(judged) if v.rule == verdict.rule]
        return Counterfactual(
            verdict=verdict,
            ended_trial=ended_trial,
            changes=changes,
            remaining=max(
                (v.severity for v in rest if v.symptom is verdict.symptom), default=Severity.NONE
            ),
            pruned_by=next(iter(_prunes(judged)), None) if changes and ended_trial else None,
            presets=tuple(
                preset
                for preset, said in self.presets.items()
                if changes and not _says(said, verdict)
            ),
            obstacle=obstacle,
        )

    def survival(self) -> tuple[tuple[Change, ...], str]:
        """The changes with which nothing would have pruned the trial; else none, and why."""
        return self._silence(_prunes)

    def _obstacle(self, verdict: Verdict) -> str:
        if not self._is_rules:
            return f"The judge {self._settings['name']} has no thresholds to change."
        if not verdict.limit:
            return "No threshold: a value that is not finite is judged by none."
        if not _says(self._judge(), verdict):
            return "Judged again by this version of stabsearch, it is not said."
        return ""

    def _silence(self, says: Says) -> tuple[tuple[Change, ...], str]:
        """The changes under which nothing is said any more; else none, and why.

        A rule that compares with several numbers, and rules that say the same, need several: one
        threshold after the other is moved until it is no longer what speaks.
        """
        values: dict[str, float] = {}
        for _ in range(MAX_ROUNDS):
            said = says(self._judge(**self._changed(values)))
            if not said:
                return self._needed(values, says), ""
            name = said[0].limit
            if name not in THRESHOLDS:
                return (), "No threshold: a value that is not finite is judged by none."
            value = self._silent_value(said[0], says, values)
            if value is None:
                return (), f"No value of {name} would have changed it."
            values[name] = value
        return (), "No few thresholds would have changed it."

    def _needed(self, values: dict[str, float], says: Says) -> tuple[Change, ...]:
        """Those of the values without which something would still be said."""
        for name in list(values):
            rest = {other: value for other, value in values.items() if other != name}
            if not says(self._judge(**self._changed(rest))):
                values = rest
        return tuple(
            Change(name=name, now=self._limits[name], value=value)
            for name, value in values.items()
        )

    def _silent_value(
        self, said: Verdict, says: Says, values: Mapping[str, float]
    ) -> float | None:
        """The value of a verdict's threshold from which on it is no longer what speaks."""
        name = said.limit
        now = values.get(name, self._limits[name])
        sign = lenient_sign(name)

        def is_silent(value: float) -> bool:
            judged = self._judge(**self._changed({**values, name: value}))
            return all(v.limit != name for v in says(judged))

        loud, silent = now, None
        for offset in _offsets(now, said):
            value = now + sign * offset
            if is_silent(value):
                silent = value
                break
            loud = value
        if silent is None:
            return None
        while abs(silent - loud) > PRECISION * abs(silent):
            middle = (loud + silent) / 2
            if is_silent(middle):
                silent = middle
            else:
                loud = middle
        rounded = _rounded_outwards(silent, sign)
        return rounded if is_silent(rounded) else silent

    def _judge(self, **changes: Any) -> tuple[JudgedReport, ...]:
        return judge_again(
            self._facts, self._reports, {**self._settings, **changes}, gate=self._gate
        )

    def _changed(self, values: Mapping[str, float]) -> dict[str, Any]:
        return {"thresholds": {**self._own, **values}}

    @property
    def _limits(self) -> dict[str, float]:
        return resolve(Preset(self._settings.get("preset", Preset.DEFAULT)), self._own)


def in_words(changes: Sequence[Change]) -> str:
    """``R7.share of 0.98 or more (is 0.7) and R7.effective_bins of 1.02 or less (is 2)``"""
    return " and ".join(map(str, changes))


def lenient_sign(name: str) -> int:
    """1 if a larger number of this threshold lets more pass, -1 if a smaller one does."""
    threshold = THRESHOLDS[name]
    for lenient, strict in (
        (threshold.lenient, threshold.default),
        (threshold.default, threshold.strict),
    ):
        if lenient is not None and strict is not None and lenient != strict:
            return 1 if lenient > strict else -1
    return 1


def _says(judged: Sequence[JudgedReport], verdict: Verdict) -> list[Verdict]:
    """What says the verdict, or worse. A rule that prunes, prunes: whatever it calls it."""
    return [
        v
        for v in verdicts_of(judged)
        if v.rule == verdict.rule
        and v.severity >= verdict.severity
        and (v.symptom is verdict.symptom or v.severity is Severity.PRUNE)
    ]


def _prunes(judged: Sequence[JudgedReport]) -> list[Verdict]:
    return [v for v in verdicts_of(judged) if v.severity is Severity.PRUNE]


def _offsets(now: float, said: Verdict) -> list[float]:
    """Distances from a threshold to try, growing; the number that was judged is a good guess."""
    first = FIRST_STEP * (abs(now) or 1.0)
    offsets = [first * STEP_GROWTH**i for i in range(MAX_STEPS)]
    guess = 1.001 * abs(said.value - said.threshold)
    if abs(said.threshold) == abs(now) and math.isfinite(guess):  # what is compared is the value
        offsets += [guess, 2 * guess, 8 * guess]
    return sorted(offsets)


def _rounded_outwards(value: float, sign: int) -> float:
    """To three digits, away from where the verdict is said."""
    if value == 0 or not math.isfinite(value):
        return value
    digits = 2 - math.floor(math.log10(abs(value)))
    unit = 10.0**-digits
    rounded = math.ceil(value / unit - 1e-9) if sign > 0 else math.floor(value / unit + 1e-9)
    return round(rounded * unit, max(digits, 0) + 3)


def _a(severity: Severity) -> str:
    return {Severity.STEER: "a hint", Severity.WARN: "a warning", Severity.PENALISE: "a penalty"}[
        severity
    ]
