"""What a study tries next, and when its search is over: plain functions of what has ended.

Nothing here knows Ray or Optuna, and nothing has a memory: a resumed study, which has the same
records, goes on as an uninterrupted one would have.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from stabsearch.recommend.confirm import planned_trials
from stabsearch.recommend.pick import edge_precision
from stabsearch.records import Params, ParamValue, Purpose, StoppedBy, TrialRecord
from stabsearch.spec import Choice, Domain, IntRange, LogUniform, StudySpec, TrainerSpec
from stabsearch.training.lr_schedule import lr_warmup_steps


class Length(Enum):
    """How long a trial trains, shortest first."""

    BRIEF = "brief"
    """Until the rules have seen enough to say on which side of the edge it lies."""
    READABLE = "readable"
    """Until the gauge and the scores say something of where the best rate is."""
    LATE = "late"
    """Until the scores say it better than the gauge."""
    WHOLE = "whole"
    """The whole budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A setting to try."""

    params: Params | None
    """None: Optuna's sampler draws it."""
    purpose: Purpose = Purpose.SEARCH
    length: Length = Length.WHOLE
    """Of a short trial: how short."""
    goes_on: int | None = None
    """Number of the setting whose short trials go on, instead of new ones from the first step."""


READABLE_STEPS = 100
"""After warm-up. With a budget of 400 steps, of which 20 are warm-up, an octave of learning rate
changes the gauge by 0.4 octaves after 40 steps, and by 1.3 after 100 (``adamw_short``)."""
LATE_SHARE = 0.25
"""Of the budget: where scores say more of the best rate than the gauge, and at the latest where
the gauge is read, because a decaying learning rate changes what it reads. On the tuning grids of
2,000 steps at a constant rate, the best score lies 1.5 octaves above the best rate at a tenth of
the budget, and 0.7 at a quarter (docs/decisions.md)."""


class Pause(Enum):
    """Why there is no proposal."""

    WAIT = "wait"
    """What is under way has to end first."""
    DONE = "done"
    """All is known that the strategy was asked for."""


class Strategy(Protocol):
    """Says what to try next."""

    def next(
        self, records: Sequence[TrialRecord], under_way: Sequence[Proposal], number: int
    ) -> Proposal | Pause:
        """``records`` of ended trials, those that confirm included, ``under_way`` settings that
        were proposed and have not ended, ``number`` settings proposed so far."""
        ...


class Sampled:
    """Optuna's sampler draws, until the answer is as precise as the study asks."""

    def __init__(self, spec: StudySpec) -> None:
        self._spec = spec

    def next(
        self, records: Sequence[TrialRecord], under_way: Sequence[Proposal], number: int
    ) -> Proposal | Pause:
        del under_way
        is_done = number >= self._spec.trials or is_known(self._spec, records)
        return Pause.DONE if is_done else Proposal(params=None)


class Grid:
    """Points spread evenly over the space, in a seeded random order."""

    def __init__(self, spec: StudySpec) -> None:
        self._spec = spec
        self._points = grid_points(spec)
        random.Random(spec.searcher.seed).shuffle(self._points)

    def next(
        self, records: Sequence[TrialRecord], under_way: Sequence[Proposal], number: int
    ) -> Proposal | Pause:
        if number >= self._spec.trials or is_known(self._spec, records):
            return Pause.DONE
        # By what was tried, not by number: the points of an extended study are others.
        tried = [*(r.params for r in of_search(records)), *(p.params for p in under_way)]
        left = (point for point in self._points if point not in tried)
        point = next(left, None)
        return Pause.DONE if point is None else Proposal(params=point)


def grid_points(spec: StudySpec) -> list[Params]:
    """At most ``spec.trials`` settings; the learning rate gets the points that are left over.

    A choice has all its values. Ranges share what remains evenly; each has two points at least,
    so that a grid of many ranges may be cut by the number of trials.
    """
    domains = spec.searched()
    choices = {n: list(d.choice) for n, d in domains.items() if isinstance(d, Choice)}
    ranges = {n: d for n, d in domains.items() if n not in choices}
    per_choice = max(1, spec.trials // math.prod(map(len, choices.values())))
    each = max(2, int(per_choice ** (1 / max(1, len(ranges))) + 1e-9))
    values = dict(choices)
    for name, domain in ranges.items():
        points = each
        if name == "learning_rate":
            points = max(2, per_choice // each ** (len(ranges) - 1))
        values[name] = evenly(domain, points)
    names = list(domains)
    return [
        dict(zip(names, point, strict=True))
        for point in itertools.product(*(values[name] for name in names))
    ]


def evenly(domain: Domain, points: int) -> list[ParamValue]:
    """Values of a range with equal distances, both ends included, without repetitions."""
    low, high = float(domain.probes()[0]), float(domain.probes()[-1])  # type: ignore[arg-type]
    shares = [i / (points - 1) for i in range(points)] if points > 1 else [0.5]
    return list(dict.fromkeys(at_share(domain, low, high, share) for share in shares))


def at_share(domain: Domain, low: float, high: float, share: float) -> ParamValue:
    """The value at a share of the way from ``low`` to ``high``, as the domain measures it."""
    is_log = isinstance(domain, LogUniform) or (isinstance(domain, IntRange) and domain.log)
    value = low * (high / low) ** share if is_log else low + (high - low) * share
    value = min(max(value, low), high)
    return round(value) if isinstance(domain, IntRange) else value


def trial_end(spec: StudySpec, trainer: TrainerSpec, length: Length) -> int | None:
    """Step at which a trial of this length ends; None where that is its whole budget.

    The rules need the peak learning rate to have worked for as long as warm-up took, the gauge an
    evaluation, and steps: what it reads before there are READABLE_STEPS of them says little.
    """
    if length is Length.WHOLE:
        return None
    warmup, budget, every = warmup_steps(trainer), trainer.max_train_steps, trainer.eval_every

    def first(step: float) -> int:
        return math.ceil(step / every) * every

    quarter = math.floor(LATE_SHARE * budget / every) * every
    step = first(max(spec.searcher.probe_fraction * budget, 2 * warmup))
    if length is not Length.BRIEF:
        step = max(step, min(first(warmup + READABLE_STEPS), quarter))
    if length is Length.LATE:
        step = max(step, quarter)
    return step if step < budget else None


def look_steps(spec: StudySpec, trainer: TrainerSpec) -> tuple[int, ...]:
    """Where trials of different lengths compare (``TrialRecord.looks``), ascending."""
    ends = (trial_end(spec, trainer, length) for length in Length)
    return tuple(sorted({end for end in ends if end is not None}))


def warmup_steps(trainer: TrainerSpec) -> int:
    """As the trainer counts them."""
    return lr_warmup_steps(
        trainer.lr_warmup_steps, trainer.lr_warmup_fraction, trainer.max_train_steps
    )


# --- when the search is over --------------------------------------------------------------------


def of_search(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Without the trials that confirm."""
    return [record for record in records if record.purpose.is_search]


def is_known(spec: StudySpec, records: Sequence[TrialRecord]) -> bool:
    """Whether the answer is as precise as ``stop_when`` asks; never without it.

    There must be a setting to recommend, too: stable to the end of its budget in all seeds.
    """
    if spec.stop_when is None or not any(r.is_stable for r in records):
        return False
    study, within = spec.model_dump(mode="json"), spec.stop_when.edge_within_octaves
    for with_surface in (False, True):  # the cheap one first
        found = edge_precision(records, study, with_surface=with_surface)
        if found is None or found > within:
            return False
    return True


def next_step(
    spec: StudySpec,
    strategy: Strategy,
    records: Sequence[TrialRecord],
    under_way: Sequence[Proposal],
    number: int,
) -> Proposal | Pause:
    """What the strategy says, as far as ``trials`` allows: once so many settings were proposed,
    only short trials of theirs may go on."""
    step = strategy.next(records, under_way, number)
    is_new = isinstance(step, Proposal) and step.goes_on is None
    return Pause.DONE if is_new and number >= spec.trials else step


def is_over(
    spec: StudySpec, strategy: Strategy, records: Sequence[TrialRecord], number: int
) -> bool:
    """Whether a search that has nothing under way is to propose no more."""
    return next_step(spec, strategy, records, (), number) is Pause.DONE


def left_behind(records: Sequence[TrialRecord]) -> frozenset[str]:
    """Ids of short trials of which another seed went on, and they did not."""
    farthest: dict[int, float] = {}
    for record in of_search(records):
        is_whole = record.purpose is Purpose.SEARCH
        reach = math.inf if is_whole else float(record.steps)
        farthest[record.setting] = max(farthest.get(record.setting, 0.0), reach)
    return frozenset(
        record.trial_id
        for record in of_search(records)
        if record.stopped_by is StoppedBy.PROBE and record.steps < farthest[record.setting]
    )


def is_complete(spec: StudySpec, strategy: Strategy, records: Sequence[TrialRecord]) -> bool:
    """Whether nothing is left to do: every setting has its seeds, the search is over, and its
    answer is confirmed as far as the study asks. ``records`` of ended trials that did not fail."""
    found = of_search(records)
    settings = {record.setting for record in found}
    # A confirmation trained seeds of a setting that a study extended by seeds asks for, too.
    behind = left_behind(records)
    there = {
        (r.setting, r.seed)
        for r in records
        if r.purpose is not Purpose.STRESS and r.trial_id not in behind
    }
    return (
        all((setting, seed) in there for setting in settings for seed in range(spec.seeds))
        and is_over(spec, strategy, records, len(settings))
        and not planned_trials(records, spec.model_dump(mode="json"))
    )
