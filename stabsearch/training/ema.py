"""Exponential moving average of the weights whose decay follows a schedule.

A ``fixed`` decay remembers where training began: with 0.9999 the initial weights still carry 82%
after 2,000 steps. The ``ramped`` and ``power`` schedules forget it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from stabsearch.spec import TrainerSpec

DecaySchedule = Callable[[int], float]
"""The average's decay at optimizer step ``step`` (from 1)."""


def make_ema(model: nn.Module, spec: TrainerSpec) -> Ema | None:
    """The average that the spec asks for; None where ``ema_decay`` is None."""
    if spec.ema_decay is None:
        return None
    make_schedule = EMA_SCHEDULES[spec.ema_schedule]
    return Ema(model, make_schedule(spec.ema_decay, spec.ema_sigma_rel))


class Ema:
    """Averages parameters and floating-point buffers in fp32, in place.

    Other buffers are those of the model itself: integers, such as counts of batches, and tables
    with infinities, such as attention masks, whose average would be NaN. The model's own storage
    is read, never re-pointed: fused optimizers and CUDA graphs hold on to it.
    """

    def __init__(self, model: nn.Module, decay: DecaySchedule) -> None:
        self._decay = decay
        buffers = dict(model.named_buffers())
        averaged = {key: parameter.detach() for key, parameter in model.named_parameters()}
        averaged |= {key: buffer for key, buffer in buffers.items() if _has_average(buffer)}
        self._not_averaged = {key: buffers[key] for key in buffers.keys() - averaged.keys()}
        self._names = list(averaged)
        self._source = list(averaged.values())
        # fp32 at least: half precision would lose the small updates.
        self._average = [
            t.to(torch.promote_types(t.dtype, torch.float32), copy=True) for t in self._source
        ]
        self._needs_cast = any(
            source.dtype != average.dtype
            for source, average in zip(self._source, self._average, strict=True)
        )

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights after optimizer step ``step`` (from 1)."""
        source = self._source
        if self._needs_cast:
            source = [
                tensor.to(average.dtype)
                for tensor, average in zip(source, self._average, strict=True)
            ]
        torch._foreach_lerp_(self._average, source, 1 - self._decay(step))

    def tensors(self) -> dict[str, Tensor]:
        """Averages, and the model's other buffers, by name for torch.func.functional_call."""
        return {**self.state_dict(), **self._not_averaged}

    def state_dict(self) -> dict[str, Tensor]:
        return dict(zip(self._names, self._average, strict=True))

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, average in zip(self._names, self._average, strict=True):
            average.copy_(state[name])


def _has_average(buffer: Tensor) -> bool:
    return buffer.is_floating_point() and bool(buffer.isfinite().all())


def ramped_decay(step: int, max_decay: float) -> float:
    """min(max_decay, (1 + step) / (10 + step)): a window of about a ninth of the run so far."""
    return min(max_decay, (1 + step) / (10 + step))


def power_decay(step: int, exponent: float) -> float:
    """(1 - 1 / step)^(exponent + 1): weights after step i count (i / step)^exponent.

    Karras et al. 2024 (EDM2), equation 127. It is 0 at step 1: the initial weights never count.
    """
    return float((1 - 1 / step) ** (exponent + 1))


def power_exponent(sigma_rel: float) -> float:
    """The exponent whose profile has standard deviation ``sigma_rel`` * training time.

    EDM2, equation 126: sigma_rel^2 = (g + 1) / ((g + 2)^2 (g + 3)), solved for g. Needs
    0 < sigma_rel < 0.2887, where g reaches 0: the plain mean of all steps.
    """
    inverse_square = sigma_rel**-2
    roots = np.roots([1.0, 7.0, 16.0 - inverse_square, 12.0 - inverse_square])
    return float(roots.real.max())


def fixed_decay(step: int, decay: float) -> float:
    """The same at every step: long runs only, for the initial weights fade as decay^step."""
    del step
    return decay


EMA_SCHEDULES: dict[str, Callable[[float, float], DecaySchedule]] = {
    "ramped": lambda max_decay, sigma_rel: functools.partial(  # noqa: ARG005
        ramped_decay, max_decay=max_decay
    ),
    "power": lambda max_decay, sigma_rel: functools.partial(  # noqa: ARG005
        power_decay, exponent=power_exponent(sigma_rel)
    ),
    "fixed": lambda decay, sigma_rel: functools.partial(fixed_decay, decay=decay),  # noqa: ARG005
}
"""Name -> schedule from (ema_decay, ema_sigma_rel), of which each looks at one."""
