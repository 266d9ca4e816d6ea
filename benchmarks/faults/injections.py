"""Mistakes as in somebody's code: functions that break a new Trainer before its first step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from stabsearch.training.trainer import Trainer

Injection = Callable[[Trainer], None]


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
