"""Rounds of confirmation: a recommended setting on more seeds, and at a higher learning rate.

A round is read from the trials alone, so that a resumed study goes on with it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stabsearch.recommend.asked import Asked
from stabsearch.recommend.candidates import OWN_PURPOSES
from stabsearch.recommend.evidence import never_learned
from stabsearch.recommend.space import LEARNING_RATE, field_value
from stabsearch.records import Outcome, Params, Purpose, StoppedBy, TrialRecord

MAX_ROUNDS = 3
"""A third setting that does not hold says more about the study than about the setting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One setting under confirmation."""

    asked: Asked
    setting: int
    params: Params
    own: tuple[TrialRecord, ...]
    """Ended trials of the setting: of the search, and those that confirm."""
    stress: tuple[TrialRecord, ...]
    """Ended trials of its stress setting; those of ``own`` where the test is at 0 octaves, which
    is the setting itself."""
    stress_setting: int
    """Its number: the one in use, or the next free one."""
    unstable: frozenset[str]
    """Ids of the unstable ones of both."""

    @property
    def seeds(self) -> range:
        return range(self.asked.num_seeds)

    @property
    def is_planned_out(self) -> bool:
        """Whether every trial that was to be started has ended, in whatever way."""
        return all(
            {trial.seed for trial in trials} >= set(self.seeds)
            for trials in (self.own, self.stress)
        )

    @property
    def counted_own(self) -> list[TrialRecord]:
        return [trial for trial in self.own if self._counts(trial)]

    @property
    def counted_stress(self) -> list[TrialRecord]:
        return [trial for trial in self.stress if self._counts(trial)]

    @property
    def num_stable(self) -> int:
        return sum(trial.is_stable and not self._is_unstable(trial) for trial in self.counted_own)

    @property
    def num_stress_stable(self) -> int:
        """A stress trial may be poor, as one is at twice its best rate. It may not be unstable,
        nor never have learned: the setting did at the lower rate."""
        return len(self._alive_under_stress)

    @property
    def num_stress_poor(self) -> int:
        """Those among them that are not called stable for another reason."""
        return sum(not trial.is_stable for trial in self._alive_under_stress)

    @property
    def _alive_under_stress(self) -> list[TrialRecord]:
        return [
            trial
            for trial in self.counted_stress
            if not (self._is_unstable(trial) or never_learned(trial))
        ]

    @property
    def is_broken(self) -> bool:
        """The setting is out: all has ended, and something was not as it should be."""
        is_clean = self.num_stable == len(self.counted_own) and self.num_stress_stable == len(
            self.counted_stress
        )
        return self.is_planned_out and not is_clean

    @property
    def is_beyond_edge(self) -> bool:
        """Whether it is broken because runs failed, and not for what a stable one was poor at."""
        has_failed = any(self._is_unstable(trial) for trial in self.counted_own)
        is_clean = self.num_stress_stable == len(self.counted_stress)
        return self.is_broken and (has_failed or not is_clean)

    @property
    def has_held(self) -> bool:
        fewest = min(len(self.counted_own), len(self.counted_stress))
        return self.is_planned_out and not self.is_broken and fewest >= self.asked.num_seeds

    def _is_unstable(self, trial: TrialRecord) -> bool:
        return trial.trial_id in self.unstable

    def _counts(self, trial: TrialRecord) -> bool:
        """Trained to the end, or stopped by the gate for what it did: the others tell nothing."""
        is_gated = trial.outcome is not Outcome.FAILED and trial.stopped_by is StoppedBy.GATE
        return trial.outcome is Outcome.COMPLETED or is_gated or self._is_unstable(trial)


def stress_params(params: Params, study: Mapping[str, Any], asked: Asked) -> Params:
    """The setting at the higher learning rate, which may lie outside of the searched range."""
    rate = float(field_value(study, params, LEARNING_RATE) or math.nan)
    return params | {LEARNING_RATE: rate * 2.0**asked.stress_octaves}


def round_of(
    setting: int,
    params: Params,
    records: Sequence[TrialRecord],
    study: Mapping[str, Any],
    asked: Asked,
    is_unstable: Callable[[TrialRecord], bool],
    free: int,
) -> Round:
    """The round of one setting, as far as it goes; of a setting without one, an empty one.

    ``free`` is a number that no setting has.
    """
    own = [
        r
        for r in records
        if r.setting == setting and r.purpose in OWN_PURPOSES and r.outcome is not Outcome.RUNNING
    ]
    wanted = stress_params(params, study, asked)
    known = [r for r in records if r.purpose is Purpose.STRESS and _same(r.params, wanted)]
    stress = [r for r in known if r.outcome is not Outcome.RUNNING]
    if asked.stress_octaves == 0:
        stress = own
    return Round(
        asked=asked,
        setting=setting,
        params=params,
        own=tuple(own),
        stress=tuple(stress),
        stress_setting=known[0].setting if known else free,
        unstable=frozenset(r.trial_id for r in (*own, *stress) if is_unstable(r)),
    )


def rounds_of(
    records: Sequence[TrialRecord],
    study: Mapping[str, Any],
    asked: Asked,
    is_unstable: Callable[[TrialRecord], bool],
    free: int,
) -> list[Round]:
    """The rounds that were begun, the first one first."""
    begun: dict[int, float] = {}  # setting -> when the first of its round's trials started
    params = {r.setting: r.params for r in records if r.purpose in OWN_PURPOSES}
    for record in records:
        for setting in _confirmed_by(record, params, study, asked):
            begun[setting] = min(begun.get(setting, math.inf), record.started_at)
    # The missing seeds come first: a stress test of a setting that lacks some is another one's,
    # from before the study asked for other stress.
    seeds = Counter(r.setting for r in records if r.purpose in OWN_PURPOSES)
    confirmed = {r.setting for r in records if r.purpose is Purpose.CONFIRM}
    begun = {
        setting: at
        for setting, at in begun.items()
        if setting in confirmed or seeds[setting] >= asked.num_seeds
    }
    return [
        round_of(setting, params[setting], records, study, asked, is_unstable, free)
        for setting in sorted(begun, key=lambda number: (begun[number], number))
    ]


def _confirmed_by(
    record: TrialRecord, params: Mapping[int, Params], study: Mapping[str, Any], asked: Asked
) -> list[int]:
    """The settings whose round a trial is part of."""
    if record.purpose is Purpose.CONFIRM:
        return [record.setting]
    if record.purpose is not Purpose.STRESS:
        return []
    return [
        setting
        for setting, own in params.items()
        if _same(stress_params(own, study, asked), record.params)
    ]


def _same(first: Params, second: Params) -> bool:
    """Equal but for the rounding of a learning rate."""
    if first.keys() != second.keys():
        return False
    return all(
        math.isclose(float(value), float(second[name] or 0), rel_tol=1e-9)
        if name == LEARNING_RATE and value is not None
        else value == second[name]
        for name, value in first.items()
    )
