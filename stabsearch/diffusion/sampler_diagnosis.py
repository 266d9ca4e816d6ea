"""Why a sampler fails its check: tried again with one thing changed.

A sampler that is right for a model of another prediction type, or of another noise schedule, was
written for that one. Found by trial, so it works for code that nobody has looked into.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stabsearch.diffusion.noise_schedule import NoiseSchedule, make_noise_schedule
from stabsearch.diffusion.prediction_type import PREDICTION_TYPES
from stabsearch.diffusion.sampler_check import (
    GaussianData,
    SamplerMeasurement,
    gaussian_of,
    measure_sampler,
)
from stabsearch.diffusion.samplers import Sampler, default_option
from stabsearch.errors import SpecError
from stabsearch.records import SamplerCheck

COMMON_SCHEDULES: dict[str, Mapping[str, Any]] = {
    "linear": {},
    "scaled_linear": {"beta_schedule": "scaled_linear"},
    "scaled_linear from 0.00085 to 0.012 (latent diffusion)": {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
    },
    "squaredcos_cap_v2": {"beta_schedule": "squaredcos_cap_v2"},
    "flow_matching": {"kind": "flow_matching"},
}
"""What a sampler's own schedule usually is."""
MORE_STEPS = 4
"""Times as many, to see whether a sampler takes too few."""
SHIFTS = (1, -1, 10, -10, 60, -60)
"""Timestep offsets that are tried."""
RANGE_TOLERANCE = 1e-3
"""Share of the examples' range by which clipped samples may leave it."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """An explanation, and the model that the sampler is right for if it holds."""

    sentence: str
    data: GaussianData
    schedule: NoiseSchedule
    prediction_type: str
    options: Mapping[str, Any] = field(default_factory=dict)
    """Over those of the sampler."""


def diagnose(
    sampler: Sampler,
    examples: NDArray[np.float32],
    schedule: NoiseSchedule,
    prediction_type: str,
    *,
    options: Mapping[str, Any],
    measured: SamplerMeasurement,
    badness: Callable[[SamplerCheck], float],
) -> str:
    """The explanation that fits best, as a sentence; empty if none of those that are known does.

    ``measured`` is the check that failed. A sampler that asks for the schedule and the prediction
    type is told the true ones throughout. ``badness`` of a check is at most 1 where all is well.
    """
    gaussian = gaussian_of(examples)

    def badness_with(suspect: Suspect) -> float:
        try:
            tried = measure_sampler(
                sampler,
                suspect.data,
                suspect.schedule,
                suspect.prediction_type,
                name=measured.check.name,
                options={**options, **suspect.options},
                sample_shape=examples.shape[1:],
                told=(schedule, prediction_type),
            )
        except SpecError:  # the sampler cannot use such a model at all
            return math.inf
        return badness(tried.check)

    more = _more_steps(sampler, options, schedule)
    simple = [
        *_too_few_steps(more, gaussian, schedule, prediction_type),
        *_clipping(more, examples, gaussian, schedule, prediction_type, measured),
    ]
    for suspect in simple:
        if badness_with(suspect) <= 1:
            return suspect.sentence
    others = list(_other_models(gaussian, schedule, prediction_type))
    least, index = min((badness_with(suspect), index) for index, suspect in enumerate(others))
    return others[index].sentence if least <= 1 else ""


def _more_steps(
    sampler: Sampler, options: Mapping[str, Any], schedule: NoiseSchedule
) -> dict[str, int]:
    """The option with which it takes more; empty where it has none, or takes all already."""
    steps = options.get("num_inference_steps") or default_option(sampler, "num_inference_steps")
    if not isinstance(steps, int):
        return {}
    more = min(MORE_STEPS * steps, schedule.num_train_timesteps)
    return {"num_inference_steps": more} if more > steps else {}


def _too_few_steps(
    more: dict[str, int], gaussian: GaussianData, schedule: NoiseSchedule, prediction_type: str
) -> Iterator[Suspect]:
    for steps in more.values():
        sentence = f"It takes too few steps: with {steps} it is right."
        yield Suspect(sentence, gaussian, schedule, prediction_type, more)


def _clipping(
    more: dict[str, int],
    examples: NDArray[np.float32],
    gaussian: GaussianData,
    schedule: NoiseSchedule,
    prediction_type: str,
    measured: SamplerMeasurement,
) -> Iterator[Suspect]:
    low, high = float(examples.min()), float(examples.max())
    slack = RANGE_TOLERANCE * (high - low)
    if low - slack <= measured.lowest and measured.highest <= high + slack:
        sentence = (
            f"It clips to the range of the examples, {low:g} to {high:g}, and is right for data "
            "that stay within it, which the Gaussian data of this check do not. Sound for bounded "
            "data; switch the clipping off for the check."
        )
        inside = gaussian.within(low, high)
        # Drawn together, the data need more steps for the same precision.
        yield Suspect(sentence, inside, schedule, prediction_type, more)


def _other_models(
    gaussian: GaussianData, schedule: NoiseSchedule, prediction_type: str
) -> Iterator[Suspect]:
    for other in PREDICTION_TYPES:
        if other != prediction_type:
            sentence = (
                f"It is right for a model that predicts {other}, but this one predicts "
                f"{prediction_type}: let the sampler read the output so."
            )
            yield Suspect(sentence, gaussian, schedule, other)
    for words, fields in COMMON_SCHEDULES.items():
        other_schedule = make_noise_schedule(
            num_train_timesteps=schedule.num_train_timesteps, **fields
        )
        sentence = (
            f"It is right for the noise schedule {words}, which is not the one of training: "
            "build the sampler with the latter."
        )
        yield Suspect(sentence, gaussian, other_schedule, prediction_type)
    for shift in SHIFTS:
        sentence = (
            f"It calls the model about {shift:+d} timesteps from where it should: correct the "
            "offset."
        )
        yield Suspect(sentence, gaussian, _shifted(schedule, shift), prediction_type)


def _shifted(schedule: NoiseSchedule, shift: int) -> NoiseSchedule:
    """The schedule of a model that is right at timestep t where it is asked about t + shift."""
    last = schedule.num_train_timesteps - 1
    moved = np.clip(np.arange(last + 1) - shift, 0, last)
    return NoiseSchedule(signal=schedule.signal[moved], sigma=schedule.sigma[moved])
