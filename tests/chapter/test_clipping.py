"""The chapter's gradient clipping beside ours."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from stabsearch.spec import TrainerSpec
from stabsearch.training.clipping import make_clipper
from stabsearch.training.optimizer_step import OptimizerStep
from tests.chapter import chapter

CPU = torch.device("cpu")


def model_with_gradients(*, first_element):
    """Weights of 1 and gradients of 0.5, but for one element."""
    model = nn.Linear(3, 2)
    for parameter in model.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.full_like(parameter, 0.5)
    model.weight.grad[0, 0] = first_element
    return model


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_non_finite_gradient_spreads_and_a_nan_counts_as_not_clipped(bad):
    """Item 10. ``nan > max_norm`` is False, and clip_grad_norm_ multiplies all gradients by the
    NaN; by the 0 that an infinite norm gives, too, where Inf * 0 is NaN."""
    theirs, ours = model_with_gradients(first_element=bad), model_with_gradients(first_element=bad)
    flag = chapter.clip_gradients(theirs, 1.0)["clipped"]
    torch.optim.SGD(theirs.parameters(), lr=0.1).step()

    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1)
    record = make_clipper(TrainerSpec(), list(ours.parameters())).clip()
    OptimizerStep(optimizer, "fp32", CPU).step(record.grad_norm)

    assert isinstance(flag, torch.Tensor)  # and no bool: one wait for the device per step
    assert bool(flag) is math.isinf(bad)  # of two gradients that both ruin the weights, one counts
    assert theirs.weight.isnan().any()
    assert not record.grad_norm.isfinite()
    assert not record.is_clipped
    assert torch.equal(ours.bias.grad, torch.full((2,), 0.5))
    assert torch.equal(ours.weight, torch.ones(2, 3))


def test_clip_rate_says_nothing_about_the_learning_rate(train):
    """Item 11. AdamW does not see the scale of a gradient: two thresholds a factor of ten apart
    clip every step and end at the same loss, as good as without. Where the learning rate kills the
    network, the gradient dies too: the clip rate falls, and the alarm is silent."""
    tight, tighter, without = (train(max_grad_norm=norm) for norm in (0.1, 0.01, None))
    too_high = train(max_grad_norm=0.1, learning_rate=0.1)

    assert clip_rate(tight) == clip_rate(tighter) == 1.0
    assert chapter.CLIPS_TOO_OFTEN in findings(tight)
    assert tight.evaluation.loss_raw == pytest.approx(tighter.evaluation.loss_raw, rel=1e-2)
    assert tight.evaluation.loss_raw == pytest.approx(without.evaluation.loss_raw, rel=0.1)
    assert too_high.evaluation.loss_raw > 0.9 * too_high.reference.constant
    assert chapter.CLIPS_TOO_OFTEN not in findings(too_high)
    # ours: the coefficient ten times smaller, as steady as before; only its spread can matter
    last, last_tighter = tight.reports[-1], tighter.reports[-1]
    assert last_tighter.clip_coef_mean == pytest.approx(last.clip_coef_mean / 10, rel=0.01)
    assert last_tighter.clip_coef_cv == pytest.approx(last.clip_coef_cv, rel=0.01)
    assert last.clip_coef_cv < 0.3


def clip_rate(run):
    return sum(r.clip_rate for r in run.reports) / len(run.reports)


def findings(run):
    """Of the chapter's rules, about a run whose clipped steps are as the reports say."""
    clipped = [k < 25 * r.clip_rate for r in run.reports for k in range(25)]
    return chapter.analyze_diagnostics(
        chapter.TrainingDiagnostics(losses=[r.loss for r in run.reports], clipped=clipped)
    )


def test_clipping_is_not_essential(train):
    """Item 19. At a sane learning rate the usual threshold of 1 never acts: the run without
    clipping is the same, bit for bit. The report says so (a clip rate of 0)."""
    clipped, unclipped = train(max_grad_norm=1.0), train(clipping="none")

    assert clip_rate(clipped) == 0.0
    assert unclipped.evaluation == clipped.evaluation
    assert unclipped.evaluation.loss_raw < 1.1 * unclipped.reference.isotropic


def test_clipping_before_unscaling_clips_the_loss_scale():
    """Item 25. With fp16 loss scaling the gradients are 65,536 times too large until they are
    unscaled. "Per-parameter clipping" is no cure: clipped in that state, what is left is 1/65,536
    of the threshold."""
    inputs = torch.ones(4, 3)
    theirs, ours = nn.Linear(3, 2), nn.Linear(3, 2)
    ours.load_state_dict(theirs.state_dict())
    true_gradient = torch.autograd.grad(theirs(inputs).square().sum(), theirs.weight)[0]

    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    scaler.scale(theirs(inputs).square().sum()).backward()
    for parameter in theirs.parameters():
        torch.nn.utils.clip_grad_norm_([parameter], 1.0)
    scaler.unscale_(optimizer)

    step = OptimizerStep(torch.optim.SGD(ours.parameters(), lr=0.1), "fp16", CPU)
    step.scale(ours(inputs).square().sum()).backward()
    step.unscale()
    loose = TrainerSpec(clipping="per_parameter_norm", max_grad_norm=1e3)
    record = make_clipper(loose, list(ours.parameters())).clip()

    assert theirs.weight.grad.norm() == pytest.approx(1 / 65536, rel=1e-3)
    assert torch.allclose(ours.weight.grad, true_gradient)
    assert not record.is_clipped
