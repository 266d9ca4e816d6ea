"""Healthy runs, and runs in which something is broken on purpose.

A fault is either a change of the spec, or an injection.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.faults.injections import (
    Injection,
    broken_examples,
    broken_step,
    half_precision_schedule,
    left_out_of_optimizer,
    never_above,
    on_timesteps,
    only_examples,
    rate_jumps,
    shuffled,
    silent_between,
    weighted_by_noise,
)
from stabsearch.records import Symptom

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
UNET = {"name": "unet", "width": 16, "num_blocks": 1, "num_resolutions": 2}
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
    also: frozenset[Symptom] = frozenset()
    """What is true of it besides: saying it is not wrong, and does not name the fault."""
    mistake: tuple[str, ...] = ()
    """Of an injection or a sampler: advice with any of these words leads a reader to it."""


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
    Case(
        name="film",
        words="epsilon, the network is told the time by scale and shift (FiLM)",
        spec={"model": {"name": "mlp", "conditioning": "film"}},
    ),
    Case(
        name="unet",
        words="a small UNet, v-prediction, 300 steps of 32 examples",
        spec=V | {"model": UNET, "max_train_steps": 300, "batch_size": 32, "eval_every": 60},
    ),
)

FAULTS = (
    Case(name="time_blind", words="the network is told timestep 0 always",
         inject=on_timesteps(torch.zeros_like), symptoms=frozenset({S.TIME_BLIND}),
         mistake=("timesteps reach the network",)),
    Case(name="shuffled_timesteps", words="the network is told another sample's timestep",
         inject=on_timesteps(shuffled), symptoms=frozenset({S.TIME_BLIND}),
         mistake=("timesteps reach the network",)),
    Case(name="no_time_embedding", words="a model without time embedding",
         spec={"model": {"name": "mlp", "time_embedding": "none"}},
         symptoms=frozenset({S.TIME_BLIND}),
         also=frozenset({S.FROZEN_PARAMETERS})),  # the embedding's own weights are never used
    Case(name="dead_bin", words="output 0 at timesteps 400-499",
         inject=silent_between(400, 500), symptoms=frozenset({S.DEAD_TIMESTEPS}),
         mistake=("gate", "mask"),
         also=frozenset({S.LOSS_STUCK})),  # its mean over the timesteps cannot come down
    Case(name="dead_bin_v", words="the same, v-prediction", spec=V,
         inject=silent_between(400, 500), symptoms=frozenset({S.DEAD_TIMESTEPS}),
         mistake=("gate", "mask"),
         also=frozenset({S.LOSS_STUCK})),  # its mean over the timesteps cannot come down
    Case(name="never_high_v", words="timesteps from 800 on are never trained, v-prediction",
         spec=V, inject=never_above(800), symptoms=frozenset({S.NOISY_TIMESTEPS_HIGH}),
         mistake=("training draws timesteps up to the last",),
         also=frozenset({S.DEAD_TIMESTEPS})),  # they are
    Case(name="never_high_epsilon", words="the same, epsilon", inject=never_above(800),
         symptoms=frozenset({S.NOISY_TIMESTEPS_HIGH}),
         mistake=("training draws timesteps up to the last",),
         also=frozenset({S.DEAD_TIMESTEPS})),  # they are
    Case(name="snr_early", words="sample prediction with SNR weights",
         spec={"prediction_type": "sample", "loss_weighting": "snr"},
         symptoms=frozenset({S.EARLY_TIMESTEP_DOMINATION}),
         also=frozenset({S.CLEAN_TIMESTEPS_HIGH})),  # true of sample prediction
    Case(name="snr_late", words="epsilon with weights 1 / SNR", inject=weighted_by_noise,
         symptoms=frozenset({S.LATE_TIMESTEP_DOMINATION}),
         mistake=("weight that grows with noise",),
         also=frozenset({S.DEAD_TIMESTEPS, S.CLEAN_TIMESTEPS_HIGH, S.LOSS_STUCK})),  # drowned
    Case(name="sample_clean", words="sample prediction: imprecise at clean timesteps",
         spec={"prediction_type": "sample"}, symptoms=frozenset({S.CLEAN_TIMESTEPS_HIGH})),
    Case(name="wrong_sampler_schedule", words="the sampler has another noise schedule",
         sampler="other_schedule", symptoms=frozenset({S.SAMPLER_MISMATCH}),
         mistake=("sampler's noise schedule",)),
    Case(name="sampler_offset", words="the sampler tells timesteps 60 too low",
         sampler="offset", symptoms=frozenset({S.SAMPLER_MISMATCH}),
         mistake=("timesteps with those of training",)),
    Case(name="sampler_v_as_epsilon", words="the sampler reads v as epsilon", spec=V,
         sampler="v_as_epsilon", symptoms=frozenset({S.SAMPLER_MISMATCH}),
         mistake=("prediction type",)),
    Case(name="ema_too_long", words="EMA with the fixed decay 0.9999",
         spec={"ema_schedule": "fixed", "ema_decay": 0.9999},
         symptoms=frozenset({S.EMA_TOO_LONG})),
    Case(name="undertrained", words="an eighth of the steps",
         spec={"max_train_steps": 200, "report_every": 10, "eval_every": 20,
               "learning_rate": 2e-3},
         symptoms=frozenset({S.UNDERTRAINED}),
         also=frozenset({S.LEARNING_RATE_LOW})),  # for so few steps
    Case(name="lr_low", words="learning rate 5e-5", spec={"learning_rate": 5e-5},
         symptoms=TIMID),
    Case(name="lr_high", words="learning rate 0.012, too noisy to be good",
         spec={"learning_rate": 0.012}, symptoms=frozenset({S.LEARNING_RATE_HIGH})),
    Case(name="lr_far_too_high", words="learning rate 0.5", spec={"learning_rate": 0.5},
         symptoms=DIVERGED),
    Case(name="sgd_explodes", words="SGD, learning rate 20, unclipped",
         spec=UNCLIPPED | {"optimizer": "sgd", "learning_rate": 20.0}, symptoms=DIVERGED),
    Case(name="late_explosion", words="the learning rate jumps 300 times at 70% of the run",
         spec=UNCLIPPED, inject=rate_jumps(0.7, 300.0), symptoms=DIVERGED,
         mistake=("check its schedule",)),
    Case(name="hidden_by_clamp", words="learning rate 3 behind a clamped loss",
         spec=UNCLIPPED | {"loss": "clamped_mse", "learning_rate": 3.0}, symptoms=DIVERGED),
    Case(name="bf16_schedule", words="the noise schedule is kept in bfloat16",
         inject=half_precision_schedule, symptoms=frozenset({S.IMPRECISE_SCHEDULE}),
         mistake=("tables in float32",)),
    Case(name="nan_step", words="a batch with a NaN at step 700", inject=broken_step(700),
         symptoms=frozenset({S.NON_FINITE}),
         mistake=("broken example",)),
    Case(name="broken_batches", words="every 12th batch has noise of 30 times the scale",
         inject=broken_examples(12, 30.0),
         symptoms=frozenset({S.GRADIENT_OUTLIERS, S.CATASTROPHIC_EXCURSION}),
         mistake=("broken example",)),
    Case(name="frozen_layer", words="a weight matrix is left out of the optimizer",
         inject=left_out_of_optimizer, symptoms=frozenset({S.FROZEN_PARAMETERS}),
         mistake=("missing optimizer parameter",)),
    Case(name="memorising", words="24 training examples", inject=only_examples(24),
         symptoms=frozenset({S.MEMORISING}),
         mistake=("more data",)),
    Case(name="terminal_signal", words="beta_end 0.004: x_T still shows the image",
         spec={"noise_schedule": {"beta_end": 0.004}}, symptoms=frozenset({S.TERMINAL_SIGNAL})),
)  # fmt: skip
