"""The learning rate's factor at every step."""

from __future__ import annotations

import math
from collections.abc import Callable

LR_DECAYS: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,  # noqa: ARG005
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
}
"""Schedule -> factor, given the share [0, 1) of the steps after warm-up that are done."""


def lr_warmup_steps(given_steps: int | None, fraction: float, max_train_steps: int) -> int:
    """Warm-up in steps: as given, or else the fraction of the trial.

    The fraction is the safer of the two: a short trial reaches its learning rate too.
    """
    return round(fraction * max_train_steps) if given_steps is None else given_steps


def lr_factor(step: int, lr_schedule: str, warmup_steps: int, max_train_steps: int) -> float:
    """Factor for the step that follows ``step`` finished ones.

    The first step has factor ``1 / warmup_steps``, not 0: a step at lr 0 would be wasted.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    decay_steps = max(1, max_train_steps - warmup_steps)
    return LR_DECAYS[lr_schedule]((step - warmup_steps) / decay_steps)
