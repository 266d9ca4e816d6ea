"""What is known of a line: all parameters but the learning rate held.

Rates are log2 of the learning rate throughout. Plain records in; no Ray, no Optuna.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stabsearch.recommend.choice import choice_of
from stabsearch.recommend.evidence import never_learned
from stabsearch.recommend.landscape import MAX_FAILURE_PROBABILITY, Landscape, landscapes_of
from stabsearch.recommend.space import (
    LEARNING_RATE,
    MAX_GRAD_NORM,
    SearchSpace,
    learning_rate_of,
    search_space,
)
from stabsearch.records import Outcome, Params, ParamValue, Purpose, TrialRecord
from stabsearch.search.strategy import Proposal

SAME_CLIP = 1.01
"""Clips this many octaves apart are on one line: the edge hardly knows the difference."""
NEAR_ZERO, ENOUGH, ENOUGH_SPREAD = 1.5, 3, 0.4
"""Octaves; so many readings within that of zero, so far apart in rate, pin it."""
SLOPES = (0.6, 1.8)
"""Octaves that the gauge may read for one."""
AT_ZERO = 0.3
"""A gauge reading this small is the zero itself."""
LONGEST_STRIDE = 3.0
"""Octaves that one gauge reading may move the search: far away it only knows the direction."""
NEAR = 0.06
"""Octaves within which a rate counts as tried: the same seed would say the same again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is known of a line, in log2 of the learning rate."""

    stable: tuple[float, ...]
    unstable: tuple[float, ...]
    timid: tuple[float, ...]
    """Rates of trials that never learned, and not for being above the edge."""
    gauge: tuple[tuple[float, float], ...]
    """(rate, octaves above the best one) as short trials read it, ascending; as longer ones did
    where no short one could."""
    num_unread: int
    """Stable trials that were long enough for it and have no reading."""
    full: tuple[tuple[float, float], ...]
    """(rate, score) of stable trials of the whole budget, the worst over seeds."""
    num_full: int
    """Trials of the whole budget, however they ended."""
    full_tried: tuple[float, ...]
    """Their rates."""
    full_unstable: tuple[float, ...]
    """The unstable ones among them."""
    failed: tuple[float, ...]
    """Rates of trials that say nothing: the same would fail again."""
    held_below: float
    """Rates above this are one confirmation's failure too high; inf without one."""
    short_under_way: tuple[float, ...]
    full_under_way: tuple[float, ...]

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

    def typical_norm(self, others: Params, readable_from: int) -> float | None:
        """The median gradient norm where the rate is best, as far as is known: that of the stable
        trial with the same words that the gauge reads nearest to zero. Without a gauge the median
        over stable trials: norms fall with the rate, and high rates are tried the most."""
        # Norms fall as a training goes on: trials of one length compare with each other.
        readers = [
            r for r in self._records if r.purpose is Purpose.PROBE and r.steps >= readable_from
        ]
        alike = [
            (r.lr_gauge_octaves, r.grad_norm_median)
            for r in readers or self._records
            if r.grad_norm_median
            and r.trial_id not in self._unstable
            and not never_learned(r)
            and all(
                r.params[name] == value
                for name, value in others.items()
                if isinstance(value, str) and name in r.params
            )
        ]
        read = [(abs(octaves), norm) for octaves, norm in alike if octaves is not None]
        if read:
            return min(read)[1]
        return float(np.median(np.array([norm for _, norm in alike]))) if alike else None

    def seen(self, others: Params, readable_from: int) -> Seen:
        """What is known of a line, the gauge read after ``readable_from`` steps and later."""
        here = [r for r in self._records if is_on_line(r.params, others)]
        unstable = [r for r in here if r.trial_id in self._unstable]
        timid = [r for r in here if never_learned(r) and r not in unstable]
        stable = [r for r in here if r not in unstable and r not in timid]
        failed = [r for r in self._failed if is_on_line(r.params, others)]
        full = [r for r in (*here, *failed) if r.purpose is Purpose.SEARCH]
        open_here = [p for p in self._under_way if p.params and is_on_line(p.params, others)]
        readings = _readings(stable, Purpose.PROBE, readable_from)
        readings = readings or _readings(stable, Purpose.SEARCH, readable_from)
        scores: dict[float, float] = {}
        for r in full:
            if r.is_stable and r.score is not None:
                rate = rate_of(r.params)
                scores[rate] = max(r.score, scores.get(rate, 0.0))
        return Seen(
            stable=tuple(rate_of(r.params) for r in stable),
            unstable=tuple(rate_of(r.params) for r in unstable),
            timid=tuple(rate_of(r.params) for r in timid),
            gauge=tuple(sorted(readings.items())),
            num_unread=sum(
                r.lr_gauge_octaves is None and r.steps >= readable_from for r in stable
            ),
            full=tuple(sorted(scores.items())),
            num_full=len({r.setting for r in full}),
            full_tried=tuple(rate_of(r.params) for r in full),
            full_unstable=tuple(rate_of(r.params) for r in full if r in unstable),
            failed=tuple(rate_of(r.params) for r in failed),
            held_below=self._held_below(others),
            short_under_way=tuple(
                rate_of(p.params) for p in open_here if p.params and p.purpose is Purpose.PROBE
            ),
            full_under_way=tuple(
                rate_of(p.params) for p in open_here if p.params and p.purpose is Purpose.SEARCH
            ),
        )

    def _held_below(self, others: Params) -> float:
        """Below the settings of this line that did not hold in their confirmation: as far as the
        stress test was above them, and an octave if there was none."""
        asked = self._study.get("confirm") or {}
        rates = [rate_of(params) for params in self._broken if is_on_line(params, others)]
        return min(rates, default=math.inf) - (asked.get("stress_octaves") or 1.0)

    @functools.cached_property
    def _broken(self) -> list[Params]:
        """The settings that did not hold; found once, because it takes a fit."""
        if all(record.purpose.is_search for record in self._records):
            return []
        choice = choice_of(self._records, self._study, with_surface=False)
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


def _readings(
    trials: Sequence[TrialRecord], purpose: Purpose, readable_from: int
) -> dict[float, float]:
    return {
        rate_of(r.params): r.lr_gauge_octaves
        for r in trials
        if r.purpose is purpose and r.steps >= readable_from and r.lr_gauge_octaves is not None
    }


class LineEdge:
    """The edge on a line as the fitted posterior has it; nothing where there is none."""

    def __init__(self, view: View, others: Params, seen: Seen, low: float, high: float) -> None:
        some: Params = others | {LEARNING_RATE: 2.0 ** ((low + high) / 2)}
        self._some = some
        landscape = view.landscape(some)
        self._landscape = landscape if landscape and landscape.edge else None
        self._seen_top = seen.top
        self.middle: float | None = None
        self.half_width: float | None = None
        if self._landscape and self._landscape.edge:
            edge = self._landscape.edge.edge(some)
            self.middle = math.log2(edge.learning_rate)
            self.half_width = edge.half_width_octaves

    def safe(self, octaves: float) -> float:
        """The highest rate, in log2, at which few runs fail ``octaves`` above it; without an
        edge, the highest that was stable."""
        if self._landscape is None or self.middle is None:
            return self._seen_top
        rates = self.middle - np.arange(-2.0, 12.0, 1 / 16)
        for rate in rates:
            p = self._landscape.p_unstable(
                self._some | {LEARNING_RATE: float(2.0**rate)}, factor=2.0**octaves
            )
            if p is not None and p <= MAX_FAILURE_PROBABILITY:
                return float(rate)
        return float(rates[-1])


@dataclass(frozen=True, slots=True)
class Zero:
    """Where the gauge reads zero."""

    rate: float
    """log2."""
    is_pinned: bool
    """Enough readings around it agree."""
    is_flat: bool = False
    """They hardly change with the rate, so that it might as well lie elsewhere."""


def gauge_zero(readings: Sequence[tuple[float, float]]) -> Zero | None:
    """Where the gauge is zero, from (rate in log2, octaves above the best), ascending in rate.

    By a straight line through the readings near zero, where there are enough: one reading is a
    third of an octave off by chance. Before that on the line between the two readings around
    zero, or one stride from the nearest reading. None without a reading.
    """
    if not readings:
        return None
    near = [reading for reading in readings if abs(reading[1]) <= NEAR_ZERO]
    rates = [rate for rate, _ in near]
    if len(near) >= ENOUGH and max(rates) - min(rates) >= ENOUGH_SPREAD:
        return _zero_of_line(near)
    for (low, below), (high, above) in reversed(list(itertools.pairwise(readings))):
        if below < 0 <= above:
            return Zero(low + (high - low) * -below / (above - below), is_pinned=False)
    nearest = min(readings, key=lambda reading: abs(reading[1]))
    (lowest, at_lowest), (highest, at_highest) = readings[0], readings[-1]
    if abs(nearest[1]) <= AT_ZERO:
        return Zero(nearest[0] - nearest[1], is_pinned=False)
    if at_lowest > 0:
        return Zero(lowest - min(max(at_lowest, 1.0), LONGEST_STRIDE), is_pinned=False)
    return Zero(highest + min(max(-at_highest, 1.0), LONGEST_STRIDE), is_pinned=False)


def _zero_of_line(readings: Sequence[tuple[float, float]]) -> Zero:
    """Least squares; the slope is held to what an octave may read as."""
    rates, octaves = np.array(readings).T
    spread = rates - rates.mean()
    slope = float((spread @ octaves) / (spread @ spread))
    rate = rates.mean() - octaves.mean() / np.clip(slope, *SLOPES)
    return Zero(float(rate), is_pinned=True, is_flat=slope < SLOPES[0])


def rate_of(params: Params) -> float:
    return math.log2(learning_rate_of(params))


def is_on_line(params: Params, others: Params) -> bool:
    return all(is_near(name, params.get(name), value) for name, value in others.items())


def is_near(name: str, one: ParamValue, other: ParamValue) -> bool:
    if name != MAX_GRAD_NORM or one is None or other is None:
        return one == other
    return abs(math.log2(float(one) / float(other))) <= SAME_CLIP
