"""Labels and verdicts in, shares out: who was right, and when."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from benchmarks.truth.labels import Label
from benchmarks.truth.replay import Replayed, StoredTrial
from stabsearch.records import Severity

SHARES = (0.05, 0.075, 0.1, 0.2, 0.5, 1.0)
"""Of the budget, at which recall is asked for."""
KNOWABLE_BY = 0.1
GAUGE_SHARES = (0.1, 0.2)


@dataclass(frozen=True, slots=True)
class Ratio:
    """``part`` of ``whole``."""

    part: int
    whole: int

    @property
    def value(self) -> float:
        return self.part / self.whole if self.whole else math.nan

    @property
    def upper(self) -> float:
        """Exact (Clopper-Pearson) upper bound of the probability, one-sided 95%."""
        if self.part >= self.whole:
            return 1.0
        return float(stats.beta.ppf(0.95, self.part + 1, self.whole - self.part))

    def __str__(self) -> str:
        return f"{self.part} of {self.whole}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """A trial whose end is known, and what a judge said of it."""

    grid: str
    trial: StoredTrial
    replayed: Replayed

    @property
    def label(self) -> Label:
        return self.trial.label

    def share(self, step: int | None) -> float:
        """Of the budget; inf for never."""
        return math.inf if step is None else step / self.trial.facts.max_train_steps

    @property
    def is_knowable(self) -> bool:
        """Whether the end can be told from the curve early on."""
        return self.share(self.trial.truth.knowable_step) <= KNOWABLE_BY

    @property
    def name(self) -> str:
        course = self.trial.course
        clip = "none" if course.clip is None else f"{course.clip:g}"
        return (
            f"{self.grid} {course.trial_id} (lr {course.learning_rate:.3g}, clip {clip}, "
            f"{self.trial.octaves:+.1f} octaves)"
        )


def cases_of(
    grid: str, trials: Iterable[StoredTrial], replayed: Mapping[str, Replayed]
) -> list[Case]:
    return [Case(grid=grid, trial=t, replayed=replayed[t.course.trial_id]) for t in trials]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A judge on some trials."""

    recall: dict[float, Ratio]
    """Unstable trials called by a share of the budget."""
    knowable_recall: Ratio
    """Called by 10% of the budget, of the unstable ones that can be known by then."""
    false_prunes: Ratio
    """Pruned, of the ok ones."""
    false_penalties: Ratio
    """Penalised or pruned, of the ok ones."""
    pruned_timid: Ratio
    pruned_degraded: Ratio
    unstable_budget: float
    """Mean share of its budget that an unstable trial consumes under the gate."""
    ok_budget: float
    """The same of an ok trial; 1 is what is wanted."""


def score(cases: Sequence[Case]) -> Score:
    unstable = _labelled(cases, Label.UNSTABLE)
    ok = _labelled(cases, Label.OK)
    knowable = [case for case in unstable if case.is_knowable]
    return Score(
        recall={share: _share_of(unstable, _called_by(share)) for share in SHARES},
        knowable_recall=_share_of(knowable, _called_by(KNOWABLE_BY)),
        false_prunes=_share_of(ok, is_pruned),
        false_penalties=_share_of(
            ok, lambda case: is_pruned(case) or worst(case) >= Severity.PENALISE
        ),
        pruned_timid=_share_of(_labelled(cases, Label.TIMID), is_pruned),
        pruned_degraded=_share_of(_labelled(cases, Label.DEGRADED), is_pruned),
        unstable_budget=_mean_budget(unstable),
        ok_budget=_mean_budget(ok),
    )


def is_pruned(case: Case) -> bool:
    return case.replayed.pruned_step is not None


def worst(case: Case) -> Severity:
    return max((s.verdict.severity for s in case.replayed.said), default=Severity.NONE)


def rules_said(cases: Iterable[Case], severity: Severity) -> Counter[str]:
    """In how many trials a rule spoke with this severity, by rule and symptom."""
    return Counter(
        f"{rule} {symptom}"
        for case in cases
        for rule, symptom in {
            (s.verdict.rule, s.verdict.symptom)
            for s in case.replayed.said
            if s.verdict.severity is severity
        }
    )


def missed(cases: Iterable[Case]) -> list[Case]:
    """Unstable trials that were not called though they could be known early on."""
    return [
        case
        for case in _labelled(cases, Label.UNSTABLE)
        if case.is_knowable and not _called_by(KNOWABLE_BY)(case)
    ]


def _labelled(cases: Iterable[Case], label: Label) -> list[Case]:
    return [case for case in cases if case.label is label]


def _called_by(share: float) -> Callable[[Case], bool]:
    return lambda case: case.share(case.replayed.called_step) <= share


def _share_of(cases: Sequence[Case], is_so: Callable[[Case], bool]) -> Ratio:
    return Ratio(sum(map(is_so, cases)), len(cases))


def _mean_budget(cases: Sequence[Case]) -> float:
    if not cases:
        return math.nan
    return statistics.fmean(min(1.0, case.share(case.replayed.pruned_step)) for case in cases)


# --- the learning-rate gauge ------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class GaugeScore:
    """The gauge on the trials of one grid that it read, at a share of the budget."""

    read: Ratio
    """Trials with a reading, of those that are not unstable."""
    spearman: float
    """With log2 learning rate; 1 is perfect."""
    kappa_spearman: float
    """The same of kappa itself, which falls: -1 is perfect."""
    auc_high: float
    """That a learning rate above twice the best reads higher than one that is not."""
    auc_low: float
    """That one below half of the best reads lower than one that is not."""
    loss_auc_high: float
    """What the training loss at that time would have given in its place."""
    error: float
    """Mean |reading - log2(lr / best)|, in octaves, best by the raw weights."""
    error_near: float
    """The same of the trials within two octaves of the best."""
    error_ema: float
    """Mean |reading - log2(lr / best)|, best by the averaged weights."""


def gauge_score(cases: Sequence[Case], share: float) -> GaugeScore:
    alive = [case for case in cases if case.label is not Label.UNSTABLE]
    readings = [(case, reading) for case in cases if (reading := read_gauge(case, share))]
    x = np.array([case.trial.octaves for case, _ in readings])
    gauge = np.array([reading.octaves for _, reading in readings])
    kappa = np.array([reading.kappa for _, reading in readings])
    loss = np.array([reading.loss for _, reading in readings])
    x_ema = np.array([case.trial.octaves_ema for case, _ in readings])
    return GaugeScore(
        read=Ratio(sum(case.label is not Label.UNSTABLE for case, _ in readings), len(alive)),
        spearman=spearman(gauge, x),
        kappa_spearman=spearman(kappa, x),
        auc_high=auc(gauge, x > 1),
        auc_low=auc(-gauge, x < -1),
        loss_auc_high=auc(loss, x > 1),
        error=_mean_abs(gauge - x),
        error_near=_mean_abs((gauge - x)[np.abs(x) <= 2]),
        error_ema=_mean_abs(gauge - x_ema),
    )


def _mean_abs(values: np.ndarray) -> float:
    return float(np.abs(values).mean()) if len(values) else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    octaves: float
    kappa: float
    loss: float


def read_gauge(case: Case, share: float) -> Reading | None:
    """The gauge at the first evaluation at or after a share of the budget."""
    step = share * case.trial.facts.max_train_steps
    octaves = dict(case.replayed.gauge)
    for report in case.trial.reports:
        if report.evaluation is not None and report.step >= step:
            if report.step not in octaves:
                return None
            return Reading(
                octaves=octaves[report.step], kappa=report.evaluation.kappa, loss=report.loss
            )
    return None


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(stats.spearmanr(a, b).statistic)


def auc(values: np.ndarray, is_positive: np.ndarray) -> float:
    """P(a positive's value is above a negative's); ties count half. NaN without both kinds."""
    positives, negatives = values[is_positive], values[~is_positive]
    if not len(positives) or not len(negatives):
        return math.nan
    ranks = stats.rankdata(np.concatenate([positives, negatives]))
    wins = ranks[: len(positives)].sum() - len(positives) * (len(positives) + 1) / 2
    return float(wins / (len(positives) * len(negatives)))
