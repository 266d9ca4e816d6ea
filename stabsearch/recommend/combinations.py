"""Combinations of words that an answer says nothing of: a search may end before their turn comes.

Words are what may be chosen and is no number. Those of which one value alone was tried are no
categories of the landscape, so they are read from the study's space.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from stabsearch.recommend.choice import Choice
from stabsearch.recommend.evidence import never_learned
from stabsearch.recommend.space import LEARNING_RATE, SearchSpace, learning_rate_of
from stabsearch.recommend.words import params_text
from stabsearch.records import Outcome, ParamValue, StoppedBy, TrialRecord

MAX_NAMED = 4
"""Combinations that a sentence names."""

NEAR_BOTTOM = 1.0
"""Octaves above the lowest searched rate within which a failure leaves no rates to try."""

JUDGED_BY = (StoppedBy.RANK, StoppedBy.GAUGE, StoppedBy.GATE)
"""What stops a trial for what it is like, and not because its question is answered."""

Combination = tuple[ParamValue, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unjudged:
    """Combinations that were not compared with the others."""

    names: tuple[str, ...]
    """The parameters that are combined."""
    num_all: int
    num_untried: int
    untried: tuple[Combination, ...]
    """Without any trial: the first of them, as many as are named."""
    unfinished: tuple[Combination, ...]
    """Those of which no trial was trained to its end, and none says that it need not be."""
    dead: tuple[Combination, ...]
    """Those of which all trials failed or never learned, and lower rates could be tried."""

    @property
    def num(self) -> int:
        return self.num_untried + len(self.unfinished) + len(self.dead)


def unjudged_of(choice: Choice, study: Mapping[str, Any]) -> Unjudged | None:
    """What the trials leave out, as far as they go; None where nothing is."""
    records = [record for each in choice.landscapes.values() for record in each.records]
    words = _words(choice.space, study)
    if not words or not records:
        return None
    tried: dict[Combination, list[TrialRecord]] = {}
    for record in records:
        tried.setdefault(tuple(record.params.get(name) for name in words), []).append(record)
    num_all = math.prod(len(values) for values in words.values())
    left = (each for each in itertools.product(*words.values()) if each not in tried)
    fates = {each: _fate(own, choice) for each, own in tried.items()}
    found = Unjudged(
        names=tuple(words),
        num_all=num_all,
        num_untried=num_all - len(tried),
        untried=tuple(itertools.islice(left, MAX_NAMED)) if num_all > len(tried) else (),
        unfinished=tuple(each for each, fate in fates.items() if fate is _Fate.UNFINISHED),
        dead=tuple(each for each, fate in fates.items() if fate is _Fate.DEAD),
    )
    return found if found.num else None


def notes_on_combinations(
    unjudged: Unjudged | None,
    records: Sequence[TrialRecord],
    study: Mapping[str, Any],
    *,
    is_precise: bool | None,
) -> list[str]:
    """Which they are, and what brings them in; nothing of that while trials run, which may be
    theirs. ``is_precise``: of the answer, as the study asks."""
    if unjudged is None:
        return []
    is_one = unjudged.num == 1
    note = (
        f"{unjudged.num} of {unjudged.num_all} combinations of {', '.join(unjudged.names)} "
        f"{'was' if is_one else 'were'} not compared so far: {'; '.join(_groups(unjudged))}."
    )
    if any(record.outcome is Outcome.RUNNING for record in records):
        return [note]
    more = "a smaller stop_when" if is_precise else "more --trials"
    if _is_budget_spent(records, study):
        more = "more --trials"
    return [f"{note} To compare {'it' if is_one else 'them'}, give the search {more}."]


def _groups(unjudged: Unjudged) -> Iterator[str]:
    groups = (
        (unjudged.num_untried, unjudged.untried, "no trial of"),
        (len(unjudged.unfinished), unjudged.unfinished, "none trained to its end of"),
        (len(unjudged.dead), unjudged.dead, "none survived, and lower rates were not tried, of"),
    )
    for num, some, what in groups:
        if num:
            named = [
                params_text(dict(zip(unjudged.names, each, strict=True)))
                for each in some[:MAX_NAMED]
            ]
            more = f" and {num - MAX_NAMED:,} more" if num > MAX_NAMED else ""
            yield f"{what} {', '.join(named)}{more}"


def _is_budget_spent(records: Sequence[TrialRecord], study: Mapping[str, Any]) -> bool:
    """Without ``stop_when`` a search ends for no other reason."""
    num_settings = len({record.setting for record in records if record.purpose.is_search})
    return not study.get("stop_when") or num_settings >= int(study.get("trials") or 0)


def _words(space: SearchSpace, study: Mapping[str, Any]) -> dict[str, tuple[ParamValue, ...]]:
    domains: Mapping[str, Any] = study.get("space") or {}
    return {
        name: values
        for name, domain in domains.items()
        if isinstance(domain, Mapping)
        and space.axis(name) is None
        and len(values := tuple(dict.fromkeys(domain.get("choice") or ()))) > 1
    }


class _Fate(Enum):
    JUDGED = "judged"
    UNFINISHED = "unfinished"
    DEAD = "dead"


def _fate(records: Sequence[TrialRecord], choice: Choice) -> _Fate:
    """A combination was compared by a trial of the whole budget, by one that was stopped for what
    it was like, or because nothing of it survived, down to the lowest rates."""
    failed = [choice.is_unstable(r) or never_learned(r) for r in records]
    if all(failed):
        axis = choice.space.axis(LEARNING_RATE)
        lowest = min(learning_rate_of(record.params) for record in records)
        is_at_bottom = axis is None or lowest <= axis.low * 2.0**NEAR_BOTTOM
        return _Fate.JUDGED if is_at_bottom else _Fate.DEAD
    is_judged = any(
        not has_failed and (r.outcome is Outcome.COMPLETED or r.stopped_by in JUDGED_BY)
        for r, has_failed in zip(records, failed, strict=True)
    )
    return _Fate.JUDGED if is_judged else _Fate.UNFINISHED
