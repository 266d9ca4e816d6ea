"""Every number that a rule compares with: its default, where it comes from, and other choices.

A study may change them: ``analyzer: {preset: strict, thresholds: {R1b.prune: 0.4}}``. Standard
library only, so that a study file is checked without numpy.

Sources: *grids*: 870 trials of AdamW and SGD, epsilon and v-prediction (docs/rules.md); *faults*:
healthy runs and runs with a fault put in, benchmarks/faults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Preset(StrEnum):
    """A set of thresholds by name."""

    STRICT = "strict"
    """Speaks earlier; costs more good settings."""
    DEFAULT = "default"
    LENIENT = "lenient"
    """Speaks later: for models and data far from those that the defaults were found with."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """One number. ``strict`` and ``lenient`` are None where the presets do not differ."""

    default: float
    meaning: str
    source: str
    strict: float | None = None
    lenient: float | None = None
    low: float = 0.0
    """What the judged number cannot be below, ..."""
    high: float = float("inf")
    """... and cannot be above: a threshold beyond either makes its rule speak always, or never."""

    def of(self, preset: Preset) -> float:
        """The number under a preset."""
        other = {Preset.STRICT: self.strict, Preset.LENIENT: self.lenient}.get(preset)
        return self.default if other is None else other


THRESHOLDS: dict[str, Threshold] = {
    "R1a.standing_share": Threshold(
        0.5,
        "share of skipped steps above which training stands still",
        "half of the budget",
        high=1.0,
    ),
    # Of progress more than all can be lost: a loss that ends above where it began.
    "R1b.prune": Threshold(
        0.5,
        "share of its progress that a trial has lost, two windows on average",
        "grids",
        0.4,
        0.7,
    ),
    "R1b.penalise": Threshold(
        0.2, "share of its progress that a trial has lost: not called stable", "grids", 0.15, 0.35
    ),
    "R1c.midpoint": Threshold(
        0.5,
        "of the way from C0 down to triv: a loss above that point has learned nothing yet",
        "grids",
        0.5,
        0.4,
        low=float("-inf"),  # a loss may stand above C0, too
        high=1.0,
    ),
    "R1c.hopeless": Threshold(1.5, "loss over that of a model that outputs 0", "grids", 1.25, 3.0),
    "R1c.falling_t": Threshold(
        -2.0,
        "t statistic of the slope of log loss; below it the loss is falling",
        "grids",
        -3.0,
        -1.0,
        low=float("-inf"),
    ),
    "R1d.excursion": Threshold(
        3.0, "batch loss over that of a model that outputs 0", "grids", 2.0, 6.0
    ),
    "R1d.loose_clip": Threshold(
        4.0, "max_grad_norm over the usual norm; a clip above it guards nothing", "grids"
    ),
    "R2.errors": Threshold(
        2.0, "standard errors taken off the extrapolated final loss", "grids", 1.0, 3.0
    ),
    "R2.ratio": Threshold(
        1.25,
        "extrapolated final loss over triv, or over what a peer reached if that is more",
        "grids",
        1.1,
        1.5,
    ),
    "R3.octaves": Threshold(
        1.5, "octaves that the learning rate is off the best one, by kappa", "grids", 1.0, 2.5
    ),
    "R4.ratio": Threshold(
        1.25, "held-out loss of the first bin over L_iso there", "faults", 1.1, 1.5
    ),
    "R5.ratio": Threshold(
        1.25, "held-out loss of the last bin over L_iso there", "faults", 1.1, 1.5
    ),
    "R5.flow_ratio": Threshold(
        2.5, "held-out flow loss of the last bin over L_iso there", "faults", 2.0, 4.0
    ),
    "R5.epsilon_ratio": Threshold(
        1.6, "held-out epsilon loss of the last bin over the lowest of a bin", "faults", 1.3, 2.0
    ),
    "R5.x0_error": Threshold(
        1.5,
        "error of the implied x0 in the last bin over the data's variance",
        "faults",
        1.5,
        10.0,
    ),
    "R6.sensitivity": Threshold(
        0.005,
        "relative rise of the held-out loss when timesteps are shuffled",
        "faults",
        0.02,
        0.002,
        low=float("-inf"),
    ),
    "R7.share": Threshold(
        0.9,
        "one bin's share of the squared per-sample gradient norm",
        "faults",
        0.7,
        0.95,
        high=1.0,
    ),
    "R7.effective_bins": Threshold(
        1.25,
        "N_eff, the number of bins that the gradient effectively comes from",
        "faults",
        2.0,
        1.1,
    ),
    "R8.improvement": Threshold(
        0.1,
        "share of its possible progress that a bin has made",
        "faults",
        0.15,
        0.05,
        low=float("-inf"),  # a bin may have become worse
        high=1.0,
    ),
    "R8.bump": Threshold(
        1.7, "loss of a bin over the geometric mean of its neighbours'", "faults", 1.5, 2.5
    ),
    "R9.outlier_rate": Threshold(
        0.05,
        "share of steps whose norm is above 3 times the median before",
        "literature",
        0.02,
        0.1,
        high=1.0,
    ),
    "R10.kappa": Threshold(1.2, "held-out loss of EMA over raw weights", "faults", 1.1, 1.5),
    "R11.mean_z2": Threshold(
        3.0, "squared z score of the samples' mean per component", "samplers", 2.5, 5.0
    ),
    "R11.log_variance": Threshold(
        0.2, "log of sample over data variance, eight components", "samplers", 0.15, 0.4
    ),
    "R12.kappa": Threshold(
        1.02, "held-out loss of EMA over raw weights at the end", "faults", 1.01, 1.05
    ),
    "R12.slope": Threshold(
        0.5, "fall of the loss per doubling of steps at the end, in units of u", "grids", 0.25, 1.0
    ),
    "R13.ratio": Threshold(
        0.85, "training over held-out loss in the two cleanest bins", "faults", 0.9, 0.75
    ),
    "R14.terminal_kl": Threshold(
        0.01,
        "nats per dimension that the noisiest x_t still holds",
        "Lin et al. 2024",
        0.005,
        0.05,
    ),
    "R14.precision": Threshold(
        1e-3, "relative error of the noise levels that training used", "float32 has 1e-7"
    ),
    "R15.frozen": Threshold(
        0.0, "number of weight matrices that have not moved", "none should be"
    ),
}
"""``<rule>.<number>`` -> its row. docs/rules.md lists them; a test compares."""


@dataclass(frozen=True, slots=True)
class Bars:
    """Two thresholds that one number of a rule is held against. It reaches the mild one first."""

    mild: str
    severe: str
    rises: bool = True
    """Whether the number grows as things get worse."""

    def is_crossed(self, limits: Mapping[str, float]) -> bool:
        """Whether the severe bar is reached before the mild one, which then decides both."""
        mild, severe = limits[self.mild], limits[self.severe]
        return mild > severe if self.rises else mild < severe


BARS: tuple[Bars, ...] = (Bars("R1b.penalise", "R1b.prune"),)
"""Of every rule that has two. A test compares them with the presets."""

SAMPLES_PER_BIN = 64
"""A look at the loss takes at least this many samples for every timestep bin, on average. Fewer,
and healthy trials are pruned for noise; with more, a run of few steps is judged late
(docs/benchmarks.md)."""


def of_same_rule(name: str) -> list[str]:
    """The thresholds of the rule that a name begins with; none where there is no such rule."""
    rule = name.partition(".")[0]
    return [known for known in THRESHOLDS if known.partition(".")[0] == rule]


def resolve(
    preset: str = Preset.DEFAULT, changes: Mapping[str, float] | None = None
) -> dict[str, float]:
    """All thresholds by name: the preset's, and those that were changed.

    Raises KeyError for a change of a name that is none.
    """
    chosen = Preset(preset)
    limits = {name: threshold.of(chosen) for name, threshold in THRESHOLDS.items()}
    for name, value in (changes or {}).items():
        if name not in limits:
            raise KeyError(name)
        limits[name] = value
    return limits


DEFAULTS = resolve()
