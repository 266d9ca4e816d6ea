"""The study's common currency: held-out loss on one fixed grid, the same for every trial."""

# R = rows of the grid, K = timestep bins

from __future__ import annotations

import functools
import itertools
import math
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from stabsearch.diffusion.objective import Objective, per_sample_loss
from stabsearch.diffusion.reference_loss import ReferenceCurves
from stabsearch.records import Evaluation

ROWS_PER_FORWARD = 1024


class Averages(Protocol):
    """Averaged weights."""

    def tensors(self) -> dict[str, Tensor]:
        """By name, for torch.func.functional_call."""
        ...


class EvaluationGrid:
    """R fixed triples of (held-out example, timestep, noise), R/K in every timestep bin.

    Fixed noise makes the comparison of two settings paired: the noise of their ratio is some
    20 times smaller than with fresh draws. Timesteps are spread evenly inside each bin.
    """

    def __init__(
        self,
        held_out: Tensor,
        objective: Objective,
        curves: ReferenceCurves,
        bin_edges: tuple[int, ...],
        num_rows: int,
        seed: int,
        device: torch.device,
    ) -> None:
        num_bins = len(bin_edges) - 1
        rows_per_bin = max(1, num_rows // num_bins)
        timesteps = torch.cat(
            [
                low + ((torch.arange(rows_per_bin) + 0.5) * (high - low) / rows_per_bin).long()
                for low, high in itertools.pairwise(bin_edges)
            ]
        )
        # The draws are made on the CPU: the grid is the same whatever the device.
        generator = torch.Generator().manual_seed(seed)
        # A fresh order of the examples per bin, so that no example always meets the same timestep.
        examples = torch.cat(
            [
                _cycle(torch.randperm(len(held_out), generator=generator), rows_per_bin)
                for _ in range(num_bins)
            ]
        )
        x0 = held_out[examples]
        noise = torch.randn(x0.shape, generator=generator)
        self._x_t, self._target = objective.noised_and_target(
            x0.to(device), timesteps.to(device), noise.to(device)
        )
        self._timesteps = timesteps.to(device)
        self._num_bins = num_bins
        self.rows_per_bin = rows_per_bin
        rows = timesteps.numpy()
        self._score = functools.partial(curves.score, timesteps=rows, bin_edges=bin_edges)
        self._x0_error = functools.partial(curves.x0_error, timesteps=rows, bin_edges=bin_edges)
        order = torch.randperm(len(timesteps), generator=generator)
        self._shuffled_timesteps = self._timesteps[order.to(device)]

    @torch.no_grad()
    def evaluate(
        self,
        model: nn.Module,
        ema: Averages | None,
        autocast: torch.autocast,
        *,
        shuffles_timesteps: bool = False,
    ) -> Evaluation:
        """Loss and score with the raw and with the EMA weights; both raw if there is no EMA.

        ``shuffles_timesteps`` asks for the loss under wrong timesteps too: a model that does not
        look at the timestep does not mind.
        """
        was_training = model.training
        model.eval()
        raw = self._row_losses(model, None, autocast)
        averaged = raw if ema is None else self._row_losses(model, ema.tensors(), autocast)
        shuffled = None
        if shuffles_timesteps:
            wrong = self._shuffled_timesteps
            shuffled = float(self._row_losses(model, None, autocast, wrong).mean())
        model.train(was_training)
        return Evaluation(
            bin_loss_raw=self._bin_means(raw),
            bin_loss_ema=self._bin_means(averaged),
            score_raw=self._score(raw),
            score_ema=self._score(averaged),
            bin_x0_error=self._x0_error(raw),
            shuffled_loss=shuffled,
        )

    def _row_losses(
        self,
        model: nn.Module,
        weights: dict[str, Tensor] | None,
        autocast: torch.autocast,
        timesteps: Tensor | None = None,
    ) -> NDArray[np.float64]:
        """Loss ``[R]``; ``timesteps[R]`` are told to the model in place of the true ones."""
        timesteps = self._timesteps if timesteps is None else timesteps
        losses = []
        for start in range(0, len(self._timesteps), ROWS_PER_FORWARD):
            rows = slice(start, start + ROWS_PER_FORWARD)
            # A copy: a user's model may work in place, and the grid is for good.
            inputs = (self._x_t[rows].clone(), timesteps[rows])
            with autocast:
                prediction = (
                    model(*inputs) if weights is None else functional_call(model, weights, inputs)
                )
            losses.append(per_sample_loss(prediction, self._target[rows]))
        result: NDArray[np.float64] = torch.cat(losses).double().cpu().numpy()
        return result

    def _bin_means(self, row_losses: NDArray[np.float64]) -> tuple[float, ...]:
        return tuple(row_losses.reshape(self._num_bins, -1).mean(axis=1).tolist())


def _cycle(order: Tensor, length: int) -> Tensor:
    return order.repeat(math.ceil(length / len(order)))[:length]
