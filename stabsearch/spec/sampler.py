"""The sampler that a study checks before it trains: built in, or the user's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from stabsearch.problems import NOTHING, Problem, show
from stabsearch.spec.built_ins import check_name, check_options
from stabsearch.spec.parts import NOT_TEXT, Part, PositiveFloat, PositiveInt
from stabsearch.spec.trainer import TrainerSpec

TimestepSpacing = Literal["trailing", "leading", "linspace"]


class BuiltInSamplerOptions(Part):
    """What both built-in samplers take."""

    num_inference_steps: PositiveInt = Field(
        50, description="Calls of the model, at most num_train_timesteps."
    )
    timestep_spacing: TimestepSpacing = Field(
        "trailing",
        description="Which timesteps are visited, under diffusers' names; trailing and linspace "
        "begin at the last one, as pure noise does.",
    )
    clip_sample_range: PositiveFloat | None = Field(
        None, description="Every estimate of x0 is clipped to +- this; null: not at all."
    )


class DdimOptions(BuiltInSamplerOptions):
    eta: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), NOT_TEXT] = Field(
        0.0, description="Share of the ancestral sampler's noise; 0: deterministic."
    )


class DdpmOptions(BuiltInSamplerOptions):
    num_inference_steps: PositiveInt = Field(
        100, description="Calls of the model, at most num_train_timesteps."
    )


BUILT_IN_SAMPLERS: dict[str, type[Part]] = {"ddim": DdimOptions, "ddpm": DdpmOptions}


class SamplerSpec(Part):
    """The sampler. ``name`` is built in or a reference ``module:function``.

    A reference is called as ``function(model, shape, generator=..., **other_fields)``, with
    ``noise_schedule`` and ``prediction_type`` if its signature names them, and returns a tensor of
    that shape.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(
        "ddim",
        description="ddim or ddpm, each with fields of its own (docs/samplers.md), or a reference "
        "module:function, which is called with the model, the shape of the samples, a generator "
        "and the other fields of this section.",
    )

    @field_validator("name")
    @classmethod
    def _name_is_known(cls, name: str) -> str:
        return check_name(name, BUILT_IN_SAMPLERS, "my_samplers:heun")

    @model_validator(mode="after")
    def _options_are_known(self) -> Self:
        check_options(BUILT_IN_SAMPLERS, self.name, self.model_extra)
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The other fields, as the sampler gets them."""
        return dict(self.model_extra or {})


def sampler_problems(sampler: SamplerSpec, trainers: Iterable[TrainerSpec]) -> Iterator[Problem]:
    """What a built-in sampler cannot do with the models of these trainers; each told once."""
    kind = BUILT_IN_SAMPLERS.get(sampler.name)
    if kind is None:
        return
    options = kind.model_validate(sampler.options)
    told: set[str] = set()
    for trainer in trainers:
        for problem in _problems_with(sampler.name, options, trainer):
            if problem.rule not in told:
                told.add(problem.rule)
                yield problem


def _problems_with(name: str, options: Any, trainer: TrainerSpec) -> Iterator[Problem]:
    schedule = trainer.noise_schedule
    adds_noise = name == "ddpm" or options.eta > 0
    if adds_noise and schedule.kind == "flow_matching":
        yield Problem(
            path=("sampler", "name" if name == "ddpm" else "eta"),
            value=name if name == "ddpm" else options.eta,
            rule="reverses a diffusion, which noise_schedule.kind flow_matching is not",
            remedy="Use name: ddim with eta: 0, which is Euler's method there.",
        )
    if options.num_inference_steps > schedule.num_train_timesteps:
        yield Problem(
            path=("sampler", "num_inference_steps"),
            value=options.num_inference_steps,
            rule="must be at most noise_schedule.num_train_timesteps "
            f"({show(schedule.num_train_timesteps)})",
            remedy=f"Use {min(50, schedule.num_train_timesteps)}.",
        )
    is_blind = trainer.prediction_type == "epsilon" and schedule.has_zero_terminal_snr
    if is_blind and options.timestep_spacing != "leading":
        yield Problem(
            path=("sampler", "timestep_spacing"),
            value=NOTHING,
            rule=f"{options.timestep_spacing} begins at the last timestep, where no signal is "
            "left (zero terminal SNR) and prediction_type epsilon says nothing about the example",
            remedy="Use prediction_type: v_prediction or flow, or timestep_spacing: leading.",
        )
