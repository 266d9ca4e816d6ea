"""Why no setting can be recommended, and where to look: plain sentences."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from stabsearch.recommend.candidates import OWN_PURPOSES
from stabsearch.recommend.confirm import poor_reasons
from stabsearch.recommend.evidence import never_learned
from stabsearch.recommend.landscape import Landscape
from stabsearch.recommend.space import learning_rate_of
from stabsearch.recommend.words import number
from stabsearch.records import ParamValue, Symptom, TrialRecord

APART = 1.0
"""Octaves between a rate that never learned and one that failed in which there may be one that
does neither."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fates:
    """What became of the trials that ended."""

    unstable: tuple[TrialRecord, ...]
    timid: tuple[TrialRecord, ...]
    """Those that never learned, and that no neighbour shows to be beyond the edge."""
    alive: tuple[TrialRecord, ...]
    """The others."""
    shares: Mapping[int, tuple[bool, ...]]
    """Of every setting that was to train to its end, which of its seeds were stable."""

    @property
    def nearest(self) -> tuple[int, tuple[bool, ...]]:
        """The setting of which most seeds were stable."""
        return max(self.shares.items(), key=lambda item: sum(item[1]) / len(item[1]))

    @property
    def timid_below(self) -> float:
        """The highest rate that never learned below every failure; NaN without one."""
        lowest = min(map(_rate, self.unstable), default=math.nan)
        return max((_rate(r) for r in self.timid if _rate(r) < lowest), default=math.nan)


def notes_on_nothing_stable(landscapes: Mapping[tuple[ParamValue, ...], Landscape]) -> list[str]:
    """Of trials of which none is a candidate."""
    fates = _fates(landscapes)
    if not (fates.unstable or fates.timid or fates.alive):
        return []
    if fates.shares and all(fates.nearest[1]):
        setting = fates.nearest[0]
        return [f"Setting {setting} was stable in all its seeds, but its score is not finite."]
    what = "No setting was stable in all its seeds."
    if fates.alive and not fates.shares:
        what = "No setting was trained to its end: all were short trials."
    where = next((words(fates) for applies, words in _WHERE if applies(fates)), None)
    return [what] if where is None else [what, where]


def _fates(landscapes: Mapping[tuple[ParamValue, ...], Landscape]) -> _Fates:
    ended = [
        (record, landscape.is_unstable(record))
        for landscape in landscapes.values()
        for record in landscape.records
        if record.has_result
    ]
    shares: dict[int, tuple[bool, ...]] = {}
    for record, _ in ended:
        if _is_full(record):
            shares[record.setting] = (*shares.get(record.setting, ()), record.is_stable)
    others = [record for record, is_unstable in ended if not is_unstable]
    return _Fates(
        unstable=tuple(record for record, is_unstable in ended if is_unstable),
        timid=tuple(record for record in others if never_learned(record)),
        alive=tuple(record for record in others if not never_learned(record)),
        shares=shares,
    )


def _is_full(record: TrialRecord) -> bool:
    """Whether it was to train to its end."""
    return record.purpose in OWN_PURPOSES


def _rate(record: TrialRecord) -> float:
    return learning_rate_of(record.params)


# --- where to look ----------------------------------------------------------------------------


def _is_dead_from_the_start(record: TrialRecord) -> bool:
    return record.symptom == Symptom.NON_FINITE and record.verdict_step == 1


def _came_nearest(fates: _Fates) -> str:
    setting, seeds = fates.nearest
    return f"Setting {setting} came nearest: stable in {sum(seeds)} of {len(seeds)}."


def _is_between(fates: _Fates) -> bool:
    lowest = min(map(_rate, fates.unstable), default=math.nan)
    return not fates.alive and fates.timid_below * 2.0**APART <= lowest


def _between(fates: _Fates) -> str:
    low, high = number(fates.timid_below), number(min(map(_rate, fates.unstable)))
    return (
        f"Nothing was tried between learning_rate {low}, which never learned, and {high}, which "
        f"was unstable. Search there, and below {low}, too: such a rate is too low, or has killed "
        "its network at once. Or train longer."
    )


def _poor(fates: _Fates) -> str:
    return (
        f"What did not fail is not called stable for another reason ({poor_reasons(fates.alive)}):"
        " `stabsearch explain` says what helps."
    )


def _lives_above(fates: _Fates) -> bool:
    """Whether what was to train to its end never learned, and something lived at a higher rate."""
    full = [_rate(record) for record in fates.timid if _is_full(record)]
    return bool(full) and max(map(_rate, fates.alive)) > max(full)


def _higher(fates: _Fates) -> str:
    return (
        "What was to train to its end never learned, and at higher rates, up to learning_rate "
        f"{number(max(map(_rate, fates.alive)))}, short trials did not fail: search higher "
        "learning rates, or train longer."
    )


def _lives_below(fates: _Fates) -> bool:
    """The same of what was unstable, and of a lower rate."""
    full = [_rate(record) for record in fates.unstable if _is_full(record)]
    return bool(full) and min(map(_rate, fates.alive)) < min(full)


EITHER = "such rates are too low, or so high that a network is dead from the first step"

_WHERE: tuple[tuple[Callable[[_Fates], bool], Callable[[_Fates], str]], ...] = (
    (lambda fates: any(any(seeds) for seeds in fates.shares.values()), _came_nearest),
    (
        lambda fates: (
            not (fates.timid or fates.alive) and all(map(_is_dead_from_the_start, fates.unstable))
        ),
        lambda _: (
            "Every trial was not finite at its first step, before a learning rate could act: look "
            "for NaN in the model's output, its loss or the data."
        ),
    ),
    (
        lambda fates: not (fates.timid or fates.alive),
        lambda _: "Every trial was unstable: search lower learning rates.",
    ),
    (
        lambda fates: not (fates.unstable or fates.alive),
        lambda _: (
            f"No trial learned: {EITHER}. Search lower and higher ones, or train longer; if none "
            "learns, the model is too small, or it or the data is broken."
        ),
    ),
    (_is_between, _between),
    (
        lambda fates: not fates.alive,
        lambda _: (
            "Every trial was unstable or never learned, as one of a rate that is far too high "
            "may seem to: search lower learning rates, then train longer."
        ),
    ),
    (lambda fates: bool(poor_reasons(fates.alive)), _poor),
    (_lives_above, _higher),
    (
        _lives_below,
        lambda _: (
            "What was to train to its end was unstable, and short trials at lower rates were not: "
            "search lower learning rates."
        ),
    ),
    (
        lambda fates: any(map(_is_full, fates.timid)),
        lambda _: (
            f"What was to train to its end never learned: {EITHER}. Search lower and higher ones, "
            "or train longer."
        ),
    ),
)
"""The first that applies."""
