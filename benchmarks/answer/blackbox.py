"""A logged grid as a trainer, and what is known of its settings.

    (learning_rate, max_grad_norm, seed)  ->  the stored trial of the nearest logged learning rate
                                              (in octaves) at that clip

Every search of the comparison asks this trainer, so that all of them see the same world. What a
setting is worth in the end (``Oracle``) is known from all of its seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.truth.grids import STORAGE, Clip, Grid
from benchmarks.truth.labels import Label, Truth
from benchmarks.truth.replay import StoredTrial, load
from stabsearch.records import Report, TrialFacts

OCTAVE = 1.02
"""Logged rates are rounded to three digits."""


@dataclass(frozen=True, slots=True, order=True)
class Setting:
    """A setting of the grid: a logged learning rate, and a place in its list of clips."""

    clip_index: int
    learning_rate: float

    def octaves_to(self, other: Setting) -> float:
        return math.log2(other.learning_rate / self.learning_rate)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Course:
    """A stored trial as a search sees it."""

    setting: Setting
    facts: TrialFacts
    reports: tuple[Report, ...]

    @property
    def evaluations(self) -> list[tuple[int, float]]:
        """(step, score), the scores as they were: they may be NaN or infinite."""
        return [(r.step, r.evaluation.score_ema) for r in self.reports if r.evaluation is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """What became of one trial of the grid."""

    score: float
    """Of the averaged weights, what a search compares. A trial that ended dead, or worse than the
    best constant, counts as that constant."""
    eval_loss: float
    """Held out, averaged weights; likewise."""
    is_unstable: bool


class Blackbox:
    """The trials of a grid that can be asked for."""

    def __init__(self, grid: Grid, courses: Mapping[tuple[Setting, int], Course]) -> None:
        """``courses`` by setting and seed; every setting has the same seeds."""
        self.grid = grid
        self.clips: tuple[Clip, ...] = tuple(grid.learning_rates)
        self._courses = dict(courses)
        self.seeds = sorted({seed for _, seed in self._courses})
        self._rates = {
            index: sorted({s.learning_rate for s, _ in self._courses if s.clip_index == index})
            for index in range(len(self.clips))
        }
        any_course = next(iter(self._courses.values()))
        self.max_train_steps = any_course.facts.max_train_steps
        self.evaluation_steps = tuple(step for step, _ in any_course.evaluations)

    @property
    def rate_range(self) -> tuple[float, float]:
        """Lowest and highest logged learning rate of all clips: the range that is searched."""
        rates = [rate for rates in self._rates.values() for rate in rates]
        return min(rates), max(rates)

    def num_rates(self, clip_index: int) -> int:
        """Logged at a clip."""
        return len(self._rates[clip_index])

    def snap(self, learning_rate: float, clip: Clip) -> Setting:
        """The logged setting that stands for this one."""
        index = self.clips.index(clip)
        rate = min(self._rates[index], key=lambda r: abs(math.log2(r / learning_rate)))
        return Setting(index, rate)

    def clip(self, setting: Setting) -> Clip:
        return self.clips[setting.clip_index]

    def course(self, setting: Setting, seed: int) -> Course:
        return self._courses[setting, seed]

    def settings(self) -> list[Setting]:
        return sorted({setting for setting, _ in self._courses})


class SeedDraw:
    """The grid's seed for every trial of one search.

    All settings of a search are trained with the same, as those of a study are: what differs
    between two of them is then less the luck of their seeds. Repetitions take turns at the seeds;
    replicates of a setting get the ones that follow.
    """

    def __init__(self, seeds: Sequence[int], repetition: int) -> None:
        self._seeds = seeds
        self._repetition = repetition

    def of(self, replicate: int = 0) -> int:
        return self._seeds[(self._repetition + replicate) % len(self._seeds)]


class Oracle:
    """What the settings of a grid are worth: means over its seeds."""

    def __init__(self, ends: Mapping[Setting, Sequence[End]]) -> None:
        self._ends = ends
        self.score = {s: statistics.fmean(e.score for e in them) for s, them in ends.items()}
        self.eval_loss = {
            s: statistics.fmean(e.eval_loss for e in them) for s, them in ends.items()
        }
        self.failures = {
            s: statistics.fmean(e.is_unstable for e in them) for s, them in ends.items()
        }
        """Share of the seeds that are labelled unstable."""
        self._curves = self._curves_by_clip()
        self._worst = {setting: self._worst_around(setting) for setting in ends}

    @property
    def best_score(self) -> float:
        return min(self.score.values())

    @property
    def best_eval_loss(self) -> float:
        return min(self.eval_loss.values())

    @property
    def best_worst(self) -> float:
        """The lowest possible ``worst``, of the settings that have their whole surroundings on the
        grid."""
        return self._worst[self.safest]

    @property
    def safest(self) -> Setting:
        """The setting that has it: the answer that a search for it would give if it knew all."""
        return min(filter(self._is_surrounded, self._worst), key=self.worst)

    def regret(self, setting: Setting) -> float:
        """How far its mean score is above the best one, as a share of it."""
        return self.score[setting] / self.best_score - 1

    def loss_regret(self, setting: Setting) -> float:
        """The same of the held-out loss."""
        return self.eval_loss[setting] / self.best_eval_loss - 1

    def worst(self, setting: Setting) -> float:
        """The worst mean score within an octave of learning rate at the same clip.

        Where no rate is logged an octave away, the score there is interpolated: else a setting
        beside a gap in the grid would seem to have the better surroundings.
        """
        return self._worst[setting]

    def worst_regret(self, setting: Setting) -> float:
        """How far that is above the lowest possible, as a share of it."""
        return self._worst[setting] / self.best_worst - 1

    def doubled(self, setting: Setting) -> Setting:
        """The logged setting nearest to twice its learning rate."""
        return min(
            (s for s in self._ends if s.clip_index == setting.clip_index),
            key=lambda s: abs(setting.octaves_to(s) - 1),
        )

    def _curves_by_clip(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """log2 of the rates, ascending, and of their mean scores."""
        curves = {}
        for clip_index in {setting.clip_index for setting in self.score}:
            points = sorted(
                (s.learning_rate, score)
                for s, score in self.score.items()
                if s.clip_index == clip_index
            )
            rates, scores = np.log2(np.array(points)).T
            curves[clip_index] = (rates, scores)
        return curves

    def _worst_around(self, setting: Setting) -> float:
        rates, scores = self._curves[setting.clip_index]
        here = math.log2(setting.learning_rate)
        logged = scores[np.abs(rates - here) <= OCTAVE]
        ends = np.interp([here - 1, here + 1], rates, scores)
        return float(2 ** max(logged.max(), ends.max()))

    def _is_surrounded(self, setting: Setting) -> bool:
        rates, _ = self._curves[setting.clip_index]
        here = math.log2(setting.learning_rate)
        return bool(rates[0] <= here - 2 + OCTAVE and here + 2 - OCTAVE <= rates[-1])


def load_blackbox(grid: Grid, storage: Path = STORAGE) -> tuple[Blackbox, Oracle] | None:
    """A grid's complete seeds; None if there is none."""
    trials = load(grid, storage)
    return None if not trials else (blackbox_of(grid, trials), oracle_of(grid, trials))


def blackbox_of(grid: Grid, trials: Iterable[StoredTrial]) -> Blackbox:
    return Blackbox(
        grid,
        {
            (setting, trial.course.seed): Course(
                setting=setting, facts=trial.facts, reports=trial.reports
            )
            for trial in trials
            for setting in [setting_of(grid, trial)]
        },
    )


def oracle_of(grid: Grid, trials: Iterable[StoredTrial]) -> Oracle:
    ends: dict[Setting, list[End]] = {}
    for trial in trials:
        ends.setdefault(setting_of(grid, trial), []).append(
            end_of(trial.truth, trial.facts, trial.reports)
        )
    return Oracle(ends)


def setting_of(grid: Grid, trial: StoredTrial) -> Setting:
    return Setting(list(grid.learning_rates).index(trial.course.clip), trial.course.learning_rate)


def end_of(truth: Truth, facts: TrialFacts, reports: Sequence[Report]) -> End:
    last = reports[-1].evaluation
    assert last is not None  # every trial ends with one
    reference = facts.reference
    return End(
        score=_bounded(last.score_ema, reference.constant_score, truth.ends_dead),
        eval_loss=_bounded(last.loss_ema, reference.constant, truth.ends_dead),
        is_unstable=truth.label is Label.UNSTABLE,
    )


def _bounded(value: float, dead: float, is_dead: bool) -> float:
    # Averaged weights hide a death for a while: a dead trial counts as one.
    return dead if is_dead or not math.isfinite(value) else min(value, dead)
