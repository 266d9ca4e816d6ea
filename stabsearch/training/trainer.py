"""TrainerSpec and a seed in, Reports out: one training run of a denoiser.

The result depends on the spec and the seed only: not on the worker, its earlier trials or its
neighbours. Nothing inside a step waits for the device.
"""

# B = batch, T = num_train_timesteps, K = timestep bins

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stabsearch.diffusion.loss_weighting import loss_weights
from stabsearch.diffusion.models import MODELS
from stabsearch.diffusion.noise_schedule import NoiseSchedule, make_noise_schedule
from stabsearch.diffusion.objective import Objective, SampleLosses
from stabsearch.diffusion.prepared_data import PreparedData, prepare_data
from stabsearch.diffusion.reference_loss import ReferenceCurves, reference_curves
from stabsearch.records import Evaluation, Report, TrialFacts
from stabsearch.references import resolve
from stabsearch.spec import NoiseScheduleSpec, TrainerSpec
from stabsearch.training.batches import Batch, Batches
from stabsearch.training.clipping import make_clipper
from stabsearch.training.ema import make_ema
from stabsearch.training.evaluation import EvaluationGrid
from stabsearch.training.frozen import FrozenParameters
from stabsearch.training.gradient_norms import probe_squared_norms
from stabsearch.training.lr_schedule import lr_factor, lr_warmup_steps
from stabsearch.training.optimizer_step import OptimizerStep
from stabsearch.training.optimizers import make_optimizer
from stabsearch.training.sample_gradients import GradientProbe, SampleGradients, probe_chunk
from stabsearch.training.telemetry import StepObserver, StepRecord, Telemetry
from stabsearch.training.window_report import window_report

TIMESTEP_PROBES_AT = (0.25, 0.5, 1.0)
"""Shares of the budget from which the next evaluation also asks with wrong timesteps, and the
weights are looked through for such that have not moved."""
AUTOCAST_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """Trains window by window; every window ends in a Report."""

    def __init__(self, spec: TrainerSpec, seed: int, data: PreparedData | None = None) -> None:
        """``data`` is what ``prepare_data(spec.data)`` returns, where it is there already."""
        data = data or prepare_data(spec.data)
        self.spec = spec
        self.step = 0
        self._train_seconds = 0.0
        self._device = choose_device(spec.device)
        schedule = load_schedule(spec.noise_schedule)
        bin_edges = schedule.bin_edges(spec.num_timestep_bins)
        curves = load_curves(spec, data)
        # Global, because a user's model may draw from the global generator (dropout).
        torch.manual_seed(seed)
        self._model = build_model(spec, data.dataset.sample_shape).to(self._device).train()
        self._forward: Callable[..., Tensor] = (
            torch.compile(self._model) if spec.compile else self._model
        )
        parameters = [p for p in self._model.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError(f"model {spec.model.name} has no parameter to train.")
        self._probe_chunk = probe_chunk(sum(p.numel() for p in parameters))
        optimizer = make_optimizer(spec, parameters)
        self._optimizer = optimizer
        self._optimizer_step = OptimizerStep(optimizer, spec.precision, self._device)
        self._clipper = make_clipper(spec, parameters)
        self._ema = make_ema(self._model, spec)
        self._objective = make_objective(spec, schedule, self._device)
        self._data = shared_tensor(data.dataset.train).to(self._device)
        self._batches = Batches(
            spec, len(data.dataset.train), schedule.log_snr, seed, self._device
        )
        self._grid = EvaluationGrid(
            shared_tensor(data.dataset.held_out),
            self._objective,
            curves,
            bin_edges,
            spec.eval_samples,
            spec.data.split_seed,
            self._device,
        )
        dtype = AUTOCAST_DTYPES[spec.precision]
        self._autocast = torch.autocast(self._device.type, dtype=dtype, enabled=dtype is not None)
        self._telemetry = Telemetry(bin_edges, scales_loss=spec.precision == "fp16")
        self._sample_gradients = SampleGradients(self._model, spec.grad_norm_every)
        self._gradient_probe = GradientProbe(self._data, bin_edges, seed, spec.max_train_steps)
        self._frozen = FrozenParameters(self._model)
        self._facts = TrialFacts(
            max_train_steps=spec.max_train_steps,
            lr_warmup_steps=lr_warmup_steps(
                spec.lr_warmup_steps, spec.lr_warmup_fraction, spec.max_train_steps
            ),
            report_every=spec.report_every,
            clipping=spec.clipping,
            max_grad_norm=spec.max_grad_norm if compares_total_norm(spec) else None,
            batch_numbers=spec.batch_size * math.prod(data.dataset.sample_shape),
            skips_nonfinite=spec.nonfinite_gradients == "skip",
            bin_edges=bin_edges,
            bin_share=bin_shares(
                self._batches.timestep_probabilities() * timestep_weights(spec, schedule),
                bin_edges,
            ),
            reference=curves.in_bins(bin_edges),
            learning_rate=spec.learning_rate,
            lr_schedule=spec.lr_schedule,
            optimizer=spec.optimizer,
            prediction_type=spec.prediction_type,
            ema_schedule=None if self._ema is None else spec.ema_schedule,
            ema_decay=spec.ema_decay,
            ema_sigma_rel=None if self._ema is None else spec.ema_sigma_rel,
            eval_rows=self._grid.rows_per_bin,
            terminal_kl=schedule.terminal_kl(data.statistics.second_moment),
            schedule_error=self._objective.schedule_error,
        )

    @property
    def facts(self) -> TrialFacts:
        """What the reports are judged by; remarks may still come with the first report."""
        remark = self._sample_gradients.remark
        return replace(self._facts, remarks=(remark,)) if remark else self._facts

    @property
    def is_finished(self) -> bool:
        return self.step >= self.spec.max_train_steps

    def train_window(self) -> Report:
        """Take the next ``report_every`` steps (fewer at the end) and report on them."""
        started = time.perf_counter()
        first = self.step
        self.train_steps(
            min(self.spec.report_every, self.spec.max_train_steps - first), self._telemetry
        )
        window = self._telemetry.read()
        cosines = self._bin_grad_cosines(first)
        evaluation = self.evaluate() if self._is_evaluation_due() else None
        self._train_seconds += time.perf_counter() - started
        return window_report(
            window,
            first_step=first,
            learning_rate=self._learning_rate(self.step - 1),
            train_seconds=self._train_seconds,
            evaluation=evaluation,
            cosines=cosines,
            frozen_parameters=(
                self._frozen.names() if evaluation and self._is_probe_due() else ()
            ),
        )

    def train_steps(self, num_steps: int, observer: StepObserver) -> None:
        """Take ``num_steps`` optimizer steps."""
        for _ in range(num_steps):
            observer.observe(self._take_step())

    def evaluate(self) -> Evaluation:
        """Held-out loss on the study's fixed grid."""
        return self._grid.evaluate(
            self._model,
            self._ema,
            self._autocast,
            shuffles_timesteps=self._is_probe_due(),
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything the trajectory depends on; restoring it continues bit for bit on a CPU."""
        return {
            "step": self.step,
            "train_seconds": self._train_seconds,
            "model": dict(self._model.state_dict()),
            "optimizer": self._optimizer.state_dict(),
            "optimizer_step": self._optimizer_step.state_dict(),
            "clipper": self._clipper.state_dict(),
            "ema": None if self._ema is None else self._ema.state_dict(),
            "batches": self._batches.state_dict(),
            "telemetry": self._telemetry.state_dict(),
            "sample_gradients": self._sample_gradients.state_dict(),
            "frozen": self._frozen.state_dict(),
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
        self._optimizer_step.load_state_dict(state["optimizer_step"])
        self._clipper.load_state_dict(state["clipper"])
        if self._ema is not None:
            self._ema.load_state_dict(state["ema"])
        self._batches.load_state_dict(state["batches"])
        self._telemetry.load_state_dict(state["telemetry"])
        self._sample_gradients.load_state_dict(state["sample_gradients"])
        self._frozen.load_state_dict(state["frozen"])
        torch.set_rng_state(state["rng"].cpu())
        if state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), self._device)

    def _take_step(self) -> StepRecord:
        self._set_learning_rate()
        batch = self._batches.next()
        x0 = self._data[batch.indices]
        x_t, target = self._objective.noised_and_target(
            x0, batch.timesteps, self._batches.noise_like(x0)
        )
        with self._sample_gradients.capture(self.step):
            losses = self._losses(x_t, target, batch)
            loss = weighted(losses.training, batch.importance).mean()
            self._optimizer.zero_grad(set_to_none=True)
            self._optimizer_step.scale(loss).backward()  # type: ignore[no-untyped-call]
        squared_norms = self._squared_norms(x_t, target, batch)
        self._optimizer_step.unscale()
        clip = self._clipper.clip()
        self._optimizer_step.step(clip.grad_norm)
        self._batches.observe(batch.timesteps, losses.training)
        self.step += 1
        if self._ema is not None:
            self._ema.update(self.step)
        return StepRecord(
            # detached: the graph of a batch must not outlive its step
            batch.timesteps,
            losses.mse.detach(),
            clip,
            losses.clamped_fraction,
            squared_norms,
        )

    def _losses(self, x_t: Tensor, target: Tensor, batch: Batch) -> SampleLosses:
        # A compiled model has no modules to hook: a measured step runs it as it was written.
        is_measured = self._sample_gradients.is_due(self.step)
        model = self._model if is_measured else self._forward
        with self._autocast:
            prediction = model(x_t, batch.timesteps)
        return self._objective.sample_losses(prediction, target, batch.timesteps)

    def _squared_norms(self, x_t: Tensor, target: Tensor, batch: Batch) -> Tensor | None:
        """``[B]`` squared norm of each sample's own gradient, on the steps that measure it."""

        def sample_losses(
            prediction: Tensor, target: Tensor, timesteps: Tensor, importance: Tensor
        ) -> Tensor:
            losses = self._objective.sample_losses(prediction, target, timesteps)
            return losses.training * importance

        def probe() -> Tensor:
            importance = batch.importance
            if importance is None:
                importance = torch.ones_like(batch.timesteps, dtype=torch.float32)
            with self._autocast:
                return probe_squared_norms(
                    self._model,
                    (x_t, batch.timesteps),
                    sample_losses,
                    (target, batch.timesteps, importance),
                    chunk_size=self._probe_chunk,
                )

        return self._sample_gradients.squared_norms(
            self.step, len(x_t), self._optimizer_step.loss_scale, probe
        )

    def _bin_grad_cosines(self, first_step: int) -> tuple[tuple[float, ...], ...] | None:
        """Cosines between the bins' mean gradients, in the windows that hold a probe."""
        if not self.spec.grad_norm_every:
            return None
        if not self._gradient_probe.is_due(first_step, self.step):
            return None

        def losses(x0: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
            x_t, target = self._objective.noised_and_target(x0, timesteps, noise)
            with self._autocast:
                prediction = self._model(x_t, timesteps)
            return self._objective.sample_losses(prediction, target, timesteps).training

        return self._gradient_probe.cosines(self._model, losses)

    def _learning_rate(self, step: int) -> float:
        return self.spec.learning_rate * lr_factor(
            step, self.spec.lr_schedule, self._facts.lr_warmup_steps, self.spec.max_train_steps
        )

    def _set_learning_rate(self) -> None:
        learning_rate = self._learning_rate(self.step)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate

    def _is_evaluation_due(self) -> bool:
        return self.step % self.spec.eval_every == 0 or self.is_finished

    def _is_probe_due(self) -> bool:
        """Whether this evaluation is the first one at or after one of the probes' times."""
        budget, last = self.spec.max_train_steps, self.step - self.spec.eval_every
        return any(last < share * budget <= self.step for share in TIMESTEP_PROBES_AT)


def compares_total_norm(spec: TrainerSpec) -> bool:
    """Whether max_grad_norm is a threshold of the gradient norm that is reported."""
    return spec.clipping == "global_norm" and spec.grad_norm_type == 2


def weighted(losses: Tensor, importance: Tensor | None) -> Tensor:
    """Losses ``[B]`` as they are optimised: with the sampler's weights, where it has any."""
    return losses if importance is None else losses * importance


def bin_shares(values: NDArray[np.float64], bin_edges: tuple[int, ...]) -> tuple[float, ...]:
    """Every bin's share of the sum of ``values[T]``, ``[K]``."""
    sums = (float(values[low:high].sum()) for low, high in itertools.pairwise(bin_edges))
    return tuple(total / float(values.sum()) for total in sums)


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


def timestep_weights(spec: TrainerSpec, schedule: NoiseSchedule) -> NDArray[np.float64]:
    """Weight ``[T]`` of every timestep's loss."""
    return loss_weights(
        spec.loss_weighting,
        schedule,
        spec.prediction_type,
        snr_gamma=spec.snr_gamma,
        p2_k=spec.p2_k,
        p2_gamma=spec.p2_gamma,
        sigma_data=spec.sigma_data,
    )


def make_objective(spec: TrainerSpec, schedule: NoiseSchedule, device: torch.device) -> Objective:
    """Target, loss and weights that the spec names."""
    is_weighted = spec.loss_weighting != "none"
    return Objective(
        schedule,
        spec.prediction_type,
        device,
        loss=spec.loss,
        huber_delta=spec.huber_delta,
        loss_clamp=spec.loss_clamp,
        weights=timestep_weights(spec, schedule) if is_weighted else None,
    )


_CURVES: dict[tuple[str, str, str], ReferenceCurves] = {}
MAX_CURVES = 16


def load_curves(spec: TrainerSpec, data: PreparedData) -> ReferenceCurves:
    """Reference losses of ``spec.data``, prepared as ``data``, under the spec's schedule.

    A worker trains many trials of one study: they are kept per data set, schedule and prediction
    type.
    """
    schedule = spec.noise_schedule
    key = (spec.data.model_dump_json(), schedule.model_dump_json(), spec.prediction_type)
    if key not in _CURVES:
        if len(_CURVES) >= MAX_CURVES:  # a study that searches many schedules
            _CURVES.clear()
        _CURVES[key] = reference_curves(
            data.statistics, load_schedule(schedule), spec.prediction_type
        )
    return _CURVES[key]


def load_schedule(spec: NoiseScheduleSpec) -> NoiseSchedule:
    return make_noise_schedule(**spec.model_dump())


def shared_tensor(array: NDArray[np.float32]) -> Tensor:
    """The array itself as a tensor, without a copy. It may be read-only, shared by processes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)
