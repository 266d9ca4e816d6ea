"""One training run: the trainer's section, with its built-in models and data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from stabsearch.problems import (
    JOINT_RULE,
    NOTHING,
    Problem,
    nearest,
    problems_of,
    raise_problems,
    show,
)
from stabsearch.spec.parts import (
    NOT_TEXT,
    BelowOne,
    Fraction,
    NonNegativeFloat,
    Part,
    PositiveFloat,
    PositiveInt,
)

BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
PredictionType = Literal["epsilon", "sample", "v_prediction"]
LrSchedule = Literal["constant", "cosine", "linear"]


class MlpOptions(Part):
    """Fields of the built-in model ``mlp``, as stabsearch.diffusion.models takes them."""

    width: Annotated[int, Field(ge=2, multiple_of=2), NOT_TEXT] = Field(
        64, description="Units per hidden layer; an even number."
    )
    num_blocks: Annotated[int, Field(ge=0), NOT_TEXT] = Field(2, description="Residual blocks.")


class DigitsOptions(Part):
    """The built-in data ``digits`` takes no further fields."""


BUILT_IN_MODELS: dict[str, type[Part]] = {"mlp": MlpOptions}
BUILT_IN_DATA: dict[str, type[Part]] = {"digits": DigitsOptions}

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def _check_name(name: str, built_in: Mapping[str, type[Part]], example: str) -> str:
    if name in built_in or _REFERENCE.fullmatch(name):
        return name
    found = nearest(name, built_in)
    names = ", ".join(built_in)
    raise_problems(
        [
            Problem(
                path=(),
                value=name,
                rule="is neither built in nor a reference module:function",
                remedy=f"Did you mean {found}?" if found else f"Use {names}, or write {example}.",
            )
        ]
    )
    raise AssertionError("raise_problems returned")  # pragma: no cover


def _check_options(
    built_in: Mapping[str, type[Part]], name: str, options: Mapping[str, Any] | None
) -> None:
    """A built-in's fields are known, so a misspelt one is caught before Ray starts."""
    kind = built_in.get(name)
    if kind is None or not options:
        return
    try:
        kind.model_validate(dict(options))
    except ValidationError as error:
        raise_problems(
            replace(p, rule=f"unknown field of {name}") if p.value is NOTHING else p
            for p in problems_of(error, kind)
        )


class ModelSpec(Part):
    """The denoiser. ``name`` is built in (``mlp``) or a reference ``module:function``.

    A reference is called as ``function(sample_shape, **other_fields)`` and returns a
    ``torch.nn.Module`` whose ``forward(x_t[B, ...], timesteps[B])`` predicts a ``[B, ...]``.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(
        "mlp",
        description="mlp (fields: width, num_blocks), or a reference module:function of your own, "
        "which is called with the example's shape and the other fields of this section.",
    )

    @field_validator("name")
    @classmethod
    def _name_is_known(cls, name: str) -> str:
        return _check_name(name, BUILT_IN_MODELS, "my_models:unet")

    @model_validator(mode="after")
    def _options_are_known(self) -> Self:
        _check_options(BUILT_IN_MODELS, self.name, self.model_extra)
        return self


class DataSpec(Part):
    """The examples. ``name`` is built in (``digits``) or a reference ``module:function``.

    A reference is called as ``function(**other_fields)`` and returns an array ``[N, ...]``.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(
        "digits",
        description="digits (1,797 images of 8x8, in scikit-learn), or a reference "
        "module:function of your own, which is called with the other fields of this section and "
        "returns an array [N, ...].",
    )
    held_out_fraction: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False), NOT_TEXT] = Field(
        1 / 6, description="Share of the examples kept from training, for the score."
    )
    split_seed: Annotated[int, Field(ge=0), NOT_TEXT] = Field(
        0, description="Seed of that split; the same for every trial of a study."
    )

    @field_validator("name")
    @classmethod
    def _name_is_known(cls, name: str) -> str:
        return _check_name(name, BUILT_IN_DATA, "my_data:load")

    @model_validator(mode="after")
    def _options_are_known(self) -> Self:
        _check_options(BUILT_IN_DATA, self.name, self.model_extra)
        return self


class NoiseScheduleSpec(Part):
    """The forward process: how much noise each timestep holds."""

    num_train_timesteps: Annotated[int, Field(ge=2), NOT_TEXT] = Field(
        1000, description="T, the number of diffusion timesteps."
    )
    beta_schedule: BetaSchedule = Field(
        "linear", description="Form of the schedule, under diffusers' names."
    )
    beta_start: PositiveFloat = Field(
        1e-4, description="beta at timestep 0; linear and scaled_linear only."
    )
    beta_end: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False), NOT_TEXT] = Field(
        0.02, description="beta at timestep T - 1; linear and scaled_linear only."
    )

    @model_validator(mode="after")
    def _betas_rise(self) -> Self:
        if self.beta_schedule != "squaredcos_cap_v2" and self.beta_start >= self.beta_end:
            problem = Problem(
                path=("beta_start",),
                value=self.beta_start,
                rule=f"must be less than beta_end ({show(self.beta_end)})",
                remedy="Lower beta_start or raise beta_end; the usual pair is 0.0001 and 0.02.",
                partners=("noise_schedule.beta_end", "noise_schedule.beta_schedule"),
            )
            raise_problems([problem], JOINT_RULE)
        return self


def _joint_problems(trainer: TrainerSpec) -> Iterator[Problem]:
    report_every, max_train_steps = trainer.report_every, trainer.max_train_steps
    if report_every > max_train_steps:
        yield Problem(
            path=("report_every",),
            value=report_every,
            rule=f"must be at most max_train_steps ({max_train_steps})",
            remedy="Lower report_every or raise max_train_steps.",
            partners=("max_train_steps",),
        )
    elif trainer.eval_every % report_every:
        below = trainer.eval_every // report_every * report_every
        near = [str(n) for n in (below, below + report_every) if n]
        yield Problem(
            path=("eval_every",),
            value=trainer.eval_every,
            rule=f"must be a multiple of report_every ({report_every})",
            remedy=f"Use {' or '.join(near)}.",
            partners=("report_every",),
        )
    num_timesteps = trainer.noise_schedule.num_train_timesteps
    if trainer.num_timestep_bins > num_timesteps:
        yield Problem(
            path=("num_timestep_bins",),
            value=trainer.num_timestep_bins,
            rule=f"must be at most noise_schedule.num_train_timesteps ({num_timesteps})",
            remedy=f"Use {min(10, num_timesteps)} bins, or more timesteps.",
            partners=("noise_schedule.num_train_timesteps",),
        )


class TrainerSpec(Part):
    """One training run. What trains may be searched, what measures it may not."""

    model: ModelSpec = Field(ModelSpec(), description="The denoiser.")
    data: DataSpec = Field(DataSpec(), description="The examples.")
    noise_schedule: NoiseScheduleSpec = Field(
        NoiseScheduleSpec(), description="The forward process."
    )
    prediction_type: PredictionType = Field(
        "epsilon", description="What the model predicts: the noise, the clean sample, or v."
    )

    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="The optimizer.")
    learning_rate: PositiveFloat = Field(1e-3, description="Peak learning rate, after warm-up.")
    max_grad_norm: PositiveFloat | None = Field(
        1.0, description="Total gradient 2-norm above which gradients are scaled; null: never."
    )
    weight_decay: NonNegativeFloat = Field(
        0.0, description="Decoupled for adamw, an L2 penalty for sgd."
    )
    adam_beta1: BelowOne = Field(0.9, description="AdamW: decay of the first moment.")
    adam_beta2: BelowOne = Field(0.999, description="AdamW: decay of the second moment.")
    adam_epsilon: PositiveFloat = Field(1e-8, description="AdamW: added to the denominator.")
    momentum: BelowOne = Field(0.9, description="SGD: momentum.")
    lr_schedule: LrSchedule = Field(
        "constant", description="Learning rate after warm-up; cosine and linear end at 0."
    )
    lr_warmup_fraction: Fraction = Field(
        0.05, description="Share of max_train_steps over which the learning rate rises from 0."
    )

    batch_size: PositiveInt = Field(64, description="Examples per step.")
    max_train_steps: PositiveInt = Field(2000, description="Budget of one trial, in steps.")
    ema_decay: BelowOne | None = Field(
        0.9999,
        description="Cap of the ramped EMA decay min(ema_decay, (1 + step) / (10 + step)); "
        "null: no EMA.",
    )

    report_every: PositiveInt = Field(
        25, description="Steps between reports; verdicts are given at reports."
    )
    eval_every: PositiveInt = Field(
        100, description="Steps between evaluations; a multiple of report_every."
    )
    eval_samples: PositiveInt = Field(
        1000, description="(example, timestep, noise) triples in the fixed evaluation grid."
    )
    num_timestep_bins: PositiveInt = Field(
        10, description="Bins of equal count into which timesteps are grouped in every signal."
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16: forward and backward under autocast, weights in fp32."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: the GPU that the trial was given, else the CPU."
    )

    @model_validator(mode="after")
    def _fields_fit_together(self) -> Self:
        raise_problems(_joint_problems(self), JOINT_RULE)
        return self
