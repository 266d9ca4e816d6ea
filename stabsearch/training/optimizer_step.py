"""The end of a training step: loss scaling, and the update that a bad gradient never reaches.

    optimizer_step.scale(loss).backward()
    optimizer_step.unscale()
    optimizer_step.step(clipper.clip().grad_norm)

Gradients are unscaled before clipping, which compares them with true norms.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


class OptimizerStep:
    """Takes the optimizer's step unless the gradient norm is NaN or Inf.

    A step that is not taken leaves weights, moments and the optimizer's step count as they were;
    weight decay waits too. On a GPU a fused optimizer decides on the device (torch's
    ``found_inf``); for the others the host waits for one bool per step.

    With precision fp16 the loss is scaled (``torch.amp.GradScaler``): the scale halves after a
    gradient with NaN or Inf and doubles after 2,000 steps without one.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, precision: str, device: torch.device
    ) -> None:
        self._optimizer = optimizer
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        is_fused = getattr(optimizer, "_step_supports_amp_scaling", False)
        # On the CPU the host has the number already, and the device's way costs 0.05 ms a step.
        self._decides_on_device = is_fused and device.type != "cpu"
        self._zero = torch.zeros((), device=device)
        self._one = torch.ones((), device=device)

    def scale(self, loss: Tensor) -> Tensor:
        """The loss to call ``backward`` on."""
        return self._scaler.scale(loss)

    @property
    def loss_scale(self) -> Tensor | None:
        """What ``scale`` multiplies by, 0-d; None without loss scaling."""
        return self._scaler.scale(self._one) if self._scaler.is_enabled() else None

    def unscale(self) -> None:
        """Bring the gradients back to their true size; call it before clipping."""
        self._scaler.unscale_(self._optimizer)

    def step(self, grad_norm: Tensor) -> None:
        """Take the step if ``grad_norm``, the 0-d total norm before clipping, is finite."""
        is_finite = grad_norm < math.inf  # False for NaN; one operation, isfinite has four
        # GradScaler.step would look for NaN and Inf in the gradients again and know nothing of a
        # norm that overflows. Its update needs only what unscale_ has found.
        if self._decides_on_device:
            self._step_on_device(is_finite)
        elif is_finite:
            self._optimizer.step()
        self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """The loss scale and its growth count; empty without loss scaling."""
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._scaler.load_state_dict(state)

    def _step_on_device(self, is_finite: Tensor) -> None:
        found_inf = torch.where(is_finite, self._zero, self._one)
        self._optimizer.found_inf = found_inf  # type: ignore[attr-defined]
        self._optimizer.step()
