"""What a study file may say. The only place where a user's input is validated.

A study is data: the same ``StudySpec`` comes from YAML, from a dict or from Python.
``spec_file`` reads files and turns what pydantic found into one ``SpecError``.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError

from stabsearch.errors import SpecError
from stabsearch.problems import (
    JOINT_RULE,
    NOTHING,
    Problem,
    did_you_mean,
    leaf_fields,
    nearest,
    problems_of,
    raise_problems,
    show,
)
from stabsearch.records import Params, ParamValue

BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
PredictionType = Literal["epsilon", "sample", "v_prediction"]
LrSchedule = Literal["constant", "cosine", "linear"]


def _not_text(value: Any) -> Any:
    """pydantic would read ``true`` as 1 and ``"1"`` as 1: both are mistakes in a study."""
    if isinstance(value, (bool, str)):
        raise PydanticKnownError("float_type")
    return value


NOT_TEXT = BeforeValidator(_not_text)  # outermost, so that the bounds stay in the JSON schema
Int = Annotated[int, NOT_TEXT]
Float = Annotated[float, Field(allow_inf_nan=False), NOT_TEXT]
PositiveInt = Annotated[int, Field(ge=1), NOT_TEXT]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False), NOT_TEXT]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False), NOT_TEXT]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), NOT_TEXT]
BelowOne = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False), NOT_TEXT]


def _scalar(value: Any) -> Any:
    """Refuse what YAML can write but a setting cannot hold: lists, mappings, dates."""
    if value is not None and not isinstance(value, (bool, int, float, str)):
        rule = "must be a number, text, true, false or null"
        remedy = "Quote it if text is meant."
        raise_problems([Problem(path=(), value=value, rule=rule, remedy=remedy)])
    return value


class Part(BaseModel):
    """Base of every section: unknown fields are errors, instances are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# ------------------------------------------------------------------------------------------------
# The trainer


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


# ------------------------------------------------------------------------------------------------
# The space


class LogUniform(Part):
    """Every octave equally likely."""

    log_uniform: tuple[Float, Float] = Field(description="[low, high], both greater than 0.")

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        low, high = self.log_uniform
        _check_bounds(self, low, high, is_log=True)
        return self

    @property
    def low(self) -> float:
        return self.log_uniform[0]

    @property
    def high(self) -> float:
        return self.log_uniform[1]

    def sample(self, generator: random.Random) -> ParamValue:
        value = math.exp(generator.uniform(math.log(self.low), math.log(self.high)))
        return min(max(value, self.low), self.high)

    def probes(self) -> list[ParamValue]:
        """Values that any trainer field must accept if it accepts the domain."""
        return [self.low, self.low * (self.high / self.low) ** 0.381966, self.high]


class Uniform(Part):
    """Every value equally likely."""

    uniform: tuple[Float, Float] = Field(description="[low, high].")

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        _check_bounds(self, *self.uniform, is_log=False)
        return self

    @property
    def low(self) -> float:
        return self.uniform[0]

    @property
    def high(self) -> float:
        return self.uniform[1]

    def sample(self, generator: random.Random) -> ParamValue:
        return min(max(generator.uniform(self.low, self.high), self.low), self.high)

    def probes(self) -> list[ParamValue]:
        return [self.low, self.low + (self.high - self.low) * 0.381966, self.high]


class IntRange(Part):
    """Whole numbers, both ends included."""

    int: tuple[Int, Int] = Field(description="[low, high], both included.")
    log: bool = Field(False, description="Every octave, not every number, equally likely.")

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        _check_bounds(self, *self.int, is_log=self.log)
        return self

    @property
    def low(self) -> Int:
        return self.int[0]

    @property
    def high(self) -> Int:
        return self.int[1]

    def sample(self, generator: random.Random) -> ParamValue:
        if not self.log:
            return generator.randint(self.low, self.high)
        value = round(math.exp(generator.uniform(math.log(self.low), math.log(self.high))))
        return min(max(value, self.low), self.high)

    def probes(self) -> list[ParamValue]:
        if self.high - self.low < 8:
            return list(range(self.low, self.high + 1))
        return [self.low, self.low + 1, (self.low + self.high) // 2, self.high]


class Choice(Part):
    """One of a list; the order means nothing."""

    choice: list[Annotated[ParamValue, BeforeValidator(_scalar)]] = Field(
        description="At least two different values; null is one."
    )

    @field_validator("choice")
    @classmethod
    def _values_differ(cls, values: list[ParamValue]) -> list[ParamValue]:
        seen: set[tuple[bool, ParamValue]] = set()
        for value in values:
            key = (isinstance(value, bool), value)  # true is not 1
            if key in seen:
                raise_problems(
                    [
                        Problem(
                            path=(),
                            value=values,
                            rule=f"{show(value)} is there more than once",
                            remedy="List every value once.",
                        )
                    ]
                )
            seen.add(key)
        if len(values) < 2:
            remedy = (
                f"Write the value itself, {show(values[0])}, or add another."
                if values
                else "List the values to choose from, such as choice: [32, 64]."
            )
            raise_problems(
                [Problem(path=(), value=values, rule="must hold two or more", remedy=remedy)]
            )
        return values

    def sample(self, generator: random.Random) -> ParamValue:
        return generator.choice(self.choice)

    def probes(self) -> list[ParamValue]:
        return list(self.choice)


Domain = LogUniform | Uniform | IntRange | Choice
DOMAINS: dict[str, type[LogUniform] | type[Uniform] | type[IntRange] | type[Choice]] = {
    "log_uniform": LogUniform,
    "uniform": Uniform,
    "int": IntRange,
    "choice": Choice,
}


def _check_bounds(domain: Part, low: float, high: float, *, is_log: bool) -> None:
    if is_log and low <= 0:
        rule = "the low end of a log range must be greater than 0"
        example = "1" if isinstance(domain, IntRange) else "1e-6"
        other = "leave log out" if isinstance(domain, IntRange) else "Use uniform"
        remedy = f"{other[0].upper()}{other[1:]}, or a low end such as {example}."
    elif low >= high:
        rule = "the low end must be less than the high end"
        remedy = (
            f"Write the value itself, {show(low)}, if it should not be searched."
            if low == high
            else f"Swap them: [{show(high)}, {show(low)}]."
        )
    else:
        return
    raise_problems([Problem(path=(), value=domain, rule=rule, remedy=remedy)])


def _parse_domain(value: Any) -> Any:
    """Choose the domain by its key, so that messages speak of that one only."""
    if isinstance(value, Domain):
        return value
    if not isinstance(value, (dict, list, tuple)):
        return _scalar(value)
    kinds = [key for key in DOMAINS if isinstance(value, dict) and key in value]
    if isinstance(value, dict) and len(kinds) == 1:
        domain = DOMAINS[kinds[0]]
        try:
            return domain.model_validate(value)
        except ValidationError as error:
            raise_problems(problems_of(error, domain))
    if len(kinds) > 1:
        rule, remedy = "names two domains", f"Keep one of {', '.join(kinds)}."
    elif isinstance(value, dict):
        rule = f"is not a domain: those are {', '.join(DOMAINS)}"
        near = [found for key in value if (found := nearest(str(key), DOMAINS))]
        remedy = (
            f"Did you mean {near[0]}?"
            if near
            else "Write for example {log_uniform: [1e-4, 0.1]}; a nested field is written with a "
            "dot, such as model.width."
        )
    else:
        rule = "a list is neither a domain nor a constant"
        remedy = f"Write {{choice: {show(list(value))}}} to choose from these."
    raise_problems([Problem(path=(), value=value, rule=rule, remedy=remedy)])
    raise AssertionError("raise_problems returned")  # pragma: no cover


# ------------------------------------------------------------------------------------------------
# The study


class SearcherSpec(Part):
    name: Literal["tpe", "random"] = Field(
        "tpe", description="Who proposes settings: Optuna's TPE, or chance."
    )
    startup_trials: PositiveInt = Field(
        10, description="Settings drawn at random before TPE begins to model."
    )
    seed: Annotated[int, Field(ge=0, lt=2**32), NOT_TEXT] = Field(
        0, description="Seed of the proposals; with one worker a study repeats exactly."
    )


class SchedulerSpec(Part):
    gate: bool = Field(
        True, description="Stop a trial as soon as its own reports show that it is unstable."
    )
    inner: Literal["none", "asha"] = Field(
        "none", description="Who stops stable trials that are behind the others."
    )
    grace_fraction: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False), NOT_TEXT] = Field(
        0.25, description="Share of max_train_steps before the inner scheduler may stop a trial."
    )
    reduction_factor: Annotated[int, Field(ge=2), NOT_TEXT] = Field(
        2, description="asha: one in this many trials passes a rung."
    )


class ResourcesSpec(Part):
    cpus: NonNegativeFloat = Field(1.0, description="CPU cores per trial; fractions allowed.")
    gpus: NonNegativeFloat = Field(
        0.0, description="GPUs per trial; a fraction shares one GPU between trials."
    )
    workers: PositiveInt | None = Field(
        None, description="Trials at the same time; null: as many as cpus and gpus allow."
    )
    max_failures: Annotated[int, Field(ge=0), NOT_TEXT] = Field(
        2, description="Times a trial is started again after its worker was lost."
    )

    @model_validator(mode="after")
    def _can_be_given(self) -> Self:
        if self.gpus > 1 and not self.gpus.is_integer():
            rule, remedy = "above 1 must be a whole number", f"Use {math.ceil(self.gpus)}."
            raise_problems(
                [Problem(path=("gpus",), value=self.gpus, rule=rule, remedy=remedy)], JOINT_RULE
            )
        if self.cpus == 0 and self.gpus == 0 and self.workers is None:
            problem = Problem(
                path=("cpus",),
                value=self.cpus,
                rule="a trial that needs neither CPU nor GPU has no limit of workers",
                remedy="Ask for cpus: 1, or set resources.workers.",
            )
            raise_problems([problem], JOINT_RULE)
        return self


_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


def is_study_name(name: str) -> bool:
    """Whether a study may be called so: the name is also that of its folder."""
    return _NAME.fullmatch(name) is not None


SpaceEntry = Annotated[Domain | ParamValue, BeforeValidator(_parse_domain)]


class StudySpec(Part):
    """One search: a space, a budget, a results folder."""

    name: str = Field(
        description="Name of the study and of its results folder: letters, digits, . _ and -."
    )
    space: dict[str, SpaceEntry] = Field(
        description="Trainer field (dotted below a section) -> the values to try: log_uniform, "
        "uniform, int, choice, or a constant, which overrides the trainer's."
    )
    trainer: TrainerSpec = Field(TrainerSpec(), description="What every trial has in common.")
    searcher: SearcherSpec = Field(SearcherSpec(), description="Who proposes settings.")
    scheduler: SchedulerSpec = Field(SchedulerSpec(), description="Who stops trials early.")
    resources: ResourcesSpec = Field(
        ResourcesSpec(), description="What one trial needs, and how many run at once."
    )
    seeds: PositiveInt = Field(1, description="Replicates: trials per setting, each its own seed.")
    trials: PositiveInt = Field(32, description="Settings to try.")
    storage: str = Field(
        "results",
        min_length=1,
        description="Folder that holds the study's folder; relative to the current directory.",
    )

    @field_validator("name")
    @classmethod
    def _name_is_a_folder_name(cls, name: str) -> str:
        if not is_study_name(name):
            suggestion = re.sub(r"[^A-Za-z0-9._-]+", "_", name.strip()).lstrip(".-")[:100]
            rule = (
                "must be usable as a folder name: letters, digits, . _ - (at most 100, the first "
                "not . or -)"
            )
            remedy = f"Use {suggestion or 'my_study'}."
            raise_problems([Problem(path=(), value=name, rule=rule, remedy=remedy)])
        return name

    @field_validator("storage")
    @classmethod
    def _storage_is_a_path(cls, storage: str) -> str:
        if "://" in storage:
            rule = "must be a folder on this machine or a shared file system"
            remedy = "Write results to a folder, and copy it to the bucket afterwards."
            raise_problems([Problem(path=(), value=storage, rule=rule, remedy=remedy)])
        if "\0" in storage:
            rule, remedy = "no folder's name holds a NUL character", "Remove it."
            raise_problems([Problem(path=(), value=NOTHING, rule=rule, remedy=remedy)])
        try:
            Path(storage).expanduser()
        except RuntimeError:
            rule = "there is no such home folder on this machine"
            remedy = "Use ~/ for your own, or the folder's full path."
            raise_problems([Problem(path=(), value=storage, rule=rule, remedy=remedy)])
        return storage

    @field_validator("space")
    @classmethod
    def _each_entry_is_valid(cls, space: dict[str, Any]) -> dict[str, Any]:
        if not any(isinstance(domain, Domain) for domain in space.values()):
            problem = Problem(
                path=(),
                value=space,
                rule="nothing is searched: at least one entry must be a domain",
                remedy="Add for example learning_rate: {log_uniform: [1e-4, 0.1]}.",
            )
            raise_problems([problem])
        raise_problems(p for name, entry in space.items() for p in _entry_problems(name, entry))
        return space

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        raise_problems(self._together(), JOINT_RULE)
        return self

    def searched(self) -> dict[str, Domain]:
        """The space without its constants."""
        return {name: entry for name, entry in self.space.items() if isinstance(entry, Domain)}

    def constants(self) -> Params:
        """The entries of the space that are values."""
        return {name: entry for name, entry in self.space.items() if not isinstance(entry, Domain)}

    def trainer_for(self, params: Params) -> TrainerSpec:
        """The trainer of one setting: the space's constants, then ``params``, over ``trainer``.

        Raises SpecError if they do not make a valid trainer.
        """
        try:
            return _trainer_with(self.trainer, {**self.constants(), **params})
        except ValidationError as error:
            problems = problems_of(error, TrainerSpec)
            raise SpecError("\n".join(str(p) for p in problems)) from error

    def sample(self, generator: random.Random) -> Params:
        """One setting drawn from the space at random."""
        return {name: domain.sample(generator) for name, domain in self.searched().items()}

    @property
    def path(self) -> Path:
        """The study's results folder, absolute."""
        return Path(self.storage).expanduser().absolute() / self.name

    @property
    def num_trials(self) -> int:
        """Settings x seeds."""
        return self.trials * self.seeds

    @property
    def longest_trial(self) -> int:
        """Steps of a trial that is not stopped; the largest, where the budget is searched."""
        longest: list[Any] = [self.trainer_for({}).max_train_steps]
        if (domain := self.searched().get("max_train_steps")) is not None:
            longest = domain.probes()
        return int(max(longest))

    def cautions(self) -> list[str]:
        """What is allowed and should be known, one sentence or two each."""
        names = [name for name in self.searched() if name.startswith("noise_schedule.")]
        return [
            f"space.{name}: a score is measured at the noise levels of the trial's own schedule, "
            "so scores under different schedules compare only roughly. For a strict comparison "
            "give each its own study (extends: derives one file from another)."
            for name in names
        ]

    def step_budget(self) -> int:
        """Steps that all trials take if none is stopped."""
        return self.num_trials * self.longest_trial

    def references(self) -> dict[str, str]:
        """Field path -> ``module:function`` of everything that must be imported."""
        found: dict[str, str] = {}
        trainer = self.trainer_for({})
        for section, name, built_in in (
            ("model", trainer.model.name, BUILT_IN_MODELS),
            ("data", trainer.data.name, BUILT_IN_DATA),
        ):
            field = f"{section}.name"
            domain = self.searched().get(field)
            if domain is None:
                named = {f"{'space' if field in self.space else 'trainer'}.{field}": name}
            else:
                named = {
                    f"space.{field}.choice[{i}]": str(value)
                    for i, value in enumerate(domain.probes())
                }
            found |= {path: value for path, value in named.items() if value not in built_in}
        return found

    def fingerprint(self) -> str:
        """sha256 of all that changes a trial's result, or the order of proposals.

        Not where results are stored, nor the resources; not ``trials`` and ``seeds`` either, so
        that a study can be extended by running it with more of them.
        """
        resolved = {
            "name": self.name,
            # a list: the order of the space is the order in which a searcher draws
            "space": [[name, d.model_dump(mode="json")] for name, d in self.searched().items()],
            "trainer": self.trainer_for({}).model_dump(mode="json"),
            "searcher": self.searcher.model_dump(mode="json"),
            "scheduler": self.scheduler.model_dump(mode="json"),
        }
        canonical = json.dumps(resolved, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def _together(self) -> Iterator[Problem]:
        problems = [p for group in _GROUPS for p in self._group_problems(group)]
        yield from problems
        devices = self._possible("device")
        if "cuda" in devices and self.resources.gpus == 0:
            path = ("space", "device") if "device" in self.space else ("trainer", "device")
            yield Problem(
                path=path,
                value="cuda",
                rule="a trial on cuda needs a share of a GPU, but resources.gpus is 0",
                remedy="Set resources.gpus: 1 (or a fraction), or device: auto.",
            )
        if not problems:
            yield from self._idle_entries()

    def _group_problems(self, group: str) -> Iterator[Problem]:
        """Try the corners of the entries that rules look at together."""
        entries = {name: e for name, e in self.space.items() if re.fullmatch(group, name)}
        if not entries:
            return
        values = [_probes(entry) for entry in entries.values()]
        told: set[tuple[str, ...]] = set()
        for combination in itertools.islice(itertools.product(*values), 4096):
            params = dict(zip(entries, combination, strict=True))
            try:
                _trainer_with(self.trainer, params)
            except ValidationError as error:
                for p in problems_of(error, TrainerSpec):
                    blamed = _blame(p, params)
                    if blamed not in told:
                        told.add(blamed)
                        yield _in_space(p, blamed, params)

    def _possible(self, field: str) -> list[ParamValue]:
        """The values that a trainer field can take in this study."""
        if field in self.space:
            return _probes(self.space[field])
        value: Any = self.trainer
        for part in field.split("."):
            value = getattr(value, part)
        return [value]

    def _idle_entries(self) -> Iterator[Problem]:
        """Searched entries that no trial of this study would look at."""
        for name, (field, needed) in _ONLY_WITH.items():
            possible = self._possible(field)
            if name in self.searched() and not needed.intersection(possible):
                yield Problem(
                    path=("space", name),
                    value=NOTHING,
                    rule=f"has no effect with {field} {show(possible[0])}",
                    remedy=f"Remove it, or set {field} to {' or '.join(sorted(needed))}.",
                )


_LEAVES = dict(leaf_fields(TrainerSpec))
_SECTIONS = tuple(name for name in TrainerSpec.model_fields if name not in _LEAVES)
_OPEN_SECTIONS = ("model", "data")
"""Sections whose references take fields of their own."""

_GROUPS = (
    r"report_every|eval_every|max_train_steps",
    r"num_timestep_bins|noise_schedule\.num_train_timesteps",
    r"noise_schedule\.beta_.*",
    r"model\..*",
    r"data\..*",
)
"""Trainer fields that are checked together, as patterns: one per joint rule."""

_NOT_SEARCHED = {
    r"data(\..+)?": "decides which examples every score is measured on",
    r"eval_samples|num_timestep_bins": "decides how every score is measured",
    r"report_every|eval_every": "decides when a trial is judged, and not how it trains",
    r"device": "decides where a trial runs, and not how it trains",
}
"""Trainer fields, as patterns, that must have one value in a study, and why: trials that are
measured differently do not compare, and the best score would go to the most lenient measure."""

_BETA_FORMS = {"linear", "scaled_linear"}
_ONLY_WITH: dict[str, tuple[str, set[str]]] = {
    "momentum": ("optimizer", {"sgd"}),
    "adam_beta1": ("optimizer", {"adamw"}),
    "adam_beta2": ("optimizer", {"adamw"}),
    "adam_epsilon": ("optimizer", {"adamw"}),
    "noise_schedule.beta_start": ("noise_schedule.beta_schedule", _BETA_FORMS),
    "noise_schedule.beta_end": ("noise_schedule.beta_schedule", _BETA_FORMS),
}


def may_be_searched(name: str) -> bool:
    """Whether trials that differ in this trainer field can be compared."""
    return not any(re.fullmatch(pattern, name) for pattern in _NOT_SEARCHED)


def param_names() -> dict[str, str]:
    """Every name that a space may hold -> its description; options of built-ins included."""
    names = {name: info.description or "" for name, info in _LEAVES.items()}
    for section, built_in in (("model", BUILT_IN_MODELS), ("data", BUILT_IN_DATA)):
        for options in built_in.values():
            for name, info in options.model_fields.items():
                names[f"{section}.{name}"] = info.description or ""
    return names


def _entry_problems(name: str, entry: Any) -> Iterator[Problem]:
    """One entry by itself: is the name a field, and does the field take the values?"""
    section, dot, option = name.partition(".")
    if isinstance(entry, Domain) and not may_be_searched(name):
        yield _unsearchable(name, entry)
        return
    if name not in _LEAVES and not (dot and option and section in _OPEN_SECTIONS):
        yield _unknown_param(name)
        return
    for value in _probes(entry):
        try:
            TrainerSpec.model_validate(_nest({name: value}))
        except ValidationError as error:
            mine = [
                Problem(path=("space", name), value=p.value, rule=p.rule, remedy=p.remedy)
                for p, details in zip(problems_of(error, TrainerSpec), error.errors(), strict=True)
                if details["type"] != JOINT_RULE and name in _LEAVES
            ]
            if mine:
                yield _reworded(mine[0], name, entry, value)
                return


def _reworded(problem: Problem, name: str, entry: Any, value: ParamValue) -> Problem:
    """Say which of the entry's values it is, and what the entry should rather say."""
    is_domain = isinstance(entry, Domain)
    is_fraction = isinstance(value, float) and not value.is_integer()
    remedy = problem.remedy
    rule = problem.rule
    if rule == "must be a whole number" and isinstance(entry, (LogUniform, Uniform)):
        log = ", log: true" if isinstance(entry, LogUniform) else ""
        low, high = math.floor(entry.low), math.ceil(entry.high)
        remedy = f"Use {{int: [{low}, {high}]{log}}}."
    elif is_domain:
        if not (is_fraction and rule.startswith("must be one of")):
            rule = f"{show(value)} {rule}"
        if not isinstance(entry, Choice) and "must be one of" in rule:
            remedy = "Use choice."
        elif "such as" in remedy:
            remedy = f"Keep every value of {name} within that."
    return Problem(path=(name,), value=entry, rule=rule, remedy=remedy)


def _unsearchable(name: str, entry: Any) -> Problem:
    why = next(reason for pattern, reason in _NOT_SEARCHED.items() if re.fullmatch(pattern, name))
    return Problem(
        path=(name,),
        value=entry,
        rule=f"{why}, so it must be the same for all trials of a study",
        remedy=f"Write one value as trainer.{name}; to compare several, run a study for each "
        "(extends: derives one file from another).",
    )


def _unknown_param(name: str) -> Problem:
    known = param_names()
    if name in _SECTIONS:
        fields = [full for full in known if full.startswith(f"{name}.")]
        rule, remedy = "is a section, not a field", f"Name one of its fields: {', '.join(fields)}."
    else:
        rule, remedy = "unknown trainer field", did_you_mean(name, known)
    return Problem(path=(name,), value=NOTHING, rule=rule, remedy=remedy)


def _probes(entry: Any) -> list[ParamValue]:
    return entry.probes() if isinstance(entry, Domain) else [entry]


def _nest(params: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a.b": 1}`` -> ``{"a": {"b": 1}}``."""
    nested: dict[str, Any] = {}
    for name, value in params.items():
        *sections, field = name.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[field] = value
    return nested


def _trainer_with(trainer: TrainerSpec, params: Mapping[str, Any]) -> TrainerSpec:
    fields = trainer.model_dump()
    for name, value in _nest(params).items():
        if isinstance(value, dict) and isinstance(fields.get(name), dict):
            fields[name] |= value
        else:
            fields[name] = value
    return TrainerSpec.model_validate(fields)


def _blame(problem: Problem, params: Mapping[str, Any]) -> tuple[str, ...]:
    """The entry of the space that a joint rule is about."""
    own = ".".join(str(part) for part in problem.path)
    involved: Iterable[str] = (own, *problem.partners)
    return tuple(name for name in involved if name in params) or tuple(params)[:1]


def _in_space(problem: Problem, blamed: tuple[str, ...], params: Mapping[str, Any]) -> Problem:
    name = blamed[0]
    own = ".".join(str(part) for part in problem.path)
    rule = problem.rule if own == name else f"{own} ({show(problem.value)}) {problem.rule}"
    value = NOTHING if problem.value is NOTHING else params[name]
    return Problem(path=("space", name), value=value, rule=rule, remedy=problem.remedy)
