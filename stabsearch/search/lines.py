"""What is known of a line: all parameters but the learning rate held.

Rates are log2 of the learning rate throughout. Plain records in; no Ray, no Optuna.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stabsearch.recommend.asked import asked_of
from stabsearch.recommend.choice import choice_of
from stabsearch.recommend.evidence import has_begun, never_learned
from stabsearch.recommend.landscape import MAX_FAILURE_PROBABILITY, Landscape, landscapes_of
from stabsearch.recommend.space import (
    LEARNING_RATE,
    MAX_GRAD_NORM,
    SearchSpace,
    learning_rate_of,
    search_space,
    steps_with_gradient,
)
from stabsearch.records import (
    Look,
    Outcome,
    Params,
    ParamValue,
    Purpose,
    StoppedBy,
    TrialRecord,
)
from stabsearch.search.best_rate import (
    EarlyTrial,
    Expected,
    best_rate,
    best_score_rate,
    num_rates,
    sharpness,
)
from stabsearch.search.strategy import Length, Proposal

SAME_CLIP = 1.01
"""Clips this many octaves apart are on one line: the edge hardly knows the difference."""
RESERVE = 0.4
"""Share of MAX_FAILURE_PROBABILITY that a full trial may use: later trials may raise its risk."""
LEAST_RISK = 1.25
"""Times the lowest risk of a line: accepted below its stable rates where trials contradict each
other so much that the risk is high everywhere."""
SHORT = (Length.BRIEF, Length.READABLE, Length.LATE)
FEWEST_READ = 2
"""Rates at which the gauge was read, before what the briefest trials say of the best rate is set
aside: one alone would be the best of all."""
STOPPED_EARLIER = (StoppedBy.GAUGE, StoppedBy.RANK)
PATIENCE = 4
"""Trials of one combination of words before another has its turn, while nothing was stable."""
NEAR = 0.06
"""Octaves within which a rate counts as tried: the same seed would say the same again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What a line's trainer says of its trials."""

    has_short: bool
    """Whether a short trial takes less than the whole budget."""
    steps: Mapping[Length, int]
    """Where trials of each length end; the budget where that would be the whole of it."""
    expected: Expected
    """What short trials show at the best rate."""

    @property
    def purpose(self) -> Purpose:
        """Of the trials that ask where the best rate and the edge are."""
        return Purpose.PROBE if self.has_short else Purpose.SEARCH

    def best(self, seen: Seen, high: float) -> float | None:
        """The best rate, the edge aside, at most the end of the range; None where nothing says
        it."""
        brief, early = seen.looks[Length.BRIEF], seen.looks[Length.READABLE]
        end = None if seen.unstable else high
        if num_rates(early) >= min(FEWEST_READ, max(1, num_rates(brief))):
            is_later = self.steps[Length.LATE] > self.steps[Length.READABLE]
            late = seen.looks[Length.LATE] if is_later else ()
            return min(best_rate(early, self.expected, late, end), high)
        if not brief:
            return None
        return min(best_score_rate(brief, end) + self.expected.offset, high)

    def sharpness(self, seen: Seen) -> float:
        """How fast scores rise beside the best rate, as late as short trials tell."""
        return sharpness(seen.looks[Length.LATE]) if self.has_short else 0.0

    def asking(self, seen: Seen) -> Sequence[float]:
        """Rates under way whose result decides where the next short trial goes."""
        return seen.short_under_way if self.has_short else seen.full_under_way


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is known of a line, in log2 of the learning rate."""

    stable: tuple[float, ...]
    unstable: tuple[float, ...]
    timid: tuple[float, ...]
    """Rates of trials that never learned, and not for being above the edge."""
    looks: Mapping[Length, tuple[EarlyTrial, ...]]
    """By length of a short trial: the stable trials that came so far, as they were then, ascending
    in rate; with an optimizer that undoes the scale of the gradient those with other clips, too.
    The ordinary trials where no short one is shorter."""
    unread: Mapping[Length, tuple[float, ...]]
    """Rates of stable trials that were to be looked at and were not: stopped before by rank or by
    the gauge, or without a score."""
    extendable: tuple[TrialRecord, ...]
    """Short trials that can go on, a record for each setting; those with other clips, too, as in
    ``looks``."""
    has_stable_full: bool
    """Whether a setting was stable over the whole budget, in all seeds that ended."""
    num_full: int
    """Trials of the whole budget, however they ended."""
    full_tried: tuple[float, ...]
    """Rates of those that did not fail for the machine's sake."""
    full_unstable: tuple[float, ...]
    """The unstable ones among them."""
    failed: tuple[float, ...]
    """Rates of trials that failed for the machine's sake, and say nothing."""
    edge_length: Length
    """Of trials about the edge: as long as a short one took to fail."""
    untold: tuple[float, ...]
    """Rates of trials that were too short to fail."""
    below_broken: float
    """Rates above this are one confirmation's failure too high; inf without one."""
    short_under_way: tuple[float, ...]
    reading_under_way: Mapping[Length, tuple[float, ...]]
    """The same by length."""
    full_under_way: tuple[float, ...]

    @property
    def is_broken(self) -> bool:
        """Whether a setting of this line did not hold in its confirmation."""
        return math.isfinite(self.below_broken)

    @property
    def is_blank(self) -> bool:
        return not (self.stable or self.unstable or self.timid)

    @property
    def tried(self) -> tuple[float, ...]:
        return (
            *self.stable,
            *self.unstable,
            *self.timid,
            *self.failed,
            *self.untold,
            *self.short_under_way,
            *self.full_under_way,
        )

    @property
    def is_under_way(self) -> bool:
        return bool(self.short_under_way or self.full_under_way)

    @property
    def top(self) -> float:
        """The highest stable rate below every unstable one; -inf without one."""
        lowest = min(self.unstable, default=math.inf)
        return max((rate for rate in self.stable if rate < lowest), default=-math.inf)


class View:
    """What has ended and what is under way, looked at line by line."""

    def __init__(
        self,
        study: Mapping[str, Any],
        records: Sequence[TrialRecord],
        under_way: Sequence[Proposal],
    ) -> None:
        self._study = study
        self._all = records
        self._records = [r for r in records if r.outcome is not Outcome.FAILED]
        self._failed = [r for r in records if r.outcome is Outcome.FAILED]
        self._under_way = under_way
        self.space: SearchSpace = search_space(study, self._records)
        self._plain = self.landscapes(with_surface=False)
        self._unstable = frozenset(i for each in self._plain for i in each.unstable)

    @property
    def is_any_under_way(self) -> bool:
        return bool(self._under_way)

    def landscapes(self, *, with_surface: bool) -> list[Landscape]:
        found = landscapes_of(self.space, self._records, self._study, with_surface=with_surface)
        return list(found.values())

    def landscape(self, params: Params) -> Landscape | None:
        """That of the setting's category; None before a trial of it has ended."""
        category = self.space.category(params)
        return next(
            (e for e in self._plain if e.space.category(e.records[0].params) == category), None
        )

    def in_turns(self, lines: Iterable[Params]) -> list[Params]:
        """Main lines, the least tried first, whatever clip its trials had.

        As long as nothing was stable they take no turns, until each had PATIENCE trials: of few
        trials in all none would get down to where its rates work.
        """
        has_stable = any(r.purpose.is_search and self._is_stable(r) for r in self._records)

        def turn(others: Params) -> int:
            tried = self._num_tried(without(others, {MAX_GRAD_NORM}))
            return tried if has_stable or tried >= PATIENCE else -tried

        return sorted(lines, key=turn)

    def least_tried_first(self, lines: Iterable[Params]) -> list[Params]:
        """In their order where they had as many trials."""
        return sorted(lines, key=self._num_tried)

    def _num_tried(self, others: Params) -> int:
        return sum(is_on_line(params, others) for params in self._tried)

    @functools.cached_property
    def _tried(self) -> list[Params]:
        """The trials of the search, those under way included."""
        tried = [r.params for r in self._all if r.purpose.is_search]
        return tried + [p.params for p in self._under_way if p.params and p.goes_on is None]

    def best_of(self, lines: Iterable[Params]) -> Params:
        """The line whose trials of the whole budget have the best score, whatever their clip; the
        first without any."""

        def score(others: Params) -> float:
            alike = without(others, {MAX_GRAD_NORM})
            here = (r for r in self._records if is_on_line(r.params, alike))
            scores = (r.score for r in here if r.purpose is Purpose.SEARCH and r.is_stable)
            return min((score for score in scores if score is not None), default=math.inf)

        return min(lines, key=score)

    def typical_norm(self, others: Params, timing: Timing) -> float | None:
        """The median gradient norm of a whole training where the rate is best, as far as is known:
        that of the stable trial with the same words whose score is best."""
        words = {name: value for name, value in others.items() if isinstance(value, str | bool)}
        alike = [
            (look.score, norm)
            for r, look in self._looks(timing, Length.READABLE)
            if look.score
            and (norm := _norm_of_training(look, r.max_train_steps))
            and all(r.params.get(name, value) == value for name, value in words.items())
        ]
        return min(alike)[1] if alike else None

    def seen(self, others: Params, timing: Timing) -> Seen:
        """What is known of a line."""
        here = [r for r in self._records if is_on_line(r.params, others)]
        unstable = [r for r in here if r.trial_id in self._unstable]
        timid = [r for r in here if never_learned(r) and r not in unstable]
        within = [r for r in here if self._is_stable(r)]
        # Where runs fail later than the briefest trials end, those have shown nothing.
        edge_length = self.edge_length(timing)
        least = timing.steps[edge_length] if edge_length is not Length.BRIEF else 0
        stable = [r for r in within if r.steps >= least or r.purpose is not Purpose.PROBE]
        failed = [r for r in self._failed if is_on_line(r.params, others)]
        full = [r for r in here if r.purpose is Purpose.SEARCH]
        full_failed = [r for r in failed if r.purpose is Purpose.SEARCH]
        open_here = [p for p in self._under_way if p.params and is_on_line(p.params, others)]
        asked = [(rate_of(p.params), p) for p in open_here if p.params]
        looks = {length: self._looks_of(others, timing, length) for length in SHORT}
        return Seen(
            stable=tuple(rate_of(r.params) for r in stable),
            unstable=tuple(rate_of(r.params) for r in unstable),
            timid=tuple(rate_of(r.params) for r in timid),
            looks=looks,
            unread={
                length: _unread(stable, looks[length], timing.purpose, timing.steps[length])
                for length in SHORT
            },
            extendable=tuple(self.extendable(self._alike(others))),
            has_stable_full=any(
                all(r.is_stable for r in full if r.setting == setting)
                for setting in {r.setting for r in full}
            ),
            num_full=len({r.setting for r in (*full, *full_failed)}),
            full_tried=tuple(rate_of(r.params) for r in full),
            full_unstable=tuple(rate_of(r.params) for r in full if r in unstable),
            failed=tuple(rate_of(r.params) for r in failed),
            edge_length=edge_length,
            untold=tuple(rate_of(r.params) for r in within if r not in stable),
            below_broken=self._below_broken(others),
            short_under_way=tuple(rate for rate, p in asked if p.purpose is Purpose.PROBE),
            reading_under_way={
                length: tuple(rate for rate, p in asked if p.length is length) for length in SHORT
            },
            full_under_way=tuple(rate for rate, p in asked if p.purpose is Purpose.SEARCH),
        )

    def edge_length(self, timing: Timing) -> Length:
        """How long a trial has to be to see what short ones, of any line, failed by."""
        steps = self._slowest_failure * timing.steps[Length.WHOLE]
        return next((each for each in SHORT if timing.steps[each] >= steps), SHORT[-1])

    @functools.cached_property
    def _slowest_failure(self) -> float:
        """The largest share of its budget that a short trial took to fail, of those that took
        longer than the briefest ones are; 0 without any."""
        probes = (r for r in self._records if r.purpose is Purpose.PROBE and r.looks)
        shares = (
            _failed_by(r) / r.max_train_steps
            for r in probes
            if r.trial_id in self._unstable and _failed_by(r) > r.looks[0].step
        )
        return max(shares, default=0.0)

    def _looks_of(self, others: Params, timing: Timing, length: Length) -> tuple[EarlyTrial, ...]:
        trials = [
            EarlyTrial(
                rate=rate_of(r.params),
                score=look.score,
                octaves=look.lr_gauge_octaves if timing.has_short else None,
            )
            for r, look in self._looks(timing, length)
            if look.score and is_on_line(r.params, self._alike(others))
        ]
        return tuple(sorted(trials, key=lambda trial: trial.rate))

    def _alike(self, others: Params) -> Params:
        """What of a line decides where its best rate is."""
        return (
            others
            if steps_with_gradient(self._study, others)
            else without(others, {MAX_GRAD_NORM})
        )

    def _looks(self, timing: Timing, length: Length) -> list[tuple[TrialRecord, Look]]:
        """The stable trials that came so far, each as it was then: of one length, so that their
        scores and norms compare."""
        step = timing.steps[length]
        stable = [r for r in self._records if r.purpose.is_search and self._is_stable(r)]
        if not timing.has_short:
            return [(r, _last_look(r)) for r in stable if r.steps >= step]
        return [(r, look) for r in stable for look in r.looks if look.step == step]

    def extendable(self, others: Params) -> list[TrialRecord]:
        """Short trials with these parameters that can go on, a record for each setting."""
        by_setting: dict[int, list[TrialRecord]] = {}
        for record in self._records:
            if is_on_line(record.params, others):
                by_setting.setdefault(record.setting, []).append(record)
        busy = {p.goes_on for p in self._under_way} | {r.setting for r in self._failed}
        return [
            them[0]
            for setting, them in by_setting.items()
            if setting not in busy
            and all(r.stopped_by is StoppedBy.PROBE and self._is_promising(r) for r in them)
        ]

    def _is_promising(self, record: TrialRecord) -> bool:
        """Whether it can still be called stable in the end: a finding stays with its trial."""
        return self._is_stable(record) and record.ending.is_sound

    def _is_stable(self, record: TrialRecord) -> bool:
        """So far: neither beyond the edge, nor one that never learned."""
        return record.trial_id not in self._unstable and not never_learned(record)

    def _below_broken(self, others: Params) -> float:
        """Below the settings of this line that did not hold in their confirmation."""
        rates = [rate_of(params) for params in self._broken if is_on_line(params, others)]
        return min(rates, default=math.inf) - octaves_below_broken(self._study)

    @functools.cached_property
    def _broken(self) -> list[Params]:
        """The settings that did not hold; found once, because it takes a fit."""
        if all(record.purpose.is_search for record in self._all):
            return []
        # With those that the machine lost: they have ended, too, and a round goes on without them.
        choice = choice_of(self._all, self._study, with_surface=False)
        return [each.params for each in choice.broken]

    def is_new(self, params: Params, space: SearchSpace) -> bool:
        """Whether nothing like it was tried or is under way."""
        tried = [r.params for r in (*self._records, *self._failed)]
        tried += [p.params for p in self._under_way if p.params]
        same = [p for p in tried if space.category(p) == space.category(params)]
        if not same or not space.axes:
            return True
        distances = np.abs(space.points(same) - space.points([params])).max(axis=1)
        return bool(distances.min() > NEAR)


def _failed_by(record: TrialRecord) -> int:
    """Step by which an unstable trial was known to be."""
    if record.stopped_by is StoppedBy.GATE:
        return record.steps
    if record.is_unstable or never_learned(record):
        return record.verdict_step or record.steps
    # One that had learned nothing: from the look on at which that was so.
    return next(look.step for look in record.looks if not has_begun(record, look.step))


def _unread(
    stable: Sequence[TrialRecord], read: Sequence[EarlyTrial], purpose: Purpose, step: float
) -> tuple[float, ...]:
    rates = {trial.rate for trial in read}
    return tuple(
        rate_of(r.params)
        for r in stable
        if r.purpose is purpose
        and (r.steps >= step or r.stopped_by in STOPPED_EARLIER)
        and rate_of(r.params) not in rates
    )


def _last_look(record: TrialRecord) -> Look:
    """What a trial had shown in the end."""
    return Look(
        step=record.steps,
        score=record.score,
        lr_gauge_octaves=record.lr_gauge_octaves,
        grad_norm_median=record.grad_norm_median,
        grad_norm_late=record.grad_norm_late,
    )


def _norm_of_training(look: Look, max_train_steps: int) -> float | None:
    """The median gradient norm that a training will have, from the first part of it: where norms
    fell they go on falling. On the tuning grids a quarter of an octave off, at a tenth to a
    quarter of the budget, where the median so far is off by more than half an octave."""
    so_far, late = look.grad_norm_median, look.grad_norm_late
    if not so_far or not math.isfinite(so_far):
        return None
    if not late or look.step >= max_train_steps:
        return so_far
    return late * min(1.0, late / so_far)


class LineEdge:
    """The edge on a line as the fitted posterior has it; nothing where there is none."""

    def __init__(self, view: View, others: Params, seen: Seen, low: float, high: float) -> None:
        some: Params = others | {LEARNING_RATE: 2.0 ** ((low + high) / 2)}
        self._some = some
        landscape = view.landscape(some)
        self._edge = landscape.edge if landscape else None
        self._seen = seen
        self.middle: float | None = None
        self.half_width: float | None = None
        if landscape and (edge := landscape.edge_at(some)):
            self.middle = math.log2(edge.learning_rate)
            self.half_width = edge.half_width_octaves
            if math.isinf(self.half_width):  # more trials within the range would not end it
                self.half_width = math.log2(edge.learning_rate / edge.learning_rate_low)

    def safe(self, octaves: float) -> float:
        """The highest rate, in log2, at which few runs fail ``octaves`` above it; where that is
        nowhere, the highest one below stable trials with hardly more risk than any. Without an
        edge, the highest that was stable."""
        if self._edge is None or self.middle is None:
            return self._seen.top
        rates = self.middle - np.arange(-2.0, 12.0, 1 / 16)
        risks = self._edge.probability(2.0 ** (rates + octaves), self._some)
        accepted = MAX_FAILURE_PROBABILITY * RESERVE
        if risks.min() <= accepted:
            return float(rates[risks <= accepted].max())
        # Not below what was tried: there it is only unknown, and no safer.
        lowest = min(self._seen.stable, default=-math.inf)
        is_tried = (rates >= lowest) & (rates <= min(self.middle, self._seen.top))
        if not is_tried.any():
            return min(lowest, min(self._seen.unstable, default=self.middle) - octaves)
        rates, risks = rates[is_tried], risks[is_tried]
        return float(rates[risks <= LEAST_RISK * risks.min()].max())


def rate_of(params: Params) -> float:
    return math.log2(learning_rate_of(params))


def is_on_line(params: Params, others: Params) -> bool:
    return all(is_near(name, params.get(name), value) for name, value in others.items())


def octaves_below_broken(study: Mapping[str, Any]) -> float:
    """From a setting that did not hold to the next one: as far down as the stress test was up, and
    an octave if there was none."""
    asked = asked_of(study)
    return (asked.stress_octaves if asked else 0.0) or 1.0


def without(params: Params, names: Collection[str]) -> Params:
    return {name: value for name, value in params.items() if name not in names}


def is_near(name: str, one: ParamValue, other: ParamValue) -> bool:
    if name != MAX_GRAD_NORM or one is None or other is None:
        return one == other
    return abs(math.log2(float(one) / float(other))) <= SAME_CLIP
