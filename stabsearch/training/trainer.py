"""TrainerSpec and a seed in, Reports out: one training run of a denoiser.

The result depends on the spec and the seed only: not on the worker, its earlier trials or its
neighbours. Nothing inside a step waits for the device.
"""

# B = batch, W = steps of a window, T = num_train_timesteps

from __future__ import annotations

import functools
import json
import math
import statistics
import time
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stabsearch.diffusion.datasets import DATASETS, Dataset, make_dataset
from stabsearch.diffusion.models import MODELS
from stabsearch.diffusion.noise_schedule import NoiseSchedule, make_noise_schedule
from stabsearch.diffusion.objective import Objective, per_sample_loss
from stabsearch.diffusion.reference_loss import (
    ReferenceCurves,
    covariance_eigenvalues,
    reference_curves,
)
from stabsearch.records import Evaluation, Report, TrialFacts
from stabsearch.references import resolve
from stabsearch.spec import DataSpec, NoiseScheduleSpec, TrainerSpec
from stabsearch.training.batches import Batches
from stabsearch.training.clipping import ClipRecord, clip_grad_norm
from stabsearch.training.ema import Ema
from stabsearch.training.evaluation import EvaluationGrid
from stabsearch.training.lr_schedule import lr_factor, lr_warmup_steps
from stabsearch.training.optimizers import make_optimizer
from stabsearch.training.telemetry import Telemetry, WindowTelemetry

AUTOCAST_DTYPES = {"fp32": None, "bf16": torch.bfloat16}


UNCLIPPED_NORM_EVERY = 8
"""Where nothing clips, the gradient norm is only looked at: on every 8th step, for its cost."""


class StepObserver(Protocol):
    """What the loop tells of each step; the telemetry, or nothing (for benchmarks)."""

    def observe(self, sample_loss: Tensor, clip: ClipRecord | None) -> None: ...


class Trainer:
    """Trains window by window; every window ends in a Report."""

    def __init__(self, spec: TrainerSpec, seed: int) -> None:
        self.spec = spec
        self.step = 0
        self._train_seconds = 0.0
        self._device = choose_device(spec.device)
        dataset = load_dataset(spec.data)
        schedule = load_schedule(spec.noise_schedule)
        bin_edges = schedule.bin_edges(spec.num_timestep_bins)
        curves = load_curves(spec.data, spec.noise_schedule, spec.prediction_type)
        self.facts = TrialFacts(
            max_train_steps=spec.max_train_steps,
            lr_warmup_steps=lr_warmup_steps(spec.lr_warmup_fraction, spec.max_train_steps),
            report_every=spec.report_every,
            max_grad_norm=spec.max_grad_norm,
            bin_edges=bin_edges,
            reference=curves.in_bins(bin_edges),
        )
        # Global, because a user's model may draw from the global generator (dropout).
        torch.manual_seed(seed)
        self._model = build_model(spec, dataset.sample_shape).to(self._device).train()
        self._parameters = [p for p in self._model.parameters() if p.requires_grad]
        self._optimizer = make_optimizer(spec, self._parameters)
        self._ema = None if spec.ema_decay is None else Ema(self._model, spec.ema_decay)
        self._objective = Objective(schedule, spec.prediction_type, self._device)
        self._data = torch.from_numpy(dataset.train).to(self._device)
        self._batches = Batches(
            len(dataset.train),
            spec.batch_size,
            schedule.num_train_timesteps,
            seed,
            self._device,
        )
        self._grid = EvaluationGrid(
            dataset.held_out,
            self._objective,
            curves,
            bin_edges,
            spec.eval_samples,
            spec.data.split_seed,
            self._device,
        )
        dtype = AUTOCAST_DTYPES[spec.precision]
        self._autocast = torch.autocast(self._device.type, dtype=dtype, enabled=dtype is not None)
        self._telemetry = Telemetry(bin_edges)

    @property
    def is_finished(self) -> bool:
        return self.step >= self.spec.max_train_steps

    def train_window(self) -> Report:
        """Take the next ``report_every`` steps (fewer at the end) and report on them."""
        started = time.perf_counter()
        num_steps = min(self.spec.report_every, self.spec.max_train_steps - self.step)
        timesteps = self.train_steps(num_steps, self._telemetry)
        window = self._telemetry.read(timesteps)
        evaluation = self.evaluate() if self._is_evaluation_due() else None
        self._train_seconds += time.perf_counter() - started
        return self._report(window, num_steps, evaluation)

    def train_steps(self, num_steps: int, observer: StepObserver) -> Tensor:
        """Take ``num_steps`` optimizer steps; return their timesteps ``[W, B]``."""
        window = self._batches.draw(num_steps)
        for indices, timesteps in zip(window.indices, window.timesteps, strict=True):
            self._set_learning_rate()
            x0 = self._data[indices]
            x_t, target = self._objective.noised_and_target(
                x0, timesteps, self._batches.noise_like(x0)
            )
            with self._autocast:
                prediction = self._model(x_t, timesteps)
            sample_loss = per_sample_loss(prediction, target)
            self._optimizer.zero_grad(set_to_none=True)
            sample_loss.mean().backward()  # type: ignore[no-untyped-call]
            observer.observe(sample_loss, self._clip())
            self._optimizer.step()
            self.step += 1
            if self._ema is not None:
                self._ema.update(self.step)
        return window.timesteps

    def evaluate(self) -> Evaluation:
        """Held-out loss on the study's fixed grid."""
        return self._grid.evaluate(self._model, self._ema, self._autocast)

    def state_dict(self) -> dict[str, Any]:
        """Everything the trajectory depends on; restoring it continues bit for bit on a CPU."""
        return {
            "step": self.step,
            "train_seconds": self._train_seconds,
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "ema": None if self._ema is None else self._ema.state_dict(),
            "batches": self._batches.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": (
                torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None
            ),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self._train_seconds = state["train_seconds"]
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._ema is not None:
            self._ema.load_state_dict(state["ema"])
        self._batches.load_state_dict(state["batches"])
        torch.set_rng_state(state["rng"].cpu())
        if state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), self._device)

    def _clip(self) -> ClipRecord | None:
        """Clip, if that is asked for; None on a step whose norm is not looked at."""
        max_grad_norm = self.spec.max_grad_norm
        if max_grad_norm is None and self.step % UNCLIPPED_NORM_EVERY:
            return None
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        return clip_grad_norm(gradients, max_grad_norm)

    def _learning_rate(self, step: int) -> float:
        return self.spec.learning_rate * lr_factor(
            step, self.spec.lr_schedule, self.facts.lr_warmup_steps, self.spec.max_train_steps
        )

    def _set_learning_rate(self) -> None:
        learning_rate = self._learning_rate(self.step)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate

    def _is_evaluation_due(self) -> bool:
        return self.step % self.spec.eval_every == 0 or self.is_finished

    def _report(
        self, window: WindowTelemetry, num_steps: int, evaluation: Evaluation | None
    ) -> Report:
        has_norm = np.isfinite(window.grad_norm)
        grad_norm, coef = window.grad_norm[has_norm], window.clip_coef[has_norm]
        finite_count = window.bin_count - window.bin_nonfinite
        with np.errstate(invalid="ignore", divide="ignore"):
            bin_loss = window.bin_loss_sum / finite_count
        first = window.first_nonfinite_step
        return Report(
            step=self.step,
            learning_rate=self._learning_rate(self.step - 1),
            loss=_reduced(np.mean, bin_loss[finite_count > 0]),
            bin_loss=tuple(bin_loss.tolist()),
            bin_count=tuple(window.bin_count.tolist()),
            bin_nonfinite=tuple(window.bin_nonfinite.tolist()),
            max_batch_loss=_reduced(np.max, window.batch_loss[np.isfinite(window.batch_loss)]),
            grad_norm_median=_reduced(statistics.median, grad_norm.tolist()),
            grad_norm_max=_reduced(np.max, grad_norm),
            clip_rate=_reduced(np.mean, coef < 1),
            clip_coef_mean=_reduced(np.mean, coef),
            clip_coef_cv=_reduced(np.std, coef) / _reduced(np.mean, coef),
            nonfinite_steps=window.nonfinite_steps,
            first_nonfinite_step=None if first is None else self.step - num_steps + first + 1,
            first_nonfinite_bins=window.first_nonfinite_bins,
            train_seconds=self._train_seconds,
            evaluation=evaluation,
        )


def _reduced(function: Any, values: Any) -> float:
    """``function(values)``, or NaN for an empty array."""
    return float(function(values)) if len(values) else float("nan")


def choose_device(device: str) -> torch.device:
    """``auto`` is the GPU that Ray gave this worker, or else the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def build_model(spec: TrainerSpec, sample_shape: tuple[int, ...]) -> nn.Module:
    """The denoiser that ``model`` names, built in or the user's own."""
    options = dict(spec.model.model_extra or {})
    make = MODELS.get(spec.model.name) or resolve(spec.model.name)
    model: nn.Module = make(sample_shape, **options)
    return model


# A worker trains many trials of one study: what depends only on the data and the noise schedule
# is computed once per process.


def load_dataset(spec: DataSpec) -> Dataset:
    """The examples that ``data`` names, split; cached per process."""
    return _dataset(spec.model_dump_json())


@functools.lru_cache(maxsize=2)
def _dataset(data: str) -> Dataset:
    # The key is JSON because an option may be a list, which cannot be hashed.
    spec = DataSpec.model_validate(json.loads(data))
    load = DATASETS.get(spec.name) or resolve(spec.name)
    return make_dataset(
        load, dict(spec.model_extra or {}), spec.held_out_fraction, spec.split_seed
    )


@functools.lru_cache(maxsize=2)
def _eigenvalues(data: str) -> NDArray[np.float64]:
    return covariance_eigenvalues(_dataset(data).train)


def load_schedule(spec: NoiseScheduleSpec) -> NoiseSchedule:
    return make_noise_schedule(
        spec.beta_schedule, spec.num_train_timesteps, spec.beta_start, spec.beta_end
    )


def load_curves(
    data: DataSpec, noise_schedule: NoiseScheduleSpec, prediction_type: str
) -> ReferenceCurves:
    """Reference losses of a data set under a schedule."""
    key = data.model_dump_json()
    return reference_curves(
        _eigenvalues(key),
        math.prod(_dataset(key).sample_shape),
        load_schedule(noise_schedule),
        prediction_type,
    )
