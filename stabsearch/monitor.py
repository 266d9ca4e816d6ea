"""The telemetry and the verdicts of a study, for a training loop of your own.

    monitor = stabsearch.Monitor(images, max_train_steps=10_000, learning_rate=1e-3)
    for step in range(10_000):
        ...
        monitor.observe(timesteps, losses)              # both [B]: unweighted, one per sample
        losses.mean().backward()
        monitor.clip(model.parameters(), max_norm=1.0)  # in the place of clip_grad_norm_
        optimizer.step()
        if judged := monitor.report():                  # None between two reports
            print(*judged.verdicts, sep="\\n")
        if monitor.should_stop:
            break

It needs no Ray and minds none. A step hands over tensors and computes next to nothing; the host
waits for the device when a report is due. docs/monitor.md has the rest.
"""

# B = batch, T = num_train_timesteps, N = examples, ... = the shape of an example

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from stabsearch.diffusion.datasets import check_scale
from stabsearch.diffusion.noise_schedule import BETA_SCHEDULES, NoiseSchedule
from stabsearch.diffusion.objective import Objective
from stabsearch.diffusion.prepared_data import PreparedData
from stabsearch.diffusion.reference_loss import (
    DataStatistics,
    data_statistics,
    reference_curves,
)
from stabsearch.errors import SpecError
from stabsearch.problems import did_you_mean, problems_of
from stabsearch.records import (
    Evaluation,
    JudgedReport,
    Outcome,
    Params,
    Report,
    Severity,
    StoppedBy,
    Symptom,
    TrialFacts,
    Verdict,
)
from stabsearch.spec import StudySpec, TrainerSpec
from stabsearch.spec.analyzer import AnalyzerSpec
from stabsearch.stability.judge import Judge
from stabsearch.stability.judges import make_judge
from stabsearch.training.clipping import ClipRecord, GlobalNorm, Unclipped
from stabsearch.training.evaluation import EvaluationGrid
from stabsearch.training.frozen import FrozenParameters
from stabsearch.training.lr_schedule import lr_factor, lr_warmup_steps
from stabsearch.training.sample_gradients import SampleGradients
from stabsearch.training.telemetry import StepRecord, Telemetry
from stabsearch.training.timestep_sampling import make_timestep_sampler
from stabsearch.training.trainer import (
    AUTOCAST_DTYPES,
    TIMESTEP_PROBES_AT,
    bin_shares,
    load_schedule,
    timestep_weights,
)
from stabsearch.training.window_report import window_report

Schedule = str | Mapping[str, Any] | NoiseSchedule | Tensor | NDArray[np.floating[Any]]

SETTINGS = frozenset(
    {
        "lr_schedule", "lr_warmup_steps", "lr_warmup_fraction", "precision", "nonfinite_gradients",
        "loss_weighting", "snr_gamma", "p2_k", "p2_gamma", "sigma_data",
        "timestep_sampling", "log_normal_mean", "log_normal_std",
        "ema_schedule", "ema_decay", "ema_sigma_rel",
        "report_every", "eval_every", "eval_samples", "num_timestep_bins", "grad_norm_every",
    }
)  # fmt: skip
"""Fields of a study's ``trainer`` section that a monitor takes as keywords, to the same end."""

EVALUATE_EVERY = 4
"""Reports per evaluation, unless ``eval_every`` says otherwise."""
UNKNOWN_EMA = "other"
"""An average whose schedule nobody told: no rule expects anything of its kappa."""


@dataclass(slots=True)
class _OpenStep:
    """A step that has begun; its micro-batches, in order."""

    timesteps: list[Tensor] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    clip: ClipRecord | None = None
    squared_grad_norms: Tensor | None = None


class Monitor:
    """Watches one training run from inside its loop."""

    def __init__(
        self,
        data: Tensor | NDArray[Any] | PreparedData | DataStatistics,
        *,
        max_train_steps: int,
        learning_rate: float,
        noise_schedule: Schedule = "linear",
        prediction_type: str = "epsilon",
        optimizer: str = "adamw",
        model: nn.Module | None = None,
        ema_model: nn.Module | None = None,
        held_out: Tensor | NDArray[Any] | None = None,
        analyzer: Mapping[str, Any] | None = None,
        micro_batches: int = 1,
        **settings: Any,
    ) -> None:
        """What the verdicts must know of the run.

        ``data[N, ...]``: what is trained on, scaled as the model sees it, of which the reference
        losses are made: seconds at most. Several monitors on the same data may share what
        ``data_statistics(data)`` returns.

        ``noise_schedule``: a beta schedule's name, ``flow_matching``, a ``noise_schedule`` section
        of a study, or the tensor ``alphas_cumprod[T]`` of any variance-preserving schedule, as
        diffusers' schedulers have it.

        ``model``, called as ``model(x_t, timesteps)``, and ``held_out[N, ...]``, examples that are
        not trained on, let reports hold evaluations; with ``ema_model``, the same model with
        averaged weights, also kappa. ``model`` alone shows weights that never move.

        ``analyzer`` is that section of a study: ``{"preset": "strict"}``, single ``thresholds``,
        or another judge by ``name``. ``micro_batches``: how often ``observe`` is called in a step.
        ``settings`` are fields of a study's ``trainer`` section, those in SETTINGS; warm-up is 0
        steps unless they say otherwise.

        Raises SpecError, a ValueError, for a setting that may not be, and ValueError for data or
        a schedule that cannot be used.
        """
        self._spec, schedule = _checked(
            settings
            | {
                "max_train_steps": max_train_steps,
                "learning_rate": learning_rate,
                "prediction_type": prediction_type,
            },
            noise_schedule,
        )
        self._analyzer = _checked_analyzer(analyzer or {})
        if micro_batches < 1:
            raise ValueError(f"micro_batches is {micro_batches}; it must be at least 1.")
        self._micro_batches = micro_batches
        statistics, own_held_out = _statistics(data)
        spec = self._spec
        curves = reference_curves(statistics, schedule, spec.prediction_type)
        bin_edges = schedule.bin_edges(spec.num_timestep_bins)
        self._num_timesteps = schedule.num_train_timesteps
        self._num_dimensions = statistics.num_dimensions
        self._model = None if model is None else _unwrapped(model)
        self._averages = _averages(self._model, ema_model)
        examples = own_held_out if held_out is None else _examples(held_out, "held_out")
        if held_out is not None and model is None:
            raise ValueError("held_out is evaluated with the model: pass model=... as well.")
        self._make_grid = (
            None
            if examples is None or self._model is None
            else lambda device: EvaluationGrid(
                torch.from_numpy(np.array(examples)),
                Objective(schedule, spec.prediction_type, device),
                curves,
                bin_edges,
                spec.eval_samples,
                0,
                device,
            )
        )
        self._grid: EvaluationGrid | None = None
        self._frozen = None if self._model is None else FrozenParameters(self._model)
        self._sample_gradients = (
            None if self._model is None else SampleGradients(self._model, spec.grad_norm_every)
        )
        self._telemetry = Telemetry(bin_edges, scales_loss=spec.precision == "fp16")
        sampler = make_timestep_sampler(
            spec, schedule.log_snr, torch.Generator(), torch.device("cpu")
        )
        self._facts = TrialFacts(
            max_train_steps=spec.max_train_steps,
            lr_warmup_steps=lr_warmup_steps(
                spec.lr_warmup_steps, spec.lr_warmup_fraction, spec.max_train_steps
            ),
            report_every=spec.report_every,
            clipping="none",
            max_grad_norm=None,
            batch_numbers=self._num_dimensions,
            skips_nonfinite=spec.nonfinite_gradients == "skip",
            bin_edges=bin_edges,
            bin_share=bin_shares(
                sampler.probabilities().numpy() * timestep_weights(spec, schedule), bin_edges
            ),
            reference=curves.in_bins(bin_edges),
            learning_rate=spec.learning_rate,
            lr_schedule=spec.lr_schedule,
            optimizer=optimizer,
            prediction_type=spec.prediction_type,
            ema_schedule=_ema_schedule(ema_model, settings, spec),
            ema_decay=spec.ema_decay,
            ema_sigma_rel=None if ema_model is None else spec.ema_sigma_rel,
            eval_rows=max(1, spec.eval_samples // spec.num_timestep_bins),
            terminal_kl=schedule.terminal_kl(statistics.second_moment),
            # Of the tables that the loop itself uses nothing is known.
            schedule_error=0.0,
        )
        self.step = 0
        """Optimizer steps observed so far."""
        self._open: _OpenStep | None = None
        self._num_clips = 0
        """Steps since the last report that clipped, or told of a norm."""
        self._reported_step = self._evaluated_step = self._probed_step = 0
        self._judge: Judge | None = None
        self._started_at: float | None = None
        self._seconds_before = 0.0
        self._reports: list[Report] = []
        self._verdicts: list[Verdict] = []
        self._unmeasured: dict[torch.device, ClipRecord] = {}

    # --- in every step ------------------------------------------------------------------------

    def observe(self, timesteps: Tensor, losses: Tensor) -> None:
        """Take in a batch: its timesteps ``[B]`` and every sample's own loss ``[B]``.

        The losses are mean squared errors over the example's numbers, in the space of the
        prediction type, without any weight; whatever is optimised. Batches may differ in size.
        """
        _check_batch(timesteps, losses)
        if timesteps.device.type == "cpu":  # elsewhere the report looks: it waits for the device
            for found in (timesteps.numpy().min(), timesteps.numpy().max()):
                if not 0 <= found < self._num_timesteps:
                    raise self._outside(f"observe: timestep {found}")
        if self._open is None or len(self._open.losses) == self._micro_batches:
            self._close_step()
            self._open = _OpenStep()
            self.step += 1
            if self._started_at is None:
                self._started_at = time.perf_counter()
        # Copies: a loop may go on to work in place, or keep its batches in the same memory.
        self._open.timesteps.append(timesteps.detach().clone())
        self._open.losses.append(losses.detach().clone())

    def clip(self, parameters: Tensor | Iterable[Tensor], max_norm: float | None = None) -> Tensor:
        """Scale all gradients so that their joint 2-norm is at most ``max_norm``; None: only look.

        Call it after ``observe`` and ``backward`` (and ``scaler.unscale_``), before the optimizer.
        Returns the norm before clipping, as ``torch.nn.utils.clip_grad_norm_`` does. Unlike there,
        gradients whose norm is NaN or Inf are left as they are: no step should be taken with them.
        """
        _check_limit(max_norm)
        step = self._step_to_clip()
        owners: list[Any] = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        if all(p.grad is None for p in owners):
            raise ValueError("no parameter has a gradient; call clip after backward.")
        clipper = Unclipped(owners) if max_norm is None else GlobalNorm(owners, max_norm, 2.0)
        step.clip = clipper.clip()
        self._note_limit(max_norm)
        return step.clip.grad_norm

    def observe_norm(self, grad_norm: Tensor | float, max_norm: float | None = None) -> None:
        """In the place of ``clip``, where something else has clipped to ``max_norm``.

        Accelerate, FSDP and DeepSpeed have their own; ``grad_norm`` is the total 2-norm before.
        """
        _check_limit(max_norm)
        step = self._step_to_clip()
        norm = torch.as_tensor(grad_norm).detach()
        norm = (norm.full_tensor() if hasattr(norm, "full_tensor") else norm).clone()
        coef = torch.ones_like(norm)
        if max_norm is not None:
            coef = (max_norm / norm.nan_to_num(nan=0.0, posinf=0.0)).clamp(max=1.0)
        device = step.losses[0].device
        step.clip = ClipRecord(norm.to(device), coef.to(device), (coef < 1).to(device))
        self._note_limit(max_norm)

    @contextlib.contextmanager
    def sample_gradients(self, loss_scale: float | None = None) -> Iterator[None]:
        """Measure the gradient norm of single samples, every ``grad_norm_every`` steps.

        Forward, ``observe`` and the backward of the samples' mean loss belong inside; the other
        steps cost nothing. Needs ``model``. ``loss_scale`` is what the loss was multiplied by.
        """
        if self._sample_gradients is None or self._micro_batches > 1:
            raise ValueError("sample_gradients needs Monitor(model=...), and steps of one batch.")
        done = self.step
        with self._sample_gradients.capture(done):
            yield
        if not self._sample_gradients.is_due(done):
            return
        if self._open is None or self.step != done + 1:
            raise RuntimeError("call observe inside of sample_gradients, once.")
        self._open.squared_grad_norms = self._sample_gradients.squared_norms(
            done,
            len(self._open.losses[0]),
            None if loss_scale is None else torch.tensor(loss_scale),
            self._no_probe,
        )

    # --- between steps ------------------------------------------------------------------------

    def report(self, *, learning_rate: float | None = None) -> JudgedReport | None:
        """The window's numbers and what they say, if a report is due; else None.

        Due is one every ``report_every`` steps, and at the end of the budget. Call it after the
        optimizer's step. ``learning_rate`` is the last step's, for a schedule that the settings
        cannot name.

        Raises RuntimeError if nothing was observed, or some steps were clipped and others not.
        """
        if self.step == 0:
            raise RuntimeError("nothing to report: observe has not been called yet.")
        if not self._is_due():
            return None
        first, has_norms = self._reported_step, self._has_norms()
        batch_size = sum(map(len, self._open.losses)) if self._open else 1
        self._close_step()
        try:
            window = self._telemetry.read()
        except IndexError:
            raise self._outside("a timestep") from None
        self._reported_step, self._num_clips = self.step, 0
        if self._judge is None:
            self._begin_judging(has_norms, batch_size)
        assert self._judge is not None
        evaluation = self._evaluation_if_due()
        if learning_rate is None:
            learning_rate = self._learning_rate()
        judged = self._judge.judge(
            window_report(
                window,
                first_step=first,
                learning_rate=learning_rate,
                train_seconds=self._train_seconds(),
                evaluation=evaluation,
                frozen_parameters=self._frozen_if_due(evaluation),
                has_norms=has_norms,
            )
        )
        self._reports.append(judged.report)
        self._verdicts += judged.verdicts
        return judged

    def evaluate(self) -> Evaluation:
        """Held-out loss now, on a fixed grid; reports hold one every ``eval_every`` steps.

        Raises RuntimeError without ``model`` and ``held_out``.
        """
        return self._evaluate(shuffles_timesteps=False)

    @property
    def should_stop(self) -> bool:
        """Whether a verdict so far asks to stop."""
        return bool(self.stop_reason)

    @property
    def stop_reason(self) -> str:
        """The first such verdict in words, with its advice; empty without one."""
        prune = self._prune()
        return f"{prune.rule}: {prune.reason}. {prune.advice}" if prune else ""

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """All of them so far."""
        return tuple(self._verdicts)

    @property
    def reports(self) -> tuple[Report, ...]:
        """All of them so far, those of a state that was loaded included."""
        return tuple(self._reports)

    @property
    def facts(self) -> TrialFacts:
        """What the reports are judged by; complete from the first report on."""
        remark = self._sample_gradients.remark if self._sample_gradients else ""
        is_known = remark in self._facts.remarks or not remark
        remarks = self._facts.remarks if is_known else (*self._facts.remarks, remark)
        return replace(self._facts, remarks=remarks)

    def save(self, path: str | Path) -> None:
        """Write a study of this one trial: ``stabsearch explain PATH`` and ``load`` read it.

        May be called again as training goes on. Raises ResultsError for a folder that holds
        something else, EnvironmentProblem for one that cannot be written, and RuntimeError before
        the first report.
        """
        if not self._reports:
            raise RuntimeError("nothing to save yet: no report has been made.")
        # Imported here: a loop that only watches reads no Parquet.
        from stabsearch.results.store import SAVED_TO_A_PATH, StudyStore
        from stabsearch.search.ledger import LiveTrial

        path = Path(path).expanduser().absolute()
        params: Params = {
            "learning_rate": self._spec.learning_rate,
            "max_grad_norm": self._facts.max_grad_norm,
        }
        study = self._study(path, params)
        asked = study.model_dump(mode="json")
        # A loop that trained its whole budget past a prune had no gate: a replay must not say
        # that it was stopped. The fingerprint is without that: it is one study from first to last.
        outcome, stopped_by = self._outcome()
        asked["scheduler"]["gate"] = outcome is not Outcome.COMPLETED or self._prune() is None
        store = StudyStore(path, SAVED_TO_A_PATH)
        if store.create(asked, study.fingerprint()):
            store.take_over(asked, study.fingerprint())
        trial = LiveTrial(
            trial_id="0000-0",
            setting=0,
            seed=0,
            params=params,
            max_train_steps=self._spec.max_train_steps,
            facts=self.facts,
            reports={report.step: report for report in self._reports},
            verdicts={(v.rule, v.symptom, v.severity): v for v in self._verdicts},
            attempts=1,
            started_at=time.time() - self._train_seconds(),
        )
        store.write_trial_tables("0000-0", self.facts, self._reports, self._verdicts)
        store.write_trials([trial.record(outcome, stopped_by)])

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: plain values and tensors. To be taken right after a report."""
        if self._open is not None or self.step != self._reported_step:
            raise RuntimeError("take state_dict right after a report, before the next observe.")
        return {
            "made_with": self._made_with(),
            "step": self.step,
            "evaluated_step": self._evaluated_step,
            "probed_step": self._probed_step,
            "train_seconds": self._train_seconds(),
            "telemetry": self._telemetry.state_dict(),
            "judge": self._judge.state_dict() if self._judge else None,
            "learned": {name: getattr(self._facts, name) for name in _LEARNED_FACTS},
            "frozen": self._frozen.state_dict() if self._frozen else None,
            "reports": [_plain_report(report) for report in self._reports],
            "verdicts": [_plain(verdict) for verdict in self._verdicts],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there, with all reports and verdicts until then.

        Raises ValueError for what is no such state, or that of a monitor whose reports do not fit
        those of this one.
        """
        self._check_state(state)
        self.step = self._reported_step = state["step"]
        self._evaluated_step, self._probed_step = state["evaluated_step"], state["probed_step"]
        self._seconds_before, self._started_at = state["train_seconds"], None
        self._telemetry.load_state_dict(state["telemetry"])
        learned = state["learned"]
        self._facts = replace(self._facts, **learned | {"remarks": tuple(learned["remarks"])})
        if state["judge"] is not None:
            self._judge = make_judge(self._analyzer.model_dump(), self._facts)
            self._judge.load_state_dict(state["judge"])
        if self._frozen is not None and state["frozen"] is not None:
            self._frozen.load_state_dict(state["frozen"])
        self._reports = [_report_of(plain) for plain in state["reports"]]
        self._verdicts = [_verdict_of(plain) for plain in state["verdicts"]]

    # --- how ----------------------------------------------------------------------------------

    def _made_with(self) -> dict[str, Any]:
        """What must be the same before and after a resume."""
        return {
            "num_train_timesteps": self._num_timesteps,
            "num_timestep_bins": self._spec.num_timestep_bins,
            "analyzer.name": self._analyzer.name,
        }

    def _check_state(self, state: Any) -> None:
        if not isinstance(state, Mapping) or "made_with" not in state:
            raise ValueError(
                f"load_state_dict: this {type(state).__name__} is no state of a Monitor. Pass "
                "what state_dict() of this version of stabsearch returned."
            )
        for name, here in self._made_with().items():
            there = state["made_with"][name]
            if there != here:
                raise ValueError(
                    f"load_state_dict: {name} is {there} in the state and {here} in this monitor. "
                    "Make the monitor as the one was made that the state is of."
                )

    def _outside(self, found: str) -> ValueError:
        last = self._num_timesteps - 1
        return ValueError(
            f"{found} is outside of 0 .. {last}; the noise schedule has {self._num_timesteps}. "
            "Number them from 0: subtract 1 where they run from 1."
        )

    def _step_to_clip(self) -> _OpenStep:
        if self._open is None:
            raise RuntimeError("observe comes before clip: each step is observed first.")
        if self._open.clip is not None:
            raise RuntimeError("the step was clipped already; call clip once per step.")
        self._num_clips += 1
        return self._open

    def _note_limit(self, max_norm: float | None) -> None:
        """The first ``max_norm`` is the run's; one that changes is not judged by."""
        if self._judge is None and max_norm is not None and self._facts.max_grad_norm is None:
            self._facts = replace(
                self._facts, clipping="global_norm", max_grad_norm=float(max_norm)
            )

    def _close_step(self) -> None:
        """The step that was open is complete."""
        step, self._open = self._open, None
        if step is None:
            return
        self._telemetry.observe(
            StepRecord(
                _joined(step.timesteps),
                _joined(step.losses),
                step.clip or self._unmeasured_on(step.losses[0].device),
                None,
                step.squared_grad_norms,
            )
        )

    def _unmeasured_on(self, device: torch.device) -> ClipRecord:
        """Stands for a norm that nobody measured: not NaN, which would be a finding."""
        if device not in self._unmeasured:
            zero, one = torch.zeros((), device=device), torch.ones((), device=device)
            self._unmeasured[device] = ClipRecord(zero, one, zero > 0)
        return self._unmeasured[device]

    def _has_norms(self) -> bool:
        steps = self.step - self._reported_step
        if 0 < self._num_clips < steps:
            raise RuntimeError(
                f"clip was called in {self._num_clips} of {steps} steps; call it in every step "
                "(max_norm=None only looks), or in none."
            )
        return self._num_clips > 0

    def _is_due(self) -> bool:
        if self._open is None or len(self._open.losses) < self._micro_batches:
            return False
        steps = self.step - self._reported_step
        return steps >= self._spec.report_every or self.step == self._spec.max_train_steps

    def _begin_judging(self, has_norms: bool, batch_size: int) -> None:
        remark = "Gradient norms were not measured: the training loop never called clip."
        self._facts = replace(
            self._facts,
            batch_numbers=batch_size * self._num_dimensions,
            remarks=self._facts.remarks if has_norms else (*self._facts.remarks, remark),
        )
        self._judge = make_judge(self._analyzer.model_dump(), self._facts)

    def _evaluation_if_due(self) -> Evaluation | None:
        every = self._spec.eval_every
        is_due = self.step // every > self._evaluated_step // every
        if self._make_grid is None or not (is_due or self.step == self._spec.max_train_steps):
            return None
        self._evaluated_step = self.step
        return self._evaluate(shuffles_timesteps=self._is_probe_due())

    def _evaluate(self, *, shuffles_timesteps: bool) -> Evaluation:
        if self._make_grid is None or self._model is None:
            raise RuntimeError("an evaluation needs Monitor(model=..., held_out=...).")
        device = next(self._model.parameters()).device
        if self._grid is None:
            self._grid = self._make_grid(device)
        dtype = AUTOCAST_DTYPES[self._spec.precision]
        return self._grid.evaluate(
            self._model,
            self._averages,
            torch.autocast(device.type, dtype=dtype, enabled=dtype is not None),
            shuffles_timesteps=shuffles_timesteps,
        )

    def _frozen_if_due(self, evaluation: Evaluation | None) -> tuple[str, ...]:
        """At the probes' times; with an evaluation where there are any."""
        if self._frozen is None or not self._is_probe_due():
            return ()
        if evaluation is None and self._make_grid is not None:
            return ()
        self._probed_step = self.step
        return self._frozen.names()

    def _is_probe_due(self) -> bool:
        budget = self._spec.max_train_steps
        return any(self._probed_step < share * budget <= self.step for share in TIMESTEP_PROBES_AT)

    def _no_probe(self) -> Tensor:
        """Only the Trainer can run the model's loss again."""
        assert self._sample_gradients is not None
        reason = self._sample_gradients.remark.partition("because ")[2].rstrip(".")
        raise ValueError(reason)

    def _learning_rate(self) -> float:
        step = min(self.step, self._spec.max_train_steps) - 1
        return self._spec.learning_rate * lr_factor(
            step, self._spec.lr_schedule, self._facts.lr_warmup_steps, self._spec.max_train_steps
        )

    def _train_seconds(self) -> float:
        began = self._started_at
        return self._seconds_before + (0.0 if began is None else time.perf_counter() - began)

    def _prune(self) -> Verdict | None:
        return next((v for v in self._verdicts if v.severity is Severity.PRUNE), None)

    def _study(self, path: Path, params: Params) -> StudySpec:
        """A study that tried one setting, in a space of an octave around it."""
        rate = self._spec.learning_rate
        try:
            return StudySpec.model_validate(
                {
                    "name": path.name,
                    "storage": str(path.parent),
                    "space": params | {"learning_rate": {"log_uniform": [rate / 2, 2 * rate]}},
                    "trainer": self._spec.model_dump(),
                    "analyzer": self._analyzer.model_dump(),
                    "trials": 1,
                }
            )
        except ValidationError as error:
            problems = problems_of(error, StudySpec)
            raise SpecError("\n".join(map(str, problems))) from error

    def _outcome(self) -> tuple[Outcome, StoppedBy]:
        """As a search would call it."""
        prune = self._prune()
        if self.step >= self._spec.max_train_steps:
            return Outcome.COMPLETED, StoppedBy.NOBODY
        if prune is None:
            return Outcome.RUNNING, StoppedBy.NOBODY
        is_divergence = prune.symptom.is_divergence
        return Outcome.DIVERGED if is_divergence else Outcome.STOPPED, StoppedBy.GATE


_LEARNED_FACTS = ("clipping", "max_grad_norm", "batch_numbers", "remarks")
"""Facts that come with the first window."""


def _plain(record: Report | Evaluation | Verdict) -> dict[str, Any]:
    """Field by field, not as ``dataclasses.asdict``, which copies every number of it."""
    values: dict[str, Any] = {f.name: getattr(record, f.name) for f in fields(record)}
    # torch.load reads no class of ours.
    return {name: v.value if isinstance(v, Enum) else v for name, v in values.items()}


def _plain_report(report: Report) -> dict[str, Any]:
    evaluation = report.evaluation
    return _plain(report) | {"evaluation": None if evaluation is None else _plain(evaluation)}


def _report_of(plain: Mapping[str, Any]) -> Report:
    evaluation = plain["evaluation"]
    evaluated = None if evaluation is None else Evaluation(**evaluation)
    return Report(**{**plain, "evaluation": evaluated})


def _verdict_of(plain: Mapping[str, Any]) -> Verdict:
    symptom, severity = Symptom(plain["symptom"]), Severity(plain["severity"])
    return Verdict(**{**plain, "symptom": symptom, "severity": severity})


class _Averages:
    """A second model's weights, by name, as an evaluation asks for them."""

    def __init__(self, ema_model: nn.Module) -> None:
        self._model = ema_model

    def tensors(self) -> dict[str, Tensor]:
        return {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}


def _checked(
    settings: dict[str, Any], noise_schedule: Schedule
) -> tuple[TrainerSpec, NoiseSchedule]:
    """The settings as a study's trainer, and the schedule. Raises SpecError."""
    named = {"max_train_steps", "learning_rate", "prediction_type"}
    for name in settings.keys() - SETTINGS - named:
        raise SpecError(f"{name}: not a setting of Monitor. {did_you_mean(name, SETTINGS)}")
    report_every = settings.get("report_every", TrainerSpec.model_fields["report_every"].default)
    if all(isinstance(n, int) and n > 0 for n in (report_every, settings["max_train_steps"])):
        report_every = min(report_every, settings["max_train_steps"])
        settings.setdefault("report_every", report_every)
        settings.setdefault("eval_every", EVALUATE_EVERY * report_every)
    settings.setdefault("lr_warmup_fraction", 0.0)
    schedule = _given_schedule(noise_schedule)
    if schedule is None:
        settings["noise_schedule"] = _schedule_section(noise_schedule)
    else:
        settings["noise_schedule"] = {"num_train_timesteps": schedule.num_train_timesteps}
    try:
        spec = TrainerSpec.model_validate(settings)
    except ValidationError as error:
        raise SpecError("\n".join(map(str, problems_of(error, TrainerSpec)))) from error
    return spec, schedule or load_schedule(spec.noise_schedule)


def _checked_analyzer(settings: Mapping[str, Any]) -> AnalyzerSpec:
    try:
        return AnalyzerSpec.model_validate(dict(settings))
    except ValidationError as error:
        problems = problems_of(error, AnalyzerSpec)
        raise SpecError("\n".join(f"analyzer.{problem}" for problem in problems)) from error


def _schedule_section(noise_schedule: Any) -> Any:
    if noise_schedule == "flow_matching":
        return {"kind": "flow_matching"}
    if isinstance(noise_schedule, str):
        if noise_schedule not in BETA_SCHEDULES:
            names = [*BETA_SCHEDULES, "flow_matching"]
            raise SpecError(
                f"noise_schedule: {noise_schedule!r} is not known. "
                f"{did_you_mean(noise_schedule, names, 'schedules')}"
            )
        return {"beta_schedule": noise_schedule}
    return noise_schedule


def _given_schedule(noise_schedule: Any) -> NoiseSchedule | None:
    """A schedule that is there already; None for one to be made by its name."""
    if isinstance(noise_schedule, NoiseSchedule):
        return noise_schedule
    if not isinstance(noise_schedule, (Tensor, np.ndarray)):
        return None
    if isinstance(noise_schedule, Tensor):
        noise_schedule = noise_schedule.detach().cpu().double().numpy()
    alphas_cumprod = np.asarray(noise_schedule, dtype=np.float64)
    is_falling = alphas_cumprod.ndim == 1 and len(alphas_cumprod) > 1
    is_falling = is_falling and bool(np.all(np.diff(alphas_cumprod) <= 0))
    if not (is_falling and alphas_cumprod[0] < 1 and alphas_cumprod[-1] >= 0):
        raise ValueError(
            "noise_schedule: a tensor must be alphas_cumprod[T], falling, below 1 and not below 0 "
            f"(not betas); this one has shape {list(alphas_cumprod.shape)}."
        )
    return NoiseSchedule(signal=np.sqrt(alphas_cumprod), sigma=np.sqrt(1 - alphas_cumprod))


def _statistics(data: Any) -> tuple[DataStatistics, NDArray[np.float32] | None]:
    """What the references need of the data, and its held-out part if it has one."""
    if isinstance(data, PreparedData):
        return data.statistics, data.dataset.held_out
    if isinstance(data, DataStatistics):
        return data, None
    examples = _examples(data, "data")
    if not np.ptp(examples.reshape(len(examples), -1), axis=0).any():
        raise ValueError("data: all examples are equal; there is nothing to learn.")
    check_scale(examples, "data: the array")
    return data_statistics(examples), None


def _examples(data: Any, name: str) -> NDArray[np.float32]:
    if isinstance(data, Tensor):
        data = data.detach().cpu().float().numpy() if data.is_floating_point() else data.numpy()
    array = np.asarray(data)
    if not np.issubdtype(array.dtype, np.floating) or array.ndim < 2 or len(array) < 2:
        raise ValueError(
            f"{name}: must be floating-point examples [N, ...], scaled as the model sees them; "
            f"found {array.dtype} of shape {list(array.shape)}."
        )
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: holds NaN or Inf; clean it before training on it.")
    return array.astype(np.float32, copy=False)


def _check_batch(timesteps: Tensor, losses: Tensor) -> None:
    """Of shapes and types only: to look at values would wait for the device."""
    kinds = {"timesteps": type(timesteps), "losses": type(losses)}
    for name in [name for name, kind in kinds.items() if not issubclass(kind, Tensor)]:
        raise ValueError(
            f"observe: {name} are given as {kinds[name].__name__}; they must be a tensor [B]."
        )
    if losses.dim() != 1 or timesteps.shape != losses.shape or not len(losses):
        raise ValueError(
            f"observe: timesteps {list(timesteps.shape)} and losses {list(losses.shape)} must "
            "both be [B], one loss per sample: ((prediction - target) ** 2).flatten(1).mean(1)."
        )
    if timesteps.is_floating_point() or timesteps.is_complex() or timesteps.dtype == torch.bool:
        raise ValueError(
            f"observe: timesteps are {timesteps.dtype}; they must be whole numbers 0 .. T-1. For "
            "continuous times t in [0, 1) pass (t * T).long()."
        )


def _check_limit(max_norm: Any) -> None:
    """The same as of a study's ``max_grad_norm``."""
    if max_norm is None or (isinstance(max_norm, Real) and 0 < float(max_norm) < math.inf):
        return
    raise ValueError(
        f"max_norm is {max_norm!r}; it must be a finite number above 0. Use None for no clipping: "
        "the norm is then only looked at."
    )


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model itself: without torch.compile, DistributedDataParallel or AveragedModel."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(
            model, (nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)
        ):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _averages(model: nn.Module | None, ema_model: nn.Module | None) -> _Averages | None:
    if ema_model is None:
        return None
    if model is None:
        raise ValueError("ema_model is evaluated beside the model: pass model=... as well.")
    ema_model = _unwrapped(ema_model)
    names, averaged = (
        {name for name, _ in itertools.chain(m.named_parameters(), m.named_buffers())}
        for m in (model, ema_model)
    )
    if names != averaged:
        raise ValueError(
            f"ema_model has other weights than model, such as {min(names ^ averaged)!r}; it must "
            "be the same model with averaged weights."
        )
    return _Averages(ema_model)


def _ema_schedule(
    ema_model: nn.Module | None, settings: Mapping[str, Any], spec: TrainerSpec
) -> str | None:
    if ema_model is None:
        return None
    return spec.ema_schedule if "ema_schedule" in settings else UNKNOWN_EMA


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
