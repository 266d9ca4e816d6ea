"""One training run: the trainer's section, with its built-in models and data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, Self, get_args

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from stabsearch.problems import (
    JOINT_RULE,
    NOTHING,
    Problem,
    raise_problems,
    show,
)
from stabsearch.records import ParamValue
from stabsearch.spec.built_ins import BUILT_IN_DATA, BUILT_IN_MODELS, check_name, check_options
from stabsearch.spec.parts import (
    NOT_TEXT,
    BelowOne,
    Float,
    Fraction,
    NonNegativeFloat,
    NormType,
    Part,
    PositiveFloat,
    PositiveInt,
    scalar,
)

NoiseScheduleKind = Literal["diffusion", "flow_matching"]
BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "given"]
PredictionType = Literal["epsilon", "sample", "v_prediction", "flow"]
Loss = Literal["mse", "huber", "clamped_mse"]
LossWeighting = Literal["none", "snr", "min_snr", "soft_min_snr", "p2", "edm"]
TimestepSampling = Literal["uniform", "stratified", "log_normal", "loss_second_moment"]
TorchOptimizer = Literal[
    "Adadelta", "Adafactor", "Adagrad", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop"
]
TORCH_OPTIMIZERS: tuple[str, ...] = get_args(TorchOptimizer)
"""Classes of torch.optim that are named as they are: those that train any parameter from its
gradient alone (LBFGS wants a closure, Muon matrices, SparseAdam sparse gradients)."""
LrSchedule = Literal["constant", "cosine", "linear"]
Clipping = Literal[
    "global_norm", "per_parameter_norm", "per_parameter_value", "agc", "autoclip", "none"
]

MAX_GRAD_NORM_CLIPPINGS = frozenset({"global_norm", "per_parameter_norm"})
"""Clippings that look at max_grad_norm."""
BETA_RANGE_SCHEDULES = frozenset({"linear", "scaled_linear", "sigmoid"})
"""Beta schedules that look at beta_start and beta_end."""


class ModelSpec(Part):
    """The denoiser. ``name`` is built in or a reference ``module:function``.

    A reference is called as ``function(sample_shape, **other_fields)`` and returns a
    ``torch.nn.Module`` whose ``forward(x_t[B, ...], timesteps[B])`` predicts a ``[B, ...]``.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(
        "mlp",
        description="mlp, unet or dit, each with fields of its own, or a reference "
        "module:function, which is called with the example's shape and the other fields of this "
        "section.",
    )

    @field_validator("name")
    @classmethod
    def _name_is_known(cls, name: str) -> str:
        return check_name(name, BUILT_IN_MODELS, "my_models:unet")

    @model_validator(mode="after")
    def _options_are_known(self) -> Self:
        check_options(BUILT_IN_MODELS, self.name, self.model_extra)
        return self


class DataSpec(Part):
    """The examples. ``name`` is built in (``digits``) or a reference ``module:function``.

    A reference is called as ``function(**other_fields)`` and returns an array ``[N, ...]``.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(
        "digits",
        description="digits (1,797 images of 8x8, in scikit-learn), image_folder, array, "
        "parquet, torchvision, huggingface, mixture or gaussian (docs/data.md), or a reference "
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
        return check_name(name, BUILT_IN_DATA, "my_data:load")

    @model_validator(mode="after")
    def _options_are_known(self) -> Self:
        check_options(BUILT_IN_DATA, self.name, self.model_extra)
        return self


class NoiseScheduleSpec(Part):
    """The forward process: how much noise each timestep holds."""

    kind: NoiseScheduleKind = Field(
        "diffusion",
        description="diffusion: x_t = sqrt(ab) x0 + sqrt(1 - ab) e, from betas; flow_matching: "
        "x_t = (1 - tau) x0 + tau e with tau = (t + 1) / T, without betas.",
    )
    num_train_timesteps: Annotated[int, Field(ge=2), NOT_TEXT] = Field(
        1000, description="T, the number of diffusion timesteps."
    )
    beta_schedule: BetaSchedule = Field(
        "linear", description="Form of the betas, under diffusers' names; given: trained_betas."
    )
    beta_start: PositiveFloat = Field(
        1e-4, description="beta at timestep 0; linear, scaled_linear and sigmoid only."
    )
    beta_end: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False), NOT_TEXT] = Field(
        0.02, description="beta at timestep T - 1; linear, scaled_linear and sigmoid only."
    )
    trained_betas: list[Annotated[float, Field(gt=0, le=1), NOT_TEXT]] | None = Field(
        None, description="The betas themselves, one per timestep, with beta_schedule: given."
    )
    rescale_betas_zero_snr: bool = Field(
        False, description="Rescale so that no signal is left at the last timestep."
    )

    @model_validator(mode="after")
    def _betas_make_a_schedule(self) -> Self:
        if self.kind == "diffusion":
            raise_problems(_beta_problems(self), JOINT_RULE)
        return self

    @property
    def has_zero_terminal_snr(self) -> bool:
        """Whether nothing of the example is left at the last timestep."""
        betas = self.trained_betas if self.beta_schedule == "given" else None
        return (
            self.kind == "flow_matching"
            or self.rescale_betas_zero_snr
            or (betas is not None and betas[-1] == 1)
        )


def _beta_problems(schedule: NoiseScheduleSpec) -> Iterator[Problem]:
    betas, name = schedule.trained_betas, schedule.beta_schedule
    if name in BETA_RANGE_SCHEDULES and schedule.beta_start >= schedule.beta_end:
        yield Problem(
            path=("beta_start",),
            value=schedule.beta_start,
            rule=f"must be less than beta_end ({show(schedule.beta_end)})",
            remedy="Lower beta_start or raise beta_end; the usual pair is 0.0001 and 0.02.",
            partners=("noise_schedule.beta_end", "noise_schedule.beta_schedule"),
        )
    if (name == "given") != (betas is not None):
        yield Problem(
            path=("trained_betas",),
            value=NOTHING,
            rule="goes together with beta_schedule: given, and only with it",
            remedy=(
                "List the betas as trained_betas, or name a schedule such as linear."
                if betas is None
                else "Set beta_schedule: given, or remove trained_betas."
            ),
            partners=("noise_schedule.beta_schedule",),
        )
    elif betas is not None and len(betas) != schedule.num_train_timesteps:
        yield Problem(
            path=("trained_betas",),
            value=NOTHING,
            rule=f"holds {len(betas)} betas for {schedule.num_train_timesteps} timesteps",
            remedy=f"Set num_train_timesteps: {len(betas)}, or list one beta for every timestep.",
            partners=("noise_schedule.num_train_timesteps",),
        )
    elif betas is not None and 1 in betas[:-1]:
        yield Problem(
            path=("trained_betas", betas.index(1)),
            value=1,
            rule="a beta of 1 removes all signal; only the last timestep may",
            remedy="Use betas below 1 before the last.",
        )


def _joint_problems(trainer: TrainerSpec) -> Iterator[Problem]:
    yield from _interval_problems(trainer)
    num_timesteps = trainer.noise_schedule.num_train_timesteps
    if trainer.num_timestep_bins > num_timesteps:
        yield Problem(
            path=("num_timestep_bins",),
            value=trainer.num_timestep_bins,
            rule=f"must be at most noise_schedule.num_train_timesteps ({num_timesteps})",
            remedy=f"Use {min(10, num_timesteps)} bins, or more timesteps.",
            partners=("noise_schedule.num_train_timesteps",),
        )
    if trainer.optimizer_options and trainer.optimizer not in TORCH_OPTIMIZERS:
        yield Problem(
            path=("optimizer_options",),
            value=trainer.optimizer_options,
            rule=f"has no effect with optimizer {trainer.optimizer}, which has fields of its own",
            remedy="Remove it, or name a class of torch.optim such as RMSprop.",
            partners=("optimizer",),
        )
    if trainer.lr_warmup_steps is not None and trainer.lr_warmup_steps > trainer.max_train_steps:
        yield Problem(
            path=("lr_warmup_steps",),
            value=trainer.lr_warmup_steps,
            rule=f"must be at most max_train_steps ({trainer.max_train_steps})",
            remedy="A trial would never reach its learning rate: lower it, or use "
            "lr_warmup_fraction.",
            partners=("max_train_steps",),
        )
    if (
        trainer.noise_schedule.has_zero_terminal_snr
        and trainer.prediction_type == "epsilon"
        and trainer.loss_weighting != "none"
    ):
        yield Problem(
            path=("loss_weighting",),
            value=trainer.loss_weighting,
            rule="divides by the SNR, which is 0 at the last timestep (flow_matching or "
            "rescale_betas_zero_snr) where prediction_type is epsilon",
            remedy="Use prediction_type: v_prediction, loss_weighting: none, or a schedule whose "
            "terminal SNR is not 0.",
            partners=(
                "prediction_type",
                "noise_schedule.rescale_betas_zero_snr",
                "noise_schedule.kind",
            ),
        )


def _interval_problems(trainer: TrainerSpec) -> Iterator[Problem]:
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


class TrainerSpec(Part):
    """One training run. What trains may be searched, what measures it may not."""

    model: ModelSpec = Field(ModelSpec(), description="The denoiser.")
    data: DataSpec = Field(DataSpec(), description="The examples.")
    noise_schedule: NoiseScheduleSpec = Field(
        NoiseScheduleSpec(), description="The forward process."
    )

    # The objective
    prediction_type: PredictionType = Field(
        "epsilon",
        description="What the model predicts: the noise, the clean sample, v, or the flow e - x0.",
    )
    loss: Loss = Field(
        "mse",
        description="Of an element's error; clamped_mse is for comparison only: where it clamps "
        "it has no gradient, which freezes a diverged run and hides it.",
    )
    huber_delta: PositiveFloat = Field(1.0, description="huber: error where it becomes linear.")
    loss_clamp: PositiveFloat = Field(
        100.0, description="clamped_mse: squared error above which an element is clamped."
    )
    loss_weighting: LossWeighting = Field(
        "none", description="Weight of a timestep's loss, from its signal-to-noise ratio."
    )
    snr_gamma: PositiveFloat = Field(5.0, description="min_snr, soft_min_snr: where SNR is cut.")
    p2_k: PositiveFloat = Field(1.0, description="p2: added to the SNR.")
    p2_gamma: NonNegativeFloat = Field(1.0, description="p2: exponent.")
    sigma_data: PositiveFloat = Field(0.5, description="edm: standard deviation of the data.")
    timestep_sampling: TimestepSampling = Field(
        "uniform", description="How the timesteps of a batch are drawn."
    )
    log_normal_mean: Float = Field(
        -1.2, description="log_normal: mean of ln(noise / signal), P_mean of EDM."
    )
    log_normal_std: PositiveFloat = Field(
        1.2, description="log_normal: its standard deviation, P_std of EDM."
    )

    # The optimizer
    optimizer: Literal["adamw", "adam", "sgd", TorchOptimizer] = Field(
        "adamw", description="The optimizer, or a class of torch.optim by its name."
    )
    optimizer_options: dict[str, Annotated[ParamValue, BeforeValidator(scalar)]] = Field(
        {}, description="Keyword arguments of a torch.optim class, such as alpha of RMSprop."
    )
    learning_rate: PositiveFloat = Field(1e-3, description="Peak learning rate, after warm-up.")
    weight_decay: NonNegativeFloat = Field(
        0.0, description="Decoupled for adamw and Adafactor, an L2 penalty for the others."
    )
    adam_beta1: BelowOne = Field(
        0.9, description="Adam and its relatives: decay of the first moment."
    )
    adam_beta2: BelowOne = Field(
        0.999, description="Adam and its relatives: decay of the second moment."
    )
    adam_epsilon: PositiveFloat = Field(1e-8, description="adamw, adam: added to the denominator.")
    momentum: BelowOne = Field(0.9, description="sgd: momentum.")
    lr_schedule: LrSchedule = Field(
        "constant", description="Learning rate after warm-up; cosine and linear end at 0."
    )
    lr_warmup_fraction: Fraction = Field(
        0.05, description="Share of max_train_steps over which the learning rate rises from 0."
    )
    lr_warmup_steps: Annotated[int, Field(ge=0), NOT_TEXT] | None = Field(
        None, description="The same in steps, in place of the fraction; null: use the fraction."
    )

    # Clipping
    clipping: Clipping = Field("global_norm", description="How gradients are clipped.")
    max_grad_norm: PositiveFloat | None = Field(
        1.0,
        description="global_norm: gradient norm above which gradients are scaled; "
        "per_parameter_norm: the same for every parameter on its own; null: never.",
    )
    grad_norm_type: NormType = Field(
        2.0, description="Which p-norm max_grad_norm speaks of; inf: the largest element."
    )
    max_grad_value: PositiveFloat = Field(
        1.0, description="per_parameter_value: largest absolute value of a gradient's element."
    )
    agc_clipping: PositiveFloat = Field(
        0.01, description="agc: largest gradient norm of a unit / norm of its weights."
    )
    autoclip_percentile: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False), NOT_TEXT] = (
        Field(10.0, description="autoclip: percentile of the run's own norms that clips.")
    )
    nonfinite_gradients: Literal["stop", "skip"] = Field(
        "stop",
        description="A step whose gradient is not finite is never taken; stop: the trial has "
        "diverged, and the gate stops it; skip: it goes on, unless most steps are so.",
    )

    # The loop
    batch_size: PositiveInt = Field(64, description="Examples per step.")
    max_train_steps: PositiveInt = Field(2000, description="Budget of one trial, in steps.")
    ema_decay: BelowOne | None = Field(
        0.9999,
        description="ramped: cap of the EMA decay min(ema_decay, (1 + step) / (10 + step)); null: "
        "no EMA of either schedule.",
    )
    ema_schedule: Literal["ramped", "power", "fixed"] = Field(
        "ramped",
        description="ramped: see ema_decay; power: power-function averaging of EDM2; fixed: the "
        "decay is ema_decay from the first step on.",
    )
    ema_sigma_rel: Annotated[float, Field(gt=0, lt=0.28, allow_inf_nan=False), NOT_TEXT] = Field(
        0.1, description="power: relative width of the averaged stretch of training."
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32",
        description="bf16, fp16: forward and backward under autocast, weights in fp32; fp16 with "
        "loss scaling.",
    )
    compile: bool = Field(False, description="Compile the model with torch.compile.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: the GPU that the trial was given, else the CPU."
    )

    # What is measured
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
    grad_norm_every: Annotated[int, Field(ge=0), NOT_TEXT] = Field(
        10, description="Steps between measurements of per-sample gradient norms; 0: never."
    )

    @model_validator(mode="after")
    def _fields_fit_together(self) -> Self:
        raise_problems(_joint_problems(self), JOINT_RULE)
        return self
