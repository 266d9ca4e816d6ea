"""Rules of rank: they stop a trial because others are ahead, whatever its own record says.

    stops = rank_stops(median_stopping(max_steps), {"0000-0": [(25, 0.9), (50, 0.8)], ...})

Here they are replayed on the histories of trials that ran to their end, without Ray, to be
measured against the rules. A search uses Ray's own (stabsearch/search/scheduler.py).
"""

from __future__ import annotations

import heapq
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

History = Sequence[tuple[int, float]]
"""(step, loss or score) of a trial, ascending; the lower the better, NaN and Inf as they were."""

GRACE_SHARE = 0.1
"""Share of the budget before which no trial is stopped."""


class RankRule(Protocol):
    """Hears the reports of all trials in the order of time."""

    def observe(self, trial_id: str, step: int, value: float) -> bool:
        """Take in a report; whether its trial is stopped now."""
        ...


class MedianStopping:
    """Stops a trial whose best value so far is worse than the median of the others' means.

    ``MedianStoppingRule.on_trial_result`` of Ray Tune 2.60 (tune/schedulers/
    median_stopping_rule.py), after Google Vizier (Golovin et al. 2017, section 3.2.2). The others
    are the trials that reported at this step or later; of each counts the mean of its values from
    the grace period to this step, and those whose mean is not finite are left out. With fewer than
    ``min_samples`` of them a trial goes on (Ray may let it wait for others; here it trains).

    The *best* value: one that blew up is spared for as long as its past best is good enough. A
    trial whose first value is NaN has NaN for its best, and is stopped at the first comparison; a
    NaN that comes later is passed over.
    """

    def __init__(self, grace_steps: float, min_samples: int = 3) -> None:
        self._grace_steps = grace_steps
        self._min_samples = min_samples
        self._histories: dict[str, list[tuple[int, float]]] = {}

    def observe(self, trial_id: str, step: int, value: float) -> bool:
        mine = self._histories.setdefault(trial_id, [])
        mine.append((step, value))
        if step < self._grace_steps:
            return False
        means = [
            mean
            for other, history in self._histories.items()
            if other != trial_id
            and history[-1][0] >= step
            and math.isfinite(mean := self._running_mean(history, step))
        ]
        if len(means) < self._min_samples:
            return False
        median = float(np.median(means))
        best = min(value for _, value in mine)  # Python's min: what it makes of NaN is Ray's too
        return min(median, best) != best

    def _running_mean(self, history: History, step: int) -> float:
        values = [value for at, value in history if self._grace_steps <= at <= step]
        with np.errstate(invalid="ignore"):
            return float(np.mean(values)) if values else math.nan


class Asha:
    """Successive halving without waiting: at every rung, the best 1 in ``reduction_factor`` go on.

    ``AsyncHyperBandScheduler`` and ``_Bracket`` of Ray Tune 2.60 (tune/schedulers/
    async_hyperband.py), one bracket. A trial is compared with those that came to the rung before
    it, so that the first ones always pass. A NaN is worse than nothing and better than nothing:
    the comparison is False, and the trial is never stopped; it does not count in a rung's
    percentile either.
    """

    def __init__(self, max_steps: int, grace_steps: float, reduction_factor: float = 3) -> None:
        self._max_steps = max_steps
        self._keep = 100 * (1 - 1 / reduction_factor)
        num_rungs = int(math.log(max_steps / grace_steps) / math.log(reduction_factor) + 1)
        self._rungs: list[tuple[float, dict[str, float]]] = [
            (grace_steps * reduction_factor**k, {}) for k in reversed(range(num_rungs))
        ]
        """(step, value by trial, larger is better), the last rung first."""

    def observe(self, trial_id: str, step: int, value: float) -> bool:
        if step >= self._max_steps:
            return False  # the end of the budget is no decision of rank
        for milestone, recorded in self._rungs:
            if step < milestone or trial_id in recorded:
                continue
            cutoff = _nan_percentile(list(recorded.values()), self._keep)
            recorded[trial_id] = -value
            return -value < cutoff
        return False


def median_stopping(max_steps: int) -> RankRule:
    """Ray's median rule with a grace period of a tenth of the budget."""
    return MedianStopping(GRACE_SHARE * max_steps)


def asha(max_steps: int) -> RankRule:
    """ASHA with reduction factor 3 and rungs from a tenth of the budget on."""
    return Asha(max_steps, GRACE_SHARE * max_steps)


RANK_RULES: dict[str, Callable[[int], RankRule]] = {"median": median_stopping, "asha": asha}
"""Name -> rule, from the trials' budget in steps."""


def rank_stops(
    rule: RankRule, histories: Mapping[str, History], *, workers: int | None = 1
) -> dict[str, int | None]:
    """The step at which each trial would have been stopped; None for one that reaches its end.

    Trials start in the order of ``histories``, ``workers`` at a time (None: all at once), and
    train at the same speed. When one ends or is stopped, the next takes its place. Reports of the
    same moment come in the order of starting. A history that ends early, as that of a trial which
    the gate stopped, frees its place early.
    """
    waiting = iter(histories.items())
    stops: dict[str, int | None] = dict.fromkeys(histories)
    reports: list[tuple[int, int, int, str, History]] = []
    """Heap of (time, order of starting, index of the report, trial, its history)."""
    order = 0

    def start(now: int) -> None:
        nonlocal order
        for trial_id, history in waiting:
            if history:
                heapq.heappush(reports, (now + history[0][0], order, 0, trial_id, history))
                order += 1
                return

    for _ in range(len(histories) if workers is None else workers):
        start(0)
    while reports:
        now, place, index, trial_id, history = heapq.heappop(reports)
        step, value = history[index]
        if rule.observe(trial_id, step, value):
            stops[trial_id] = step
            start(now)
        elif index + 1 == len(history):
            start(now)
        else:
            due = now - step + history[index + 1][0]
            heapq.heappush(reports, (due, place, index + 1, trial_id, history))
    return stops


def _nan_percentile(values: list[float], percent: float) -> float:
    """NaN, above which nothing is, where no value is known."""
    if not values:
        return math.nan
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # a rung of NaN alone
        return float(np.nanpercentile(values, percent))
