"""A trainer in one line: what a setting would do, without training."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stabsearch.recommend.confirm import planned_trials
from stabsearch.records import Look, Outcome, Purpose, Severity, StoppedBy, TrialRecord
from stabsearch.search.boundary import Boundary
from stabsearch.search.strategy import (
    Length,
    Pause,
    Proposal,
    look_steps,
    next_step,
    trial_end,
)
from stabsearch.spec import StudySpec
from tests import synthetic_study


@dataclass(frozen=True, kw_only=True)
class World:
    """Where the edge and the best rate lie, in log2 of the learning rate; the gauge and the scores
    are exact."""

    edge: float = math.log2(0.05)
    best: float = math.log2(0.004)
    has_gauge: bool = True
    learns_from: float = -math.inf
    kills_to: float = -math.inf
    """From the edge to here a network is dead at once, and seems never to have learned."""
    has_score: bool = True
    """Whether a short trial has one."""
    score_ahead: float = 0.4
    """Octaves above the best rate at which a short trial has the best score."""
    late_ahead: float = 0.2
    """The same of one that went on."""
    rise: float = 1.08
    """By how much the score is worse an octave off the best rate."""
    slow_edge: float = math.inf
    """Beyond it a short trial fails if it is longer than a tenth of the budget."""
    late_edge: float = math.inf
    """Beyond it a trial that trains longer than a short one fails late."""
    gauge_slope: float = 1.0
    """Octaves that the gauge reads for one."""
    gauge_offset: float = 0.0
    """Octaves that it reads at the best rate."""
    norm_falls: bool = False
    """Gradient norms halve with every doubling of the steps."""
    edge_moves_with_clip: float = 0.0
    """Octaves of edge per octave of clip, from clip 1."""

    def edge_at(self, clip: float) -> float:
        return self.edge + self.edge_moves_with_clip * math.log2(clip)

    def record(
        self, spec: StudySpec, proposal: Proposal, number: int, seed: int = 0
    ) -> TrialRecord:
        params = proposal.params
        assert params is not None
        rate = math.log2(params["learning_rate"])
        edge = self.edge_at(params.get("max_grad_norm") or 1.0)
        trainer = spec.trainer_for(params)
        budget = trainer.max_train_steps
        changes: dict[str, Any] = {"steps": budget, "outcome": Outcome.COMPLETED}
        if proposal.purpose is Purpose.PROBE:
            changes |= {
                "steps": trial_end(spec, trainer, proposal.length),
                "outcome": Outcome.STOPPED,
                "stopped_by": StoppedBy.PROBE,
            }
        gauge = self.gauge_offset + self.gauge_slope * (rate - self.best)
        gauge = max(-6.0, min(6.0, gauge))
        changes["lr_gauge_octaves"] = gauge if self.has_gauge else None
        changes["constant_score"] = DEAD_SCORE
        if edge < rate < self.kills_to:
            changes |= NOT_LEARNING
        elif rate > edge:
            changes |= DIVERGED | {"steps": budget * 3 // 40, "lr_gauge_octaves": None}
        elif rate > self.slow_edge and changes["steps"] > budget / 10:
            changes |= DIVERGED | {"steps": budget // 5, "lr_gauge_octaves": None}
        elif rate > self.late_edge and proposal.purpose is not Purpose.PROBE:
            changes |= DIVERGED | {"steps": budget * 3 // 4}
        elif rate < self.learns_from:
            changes |= NOT_LEARNING
        steps = changes["steps"]
        late = trial_end(spec, trainer, Length.LATE)
        is_later = late != trial_end(spec, trainer, Length.READABLE)
        late_from = (late if is_later else None) or budget
        last = self._look(steps, rate, late_from, budget)
        looks = [
            self._look(step, rate, late_from, budget)
            for step in look_steps(spec, trainer)
            if step <= steps
        ]
        changes["score"] = last.score
        return synthetic_study.record(
            trial_id=f"{number:04d}-{seed}",
            setting=number,
            seed=seed,
            params=params,
            purpose=proposal.purpose,
            max_train_steps=budget,
            grad_norm_median=last.grad_norm_median,
            grad_norm_late=last.grad_norm_late,
            looks=tuple(
                replace(look, lr_gauge_octaves=changes["lr_gauge_octaves"]) for look in looks
            ),
            **changes,
        )

    def _look(self, step: int, rate: float, late_from: int, budget: int) -> Look:
        """At a step, but for the gauge."""
        is_short = step < budget
        ahead = self.late_ahead if step >= late_from else self.score_ahead
        best = self.best + ahead * is_short
        score = min(5.0 * self.rise ** (rate - best) ** 2, WORST_SCORE)
        share = step / budget
        return Look(
            step=step,
            score=score if self.has_score or not is_short else None,
            lr_gauge_octaves=None,
            grad_norm_median=0.1 / share if self.norm_falls else 0.5,
            grad_norm_late=0.057 / share if self.norm_falls else 0.5,
        )


DEAD_SCORE = 100.0
WORST_SCORE = 0.9 * DEAD_SCORE
"""Of a trial within the edge: one that learns nothing where lower rates do lies beyond it."""
DIVERGED = {
    "outcome": Outcome.DIVERGED,
    "stopped_by": StoppedBy.GATE,
    "severity": Severity.PRUNE,
    "symptom": "lost_progress",
    "rule": "R1b",
}
NOT_LEARNING = {
    "outcome": Outcome.STOPPED,
    "stopped_by": StoppedBy.GATE,
    "severity": Severity.PRUNE,
    "symptom": "not_learning",
    "rule": "R1c",
}


def search(
    spec: StudySpec,
    world: World,
    *,
    workers: int = 1,
    check: Callable[[Proposal], None] = lambda _: None,
) -> list[TrialRecord]:
    """All trials of a boundary search, in the order in which they ended."""
    strategy, ended, number = Boundary(spec), [], itertools.count()
    under_way: list[tuple[float, int, Proposal]] = []
    now, proposed = 0.0, 0
    while True:
        while len(under_way) < workers:
            step = next_step(spec, strategy, ended, [p for *_, p in under_way], proposed)
            if isinstance(step, Pause):
                assert step is Pause.DONE or under_way, "waits for nothing"
                break
            check(step)
            proposed += step.goes_on is None
            of = next(number) if step.goes_on is None else step.goes_on
            behind = sum(r.steps for r in ended if r.setting == step.goes_on)
            steps = world.record(spec, step, of).steps - behind
            heapq.heappush(under_way, (now + steps, of, step))
        if not under_way:
            return ended
        now, of, proposal = heapq.heappop(under_way)
        ended = [*(r for r in ended if r.setting != of), world.record(spec, proposal, of)]


def search_and_confirm(spec: StudySpec, world: World) -> list[TrialRecord]:
    """A whole study on one worker, as the searcher goes through it."""
    strategy, ended, proposed = Boundary(spec), [], 0
    while True:
        step = next_step(spec, strategy, ended, (), proposed)
        if isinstance(step, Proposal):
            number = max((r.setting for r in ended), default=-1) + 1
            of = number if step.goes_on is None else step.goes_on
            ended = [*(r for r in ended if r.setting != of), world.record(spec, step, of)]
            proposed += step.goes_on is None
            continue
        confirmed = next_round(spec, world, ended)
        if not confirmed:
            return ended
        ended += confirmed


def confirm(spec: StudySpec, world: World, ended: Sequence[TrialRecord]) -> list[TrialRecord]:
    """All trials, with those that confirm: as when no search follows a round that did not hold."""
    trials = list(ended)
    while confirmed := next_round(spec, world, trials):
        trials += confirmed
    return trials


def next_round(spec: StudySpec, world: World, ended: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The trials of the next round of the confirmation; none if it is over."""
    return [
        world.record(spec, Proposal(params=p.params, purpose=p.purpose), p.setting, p.seed)
        for p in planned_trials(ended, spec.model_dump(mode="json"))
    ]
