"""The check of the sampler that a study names, for every kind of model that it will train.

A model's meaning is its prediction type and its noise schedule. Where those are searched, the
sampler is checked with each combination of them (at the ends of a range), eight at most.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stabsearch.errors import SpecError
from stabsearch.recommend.sampler_words import is_right, sampler_sentence
from stabsearch.recommend.words import params_text
from stabsearch.records import Params, SamplerCheck
from stabsearch.spec import StudySpec

if TYPE_CHECKING:
    from stabsearch.diffusion.prepared_data import PreparedData
    from stabsearch.diffusion.samplers import Sampler

MAX_COMBINATIONS = 8


@dataclass(frozen=True, slots=True)
class SamplerChecks:
    """What was found, by combination; empty where a study names no sampler."""

    checked: tuple[tuple[Params, SamplerCheck], ...] = ()
    num_left_out: int = 0
    """Combinations beyond the first eight."""

    def of(self, params: Params) -> SamplerCheck | None:
        """The check for a trial: of its own combination, or the worst of those nearest to it."""

        def distance(entry: tuple[Params, SamplerCheck]) -> tuple[int, float]:
            combination, check = entry
            others = sum(params.get(name) != value for name, value in combination.items())
            return others, -max(check.mean_z2, abs(check.log_variance))

        return min(self.checked, key=distance)[1] if self.checked else None

    def sentences(self, limits: Mapping[str, float]) -> tuple[str, ...]:
        """For the log of the study: what is wrong, or one sentence that nothing is."""
        wrong = [
            sampler_sentence(check, limits) + (f" ({params_text(params)})" if params else "")
            for params, check in self.checked
            if not is_right(check, limits)
        ]
        told = wrong or [sampler_sentence(check, limits) for _, check in self.checked[:1]]
        if self.num_left_out:
            told.append(
                f"The sampler was checked with {len(self.checked)} combinations of prediction "
                f"type and noise schedule; {self.num_left_out} more are searched."
            )
        return tuple(told)


def combinations(spec: StudySpec) -> tuple[list[Params], int]:
    """Searched values that change what a model means, in every valid combination of their ends.

    The first eight, and how many there are beyond. One empty combination if none is searched.
    """
    searched = {
        name: domain.probes()
        for name, domain in spec.searched().items()
        if name == "prediction_type" or name.startswith("noise_schedule.")
    }
    valid: list[Params] = []
    for values in itertools.product(*searched.values()):
        params: Params = dict(zip(searched, values, strict=True))
        try:
            spec.trainer_for(params)
        except SpecError:  # a joint rule forbids it, and no trial will have it
            continue
        valid.append(params)
    return valid[:MAX_COMBINATIONS], max(0, len(valid) - MAX_COMBINATIONS)


def find_sampler(name: str) -> Sampler:
    """The built-in of this name, or what a reference names. Raises SpecError."""
    from stabsearch.diffusion.samplers import SAMPLERS
    from stabsearch.references import resolve

    return SAMPLERS.get(name) or resolve(name, "sampler.name")


def check_study_sampler(spec: StudySpec, data: PreparedData) -> SamplerChecks:
    """Run the study's sampler, if it names one, on the exact denoiser of its data.

    Raises SpecError if the sampler raises or returns no samples.
    """
    if spec.sampler is None:
        return SamplerChecks()
    # torch is imported only here: the driver of a study without a sampler does not need it.
    from stabsearch.diffusion.noise_schedule import make_noise_schedule
    from stabsearch.diffusion.sampler_check import check_sampler, gaussian_of

    sampler = find_sampler(spec.sampler.name)
    gaussian = gaussian_of(data.dataset.train)
    checked = []
    chosen, num_left_out = combinations(spec)
    for params in chosen:
        trainer = spec.trainer_for(params)
        check = check_sampler(
            sampler,
            gaussian,
            make_noise_schedule(**trainer.noise_schedule.model_dump()),
            trainer.prediction_type,
            name=spec.sampler.name,
            options=spec.sampler.options,
            sample_shape=data.dataset.sample_shape,
        )
        checked.append((params, check))
    return SamplerChecks(tuple(checked), num_left_out)
