"""The boundary strategy: short trials find the edge and the best rate below it, one trains it.

A tuner trains settings to the end to learn which was best. Two questions are answered earlier: by
a tenth of the budget a trial shows on which side of the stability edge it lies (rules R1), and by
then, or somewhat later where the budget is small, a few of them show where the best rate is
(``best_rate``: the gauge, R3, and early scores). So on a *line*, all parameters but the learning
rate held:

1. a few rates spread over the range, until something is known;
2. the best rate as far as is known, and an octave on either side of it;
3. where the edge lies: bisection, first between the highest stable and the lowest unstable rate,
   then at the posterior median of the edge, until it is known to the asked precision, or better
   where it decides the answer;
4. the trials of 2 go on for a while, because scores say more the later they are, and rates beside
   them follow if the best one lies elsewhere by then;
5. a trial of the whole budget at the best rate, but so far below the edge that one margin above it
   few runs fail; where a short trial is near, that one goes on to the end;
6. where scores depend much on the rate, another one half an octave below: a quarter of a training
   does not tell the best rate better than that.

The main line clips at about twice the typical gradient norm: a guard that leaves most steps alone.
With ``stop_when`` that is all; a setting that does not hold in its confirmation sends the search
down to a lower one. Without it, other clips and other searched parameters follow, by turns, each
from the edge that is known already, and then proposals alternate between the surface's robust
optimum (Bogunovic et al. 2018) and the edge: the point whose probability of failure is nearest to
one half, as STRADDLE (Bryan et al. 2005) has it without its term for the model's own doubt.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stabsearch.recommend.landscape import (
    MAX_FAILURE_PROBABILITY,
    Landscape,
    safety_octaves,
)
from stabsearch.recommend.space import CLIP_REACH, LEARNING_RATE, MAX_GRAD_NORM
from stabsearch.recommend.surface import MIN_TRIALS
from stabsearch.records import Params, ParamValue, Purpose, TrialRecord
from stabsearch.search.best_rate import (
    AT_THE_END,
    CONSTANT,
    DECAYED,
    ENOUGH_RATES,
    num_rates,
)
from stabsearch.search.lines import (
    NEAR,
    LineEdge,
    Seen,
    Timing,
    View,
    is_near,
    is_on_line,
    octaves_below_broken,
    rate_of,
    without,
)
from stabsearch.search.strategy import Length, Pause, Proposal, at_share, trial_end
from stabsearch.spec import Choice, Domain, StudySpec

DEFAULT_PRECISION = 0.25
"""Half of the 90% interval of the edge, in octaves, where the study does not say."""
DECIDING_PRECISION = 0.7
"""The same at least, where the edge decides how high the answer may be."""
SIDE_PRECISION = 0.5
"""The same on lines other than the main one, and there too as long as others need trials."""
MAX_SIDE_TRIALS = 6
"""Trials of such a line: where failure is noisy no number of them makes its edge precise."""

GUARD_NORMS = 2.0
"""The main line clips at this many typical gradient norms."""
USUAL_CLIP = 1.0
"""Before they are known, of several to choose from: the default of diffusers' training scripts."""

FIRST_SHARES = (0.5, 0.75, 0.25, 0.875)
"""Where, of the way through the range of rates, trials start before anything is known."""
LATER_SHARES = (1.0, 0.125, 0.0)
"""Where else, if none of those learned."""
KILLED_WITHIN = 2.0
"""Octaves below a failure in which a rate that never learned was rather killed by its own, too,
than too low: few tasks have so narrow a range of rates that work."""
STEP_DOWN = 1.0
"""Octaves down from a trial of the whole budget that did not end well."""

DIGITS = 4
"""Of a proposed rate: finer than any edge."""
BRACKET, IN_PLACE = 1.0, 0.6
"""Octaves on either side of the best rate at which short trials are wanted, too, and within which
one of them counts as there."""
APART = 0.5
"""Octaves that two trials of one question are kept apart while neither has ended."""
BELOW_DOUBLED = 0.3
"""Octaves below twice the best rate at which one may be in its place: it also shows that nothing
fails there for as long."""
SNAP = 0.25
"""Octaves from where a trial of the whole budget is wanted to a short one that may do it: no rate
is known better, and it has a part of the way behind it."""
SETTLED = 0.5
"""Octaves below the limit from which on the edge does not decide where the full trial goes."""
ANSWERED = 0.9
"""A full trial within this many octaves of where the next would go has answered for it."""
MAX_FULL_TRIALS = 4
"""Full trials of one line before its answer is taken as it is."""
SHARP = 0.14
"""Curvature of the log score, per octave squared, from which on one full trial is not enough: half
an octave, by which the best rate may be off, costs 3.5% there."""
BELOW_FULL = 0.5
"""Octaves below the first full trial at which the second one goes."""
WITHOUT_SCORES = (0.0, -1.5, -3.0)
"""Octaves below the safe rate at which full trials go where no short one has a score."""
NUM_CANDIDATES = 256
"""Settings among which the free proposals choose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line and what follows from what is known of it, in log2 of the learning rate."""

    others: Params
    timing: Timing
    seen: Seen
    edge: LineEdge
    best: float | None
    """The best rate, the edge aside."""
    limit: float
    """The highest rate that a full trial may have."""

    @property
    def is_limited(self) -> bool:
        """Whether that decides where the full trial goes, or may when the edge is known better."""
        return self.best is None or self.best > self.limit - SETTLED


class Boundary:
    """See the module."""

    def __init__(self, spec: StudySpec) -> None:
        self._spec = spec
        self._study: Mapping[str, Any] = spec.model_dump(mode="json")
        self._domains = spec.searched()
        low, high = _ends(self._domains[LEARNING_RATE])
        self._low, self._high = math.log2(low), math.log2(high)
        asked = spec.stop_when
        self._precision = asked.edge_within_octaves if asked else DEFAULT_PRECISION
        self._near = min(NEAR, self._precision / 8)
        """Octaves within which a rate counts as tried."""

    def next(
        self, records: Sequence[TrialRecord], under_way: Sequence[Proposal], number: int
    ) -> Proposal | Pause:
        """See ``Strategy``. The same records and settings give the same proposal."""
        view = View(self._study, records, under_way)
        if number >= self._spec.trials:
            return self._with_what_there_is(view)
        if self._spec.stop_when is not None:
            return self._on_main_lines(view, self._precision)
        step = self._on_main_lines(view, SIDE_PRECISION)
        if isinstance(step, Proposal):
            return step
        for others in self._side_lines(view):
            if proposal := self._on_side_line(view, others):
                return proposal
        step = self._on_main_lines(view, self._precision)
        return step if isinstance(step, Proposal) else self._free(view, number)

    def _on_main_lines(self, view: View, precision: float) -> Proposal | Pause:
        """They take turns, the least tried first: a study may end before all have their answer."""
        is_waiting = False
        for others in view.in_turns(self._main_lines(view)):
            step = self._on_main_line(view, others, precision)
            if isinstance(step, Proposal):
                return step
            is_waiting |= step is Pause.WAIT
        return Pause.WAIT if is_waiting else Pause.DONE

    def _with_what_there_is(self, view: View) -> Proposal | Pause:
        """No setting may be added. Where none was trained to its end, a short trial goes on to
        it: without one there is no answer."""
        is_waiting = False
        for others in view.in_turns(self._main_lines(view)):
            line = self._line(view, others)
            seen = line.seen
            is_waiting |= seen.is_under_way
            if seen.has_stable_full or seen.is_under_way or seen.num_full >= MAX_FULL_TRIALS:
                continue
            highest = line.limit if line.best is None else min(line.best, line.limit)
            able = [r for r in seen.extendable if is_on_line(r.params, others)]
            # What is a guard may be known better by now than when they started.
            able = able or view.extendable(without(others, {MAX_GRAD_NORM}))
            fitting = [r for r in able if rate_of(r.params) <= highest + SNAP]
            if able:
                nearest = _nearest(fitting or able, highest)
                return Proposal(params=nearest.params, goes_on=nearest.setting)
        return Pause.WAIT if is_waiting else Pause.DONE

    # --- lines ------------------------------------------------------------------------------

    def _main_lines(self, view: View) -> Iterator[Params]:
        """One for every combination of words to choose from; numbers as the trainer has them."""
        words = {
            name: domain.choice
            for name, domain in self._domains.items()
            if isinstance(domain, Choice) and view.space.axis(name) is None
        }
        numbers = {
            name: self._usual(name, domain)
            for name, domain in self._domains.items()
            if name not in words and name not in (LEARNING_RATE, MAX_GRAD_NORM)
        }
        for chosen in itertools.product(*words.values()):
            others: Params = numbers | dict(zip(words, chosen, strict=True))
            if MAX_GRAD_NORM in self._domains:
                others[MAX_GRAD_NORM] = self._guard(view, others)
            yield {name: others[name] for name in self._domains if name != LEARNING_RATE}

    def _side_lines(self, view: View) -> Sequence[Params]:
        """The best main line with one other number at one of its ends, the least tried first."""
        main = view.best_of(self._main_lines(view))
        return view.least_tried_first(
            main | {name: value}
            for name, domain in self._domains.items()
            if name != LEARNING_RATE and view.space.axis(name) is not None
            for value in _extremes(domain)
            if not is_near(name, value, main[name])
        )

    def _usual(self, name: str, domain: Domain) -> ParamValue:
        """The trainer's own value, which its users know; the middle where that is not searched."""
        value = functools.reduce(
            lambda part, key: part.get(key) if isinstance(part, Mapping) else None,
            name.split("."),
            self._study["trainer"],
        )
        if isinstance(domain, Choice):
            return value if value in domain.choice else _middle(domain)
        low, high = _ends(domain)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return value if is_number and low <= value <= high else _middle(domain)

    def _guard(self, view: View, others: Params) -> ParamValue:
        """The clip of a main line: near twice the typical gradient norm of stable trials."""
        domain = self._domains[MAX_GRAD_NORM]
        norm = view.typical_norm(others, self._timing(others))
        if isinstance(domain, Choice):
            values = sorted(float(v) for v in domain.choice if v is not None)
            if not values:
                return None
            if norm is None:
                return min(values, key=lambda v: abs(math.log2(v / USUAL_CLIP)))
            guards = [v for v in values if norm / CLIP_REACH <= v <= norm * CLIP_REACH]
            return min(guards or values, key=lambda v: abs(math.log2(v / (GUARD_NORMS * norm))))
        low, high = _ends(domain)
        if norm is None:
            return _middle(domain)
        return min(max(float(f"{GUARD_NORMS * norm:.2g}"), low), high)

    # --- a line -----------------------------------------------------------------------------

    def _line(self, view: View, others: Params) -> Line:
        timing = self._timing(others)
        seen = view.seen(others, timing)
        edge = LineEdge(view, others, seen, self._low, self._high)
        # What failed late contradicts the short trials around it: the fitted edge is of no use.
        safe = seen.below_broken if seen.is_broken else edge.safe(safety_octaves(self._study))
        return Line(
            others=others,
            timing=timing,
            seen=seen,
            edge=edge,
            best=timing.best(seen, self._high),
            limit=min(safe, self._high),
        )

    def _on_main_line(self, view: View, others: Params, precision: float) -> Proposal | Pause:
        """DONE when the line has its answer, and its edge is as precise."""
        line = self._line(view, others)
        seen, asking = line.seen, line.timing.asking(line.seen)
        if seen.is_blank:
            return self._first(line)
        if line.is_limited:
            precision = min(precision, DECIDING_PRECISION)
        has_failed_late = line.timing.has_short and bool(seen.full_unstable)
        best = edge = None
        if not (seen.is_broken or has_failed_late):
            # Else a longer trial knows better than short ones where it fails.
            best = self._towards_best(line)
            rate = self._towards_edge(line, precision)
            edge = self._short(others, rate, line.seen.edge_length)
        for step in (best, edge):
            if step is not None and self._is_free(_rate(step), asking):
                return step
        is_edge_known = edge is None and not asking
        whole = self._full_rate(line, is_edge_known=is_edge_known)
        is_best_known = best is None and not _is_best_asked(line)
        if is_best_known and whole is not None and not seen.full_under_way:
            return self._full(line, whole)
        is_settled = best is None and edge is None and whole is None
        return Pause.DONE if is_settled and not seen.is_under_way else Pause.WAIT

    def _on_side_line(self, view: View, others: Params) -> Proposal | None:
        """Short trials around the edge that other lines suggest; None when there is no need."""
        line = self._line(view, others)
        if line.edge.middle is None or len(line.seen.tried) >= MAX_SIDE_TRIALS:
            return None
        seen, asking = line.seen, line.timing.asking(line.seen)
        if seen.is_blank:
            first = self._first(line)
            return first if isinstance(first, Proposal) else None
        if not seen.stable:
            return self._short(others, self._downwards(seen), line.seen.edge_length)
        rate = self._towards_edge(line, SIDE_PRECISION)
        known = len(seen.stable) + len(seen.unstable) + len(asking)
        is_wanted = rate is not None and (known < 2 or bool(seen.stable and seen.unstable))
        if not is_wanted or rate is None or not self._is_free(rate, asking):
            return None
        return self._short(others, rate, line.seen.edge_length)

    def _first(self, line: Line) -> Proposal | Pause:
        """Rates spread over the range; on later lines, where earlier ones have their answer."""
        seen, known = line.seen, line.edge.middle
        if known is not None:
            rates = [known - 1.0, known + 1.0]
        elif line.best is not None:
            rates = [line.best]
        else:
            rates = list(self._spread())
        for wish in rates:
            rate = min(max(wish, self._low), self._high)
            if self._is_free(rate, line.timing.asking(seen)) and self._is_new(rate, seen):
                return self._short_trial(self._setting(line.others, rate), line.seen.edge_length)
        return Pause.WAIT if seen.is_under_way else Pause.DONE

    def _towards_best(self, line: Line) -> Proposal | None:
        """The next short trial that is about the best rate: there, as far as is known, and an
        octave on either side of it, first as long as it takes to read the gauge, then later. None
        when enough were tried."""
        seen = line.seen
        if not seen.stable:
            return self._short(line.others, self._downwards(seen), line.seen.edge_length)
        if line.best is None:
            return None
        if step := self._towards_look(line, line.best, Length.READABLE):
            return step
        is_edge_deciding = line.best > line.limit + SETTLED
        is_too_late = bool(seen.full_tried or seen.full_under_way)
        if is_edge_deciding or is_too_late or _is_best_asked(line, but_later=True):
            return None
        return self._towards_look(line, line.best, Length.LATE)

    def _towards_look(self, line: Line, best: float, length: Length) -> Proposal | None:
        """The next trial of this length at one of the rates where there is none."""
        seen = line.seen
        highest = min((self._high, *(rate - APART for rate in seen.unstable)))
        asking = line.timing.asking(seen)
        there = (
            *(trial.rate for trial in seen.looks[length]),
            *seen.unread[length],
            *(seen.reading_under_way[length] if length is Length.LATE else asking),
            *seen.timid,
            *_given_up(seen),
        )
        is_enough = length is Length.LATE and num_rates(seen.looks[length]) >= ENOUGH_RATES
        for side in (0.0,) if is_enough else (0.0, BRACKET, -BRACKET):
            wish = min(best + side, highest)
            below = BELOW_DOUBLED if side > 0 else IN_PLACE
            if wish >= self._low and not any(-below <= r - wish <= IN_PLACE for r in there):
                is_last = side == 0.0 and length is Length.LATE
                return self._longer(line, wish, length, below=below, is_last=is_last)
        return None

    def _longer(
        self, line: Line, wish: float, length: Length, *, below: float, is_last: bool
    ) -> Proposal | None:
        """The nearest short trial, or a new one. The one that may be last, because it may go on to
        the end, has to be on the line, and near enough."""
        low, high = (-SNAP, SNAP) if is_last else (-below, IN_PLACE)
        near = [
            record
            for record in line.seen.extendable
            if record.steps < line.timing.steps[length]
            and low <= rate_of(record.params) - wish <= high
            and not (is_last and not is_on_line(record.params, line.others))
        ]
        if not near:
            return self._short(line.others, self._nearest_new(wish, line.seen), length)
        nearest = _nearest(near, wish)
        return Proposal(
            params=nearest.params, purpose=Purpose.PROBE, length=length, goes_on=nearest.setting
        )

    def _downwards(self, seen: Seen) -> float | None:
        """Nothing was stable yet, or nothing below the lowest failure: half-way down from there.
        Where none failed and none learned they were too low, or killed at once: elsewhere in the
        range."""
        spread = (*self._spread(), *self._spread(LATER_SHARES))
        left = [rate for rate in spread if self._is_new(rate, seen)]
        if not seen.unstable:
            return next(iter(left), None)
        ceiling = min(seen.unstable)
        # One that never learned above a rate that failed was killed by its own.
        timid = [rate for rate in seen.timid if rate < ceiling]
        bottom = max(timid, default=self._low)
        lower = next((rate for rate in left if rate < min(timid, default=-math.inf)), None)
        if lower is not None and ceiling - bottom < KILLED_WITHIN:
            return lower
        if ceiling - bottom >= APART:
            return self._nearest_new((bottom + ceiling) / 2, seen)
        return bottom if self._is_new(bottom, seen) else None

    def _towards_edge(self, line: Line, precision: float) -> float | None:
        """The rate of the next trial that is about the edge; None when the edge is known well
        enough, or lies outside of the range."""
        seen, edge = line.seen, line.edge
        if not seen.stable:
            return None  # a stable rate is looked for first, downwards
        if not seen.unstable:
            if edge.middle is not None and edge.middle < self._high:
                rate = edge.middle if self._is_new(edge.middle, seen) else edge.middle + APART
                rate = min(rate, self._high)
                return rate if rate > seen.top and self._is_new(rate, seen) else None
            top = max((*seen.stable, *seen.short_under_way))
            above = (top + self._high) / 2 if self._high - top > APART else self._high
            return above if self._is_new(above, seen) else None
        if edge.half_width is not None and edge.half_width <= precision:
            return None
        lowest = min(seen.unstable)
        below = seen.top if math.isfinite(seen.top) else max(self._low, lowest - 2.0)
        is_bracket_wide = lowest - below > min(precision, APART)
        use_middle = edge.middle is not None and not is_bracket_wide
        rate = edge.middle if use_middle and edge.middle is not None else (lowest + below) / 2
        if rate >= self._high and not self._is_new(self._high, seen):
            return None  # what is left to learn lies above the range
        return self._nearest_new(rate, seen)

    def _full_rate(self, line: Line, *, is_edge_known: bool) -> float | None:
        """Where a trial of the whole budget is wanted; None when there is one already, or the
        edge decides it and is not yet known."""
        seen, has_short = line.seen, line.timing.has_short
        if not seen.stable or (has_short and seen.num_full >= MAX_FULL_TRIALS):
            return None
        if line.is_limited and not is_edge_known:
            return None
        if has_short and seen.full_tried and not seen.has_stable_full:
            wishes = _elsewhere(seen, line.limit)
        elif has_short and seen.full_unstable and not seen.is_broken:
            wishes = []
        elif line.best is None:
            wishes = [line.limit + octaves for octaves in WITHOUT_SCORES]
        else:
            wishes = [min(line.best, line.limit)]
        taken = (*seen.full_tried, *seen.full_under_way)
        wishes = [max(wish, self._low, _learns_from(seen, line.limit)) for wish in wishes]
        rates = (self._beside(wish, seen.failed) for wish in wishes)
        apart = ANSWERED
        if seen.is_broken:
            apart = min(ANSWERED, 0.9 * octaves_below_broken(self._study))
        found = next((r for r in rates if all(abs(r - t) > apart for t in taken)), None)
        return self._second_rate(line) if found is None else found

    def _second_rate(self, line: Line) -> float | None:
        """Below the only full trial, where scores are sharp and it is they that decided: the best
        rate is not known better than that, and lower is safer. None elsewhere."""
        seen = line.seen
        is_first = seen.has_stable_full and len({*seen.full_tried}) == 1 and not seen.is_broken
        is_by_score = line.best is not None and line.best <= line.limit
        if not is_first or not is_by_score or line.timing.sharpness(seen) < SHARP:
            return None
        rate = self._beside(seen.full_tried[0] - BELOW_FULL, seen.failed)
        return rate if rate >= self._low else None

    def _beside(self, rate: float, failed: Sequence[float]) -> float:
        """The same rate, or where a trial failed for the machine's sake one beside it, a lower one
        first."""
        beside = (rate + k * self._near for k in (0, -1, 1, -2, 2, -3, 3))
        return next(
            (
                r
                for r in beside
                if self._low <= r <= self._high
                and all(abs(r - other) > self._near / 2 for other in failed)
            ),
            rate,
        )

    # --- beyond the lines -------------------------------------------------------------------

    def _free(self, view: View, number: int) -> Proposal | Pause:
        """By turns the robust optimum, over the whole budget, and the edge, shortly."""
        generator = random.Random(f"{self._spec.searcher.seed}-{number}")
        landscapes = view.landscapes(with_surface=True)
        if not landscapes and view.is_any_under_way:
            return Pause.WAIT  # nothing has ended yet
        if not landscapes:
            return Proposal(params=self._spec.sample(generator))
        landscape = min(landscapes, key=_need)
        settings = [self._spec.sample(generator) for _ in range(NUM_CANDIDATES)]
        category = landscape.space.category(landscape.records[0].params)
        settings = [s for s in settings if landscape.space.category(s) == category]
        settings = [s for s in settings if view.is_new(s, landscape.space)]
        if not settings:
            return Proposal(params=self._spec.sample(generator))
        if number % 2 == 0 and landscape.edge is not None:
            setting = _straddle(landscape, settings)
            length = view.edge_length(self._timing(setting))
            return self._short_trial(setting, length)
        return Proposal(params=_robust(landscape, settings))

    # --- small things -----------------------------------------------------------------------

    def _timing(self, others: Params) -> Timing:
        trainer = self._spec.trainer_for(others)
        ends = {length: trial_end(self._spec, trainer, length) for length in Length}
        has_short = ends[Length.BRIEF] is not None
        by_schedule = CONSTANT if trainer.lr_schedule == "constant" else DECAYED
        return Timing(
            has_short=has_short,
            steps={length: end or trainer.max_train_steps for length, end in ends.items()},
            expected=by_schedule if has_short else AT_THE_END,
        )

    def _spread(self, shares: Sequence[float] = FIRST_SHARES) -> Iterator[float]:
        return (self._low + share * (self._high - self._low) for share in shares)

    def _is_free(self, rate: float, under_way: Sequence[float]) -> bool:
        return all(abs(rate - other) >= APART for other in under_way)

    def _is_new(self, rate: float, seen: Seen) -> bool:
        return all(abs(rate - other) > self._near for other in seen.tried)

    def _nearest_new(self, rate: float, seen: Seen) -> float | None:
        """The nearest untried rate within the range; none farther off than trials are kept apart:
        it would say little of what is asked."""
        most = int(APART / self._near)
        offsets = sorted((k * self._near for k in range(-most, most + 1)), key=abs)
        tried = (rate + offset for offset in offsets)
        return next(
            (r for r in tried if self._low <= r <= self._high and self._is_new(r, seen)), None
        )

    def _short(self, others: Params, rate: float | None, length: Length) -> Proposal | None:
        return None if rate is None else self._short_trial(self._setting(others, rate), length)

    def _short_trial(self, setting: Params, length: Length) -> Proposal:
        """An ordinary trial where a short one would take the whole budget."""
        if trial_end(self._spec, self._spec.trainer_for(setting), length) is None:
            return Proposal(params=setting)
        return Proposal(params=setting, purpose=Purpose.PROBE, length=length)

    def _full(self, line: Line, rate: float) -> Proposal:
        """At this rate, or near it where the edge does not decide: as high as it may be is as high
        as it should be."""
        reach = SNAP if rate < line.limit else self._near
        near = [
            record
            for record in line.seen.extendable
            if is_on_line(record.params, line.others)
            and abs(rate_of(record.params) - rate) <= reach
            and rate_of(record.params) <= line.limit
        ]
        if not near:
            return Proposal(params=self._setting(line.others, rate))
        nearest = _nearest(near, rate)
        return Proposal(params=nearest.params, goes_on=nearest.setting)

    def _setting(self, others: Params, rate: float) -> Params:
        value = float(f"{2.0**rate:.{DIGITS}g}")
        low, high = _ends(self._domains[LEARNING_RATE])
        every: Params = others | {LEARNING_RATE: min(max(value, low), high)}
        return {name: every[name] for name in self._domains}


def _nearest(records: Sequence[TrialRecord], rate: float) -> TrialRecord:
    return min(records, key=lambda record: abs(rate_of(record.params) - rate))


def _given_up(seen: Seen) -> Iterator[float]:
    """Rates at which the machine failed twice: a third trial is no better idea."""
    for rate in seen.failed:
        if sum(abs(rate - other) <= IN_PLACE for other in seen.failed) > 1:
            yield rate


def _learns_from(seen: Seen, limit: float) -> float:
    """Below this, and as long as the limit allows more, a trial would end as it began."""
    lowest = max((rate for rate in seen.timid if rate < limit), default=-math.inf)
    return min(lowest + APART, limit)


def _elsewhere(seen: Seen, limit: float) -> Sequence[float]:
    """Where the next full trial goes when none was stable: lower, or, where none of them learned,
    higher."""
    too_high = [rate for rate in seen.full_tried if rate not in seen.timid]
    if too_high:
        return [min(too_high) - STEP_DOWN]
    highest = max(seen.full_tried)
    return [min(highest + STEP_DOWN, limit)] if highest < limit else []


def _is_best_asked(line: Line, *, but_later: bool = False) -> bool:
    """Whether a trial is under way that may move the best rate; ``but_later``: those that go on
    until later aside."""
    seen = line.seen
    if seen.reading_under_way[Length.READABLE]:
        return True
    if seen.reading_under_way[Length.LATE] and not but_later:
        return True
    near = BRACKET + IN_PLACE
    brief = seen.reading_under_way[Length.BRIEF]
    return line.best is not None and any(abs(rate - line.best) <= near for rate in brief)


def _rate(proposal: Proposal) -> float:
    assert proposal.params is not None
    return rate_of(proposal.params)


def _need(landscape: Landscape) -> tuple[int, float]:
    """Ascending with how little a combination of words needs further trials: first as many stable
    ones as a surface takes, then whichever has the best score."""
    stable = [record for record in landscape.records if record.is_stable]
    scores = [record.score for record in stable if record.score is not None]
    settings = len({record.setting for record in stable})
    return min(settings, MIN_TRIALS), min(scores, default=math.inf)


def _straddle(landscape: Landscape, settings: Sequence[Params]) -> Params:
    """Of ``settings`` the one whose P(unstable) is most in doubt."""

    def doubt(params: Params) -> float:
        p = landscape.p_unstable(params)
        return 0.0 if p is None else -abs(p - 0.5)

    return max(settings, key=doubt)


def _robust(landscape: Landscape, settings: Sequence[Params]) -> Params:
    """Of ``settings`` the safe one with the lowest worst predicted score in its surroundings."""
    safe = [s for s in settings if _is_safe(landscape, s)] or list(settings)
    worst = landscape.worst_scores(safe)
    known = [(score, i) for i, score in enumerate(worst) if score is not None]
    return safe[min(known)[1]] if known else safe[0]


def _is_safe(landscape: Landscape, params: Params) -> bool:
    return landscape.risk(params) <= MAX_FAILURE_PROBABILITY


# --- domains ------------------------------------------------------------------------------------


def _ends(domain: Domain) -> tuple[float, float]:
    numbers = [float(v) for v in domain.probes() if isinstance(v, int | float)]
    return min(numbers), max(numbers)


def _middle(domain: Domain) -> ParamValue:
    if isinstance(domain, Choice):
        return _ascending(domain)[len(domain.choice) // 2]
    return at_share(domain, *_ends(domain), 0.5)


def _ascending(domain: Choice) -> list[ParamValue]:
    """Numbers to choose from, which a study names in any order; null is a clip above them all."""
    return sorted(domain.choice, key=lambda v: math.inf if v is None else float(v))


def _extremes(domain: Domain) -> list[ParamValue]:
    if isinstance(domain, Choice):
        return [_ascending(domain)[0], _ascending(domain)[-1]]
    low, high = _ends(domain)
    return [at_share(domain, low, high, share) for share in (0.0, 1.0)]
