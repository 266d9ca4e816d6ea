"""Healthy runs, and runs in which something is broken on purpose.

A fault is either a change of the spec, or an injection: a function that breaks a new Trainer
before its first step, as a mistake in somebody's code would.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from stabsearch.records import Symptom
from stabsearch.training.trainer import Trainer

Injection = Callable[[Trainer], None]

STEPS = 1600
BASE: dict[str, Any] = {
    "max_train_steps": STEPS,
    "report_every": 20,
    "eval_every": 80,
    "learning_rate": 3e-3,
    "batch_size": 64,
}
V: dict[str, Any] = {
    "prediction_type": "v_prediction",
    "noise_schedule": {"beta_schedule": "squaredcos_cap_v2"},
}
UNCLIPPED = {"clipping": "none", "max_grad_norm": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A run, and what should be said of it."""

    name: str
    words: str
    spec: dict[str, Any] = field(default_factory=dict)
    inject: Injection | None = None
    sampler: str = ""
    """Name in SAMPLERS, of the sampler that the study names."""
    symptoms: frozenset[Symptom] = frozenset()
    """Any of these names the fault rightly; empty for a healthy run."""


def on_timesteps(change: Callable[[torch.Tensor], torch.Tensor]) -> Injection:
    """The network is told other timesteps than those that were drawn; in evaluation too."""

    def inject(trainer: Trainer) -> None:
        trainer._model.register_forward_pre_hook(
            lambda _module, inputs: (inputs[0], change(inputs[1]))
        )

    return inject


def shuffled(timesteps: torch.Tensor) -> torch.Tensor:
    return timesteps[torch.randperm(len(timesteps))]


def silent_between(low: int, high: int) -> Injection:
    """The network's output is 0 at these timesteps, as behind a wrong gate."""

    def inject(trainer: Trainer) -> None:
        def gate(_module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            x_t, timesteps = inputs
            is_open = ~((low <= timesteps) & (timesteps < high))
            return output * is_open.view(-1, *[1] * (x_t.dim() - 1))

        trainer._model.register_forward_hook(gate)

    return inject


def on_batches(change: Callable[[Any], Any]) -> Injection:
    """Every batch is changed before it is used."""

    def inject(trainer: Trainer) -> None:
        batches = trainer._batches
        draw = batches.next
        batches.next = lambda: change(draw())  # type: ignore[method-assign]

    return inject


def never_above(limit: int) -> Injection:
    return on_batches(lambda batch: batch._replace(timesteps=batch.timesteps % limit))


def only_examples(count: int) -> Injection:
    return on_batches(lambda batch: batch._replace(indices=batch.indices % count))


def weighted_by_noise(trainer: Trainer) -> None:
    """Loss weight 1 / SNR: the whole gradient comes from the noisiest timesteps."""
    signal, sigma = trainer._objective._tables[:2]
    weights = (sigma / signal) ** 2
    trainer._objective._weights = weights / weights.mean()


def half_precision_schedule(trainer: Trainer) -> None:
    """alphas_cumprod kept in bfloat16: near t = 0 they round to 1, and no noise is left."""
    tables = trainer._objective._tables
    alphas_cumprod = (tables[0] ** 2).bfloat16()
    tables[0] = alphas_cumprod.sqrt().float()
    tables[1] = (1 - alphas_cumprod).sqrt().float()


def broken_step(step: int) -> Injection:
    """One batch holds a NaN, as of a broken image file."""

    def inject(trainer: Trainer) -> None:
        noise_like = trainer._batches.noise_like

        def broken(x0: torch.Tensor) -> torch.Tensor:
            noise = noise_like(x0)
            if trainer.step == step:
                noise[0] = math.nan
            return noise

        trainer._batches.noise_like = broken  # type: ignore[method-assign]

    return inject


def broken_examples(every: int, factor: float) -> Injection:
    """Every so many batches come with noise of another scale, as from another preprocessing."""

    def inject(trainer: Trainer) -> None:
        noise_like = trainer._batches.noise_like

        def scaled(x0: torch.Tensor) -> torch.Tensor:
            return noise_like(x0) * (factor if trainer.step % every == 0 else 1.0)

        trainer._batches.noise_like = scaled  # type: ignore[method-assign]

    return inject


def rate_jumps(share: float, factor: float) -> Injection:
    """The learning rate is multiplied late in the run, as by a schedule with a mistake."""

    def inject(trainer: Trainer) -> None:
        rate = trainer._learning_rate
        start = share * trainer.spec.max_train_steps
        trainer._learning_rate = (  # type: ignore[method-assign]
            lambda step: rate(step) * (factor if step >= start else 1.0)
        )

    return inject


def left_out_of_optimizer(trainer: Trainer) -> None:
    """One weight matrix is not among the optimizer's parameters."""
    group = trainer._optimizer.param_groups[0]
    matrices = [p for p in group["params"] if p.dim() > 1]
    group["params"] = [p for p in group["params"] if p is not matrices[1]]


S = Symptom
DIVERGED = frozenset(
    {S.NON_FINITE, S.LOST_PROGRESS, S.WORSE_THAN_TRIVIAL, S.CATASTROPHIC_EXCURSION}
)
TIMID = frozenset({S.LEARNING_RATE_LOW, S.LOSS_STUCK, S.NOT_LEARNING})

HEALTHY = (
    Case(name="epsilon", words="epsilon, AdamW, constant learning rate"),
    Case(name="epsilon_cosine", words="the same, cosine decay", spec={"lr_schedule": "cosine"}),
    Case(name="epsilon_unclipped", words="the same without clipping", spec=UNCLIPPED),
    Case(name="v", words="v-prediction, squaredcos_cap_v2", spec=V),
    Case(
        name="v_min_snr",
        words="v-prediction with min-SNR weights",
        spec=V | {"loss_weighting": "min_snr"},
    ),
    Case(
        name="flow",
        words="flow matching",
        spec={"prediction_type": "flow", "noise_schedule": {"kind": "flow_matching"}},
    ),
    Case(
        name="sgd",
        words="epsilon, SGD with momentum, unclipped",
        spec=UNCLIPPED | {"optimizer": "sgd", "learning_rate": 0.2},
    ),
)

FAULTS = (
    Case(name="time_blind", words="the network is told timestep 0 always",
         inject=on_timesteps(torch.zeros_like), symptoms=frozenset({S.TIME_BLIND})),
    Case(name="shuffled_timesteps", words="the network is told another sample's timestep",
         inject=on_timesteps(shuffled), symptoms=frozenset({S.TIME_BLIND})),
    Case(name="no_time_embedding", words="a model without time embedding",
         spec={"model": {"name": "mlp", "time_embedding": "none"}},
         symptoms=frozenset({S.TIME_BLIND})),
    Case(name="dead_bin", words="output 0 at timesteps 400-499",
         inject=silent_between(400, 500), symptoms=frozenset({S.DEAD_TIMESTEPS})),
    Case(name="dead_bin_v", words="the same, v-prediction", spec=V,
         inject=silent_between(400, 500), symptoms=frozenset({S.DEAD_TIMESTEPS})),
    Case(name="never_high_v", words="timesteps from 800 on are never trained, v-prediction",
         spec=V, inject=never_above(800), symptoms=frozenset({S.NOISY_TIMESTEPS_HIGH})),
    Case(name="never_high_epsilon", words="the same, epsilon", inject=never_above(800),
         symptoms=frozenset({S.NOISY_TIMESTEPS_HIGH})),
    Case(name="snr_early", words="sample prediction with SNR weights",
         spec={"prediction_type": "sample", "loss_weighting": "snr"},
         symptoms=frozenset({S.EARLY_TIMESTEP_DOMINATION})),
    Case(name="snr_late", words="epsilon with weights 1 / SNR", inject=weighted_by_noise,
         symptoms=frozenset({S.LATE_TIMESTEP_DOMINATION})),
    Case(name="sample_clean", words="sample prediction: imprecise at clean timesteps",
         spec={"prediction_type": "sample"}, symptoms=frozenset({S.CLEAN_TIMESTEPS_HIGH})),
    Case(name="wrong_sampler_schedule", words="the sampler has another noise schedule",
         sampler="other_schedule", symptoms=frozenset({S.SAMPLER_MISMATCH})),
    Case(name="sampler_offset", words="the sampler tells timesteps 60 too low",
         sampler="offset", symptoms=frozenset({S.SAMPLER_MISMATCH})),
    Case(name="sampler_v_as_epsilon", words="the sampler reads v as epsilon", spec=V,
         sampler="v_as_epsilon", symptoms=frozenset({S.SAMPLER_MISMATCH})),
    Case(name="ema_too_long", words="EMA with the fixed decay 0.9999",
         spec={"ema_schedule": "fixed", "ema_decay": 0.9999},
         symptoms=frozenset({S.EMA_TOO_LONG})),
    Case(name="undertrained", words="an eighth of the steps",
         spec={"max_train_steps": 200, "report_every": 10, "eval_every": 20,
               "learning_rate": 2e-3},
         symptoms=frozenset({S.UNDERTRAINED})),
    Case(name="lr_low", words="learning rate 5e-5", spec={"learning_rate": 5e-5},
         symptoms=TIMID),
    Case(name="lr_high", words="learning rate 0.012, too noisy to be good",
         spec={"learning_rate": 0.012}, symptoms=frozenset({S.LEARNING_RATE_HIGH})),
    Case(name="lr_far_too_high", words="learning rate 0.5", spec={"learning_rate": 0.5},
         symptoms=DIVERGED),
    Case(name="sgd_explodes", words="SGD, learning rate 20, unclipped",
         spec=UNCLIPPED | {"optimizer": "sgd", "learning_rate": 20.0}, symptoms=DIVERGED),
    Case(name="late_explosion", words="the learning rate jumps 300 times at 70% of the run",
         spec=UNCLIPPED, inject=rate_jumps(0.7, 300.0), symptoms=DIVERGED),
    Case(name="hidden_by_clamp", words="learning rate 3 behind a clamped loss",
         spec=UNCLIPPED | {"loss": "clamped_mse", "learning_rate": 3.0}, symptoms=DIVERGED),
    Case(name="bf16_schedule", words="the noise schedule is kept in bfloat16",
         inject=half_precision_schedule, symptoms=frozenset({S.IMPRECISE_SCHEDULE})),
    Case(name="nan_step", words="a batch with a NaN at step 700", inject=broken_step(700),
         symptoms=frozenset({S.NON_FINITE})),
    Case(name="broken_batches", words="every 12th batch has noise of 30 times the scale",
         inject=broken_examples(12, 30.0),
         symptoms=frozenset({S.GRADIENT_OUTLIERS, S.CATASTROPHIC_EXCURSION})),
    Case(name="frozen_layer", words="a weight matrix is left out of the optimizer",
         inject=left_out_of_optimizer, symptoms=frozenset({S.FROZEN_PARAMETERS})),
    Case(name="memorising", words="24 training examples", inject=only_examples(24),
         symptoms=frozenset({S.MEMORISING})),
    Case(name="terminal_signal", words="beta_end 0.004: x_T still shows the image",
         spec={"noise_schedule": {"beta_end": 0.004}}, symptoms=frozenset({S.TERMINAL_SIGNAL})),
)  # fmt: skip
