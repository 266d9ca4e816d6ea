"""The four rules of the textbook chapter that stabsearch started from, defects included.

``analyze_diagnostics`` looks back over a whole run (tests/chapter/chapter.py has it as written);
here it is asked at every report about the run so far. What it sees and what we feed it differ in
two points. It takes the mean loss of single timesteps, of those with 10 losses; a report has the
losses of bins, so a bin stands for a timestep. And the chapter's losses are clamped at 100, a
report's are not.

Only "loss increasing" says that a training fails, so only that one prunes. The other three are
warnings: the chapter gives advice with them, not a reason to stop.
"""

# K = timestep bins

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from stabsearch.records import Report, Severity, Symptom, TrialFacts, Verdict
from stabsearch.stability.baselines.once import BaselineJudge, mean

ENDS = 100
"""Steps at the beginning and at the end that are compared."""
MAX_CLIP_RATE = 0.5
MAX_IMBALANCE = 5.0
"""Largest over smallest loss of a timestep."""
MIN_TIMESTEP_LOSSES = 10
MIN_VARIANCE = 1e-6
"""Of the last losses; below it the loss is "stuck"."""


class ChapterJudge(BaselineJudge):
    """Keeps of a run what the chapter's ``TrainingDiagnostics`` does, where a rule looks at it."""

    def __init__(self, facts: TrialFacts) -> None:
        super().__init__(facts)
        bins = len(facts.bin_edges) - 1
        self._first: list[float] = []
        self._last: list[float] = []
        self._clips = [0, 0]
        """Steps that clipped, and all steps whose norm was measured."""
        self._sums = [0.0] * bins
        """Of the finite losses ``[K]``, from the first step on."""
        self._counts = [0] * bins

    def find(self, report: Report) -> Iterator[Verdict]:
        self._take_in(report)
        yield from self._loss_increasing(report)
        yield from self._high_clip_rate(report)
        yield from self._imbalanced(report)
        yield from self._stuck(report)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "first": list(self._first),
            "last": list(self._last),
            "clips": list(self._clips),
            "sums": list(self._sums),
            "counts": list(self._counts),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._first, self._last = list(state["first"]), list(state["last"])
        self._clips, self._sums = list(state["clips"]), list(state["sums"])
        self._counts = list(state["counts"])

    def _take_in(self, report: Report) -> None:
        self._first += report.batch_losses[: ENDS - len(self._first)]
        self._last = [*self._last, *report.batch_losses][-ENDS:]
        # total_norm > max_norm is False for NaN: a step that is not finite was "not clipped"
        num_finite = sum(math.isfinite(norm) for norm in report.grad_norms)
        if num_finite:
            self._clips[0] += round(report.clip_rate * num_finite)
        self._clips[1] += len(report.grad_norms)
        rows = zip(report.bin_loss, report.bin_count, report.bin_nonfinite, strict=True)
        for i, (loss, count, nonfinite) in enumerate(rows):
            if count > nonfinite:
                self._sums[i] += loss * (count - nonfinite)
                self._counts[i] += count - nonfinite

    def _loss_increasing(self, report: Report) -> Iterator[Verdict]:
        first, last = mean(self._first), mean(self._last)
        if last > first:  # False for NaN, as in the chapter
            yield self.verdict(
                "chapter.loss_increasing",
                Symptom.LOST_PROGRESS,
                Severity.PRUNE,
                value=last,
                threshold=first,
                step=report.step,
                reason=f"loss increasing: mean {last:.3g} over the last {len(self._last)} steps "
                f"by step {report.step}, {first:.3g} over the first",
                advice="Reduce the learning rate.",
            )

    def _high_clip_rate(self, report: Report) -> Iterator[Verdict]:
        clipped, steps = self._clips
        if steps and clipped / steps > MAX_CLIP_RATE:
            yield self.verdict(
                "chapter.clip_rate",
                Symptom.GRADIENT_OUTLIERS,
                Severity.WARN,
                value=clipped / steps,
                threshold=MAX_CLIP_RATE,
                step=report.step,
                reason=f"high clip rate: {clipped / steps:.0%} of the steps until {report.step}",
                advice="Reduce the learning rate or raise max_norm.",
            )

    def _imbalanced(self, report: Report) -> Iterator[Verdict]:
        means = {
            i: total / count
            for i, (total, count) in enumerate(zip(self._sums, self._counts, strict=True))
            if count >= MIN_TIMESTEP_LOSSES
        }
        if not means:
            return
        worst = max(means, key=lambda i: means[i])
        lowest = min(means.values())
        if means[worst] > MAX_IMBALANCE * lowest:
            yield self.verdict(
                "chapter.imbalance",
                Symptom.TIMESTEP_DOMINATION,
                Severity.WARN,
                value=means[worst] / lowest if lowest else math.inf,
                threshold=MAX_IMBALANCE,
                step=report.step,
                timestep_bin=worst,
                reason=f"loss imbalance between timesteps: from {lowest:.3g} to "
                f"{means[worst]:.3g} by step {report.step}",
                advice="Use SNR weighting or v-prediction.",
            )

    def _stuck(self, report: Report) -> Iterator[Verdict]:
        if len(self._last) < 2:
            return
        with np.errstate(invalid="ignore", over="ignore"):
            variance = float(np.var(self._last, ddof=1))
        if variance < MIN_VARIANCE:
            yield self.verdict(
                "chapter.stuck",
                Symptom.LOSS_STUCK,
                Severity.WARN,
                value=variance,
                threshold=MIN_VARIANCE,
                step=report.step,
                reason=f"loss stuck: variance {variance:.2g} over the last {len(self._last)} "
                f"steps by step {report.step}",
                advice="Increase the learning rate.",
            )
