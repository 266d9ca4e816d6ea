"""What became of a trial that nobody stopped, from its raw losses and held-out losses alone.

No rule of the analyzer is asked, and none of its smoothing used. The choices, and why:

* The bar between alive and dead is half-way between the loss of the best constant prediction (C0)
  and of the best scalar gain (L_iso), or of the best trial of the seed where the model is too
  small to reach that; on the held-out grid with the raw weights: those are what training made,
  while averaged weights hide a death for a tenth of the run.
* *unstable*: ends dead, though it had been alive and lost half a unit since, or though a lower
  learning rate at the same clip and seed ends alive; or had a batch above 3 times what an output
  of 0 gives, after twice the warm-up (an earlier one that is recovered from harms nothing); or a
  step that was not finite.
* *ok*: within half a unit u = L_iso - L_lin of the best trial of its seed, where noise and
  initial weights are shared, with the raw or with the averaged weights. Either, because a trial
  whose averaged weights are as good as any must not be stopped for its raw ones.
* *timid*: not ok, and below the best learning rate of its clip.
* *degraded*: the rest; alive, and worse than it could be.
* An unstable trial is *knowable* from the step on from which its curve shows it to one who knows
  the end: the step of the excursion, or the last step at which its mean over 2.5% of the budget
  was alive. One that never was alive is knowable when half of those that end alive were so.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from benchmarks.truth.grids import Clip
from stabsearch.records import ReferenceLoss, Report, TrialFacts

OK_UNITS = 0.5
EXCURSION_RATIO = 3.0
SETTLED_WARMUPS = 2
SMOOTHED_SHARE = 0.025


class Label(StrEnum):
    OK = "OK"
    TIMID = "timid"
    DEGRADED = "degraded"
    UNSTABLE = "unstable"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Course:
    """What a trial did, without a judgement."""

    trial_id: str
    seed: int
    learning_rate: float
    clip: Clip
    batch_losses: NDArray[np.float64]
    """Of every step, ``[steps]``."""
    nonfinite_step: int | None
    """The first step whose loss or gradient was not finite."""
    loss_raw: float
    """Held out, at the end."""
    loss_ema: float
    warmup_steps: int
    reference: ReferenceLoss

    @property
    def steps(self) -> int:
        return len(self.batch_losses)

    def ends_alive(self, bar: float) -> bool:
        return self.loss_raw < bar

    def smoothed(self) -> NDArray[np.float64]:
        """Mean batch loss of the last 2.5% of the budget, per step; inf before and where not
        finite."""
        width = max(2, round(SMOOTHED_SHARE * self.steps))
        finite = np.where(np.isfinite(self.batch_losses), self.batch_losses, 1e30)
        windows = np.lib.stride_tricks.sliding_window_view(finite, width).mean(axis=1)
        return np.concatenate([np.full(width - 1, math.inf), windows])

    def alive_steps(self, bar: float) -> NDArray[np.int64]:
        """The steps, from 1, at which the smoothed loss is below the bar."""
        return np.flatnonzero(self.smoothed() < bar) + 1

    def lost_progress(self, bar: float) -> bool:
        """Whether it was alive, and ended well above that: a slow one crosses the bar by noise."""
        lowest = float(self.smoothed().min())
        lost = self.loss_raw - lowest
        return lowest < bar and not lost <= OK_UNITS * self.reference.unit

    def excursion_step(self) -> int | None:
        """The first step with a loss far above an output of 0's, long after warm-up."""
        zero = statistics.fmean(self.reference.bin_zero)
        is_far = self.batch_losses > EXCURSION_RATIO * zero
        is_far[: SETTLED_WARMUPS * self.warmup_steps] = False
        found = np.flatnonzero(is_far)
        return int(found[0]) + 1 if len(found) else None


def course_of(
    trial_id: str,
    seed: int,
    learning_rate: float,
    clip: Clip,
    facts: TrialFacts,
    reports: Sequence[Report],
) -> Course:
    """A stored trial's course."""
    last = reports[-1].evaluation
    assert last is not None  # every trial ends with one
    return Course(
        trial_id=trial_id,
        seed=seed,
        learning_rate=learning_rate,
        clip=clip,
        batch_losses=np.array([loss for report in reports for loss in report.batch_losses]),
        nonfinite_step=next(
            (r.first_nonfinite_step for r in reports if r.first_nonfinite_step is not None), None
        ),
        loss_raw=last.loss_raw,
        loss_ema=last.loss_ema,
        warmup_steps=facts.lr_warmup_steps,
        reference=facts.reference,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """A trial's label, and since when it could be known."""

    label: Label
    knowable_step: int | None = None
    """Of an unstable trial."""
    ends_dead: bool = False
    had_excursion: bool = False
    """A step far off, or not finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimum:
    """The best learning rates of a clip."""

    raw: float
    """By the held-out loss of the raw weights, mean over seeds."""
    ema: float
    """By that of the averaged weights."""


def label_grid(courses: Sequence[Course]) -> dict[str, Truth]:
    """Truth by trial_id, of the trials of one grid."""
    best = optima(courses)
    return {
        course.trial_id: truth
        for seed in {course.seed for course in courses}
        for course, truth in _label_seed([c for c in courses if c.seed == seed], best)
    }


def _label_seed(
    peers: Sequence[Course], best: Mapping[Clip, Optimum]
) -> Iterator[tuple[Course, Truth]]:
    reference = peers[0].reference
    best_raw = _lowest(course.loss_raw for course in peers)
    best_ema = _lowest(course.loss_ema for course in peers)
    bar = (reference.constant + max(reference.isotropic, best_raw)) / 2
    learned_by = _step_of_learning(peers, bar)
    allowed = OK_UNITS * reference.unit
    for course in peers:
        truth = _instability(course, peers, bar, learned_by)
        if truth is None:
            is_ok = course.loss_raw <= best_raw + allowed or course.loss_ema <= best_ema + allowed
            is_low = course.learning_rate < best[course.clip].raw
            other = Label.TIMID if is_low else Label.DEGRADED
            truth = Truth(label=Label.OK if is_ok else other)
        yield course, truth


def _instability(
    course: Course, peers: Sequence[Course], bar: float, learned_by: int
) -> Truth | None:
    """The truth of an unstable trial; None for another."""
    known = [step for step in (course.excursion_step(), course.nonfinite_step) if step is not None]
    had_excursion = bool(known)
    is_dead = not course.ends_alive(bar) and (
        course.lost_progress(bar) or _lower_one_lives(course, peers, bar)
    )
    if not (had_excursion or is_dead):
        return None
    if is_dead:
        alive = course.alive_steps(bar)
        known.append(int(alive[-1]) + 1 if len(alive) else learned_by)
    return Truth(
        label=Label.UNSTABLE,
        knowable_step=min(*known, course.steps),
        ends_dead=is_dead,
        had_excursion=had_excursion,
    )


def _lower_one_lives(course: Course, peers: Sequence[Course], bar: float) -> bool:
    return any(
        peer.clip == course.clip
        and peer.learning_rate < course.learning_rate
        and peer.ends_alive(bar)
        for peer in peers
    )


def _step_of_learning(peers: Sequence[Course], bar: float) -> int:
    """The step by which half of the trials that end alive were alive, after warm-up at least."""
    first = [
        int(alive[0])
        for peer in peers
        if peer.ends_alive(bar) and len(alive := peer.alive_steps(bar))
    ]
    warmup = peers[0].warmup_steps
    return max(warmup, math.ceil(statistics.median(first))) if first else peers[0].steps


def optima(courses: Sequence[Course]) -> Mapping[Clip, Optimum]:
    """The best learning rate of every clip."""
    return {
        clip: Optimum(
            raw=_best_rate(courses, clip, "loss_raw"), ema=_best_rate(courses, clip, "loss_ema")
        )
        for clip in {course.clip for course in courses}
    }


def _best_rate(courses: Sequence[Course], clip: Clip, loss: str) -> float:
    """The learning rate whose mean over seeds is lowest; one that once is not finite is not."""
    by_rate: dict[float, list[float]] = {}
    for course in courses:
        if course.clip == clip:
            value = getattr(course, loss)
            by_rate.setdefault(course.learning_rate, []).append(
                value if math.isfinite(value) else math.inf
            )
    return min(by_rate, key=lambda rate: statistics.fmean(by_rate[rate]))


def _lowest(values: Iterable[float]) -> float:
    return min((value for value in values if math.isfinite(value)), default=math.inf)
