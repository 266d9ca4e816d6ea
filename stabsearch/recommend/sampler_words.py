"""What a sampler's check says, in words: for the log of a study and for ``check-sampler``."""

from __future__ import annotations

import math
from collections.abc import Mapping

from stabsearch.recommend.words import number
from stabsearch.records import SamplerCheck

MEAN, VARIANCE = "R11.mean_z2", "R11.log_variance"
"""Names of the two thresholds."""


def is_right(check: SamplerCheck, limits: Mapping[str, float]) -> bool:
    """Whether rule R11 has nothing to say; NaN and Inf are never right."""
    return badness(check, limits) <= 1


def badness(check: SamplerCheck, limits: Mapping[str, float]) -> float:
    """The larger of the two numbers, each over its threshold; Inf for NaN."""
    ratios = check.mean_z2 / limits[MEAN], abs(check.log_variance) / limits[VARIANCE]
    return math.inf if any(math.isnan(ratio) for ratio in ratios) else max(ratios)


def sampler_sentence(check: SamplerCheck, limits: Mapping[str, float]) -> str:
    """The verdict and the remedy."""
    who = f"sampler {check.name}"
    if not (math.isfinite(check.mean_z2) and math.isfinite(check.log_variance)):
        return (
            f"{who} does not draw samples: they are NaN, infinite, or all the same. Compare its "
            "prediction type and noise schedule with those of training."
        )
    ratio = math.exp(check.log_variance)
    if check.mean_z2 > limits[MEAN]:
        return (
            f"{who} is wrong for this model: the mean of its samples is off (z^2 "
            f"{number(check.mean_z2)} per component, at most {number(limits[MEAN])} by chance). "
            "Compare its noise schedule, prediction type and timestep offset with those of "
            "training, and see whether it clips x0."
        )
    if check.log_variance < -limits[VARIANCE]:
        return (
            f"{who} draws too much alike: the mean of its samples is right, but they have only "
            f"{number(ratio)} times the data's variance in the largest components. Take more "
            "steps; if that does not help, compare its noise schedule and see whether it clips x0."
        )
    if check.log_variance > limits[VARIANCE]:
        return (
            f"{who} adds too much: the mean of its samples is right, but they have "
            f"{number(ratio)} times the data's variance in the largest components. Take more "
            "steps; if that does not help, compare its noise schedule and the noise it adds."
        )
    return (
        f"{who} is right: z^2 {number(check.mean_z2)} per component (about 1), variance "
        f"{number(ratio)} times the data's."
    )
