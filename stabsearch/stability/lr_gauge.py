"""The learning-rate gauge: what averaging the weights does to the loss, read as octaves.

kappa = held-out loss of the averaged weights / of the raw ones, on the same rows with the same
noise. Averaging removes the jitter of the weights, which grows with the learning rate, and adds a
lag, which grows with the progress that is still being made. So kappa is above 1 where the learning
rate is too low and below 1 where it is too high; at 10% of the budget it is about 1 at the best
constant one (Sandler et al. 2023 relate averaging and learning-rate decay). The targets and slopes
below were fitted on the tuning grids of benchmarks/truth.
"""

from __future__ import annotations

import math

from stabsearch.records import TrialFacts

EARLIEST = 0.05
"""Share of the budget from which kappa says something."""
MIN_ROWS = 256
"""Rows of the evaluation grid: with fewer, kappa's own noise is above 0.006."""
SIMILAR_WIDTHS = (0.08, 0.12)
"""sigma_rel of the power-function averages that are as wide as the ramped one, 0.09."""

CONSTANT_TARGETS = ((0.05, 1.07), (0.10, 0.99), (0.20, 0.95), (0.30, 0.94))
"""(share of the budget, kappa of the learning rate whose averaged weights end best) under a
constant learning rate. By the raw weights the best rate is 0.5 to 1.5 octaves lower."""
DECAYED_TARGETS = ((0.05, 0.95), (0.10, 0.89), (0.20, 0.875))
"""The same where it decays to 0: the decay will remove jitter, so a higher rate is best."""
DECAYED_UNTIL = 0.25
"""Later the decay itself has changed kappa."""

CONSTANT_SLOPES = (0.04, 0.065)
"""Rise of kappa per octave below the best learning rate, and its fall per octave above."""
DECAYED_SLOPES = (0.05, 0.08)
MAX_OCTAVES = 6.0
"""Farther away kappa only gives the direction."""


def lr_gauge_octaves(facts: TrialFacts, step: int, kappa: float) -> float | None:
    """Octaves that the learning rate lies above (negative: below) the best one.

    ``kappa`` was measured after ``step`` steps, of a trial that is alive: a dead one has kappa 1.
    None where it says nothing: too early, in warm-up, too few rows, an average of another width,
    or late under a decaying learning rate. Measured error and limits: docs/benchmarks.md.
    """
    share = step / facts.max_train_steps
    is_constant = facts.lr_schedule == "constant"
    if not math.isfinite(kappa) or share < EARLIEST or not has_gauge(facts):
        return None
    if step < facts.lr_warmup_steps:
        return None  # the learning rate is not yet the one that is asked about
    if not is_constant and share > DECAYED_UNTIL:
        return None
    if facts.ema_schedule == "ramped" and (1 + step) / (10 + step) > (facts.ema_decay or 0):
        return None  # from here on the average grows shorter than a tenth of the run
    target = _interpolate(CONSTANT_TARGETS if is_constant else DECAYED_TARGETS, share)
    excess = target - kappa
    low, high = CONSTANT_SLOPES if is_constant else DECAYED_SLOPES
    octaves = excess / (high if excess > 0 else low)
    return max(-MAX_OCTAVES, min(MAX_OCTAVES, octaves))


def has_gauge(facts: TrialFacts) -> bool:
    """Whether the trial's average is of the width that the targets were found with."""
    low, high = SIMILAR_WIDTHS
    is_similar = facts.ema_schedule == "ramped" or (
        facts.ema_schedule == "power"
        and facts.ema_sigma_rel is not None
        and low <= facts.ema_sigma_rel <= high
    )
    return is_similar and facts.eval_rows * (len(facts.bin_edges) - 1) >= MIN_ROWS


def _interpolate(table: tuple[tuple[float, float], ...], x: float) -> float:
    """On straight lines between the rows; the last value beyond the last row."""
    (x0, y0), *rest = table
    for x1, y1 in rest:
        if x < x1:
            return y0 + (y1 - y0) * max(0.0, x - x0) / (x1 - x0)
        x0, y0 = x1, y1
    return y0
