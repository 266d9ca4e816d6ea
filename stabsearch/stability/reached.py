"""What the trials of a model have reached so far: the bar that the data alone cannot give.

A network that is narrower than its data never comes below L_iso. That is no fault of a trial's
setting, so the rules ask how its peers fared: those of the same model and data, whatever their
learning rate.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable

from stabsearch.records import Report, TrialFacts
from stabsearch.stability.window import News, TrialWindow

SMOOTHED_WINDOWS = 4
"""A trial's loss at a step is the mean of this many windows: the lowest of many is noise."""


class Reached:
    """The lowest training loss by step, over all trials that were added."""

    def __init__(self) -> None:
        self._best: dict[int, float] = {}

    def add(self, facts: TrialFacts, reports: Iterable[Report]) -> None:
        """Take in the reports of an ended trial, in the order of steps."""
        recent: list[float] = []
        window = TrialWindow(facts)
        for report in reports:
            if report.nonfinite_steps:
                return
            if News.WINDOW not in window.observe(report):
                continue
            recent = [*recent[1 - SMOOTHED_WINDOWS :], window.recent_losses[-1]]
            loss = sum(recent) / SMOOTHED_WINDOWS
            if len(recent) == SMOOTHED_WINDOWS and math.isfinite(loss):
                self._best[report.step] = min(loss, self._best.get(report.step, math.inf))

    def curve(self, num_points: int = 20) -> tuple[tuple[int, float], ...]:
        """(step, lowest loss by then), ascending, at most ``num_points`` of them."""
        lowest = math.inf
        points: list[tuple[int, float]] = []
        for step in sorted(self._best):
            lowest = min(lowest, self._best[step])
            points.append((step, lowest))
        if len(points) <= num_points:
            return tuple(points)
        steps = [step for step, _ in points]
        wanted = {
            bisect.bisect_left(steps, steps[-1] * (i + 1) / num_points) for i in range(num_points)
        }
        return tuple(points[i] for i in sorted(wanted))
