"""What was learned of every combination of categories, and the setting that follows from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stabsearch.recommend.asked import asked_of
from stabsearch.recommend.candidates import (
    OWN_PURPOSES,
    Candidate,
    candidates_of,
    choose,
    least_risky,
)
from stabsearch.recommend.landscape import Landscape, landscapes_of
from stabsearch.recommend.rounds import MAX_ROUNDS, Round, round_of, rounds_of
from stabsearch.recommend.space import SearchSpace, search_space
from stabsearch.records import Outcome, ParamValue, Purpose, TrialRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The recommended setting and all that it was chosen from."""

    space: SearchSpace
    landscapes: Mapping[tuple[ParamValue, ...], Landscape]
    candidates: tuple[Candidate, ...]
    """The sound ones."""
    num_seeds: int
    """Replicates that the study asks for; more, if it once asked for more."""
    pick: Candidate | None
    round: Round | None
    """The confirmation of the pick, which may not have begun; None where none was asked for."""
    broken: tuple[Round, ...]
    """Settings that did not hold, the first one first."""
    is_final: bool
    """The pick is kept although nothing held: no more setting is confirmed."""

    def is_unstable(self, record: TrialRecord) -> bool:
        """The trial's own verdict, or that of its neighbours."""
        return _is_unstable(record, self.space, self.landscapes)


def choice_of(
    records: Sequence[TrialRecord], study: Mapping[str, Any], *, with_surface: bool = True
) -> Choice:
    """The choice that the trials lead to, as far as they go."""
    free = max((record.setting for record in records), default=-1) + 1
    records = merged(records)
    space = search_space(study, records)
    landscapes = landscapes_of(space, records, study, with_surface=with_surface)
    num_seeds = _num_seeds(study, records)
    asked = asked_of(study)

    def is_unstable(record: TrialRecord) -> bool:
        return _is_unstable(record, space, landscapes)

    rounds = rounds_of(records, study, asked, is_unstable, free) if asked else []
    listed = [
        candidate
        for landscape in landscapes.values()
        for candidate in candidates_of(
            landscape, num_seeds, study, also={each.setting for each in rounds}
        )
    ]
    broken = [each for each in rounds if each.is_broken]
    pick, is_final = _settle(listed, rounds, broken)
    return Choice(
        space=space,
        landscapes=landscapes,
        candidates=tuple(candidate for candidate in listed if candidate.is_sound),
        num_seeds=num_seeds,
        pick=pick,
        round=None
        if pick is None or asked is None
        else round_of(pick.setting, pick.params, records, study, asked, is_unstable, free),
        broken=tuple(broken),
        is_final=is_final,
    )


def merged(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Settings with equal parameters, which a sampler may propose again, as the first of them: one
    ended trial for each of its seeds, the one that tells most. The same seed says the same again,
    and is no more evidence."""
    first: dict[tuple[tuple[str, ParamValue], ...], int] = {}
    kept: dict[tuple[int, int], TrialRecord] = {}
    others = []
    for record in sorted(records, key=lambda each: each.setting):
        if record.purpose in OWN_PURPOSES and record.has_result:
            setting = first.setdefault(tuple(sorted(record.params.items())), record.setting)
            known = kept.get((setting, record.seed))
            if known is None or _told(record) > _told(known):
                kept[setting, record.seed] = replace(record, setting=setting)
        else:
            others.append(record)
    return [*kept.values(), *others]


def _told(record: TrialRecord) -> tuple[bool, int]:
    """How much an ended trial says of its setting: one that others outran says little."""
    return record.outcome is Outcome.COMPLETED or record.is_unstable, record.steps


def _settle(
    listed: Sequence[Candidate], rounds: Sequence[Round], broken: Sequence[Round]
) -> tuple[Candidate | None, bool]:
    """The pick, and whether it is kept only because nothing held.

    A setting stays the pick while its round goes on and when it has held, whatever the models say
    meanwhile. What is at least as near to the edge as one that failed is not tried after it.
    """
    by_setting = {candidate.setting: candidate for candidate in listed}
    alive = [each for each in rounds if not each.is_broken and each.setting in by_setting]
    if alive:
        held = [each for each in alive if each.has_held]
        return by_setting[(held or alive)[-1].setting], False
    out = {each.setting for each in broken}
    failed = [each for each in broken if each.is_beyond_edge]
    left = [
        candidate
        for candidate in listed
        if candidate.is_sound
        and candidate.setting not in out
        and not any(_is_as_near(candidate, each) for each in failed)
    ]
    if left and len(out) < MAX_ROUNDS:
        return choose(left), False
    lowest = [c for c in listed if not any(_is_nearer(c, each) for each in failed)] or listed
    kept = [candidate for candidate in lowest if candidate.is_sound] or lowest
    return (least_risky(kept) if kept else None), bool(out)


def _is_as_near(candidate: Candidate, failed: Round) -> bool:
    """Whether a setting is at least as near to the edge as one that failed, if they compare."""
    landscape = candidate.landscape
    first, second = (landscape.space.category(each.params) for each in (candidate, failed))
    return first == second and landscape.is_as_near(candidate.params, failed.params)


def _is_nearer(candidate: Candidate, failed: Round) -> bool:
    is_as_far = candidate.landscape.is_as_near(failed.params, candidate.params)
    return _is_as_near(candidate, failed) and not is_as_far


def _is_unstable(
    record: TrialRecord,
    space: SearchSpace,
    landscapes: Mapping[tuple[ParamValue, ...], Landscape],
) -> bool:
    known = landscapes.get(space.category(record.params))
    return record.is_unstable or (known is not None and known.is_unstable(record))


def _num_seeds(study: Mapping[str, Any], records: Sequence[TrialRecord]) -> int:
    tried = Counter(record.setting for record in records if record.purpose is Purpose.SEARCH)
    return max([int(study.get("seeds") or 1), *tried.values()])
