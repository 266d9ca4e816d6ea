"""When and how the gradients of single samples and bins are measured while training goes on.

Ghost norms ride on the training backward. A model with layers that they do not know is measured
by a probe of its own, which costs about ten times as much and is taken a tenth as often. What was
done is said in ``remark``.
"""

# B = batch, K = timestep bins, P = parameters, ... = the shape of an example

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from stabsearch.training.gradient_norms import GhostNorms

PROBE_INTERVALS = 10
"""A probe is taken once in this many intervals."""

COSINE_PROBES_AT = (0.05, 0.2, 0.5)
"""Shares of the budget at which the bins' mean gradients are compared."""
COSINE_SAMPLES = 512
MAX_NUMBERS = 100_000_000
"""Gradients of single samples, or of all bins, that are held at once: 400 MB."""


def probe_chunk(num_parameters: int) -> int:
    """Samples whose gradients a probe holds at once."""
    return min(32, max(1, MAX_NUMBERS // num_parameters))


class SampleGradients:
    """Measures every ``interval`` steps; never with an interval of 0."""

    def __init__(self, model: nn.Module, interval: int) -> None:
        self.remark = ""
        self._interval = interval
        self._ghost = GhostNorms(model) if interval else None
        self._nothing: AbstractContextManager[None] = nullcontext()
        if self._ghost is not None and self._ghost.unknown:
            self._probe_instead(f"ghost norms do not know {', '.join(self._ghost.unknown)}")

    def state_dict(self) -> dict[str, Any]:
        """How this model turned out to be measured."""
        return {
            "interval": self._interval,
            "remark": self.remark,
            "has_ghost": self._ghost is not None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._interval, self.remark = state["interval"], state["remark"]
        if not state["has_ghost"]:
            self._ghost = None

    def is_due(self, step: int) -> bool:
        """Whether the step that follows ``step`` finished ones is measured."""
        return self._interval > 0 and step % self._interval == 0

    def capture(self, step: int) -> AbstractContextManager[None]:
        """The forward and backward of a step belong inside."""
        if self._ghost is None or not self.is_due(step):
            return self._nothing
        return self._ghost.capture()

    def squared_norms(
        self, step: int, batch_size: int, loss_scale: Tensor | None, probe: Callable[[], Tensor]
    ) -> Tensor | None:
        """``[B]`` after the backward of a measured step, before the weights move; else None.

        ``loss_scale`` is what the loss was multiplied by. ``probe`` measures the same anew.
        """
        if not self.is_due(step):
            return None
        if self._ghost is not None:
            try:
                squares = self._ghost.squared_norms(batch_size)
            except ValueError as error:
                self._probe_instead(str(error).rstrip("."))
            else:
                return squares if loss_scale is None else squares / loss_scale.square()
        try:
            return probe()
        except ValueError as error:
            self._give_up(str(error).rstrip("."))
            return None

    def _probe_instead(self, reason: str) -> None:
        self._ghost = None
        self._interval *= PROBE_INTERVALS
        self.remark = (
            f"Per-sample gradient norms come from a probe every {self._interval} steps, because "
            f"{reason}."
        )

    def _give_up(self, reason: str) -> None:
        self._interval = 0
        self.remark = f"Per-sample gradient norms were not measured: {reason}."


class GradientProbe:
    """Do the timestep bins pull the weights the same way? Mean gradients of bins, compared.

    The same examples, timesteps and noise every time and for every setting of a seed: a probe
    draws nothing from the generators that training uses.
    """

    def __init__(
        self, data: Tensor, bin_edges: tuple[int, ...], seed: int, max_train_steps: int
    ) -> None:
        self._data = data
        self._bins = tuple(itertools.pairwise(bin_edges))
        self._seed = seed
        self._steps = [share * max_train_steps for share in COSINE_PROBES_AT]

    def is_due(self, first_step: int, last_step: int) -> bool:
        """Whether a probe falls into the steps after ``first_step`` up to ``last_step``."""
        return any(first_step < step <= last_step for step in self._steps)

    def cosines(
        self, model: nn.Module, sample_losses: Callable[[Tensor, Tensor, Tensor], Tensor]
    ) -> tuple[tuple[float, ...], ...] | None:
        """Cosine ``[K, K]`` between the mean gradients of every two bins.

        ``sample_losses`` gives the optimised loss ``[B]`` of (x0 ``[B, ...]``, timesteps ``[B]``,
        noise ``[B, ...]``). None for a model that is too large to hold the gradients of.
        """
        parameters = [p for p in model.parameters() if p.requires_grad]
        num_parameters = sum(p.numel() for p in parameters)
        if len(self._bins) * num_parameters > MAX_NUMBERS:
            return None
        was_training = model.training
        model.eval()  # without dropout, and without a step of the model's running statistics
        generator = torch.Generator(self._data.device).manual_seed(self._seed)
        directions = torch.empty(len(self._bins), num_parameters, device=self._data.device)
        for row, (low, high) in zip(directions, self._bins, strict=True):
            losses = sample_losses(*self._draw(low, high, generator))
            gradients = torch.autograd.grad(
                losses.mean(), parameters, allow_unused=True, materialize_grads=True
            )
            torch.cat([gradient.flatten() for gradient in gradients], out=row)
            row /= torch.linalg.vector_norm(row)  # NaN for a gradient of 0
        model.train(was_training)
        matrix: list[list[float]] = (directions @ directions.T).tolist()
        return tuple(tuple(row) for row in matrix)

    def _draw(
        self, low: int, high: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        device, num_samples = self._data.device, COSINE_SAMPLES // len(self._bins) + 1
        rows = torch.randint(len(self._data), (num_samples,), generator=generator, device=device)
        timesteps = torch.randint(low, high, (num_samples,), generator=generator, device=device)
        x0 = self._data[rows]
        return x0, timesteps, torch.randn(x0.shape, generator=generator, device=device)
