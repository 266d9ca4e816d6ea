"""What a study file may say. The only place where a user's input is validated.

A study is data: the same ``StudySpec`` comes from YAML, from a dict or from Python.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
PredictionType = Literal["epsilon", "sample", "v_prediction"]
LrSchedule = Literal["constant", "cosine", "linear"]

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    """Base of every section: unknown fields are errors, instances are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSpec(Part):
    """The denoiser. ``name`` is built in (``mlp``) or a reference ``module:function``.

    A reference is called as ``function(sample_shape, **other_fields)`` and returns a
    ``torch.nn.Module`` whose ``forward(x_t[B, ...], timesteps[B])`` predicts a ``[B, ...]``.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = "mlp"


class DataSpec(Part):
    """The examples. ``name`` is built in (``digits``) or a reference ``module:function``.

    A reference is called as ``function(**other_fields)`` and returns an array ``[N, ...]``.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = "digits"
    held_out_fraction: Annotated[float, Field(gt=0, lt=1)] = 1 / 6
    split_seed: int = 0


class NoiseScheduleSpec(Part):
    num_train_timesteps: Annotated[int, Field(ge=2)] = 1000
    beta_schedule: BetaSchedule = "linear"
    beta_start: PositiveFloat = 1e-4
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 0.02


class TrainerSpec(Part):
    """One training run. Every field, dotted below a section, may be searched."""

    model: ModelSpec = ModelSpec()
    data: DataSpec = DataSpec()
    noise_schedule: NoiseScheduleSpec = NoiseScheduleSpec()
    prediction_type: PredictionType = "epsilon"

    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: PositiveFloat = 1e-3
    max_grad_norm: PositiveFloat | None = 1.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    adam_epsilon: PositiveFloat = 1e-8
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    lr_schedule: LrSchedule = "constant"
    lr_warmup_fraction: Fraction = 0.05

    batch_size: PositiveInt = 64
    max_train_steps: PositiveInt = 2000
    ema_decay: Annotated[float, Field(ge=0, lt=1)] | None = 0.9999
    """Cap of the ramped decay min(ema_decay, (1 + step) / (10 + step)); null for no EMA."""

    report_every: PositiveInt = 25
    eval_every: PositiveInt = 100
    eval_samples: Annotated[int, Field(ge=1)] = 1000
    num_timestep_bins: PositiveInt = 10
    precision: Literal["fp32", "bf16"] = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"


class LogUniform(Part):
    log_uniform: tuple[float, float]


class Uniform(Part):
    uniform: tuple[float, float]


class IntRange(Part):
    int: tuple[int, int]


class Choice(Part):
    choice: Annotated[list[Any], Field(min_length=1)]


class SearcherSpec(Part):
    name: Literal["tpe", "random"] = "tpe"
    startup_trials: PositiveInt = 10
    seed: int = 0


class SchedulerSpec(Part):
    gate: bool = True
    inner: Literal["none", "asha", "median"] = "none"
    grace_fraction: Fraction = 0.25
    reduction_factor: Annotated[int, Field(ge=2)] = 2


class ResourcesSpec(Part):
    cpus: Annotated[float, Field(ge=0)] = 1.0
    gpus: Annotated[float, Field(ge=0)] = 0.0


class StudySpec(Part):
    name: str
    space: dict[str, Any]
    trainer: TrainerSpec = TrainerSpec()
    searcher: SearcherSpec = SearcherSpec()
    scheduler: SchedulerSpec = SchedulerSpec()
    resources: ResourcesSpec = ResourcesSpec()
    seeds: PositiveInt = 1
    trials: PositiveInt = 32
    storage: str = "results"
