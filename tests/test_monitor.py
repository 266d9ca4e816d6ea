from __future__ import annotations

import copy
import itertools
import json
import math
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import stabsearch
from stabsearch.cli.main import app
from stabsearch.diffusion.noise_schedule import make_noise_schedule
from stabsearch.diffusion.prepared_data import prepare_data
from stabsearch.diffusion.reference_loss import data_statistics
from stabsearch.errors import EnvironmentProblem, ResultsError, SpecError
from stabsearch.monitor import SETTINGS, Monitor
from stabsearch.records import Outcome, Severity, Symptom
from stabsearch.results.frames import load
from stabsearch.results.store import StudyStore
from stabsearch.spec import DataSpec, TrainerSpec
from stabsearch.stability.judges import make_judge
from stabsearch.stability.replay import Ending
from stabsearch.training.batches import Batches
from stabsearch.training.ema import make_ema
from stabsearch.training.lr_schedule import lr_factor
from stabsearch.training.optimizers import make_optimizer
from stabsearch.training.trainer import Trainer, build_model, make_objective
from tests.training.host_reads import NoHostReads

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_loop.py"
STEPS = 200


@pytest.fixture(scope="module")
def data():
    return prepare_data(DataSpec())


@pytest.fixture(scope="module")
def statistics(data):
    return data.statistics


@pytest.fixture(scope="module")
def make(statistics):
    def make(**settings):
        fields = {"max_train_steps": STEPS, "learning_rate": 1e-3, "report_every": 10}
        return Monitor(statistics, **fields | settings)

    return make


def batch(size=128, loss=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    timesteps = torch.randint(1000, (size,), generator=generator)
    return timesteps, torch.full((size,), float(loss))


def run(monitor, losses, norms=None):
    """Reports on a run with these batch losses and norms, one a step."""
    norms = itertools.repeat(None) if norms is None else norms
    judged = []
    for i, (loss, norm) in enumerate(zip(losses, norms, strict=False)):
        monitor.observe(*batch(loss=loss, seed=i))
        if norm is not None:
            monitor.observe_norm(norm, max_norm=1.0)
        judged.append(monitor.report())
    return [one for one in judged if one is not None]


# --- the same as the Trainer ------------------------------------------------------------------


def train_by_hand(spec, data, **settings):
    """The Trainer's steps, written out, with a monitor beside them."""
    schedule = make_noise_schedule()
    images = torch.from_numpy(data.dataset.train)
    torch.manual_seed(0)
    model = build_model(spec, (1, 8, 8)).train()
    optimizer = make_optimizer(spec, list(model.parameters()))
    ema, ema_model = make_ema(model, spec), copy.deepcopy(model)
    batches = Batches(spec, len(images), schedule.log_snr, 0, torch.device("cpu"))
    objective = make_objective(spec, schedule, torch.device("cpu"))
    monitor = Monitor(
        data,
        model=model,
        ema_model=ema_model,
        max_train_steps=spec.max_train_steps,
        learning_rate=spec.learning_rate,
        prediction_type=spec.prediction_type,
        **{name: getattr(spec, name) for name in SETTINGS},
        **settings,
    )
    judged = []
    for step in range(spec.max_train_steps):
        warmup = monitor.facts.lr_warmup_steps
        for group in optimizer.param_groups:
            group["lr"] = spec.learning_rate * lr_factor(
                step, spec.lr_schedule, warmup, spec.max_train_steps
            )
        drawn = batches.next()
        x0 = images[drawn.indices]
        noise = batches.noise_like(x0)
        x_t, target = objective.noised_and_target(x0, drawn.timesteps, noise)
        with monitor.sample_gradients():
            error = model(x_t, drawn.timesteps) - target
            losses = error.square().flatten(1).mean(1)
            monitor.observe(drawn.timesteps, losses)
            optimizer.zero_grad()
            losses.mean().backward()
        monitor.clip(model.parameters(), spec.max_grad_norm)
        optimizer.step()
        ema.update(step + 1)
        ema_model.load_state_dict(ema.state_dict(), strict=False)
        judged.append(monitor.report())
    return monitor, [one for one in judged if one is not None]


@pytest.mark.parametrize("learning_rate", [3e-3, 0.3], ids=["sound", "diverging"])
def test_a_loop_by_hand_reports_and_is_judged_as_the_trainer_is(learning_rate, data):
    spec = TrainerSpec(
        learning_rate=learning_rate, lr_schedule="cosine", max_train_steps=STEPS, device="cpu"
    )
    trainer = Trainer(spec, 0, data)
    judge = make_judge({}, trainer.facts)
    theirs = []
    while not trainer.is_finished:
        theirs.append(judge.judge(trainer.train_window()))
    monitor, ours = train_by_hand(spec, data)

    assert len(ours) == len(theirs) == STEPS / spec.report_every
    for our, their in zip(ours, theirs, strict=True):
        expected = replace(their.report, train_seconds=0.0, bin_grad_cosine=None)
        report = replace(our.report, train_seconds=0.0)

        assert repr(report) == repr(expected)  # NaN included
        assert repr(our.verdicts) == repr(their.verdicts)
    assert monitor.should_stop == (learning_rate == 0.3)
    assert monitor.facts == replace(trainer.facts, schedule_error=0.0)


# --- what a loop hands over -------------------------------------------------------------------


def test_a_step_reads_nothing_back_from_the_device(make):
    monitor = make()
    model = nn.Linear(4, 4)
    with NoHostReads():
        for seed in range(10):
            monitor.observe(*batch(seed=seed))
            model(torch.ones(2, 4)).sum().backward()
            monitor.clip(model.parameters(), max_norm=1.0)

    assert monitor.report() is not None


def test_clip_does_what_torch_does_and_returns_the_norm_before(make):
    models = [nn.Linear(4, 4), nn.Linear(4, 4)]
    models[1].load_state_dict(models[0].state_dict())
    for model in models:
        model(torch.ones(2, 4)).square().sum().backward()
    monitor = make()
    monitor.observe(*batch())
    norm = monitor.clip(models[0].parameters(), max_norm=0.1)
    expected = torch.nn.utils.clip_grad_norm_(models[1].parameters(), 0.1)

    assert norm == pytest.approx(expected.item())
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-4)


def test_batches_may_differ_in_size(make):
    monitor = make(num_timestep_bins=2)
    for _ in range(9):
        monitor.observe(torch.tensor([0, 0, 0, 999]), torch.tensor([1.0, 1.0, 1.0, 3.0]))
    monitor.observe(torch.tensor([0, 999]), torch.tensor([2.0, 3.0]))
    report = monitor.report().report

    assert report.batch_losses == (*[1.5] * 9, 2.5)
    assert report.bin_count == (28, 10)
    assert report.bin_loss == pytest.approx((29 / 28, 3.0))


def test_micro_batches_make_one_step(make):
    monitor = make(num_timestep_bins=2, micro_batches=2)
    for _ in range(10):
        monitor.observe(torch.tensor([0, 0, 999]), torch.tensor([1.0, 2.0, 4.0]))
        assert monitor.report() is None
        monitor.observe(torch.tensor([999]), torch.tensor([5.0]))
        monitor.observe_norm(2.0, max_norm=1.0)
    report = monitor.report().report

    assert (report.step, report.batch_losses) == (10, (3.0,) * 10)
    assert report.bin_count == (20, 20)
    assert (report.clip_rate, report.clip_coef_mean) == (1.0, 0.5)


def test_what_a_loop_does_with_its_tensors_later_changes_nothing(make):
    monitor = make()
    timesteps, losses = batch(loss=0.5)
    for _ in range(10):
        losses.fill_(0.5)
        monitor.observe(timesteps, losses)
        losses.mul_(7)

    assert set(monitor.report().report.batch_losses) == {0.5}


def test_a_late_report_covers_the_steps_since_the_last(make):
    monitor = make()
    for seed in range(37):
        monitor.observe(*batch(seed=seed))
    report = monitor.report().report

    assert (report.step, len(report.batch_losses)) == (37, 37)
    assert monitor.report() is None


def test_the_budgets_last_steps_are_reported(make):
    judged = run(make(max_train_steps=25), [0.5] * 25)

    assert [one.report.step for one in judged] == [10, 20, 25]


# --- verdicts ---------------------------------------------------------------------------------


def test_a_diverging_run_is_stopped_with_a_reason(make):
    monitor = make()
    judged = run(monitor, [*np.linspace(1, 0.15, 60), *[0.9] * 60], itertools.repeat(1.0))

    assert monitor.should_stop
    assert monitor.stop_reason.startswith("R1b: lost")
    assert any(v.severity is Severity.PRUNE for v in judged[-4].verdicts + judged[-5].verdicts)


def test_a_nan_is_named_with_its_step_and_timesteps(make):
    monitor = make()
    for step in range(1, 11):
        timesteps, losses = batch(seed=step)
        if step == 7:
            timesteps[3], losses[3] = 850, math.nan
        monitor.observe(timesteps, losses)
        monitor.observe_norm(math.nan if step == 7 else 1.0)
    (verdict,) = monitor.report().verdicts

    assert (verdict.symptom, verdict.step) == (Symptom.NON_FINITE, 7)
    assert (verdict.timestep_low, verdict.timestep_high) == (800, 899)
    assert monitor.should_stop


@pytest.mark.parametrize(
    ("settings", "severity"),
    [
        ({}, Severity.PRUNE),
        ({"nonfinite_gradients": "skip"}, Severity.WARN),
        ({"precision": "fp16"}, None),
    ],
    ids=["stop", "skip", "loss scaling"],
)
def test_a_gradient_that_is_not_finite(make, settings, severity):
    """A loss scaler overflows as part of its work."""
    judged = run(make(**settings), [0.5] * 10, [*[1.0] * 9, math.inf])

    assert [v.severity for v in judged[0].verdicts] == ([] if severity is None else [severity])


def test_norms_that_nobody_measured_are_no_finding(make):
    monitor = make()
    judged = run(monitor, np.geomspace(1, 0.16, STEPS))
    report = judged[-1].report

    assert report.grad_norms == ()
    assert report.nonfinite_steps == 0
    for value in (
        report.grad_norm_median, report.grad_norm_max, report.clip_rate, report.clip_coef_mean,
        report.clip_coef_cv, report.outlier_norm_rate,
    ):  # fmt: skip
        assert math.isnan(value)
    assert report.bin_grad_count == (0,) * 10
    assert report.evaluation is None
    assert [v for v in monitor.verdicts if v.severity > Severity.WARN] == []
    assert "never called clip" in monitor.facts.remarks[0]


def test_the_limit_and_the_batch_are_told_to_the_rules(make, statistics):
    monitor = make()
    run(monitor, [0.5] * 10, itertools.repeat(0.7))

    assert (monitor.facts.clipping, monitor.facts.max_grad_norm) == ("global_norm", 1.0)
    assert monitor.facts.batch_numbers == 128 * statistics.num_dimensions


def test_thresholds_and_judges_are_those_of_a_study(make):
    losses = [*np.linspace(1, 0.15, 60), *[0.5] * 60]
    strict, deaf, other = (
        make(analyzer={"thresholds": {"R1b.prune": 0.3}}),
        make(analyzer={"preset": "lenient", "thresholds": {"R1b.prune": 0.9}}),
        make(analyzer={"name": "lightning"}),
    )
    for monitor in (strict, deaf):
        run(monitor, losses, itertools.repeat(1.0))
    run(other, [*losses[:60], *[2.0] * 10], itertools.repeat(1.0))

    assert "R1b" in strict.stop_reason
    assert not deaf.should_stop
    assert other.stop_reason.startswith("lightning: loss 2, beside a mean of 0.2")


# --- with a model -----------------------------------------------------------------------------


class Scale(nn.Module):
    """Predicts the input times a number; the second weight is never used."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1))
        self.unused = nn.Parameter(torch.zeros(2, 2))

    def forward(self, x_t, timesteps):
        return self.weight * x_t


def with_model(make, data, model, **settings):
    monitor = make(model=model, report_every=50, **settings)
    for seed in range(STEPS):
        monitor.observe(*batch(seed=seed))
        with torch.no_grad():
            model.weight.add_(1e-4)
        monitor.report()
    return monitor


def test_a_weight_that_never_moves_is_named(make, data):
    monitor = with_model(make, data, Scale())

    (verdict,) = [v for v in monitor.verdicts if v.symptom is Symptom.FROZEN_PARAMETERS]
    assert "unused" in verdict.reason
    assert verdict.step == 50


def test_evaluations_come_with_every_fourth_report_and_the_last(make, data):
    model = Scale()
    held_out = torch.from_numpy(data.dataset.held_out)
    settings = {"held_out": held_out, "ema_model": copy.deepcopy(model), "max_train_steps": 230}
    monitor = make(model=model, **settings)
    judged = run(monitor, [0.5] * 230)
    evaluations = {one.report.step: one.report.evaluation for one in judged}

    assert [s for s, e in evaluations.items() if e] == [40, 80, 120, 160, 200, 230]
    assert [s for s, e in evaluations.items() if e and e.shuffled_loss is not None] == [
        80, 120, 230,
    ]  # fmt: skip
    assert evaluations[40].kappa == 1
    assert evaluations[40].loss_raw == pytest.approx(1, rel=0.05)
    assert monitor.evaluate().bin_loss_raw == evaluations[40].bin_loss_raw


def test_wrapped_models_are_understood(make, data):
    model = Scale()
    average = torch.optim.swa_utils.AveragedModel(model)
    with torch.no_grad():
        average.module.weight.fill_(0.5)
    compiled = torch.compile(model, backend="eager")
    monitor = make(model=compiled, ema_model=average, held_out=data.dataset.held_out)

    evaluation = monitor.evaluate()
    assert evaluation.loss_ema != evaluation.loss_raw


def test_layers_that_ghost_norms_do_not_know_are_a_remark(make):
    model = Scale()
    monitor = make(model=model, report_every=STEPS)
    for seed in range(STEPS):
        with monitor.sample_gradients():
            timesteps, _ = batch(seed=seed)
            losses = model(torch.ones(128, 4), timesteps).square().mean(1)
            monitor.observe(timesteps, losses)
            losses.mean().backward()
    report = monitor.report().report

    assert sum(report.bin_grad_count) == 0
    assert any("not measured: ghost norms do not know" in r for r in monitor.facts.remarks)


# --- inputs -----------------------------------------------------------------------------------


def betas(num=1000):
    return torch.linspace(1e-4, 0.02, num, dtype=torch.float64)


@pytest.mark.parametrize(
    "schedule",
    [
        "linear",
        {"beta_schedule": "linear"},
        make_noise_schedule(),
        (1 - betas()).cumprod(0),
        (1 - betas()).cumprod(0).numpy(),
    ],
    ids=["name", "section", "schedule", "tensor", "array"],
)
def test_a_noise_schedule_may_be_given_in_many_forms(make, schedule):
    expected = make().facts.reference
    reference = make(noise_schedule=schedule).facts.reference

    for name, values in asdict(expected).items():
        assert asdict(reference)[name] == pytest.approx(values, rel=1e-6), name


def test_flow_matching_is_a_schedule_too(make):
    monitor = make(noise_schedule="flow_matching", prediction_type="flow")

    assert monitor.facts.reference.constant > monitor.facts.reference.isotropic


def test_data_may_be_a_tensor_an_array_or_statistics(data):
    settings = {"max_train_steps": 100, "learning_rate": 1e-3}
    arrays = data.dataset.train
    references = [
        Monitor(given, **settings).facts.reference.bin_linear
        for given in (arrays, torch.from_numpy(arrays), data_statistics(arrays), data)
    ]

    assert len(set(references)) == 1


def test_weighting_and_timestep_sampling_say_what_training_is_about(make):
    even, weighted = make().facts.bin_share, make(loss_weighting="min_snr").facts.bin_share

    assert even == pytest.approx((0.1,) * 10)
    assert weighted[0] < weighted[-1]
    assert make(timestep_sampling="log_normal").facts.bin_share[-1] < 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": -1}, "learning_rate: -1"),
        ({"max_train_stepz": 5}, "max_train_stepz: not a setting"),
        ({"report_evry": 5}, "report_every"),
        ({"max_grad_norm": 1.0}, "max_grad_norm: not a setting"),
        ({"prediction_type": "eps"}, "prediction_type"),
        ({"noise_schedule": "liner"}, "linear"),
        ({"analyzer": {"thresholds": {"R1b.prun": 1}}}, "R1b.prune"),
        ({"report_every": 10, "eval_every": 15}, "eval_every"),
    ],
)
def test_a_setting_that_may_not_be(make, settings, message):
    with pytest.raises(SpecError, match=message):
        make(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise_schedule": betas()}, "not betas"),
        ({"noise_schedule": torch.ones(10)}, "alphas_cumprod"),
        ({"held_out": torch.zeros(4, 8)}, "model="),
        ({"ema_model": nn.Linear(2, 2)}, "model="),
        ({"model": nn.Linear(2, 2), "ema_model": Scale()}, "'bias'"),
        ({"model": Scale(), "held_out": torch.zeros(4, 8, dtype=torch.uint8)}, "uint8"),
        ({"micro_batches": 0}, "micro_batches"),
    ],
)
def test_an_argument_that_cannot_be_used(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((10, 3), dtype=np.uint8), "uint8"),
        (np.zeros((10, 3)), "equal"),
        (np.full((10, 3), np.nan), "NaN"),
        (np.zeros(10), "shape \\[10\\]"),
        (np.linspace(0, 254, 640).reshape(10, 64), r"^data: the array has .*x / 127\.5 - 1\.$"),
    ],
)
def test_data_that_no_denoiser_can_be_trained_on(images, message):
    with pytest.raises(ValueError, match=message):
        Monitor(images, max_train_steps=100, learning_rate=1e-3)


@pytest.mark.parametrize(
    ("timesteps", "losses", "message"),
    [
        (torch.zeros(4, dtype=torch.long), torch.tensor(0.5), "one loss per sample"),
        (torch.zeros(4, dtype=torch.long), torch.zeros(3), "one loss per sample"),
        (torch.zeros(4, dtype=torch.long), torch.zeros(4, 8), "one loss per sample"),
        (torch.rand(4), torch.zeros(4), "whole numbers"),
        ([1, 2], [0.1, 0.2], r"timesteps are given as list; they must be a tensor \[B\]"),
        (torch.tensor([1, 2]), np.ones(2), r"losses are given as ndarray"),
        (torch.tensor([1, 1000]), torch.zeros(2), r"timestep 1000 is outside of 0 \.\. 999"),
        (torch.tensor([-1, 5]), torch.zeros(2), r"timestep -1 is outside of 0 \.\. 999"),
    ],
    ids=["mean", "length", "elements", "continuous", "lists", "array", "from one", "negative"],
)
def test_observe_refuses_what_is_no_batch(make, timesteps, losses, message):
    with pytest.raises(ValueError, match=message):
        make().observe(timesteps, losses)


@pytest.mark.parametrize("max_norm", [-1, 0, math.inf, math.nan, "1"])
def test_a_norm_that_cannot_clip_is_refused_and_changes_nothing(make, max_norm):
    weight = nn.Parameter(torch.zeros(3))
    weight.grad = torch.ones(3)
    monitor = make()
    monitor.observe(*batch())
    for call in (
        lambda: monitor.clip([weight], max_norm=max_norm),
        lambda: monitor.observe_norm(1.0, max_norm=max_norm),
    ):
        with pytest.raises(ValueError, match=r"must be a finite number above 0\. Use None for no"):
            call()

    assert weight.grad.tolist() == [1, 1, 1]
    monitor.clip([weight], max_norm=None)  # the step is still open


@pytest.mark.parametrize(("name", "value"), [("max_train_steps", 0), ("report_every", 0)])
def test_a_count_of_zero_is_one_error_about_the_field_that_was_set(make, name, value):
    with pytest.raises(SpecError) as error:
        make(**{name: value})

    assert [line.partition(":")[0] for line in str(error.value).splitlines()] == [name]


def test_calls_in_the_wrong_order_say_so(make):
    model = nn.Linear(2, 2)
    monitor = make()
    with pytest.raises(RuntimeError, match="observe has not been called"):
        monitor.report()
    with pytest.raises(RuntimeError, match="observe comes before clip"):
        monitor.clip(model.parameters(), 1.0)
    with pytest.raises(RuntimeError, match="no report"):
        monitor.save("anywhere")
    monitor.observe(*batch())
    with pytest.raises(ValueError, match="after backward"):
        monitor.clip(model.parameters(), 1.0)
    with pytest.raises(RuntimeError, match="right after a report"):
        monitor.state_dict()
    with pytest.raises(RuntimeError, match="held_out"):
        monitor.evaluate()
    with pytest.raises(ValueError, match="model="), monitor.sample_gradients():
        pass


def test_clip_is_for_every_step_or_none(make):
    monitor = make()
    for step in range(10):
        monitor.observe(*batch())
        if step % 2:
            monitor.observe_norm(1.0)
    with pytest.raises(RuntimeError, match="5 of 10 steps"):
        monitor.report()


def test_timesteps_on_a_device_are_looked_at_by_the_report(make):
    class OnADevice(torch.Tensor):
        """Says that its values are elsewhere."""

        device = torch.device("cuda")

    monitor = make()
    for _ in range(10):
        monitor.observe(torch.tensor([1, 1000]).as_subclass(OnADevice), torch.zeros(2))
    with pytest.raises(ValueError, match=r"^a timestep is outside of 0 \.\. 999"):
        monitor.report()


# --- afterwards -------------------------------------------------------------------------------


def test_a_restored_monitor_goes_on_as_the_original_would(make, tmp_path):
    losses = [*np.linspace(1, 0.15, 60), *[0.9] * 60]
    norms = [1.0] * 120
    whole = [repr(replace(j.report, train_seconds=0)) for j in run(make(), losses, norms)]
    first, second = make(), make()
    run(first, losses[:50], norms)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt"))
    rest = []
    for i, (loss, norm) in enumerate(zip(losses[50:], norms[50:], strict=True), 50):
        second.observe(*batch(loss=loss, seed=i))
        second.observe_norm(norm, max_norm=1.0)
        rest.append(second.report())

    assert [repr(replace(j.report, train_seconds=0)) for j in rest if j] == whole[5:]
    assert second.stop_reason.startswith("R1b")
    assert second.facts.max_grad_norm == 1.0
    assert [repr(replace(r, train_seconds=0)) for r in second.reports] == whole


def test_a_restored_monitor_remembers_what_was_said(make, data, tmp_path):
    """A prune is said once: the run that goes on past it is no sounder than before."""
    first = make(model=Scale(), held_out=data.dataset.held_out)  # reports with evaluations
    run(first, [*np.linspace(1, 0.15, 60), *[0.9] * 60], [1.0] * 120)
    first.save(tmp_path / "mine")
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = make(model=Scale(), held_out=data.dataset.held_out)
    second.load_state_dict(torch.load(tmp_path / "state.pt"))

    assert first.should_stop
    assert second.stop_reason == first.stop_reason
    assert second.verdicts == first.verdicts
    assert repr(second.reports) == repr(first.reports)
    run(second, [0.9] * 20, [1.0] * 20)
    second.save(tmp_path / "mine")
    results = load(tmp_path / "mine")
    assert list(results.reports["step"]) == list(range(10, 141, 10))
    assert [r.outcome for r in results.records()] == [Outcome.DIVERGED]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_timestep_bins": 5}, "num_timestep_bins is 10 in the state and 5 in this monitor"),
        ({"noise_schedule": torch.linspace(0.99, 0.01, 100)}, "num_train_timesteps is 1000 in"),
        ({"analyzer": {"name": "lightning"}}, "analyzer.name is rules in the state and lightning"),
    ],
    ids=["bins", "timesteps", "judge"],
)
def test_the_state_of_another_monitor_is_refused_as_a_whole(make, settings, message):
    first, second = make(), make(**settings)
    run(first, [0.5] * 10)

    with pytest.raises(ValueError, match=message):
        second.load_state_dict(first.state_dict())
    assert second.step == 0


@pytest.mark.parametrize("state", [{}, 5, {"step": 3}])
def test_what_is_no_state_is_refused(make, state):
    with pytest.raises(ValueError, match=r"is no state of a Monitor\. Pass what state_dict"):
        make().load_state_dict(state)


@pytest.mark.parametrize("clipped", [True, False])
def test_a_saved_run_is_a_study_of_one_trial(make, tmp_path, clipped):
    monitor = make()
    losses = [*np.linspace(1, 0.15, 60), *[0.9] * 60]
    run(monitor, losses[:60], [1.0] * 60 if clipped else None)
    monitor.save(tmp_path / "mine")
    (running,) = load(tmp_path / "mine").records()
    for i, loss in enumerate(losses[60:], 60):
        monitor.observe(*batch(loss=loss, seed=i))
        if clipped:
            monitor.observe_norm(1.0, max_norm=1.0)
        monitor.report()
    monitor.save(tmp_path / "mine")
    (record,) = load(tmp_path / "mine").records()
    store = StudyStore(tmp_path / "mine")

    assert (running.outcome, record.outcome) == (Outcome.RUNNING, Outcome.DIVERGED)
    assert record.rule == "R1b"
    assert record.params["max_grad_norm"] == (1.0 if clipped else None)
    assert repr(store.trial_reports("0000-0")) == repr(monitor.reports)
    assert store.trial_verdicts("0000-0") == monitor.verdicts
    assert store.trial_facts("0000-0") == monitor.facts


@pytest.mark.parametrize(
    ("num_steps", "ending"),
    [(80, Ending.PRUNED), (STEPS - 10, Ending.PRUNED), (STEPS, Ending.UNSTABLE)],
    ids=["stopped at the prune", "trained on past it", "trained to the end"],
)
def test_a_replay_of_a_saved_run_ends_as_the_run_did(make, tmp_path, num_steps, ending):
    monitor = make(analyzer={"thresholds": {"R1d.excursion": 100}})
    losses = [*np.linspace(1, 0.15, 60), *[0.9] * (num_steps - 60)]
    run(monitor, losses[:60])
    monitor.save(tmp_path / "mine")
    run(monitor, losses[60:])
    monitor.save(tmp_path / "mine")
    runner = CliRunner()
    told = runner.invoke(app, ["replay", str(tmp_path / "mine"), "--json"])

    assert told.exit_code == 0, told.output
    fields = json.loads(told.output)
    (trial,) = fields["trials"]
    assert monitor.should_stop
    assert (fields["num_flips"], trial["before"]["ending"]) == (0, ending)


def test_a_folder_that_holds_something_else_is_not_written_into(make, tmp_path):
    (tmp_path / "thesis.tex").write_text("dear reader")
    monitor = make()
    run(monitor, [0.5] * 10)

    with pytest.raises(ResultsError, match=r"thesis\.tex"):
        monitor.save(tmp_path)
    with pytest.raises(SpecError, match="folder name"):
        monitor.save(tmp_path / "a b")


def test_where_it_cannot_save_it_asks_for_another_path_and_for_no_option(make, tmp_path):
    """There is no study file to write `storage:` in."""
    (tmp_path / "file").write_text("")
    monitor, other = make(), make(learning_rate=2e-3)
    for each in (monitor, other):
        run(each, [0.5] * 10)
    other.save(tmp_path / "taken")
    refused = []
    for path in (tmp_path, tmp_path / "taken", tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises((EnvironmentProblem, ResultsError)) as error:
            monitor.save(path)
        refused.append(str(error.value))

    assert not [told for told in refused if "storage" in told or "`name:`" in told]
    assert "Save to another folder." in refused[0]
    assert "Save to another folder, or delete the old results." in refused[1]
    assert all("Save to a folder that you may write to." in told for told in refused[2:])


# --- the package and the example --------------------------------------------------------------


def test_the_package_has_it_and_stays_light():
    code = (
        "import sys, stabsearch\n"
        "assert not {'torch', 'ray', 'pandas'} & set(sys.modules)\n"
        "stabsearch.Monitor\n"
        "print(sorted({'torch', 'ray', 'pandas'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )

    assert done.stdout == "['torch']\n"
    assert stabsearch.Monitor is Monitor


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--steps", "150"], "step  150  loss 0."),
        (["--learning-rate", "0.3"], "stopped at step"),
    ],
    ids=["learns", "is stopped"],
)
def test_the_example_runs(arguments, expected, tmp_path):
    done = subprocess.run(
        [sys.executable, EXAMPLE, *arguments, "--save", str(tmp_path / "study")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith(expected), done.stdout
    if "stopped" in expected:
        assert "Lower the learning rate" in last
    assert len(load(tmp_path / "study").trials) == 1
