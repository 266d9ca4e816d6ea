from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from stabsearch.spec import TrainerSpec
from stabsearch.training.clipping import CLIPPERS, make_clipper
from stabsearch.training.optimizer_step import OptimizerStep
from stabsearch.training.optimizers import OPTIMIZERS, make_optimizer
from tests.training.host_reads import NoHostReads

CPU = torch.device("cpu")
FUSED = ("adamw", "adam", "sgd")
BAD = [math.nan, math.inf, -math.inf]


def spec_of(optimizer, **changes):
    weight_decay = 0.0 if optimizer == "Rprop" else 0.1
    return TrainerSpec(optimizer=optimizer, weight_decay=weight_decay, **changes)


class Training:
    """Parameters, clipper and step of a spec, fed with gradients from a fixed stream."""

    def __init__(self, spec, *, on_device=False):
        generator = torch.Generator().manual_seed(0)
        shapes = [(5, 3), (3,), (200,)]
        self.parameters = [nn.Parameter(torch.randn(s, generator=generator)) for s in shapes]
        self.optimizer = make_optimizer(spec, self.parameters)
        self.step = OptimizerStep(self.optimizer, spec.precision, CPU)
        self.step._decides_on_device = on_device  # the GPU's way, on the CPU's fused kernels
        self.clipper = make_clipper(spec, self.parameters)
        self.gradients = torch.Generator().manual_seed(1)

    def take(self, bad=None):
        """One step; ``bad`` is put into one element of one gradient, in place of a draw."""
        for parameter in self.parameters:
            parameter.grad = (
                torch.randn(parameter.shape, generator=self.gradients)
                if bad is None
                else torch.ones_like(parameter)
            )
        if bad is not None:
            self.parameters[1].grad[2] = bad
        self.step.unscale()
        self.step.step(self.clipper.clip().grad_norm)

    def state(self):
        return copy.deepcopy([self.parameters, self.optimizer.state_dict()["state"]])


def same(first, second):
    """Bit for bit, through nested lists and dicts."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def is_unmoved_by(training, bad):
    before = training.state()
    training.take(bad)
    return same(training.state(), before)


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
@pytest.mark.parametrize("clipping", sorted(CLIPPERS))
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_gradient_reaches_neither_weights_nor_moments(optimizer, clipping, bad):
    training = Training(spec_of(optimizer, clipping=clipping))
    training.take()

    assert is_unmoved_by(training, bad)


@pytest.mark.parametrize("optimizer", FUSED)
@pytest.mark.parametrize("clipping", sorted(CLIPPERS))
@pytest.mark.parametrize("bad", BAD)
def test_the_device_skips_a_bad_step_without_the_host(optimizer, clipping, bad):
    """Weights, moments and step counts: torch's fused kernels are told by ``found_inf``."""
    training = Training(spec_of(optimizer, clipping=clipping), on_device=True)
    training.take()

    assert is_unmoved_by(training, bad)


@pytest.mark.parametrize("optimizer", FUSED)
def test_a_fused_step_on_a_device_reads_nothing_on_the_host(optimizer):
    training = Training(spec_of(optimizer), on_device=True)
    training.take()
    with NoHostReads():
        training.take()
        training.take(math.nan)


@pytest.mark.parametrize(
    ("optimizer", "on_device"),
    [(name, False) for name in sorted(OPTIMIZERS)] + [(name, True) for name in FUSED],
)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_run_goes_on_as_if_the_bad_steps_had_not_been(optimizer, on_device, momentum):
    """Also where the first step is bad: torch's SGD would start from whatever memory held."""
    spec = spec_of(optimizer, momentum=momentum)
    clean, disturbed = Training(spec, on_device=on_device), Training(spec, on_device=on_device)
    for _ in range(4):
        clean.take()
        disturbed.take(math.nan)
        disturbed.take()
        disturbed.take(math.inf)

    assert same(disturbed.state(), clean.state())


@pytest.mark.parametrize("optimizer", FUSED)
def test_the_device_and_the_host_take_the_same_steps(optimizer):
    spec = spec_of(optimizer)
    host, device = Training(spec), Training(spec, on_device=True)
    for bad in (None, math.nan, None, None):
        host.take(bad)
        device.take(bad)

    assert same(device.state(), host.state())


def test_torch_alone_takes_a_bad_step():
    """What the chapter's loop does: clip_grad_norm_, then step, whatever the norm was."""
    training = Training(spec_of("adamw"))
    training.take()
    for parameter in training.parameters:
        parameter.grad = torch.full_like(parameter, math.inf)
    nn.utils.clip_grad_norm_(training.parameters, 1.0)
    training.optimizer.step()

    assert all(p.isnan().all() for p in training.parameters)


def test_only_fused_optimizers_on_a_device_decide_there():
    assert not OptimizerStep(Training(spec_of("adamw")).optimizer, "fp32", CPU)._decides_on_device


# fp16


class HalfTraining:
    """A small net under fp16 autocast on a CPU, with a loss scale that fits inputs of size 1."""

    def __init__(self, optimizer="adamw", **changes):
        torch.manual_seed(0)
        self.model = nn.Linear(4, 1)
        self.spec = TrainerSpec(optimizer=optimizer, precision="fp16", **changes)
        parameters = list(self.model.parameters())
        self.optimizer = make_optimizer(self.spec, parameters)
        self.step = OptimizerStep(self.optimizer, "fp16", CPU)
        self.step.load_state_dict(self.step.state_dict() | {"scale": 1024.0})
        self.clipper = make_clipper(self.spec, parameters)

    def loss(self, size):
        x = size * torch.tensor([[1.0, -0.5, 0.25, 0.75]])
        with torch.autocast("cpu", torch.float16):
            prediction = self.model(x)
        return (prediction.float() - 1).square().mean()

    def take(self, size=1.0):
        loss = self.loss(size)
        self.optimizer.zero_grad()
        self.step.scale(loss).backward()
        self.step.unscale()
        record = self.clipper.clip()
        self.step.step(record.grad_norm)
        return loss, record

    def weights(self):
        return [p.detach().clone() for p in self.model.parameters()]


def test_gradients_are_unscaled_before_they_are_clipped():
    half = HalfTraining(max_grad_norm=1e9)
    full = copy.deepcopy(half.model)
    (full(torch.tensor([[1.0, -0.5, 0.25, 0.75]])) - 1).square().mean().backward()
    expected = torch.cat([p.grad.flatten() for p in full.parameters()]).norm()

    assert half.take()[1].grad_norm.item() == pytest.approx(expected.item(), rel=1e-2)


@pytest.mark.parametrize("optimizer", [*FUSED, "RMSprop"])
def test_an_overflow_is_skipped_halves_the_scale_and_training_recovers(optimizer):
    """The loss is finite, its scaled gradient is no fp16 number."""
    half = HalfTraining(optimizer)
    before = half.weights()
    loss, record = half.take(size=60.0)

    assert math.isfinite(loss.item())
    assert not math.isfinite(record.grad_norm.item())
    assert same(half.weights(), before)
    assert half.step.loss_scale.item() == 512.0

    for _ in range(9):
        half.take(size=60.0)

    assert not same(half.weights(), before)
    assert all(w.isfinite().all() for w in half.weights())


def test_fp16_takes_the_steps_of_torchs_own_scaler():
    ours, torchs = HalfTraining(max_grad_norm=0.5), HalfTraining()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for size in (1.0, 60.0, 0.3, 60.0, 1.0, 2.0):
        ours.take(size)
        torchs.optimizer.zero_grad()
        scaler.scale(torchs.loss(size)).backward()
        scaler.unscale_(torchs.optimizer)
        make_clipper(ours.spec, list(torchs.model.parameters())).clip()
        scaler.step(torchs.optimizer)
        scaler.update()

    assert same(ours.weights(), torchs.weights())
    assert ours.step.loss_scale.item() == scaler.get_scale() == 256.0


def test_a_norm_that_overflows_skips_the_step_and_keeps_the_scale():
    """Every element is finite: a smaller scale would not help."""
    half = HalfTraining()
    before = half.weights()
    half.step.scale(half.loss(1.0)).backward()
    half.step.unscale()
    half.step.step(torch.tensor(math.inf))

    assert same(half.weights(), before)
    assert half.step.loss_scale.item() == 1024.0


def test_restored_scale_goes_on_where_it_was():
    first, second = HalfTraining(), HalfTraining()
    for size in (60.0, 1.0, 1.0):
        first.take(size)
    second.step.load_state_dict(first.step.state_dict())

    assert second.step.loss_scale.item() == 512.0
    assert second.step.state_dict() == first.step.state_dict()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_precisions_scale_nothing(precision):
    step = OptimizerStep(Training(spec_of("adamw")).optimizer, precision, CPU)
    loss = torch.tensor(3.0)

    assert step.scale(loss) is loss
    assert step.loss_scale is None
    assert step.state_dict() == {}
