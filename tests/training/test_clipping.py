from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from stabsearch.spec import TrainerSpec
from stabsearch.training import clipping
from stabsearch.training.clipping import CLIPPERS, make_clipper
from tests.training.host_reads import NoHostReads

STRATEGIES = sorted(CLIPPERS)


def parameters_with(*gradients):
    """Parameters whose gradients are these; weights are drawn with a fixed seed."""
    torch.manual_seed(0)
    parameters = []
    for gradient in gradients:
        gradient = torch.as_tensor(gradient, dtype=torch.float32)
        parameters.append(nn.Parameter(torch.randn(gradient.shape)))
        parameters[-1].grad = gradient.clone()
    return parameters


def random_parameters(seed=1, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(4, 3), (4,), (2, 3, 2, 2), (2,), ()]
    return parameters_with(*(scale * torch.randn(s, generator=generator) for s in shapes))


def gradients_of(parameters):
    return [p.grad.double().numpy().copy() for p in parameters]


def slow_norm(arrays, norm_type=2.0):
    elements = [abs(float(x)) for array in arrays for x in np.ravel(array)]
    if norm_type == math.inf:
        return max(elements)
    return sum(x**norm_type for x in elements) ** (1 / norm_type)


def check_against(parameters, record, before, expected):
    """Gradients are ``expected``, and the record says what that did to ``before``."""
    after = gradients_of(parameters)
    assert all(
        np.allclose(a, e, rtol=1e-5, atol=1e-7) for a, e in zip(after, expected, strict=True)
    )
    assert record.grad_norm.item() == pytest.approx(slow_norm(before), rel=1e-5)
    assert record.coef.item() == pytest.approx(slow_norm(expected) / slow_norm(before), rel=1e-5)
    changed = any(not np.allclose(b, e, rtol=1e-6) for b, e in zip(before, expected, strict=True))
    assert record.is_clipped.item() is changed


def test_every_strategy_of_the_spec_is_there():
    assert set(CLIPPERS) == set(get_args(TrainerSpec.model_fields["clipping"].annotation))


@pytest.mark.parametrize(
    ("max_grad_norm", "coef"),
    [(None, 1.0), (10.0, 1.0), (5.0, 1.0), (1.0, 0.2)],
    ids=["no clipping", "below", "at the threshold", "above"],
)
def test_global_norm_scales_by_the_reported_coefficient(max_grad_norm, coef):
    parameters = parameters_with([3.0], [[0.0, 4.0]])
    record = make_clipper(TrainerSpec(max_grad_norm=max_grad_norm), parameters).clip()

    assert record.grad_norm.item() == pytest.approx(5.0)
    assert record.coef.item() == pytest.approx(coef)
    assert record.is_clipped.item() is (coef < 1)
    assert parameters[0].grad.item() == pytest.approx(3.0 * coef)
    assert parameters[1].grad[0, 1].item() == pytest.approx(4.0 * coef)


@pytest.mark.parametrize("max_grad_norm", [0.3, 1.0, 5.0, 100.0])
def test_global_norm_is_the_threshold_over_the_norm_to_the_last_bit(max_grad_norm):
    """torch's clip_grad_norm_ adds 1e-6: its coefficient is not the one that it says."""
    parameters, reference = random_parameters(), random_parameters()
    gradients = [p.grad for p in reference]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
    coef = (max_grad_norm / norm).clamp(max=1.0)
    record = make_clipper(TrainerSpec(max_grad_norm=max_grad_norm), parameters).clip()

    assert torch.equal(record.coef, coef)
    assert all(torch.equal(p.grad, g * coef) for p, g in zip(parameters, gradients, strict=True))


@pytest.mark.parametrize("norm_type", [1.0, 1.5, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("max_grad_norm", [0.5, 2.0, 1000.0])
def test_global_norm_agrees_with_a_loop_over_elements(max_grad_norm, norm_type):
    parameters = random_parameters()
    before = gradients_of(parameters)
    coef = min(1.0, max_grad_norm / slow_norm(before, norm_type))
    spec = TrainerSpec(max_grad_norm=max_grad_norm, grad_norm_type=norm_type)
    record = make_clipper(spec, parameters).clip()

    check_against(parameters, record, before, [coef * g for g in before])


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("max_grad_norm", [0.5, 2.0, 1000.0])
def test_per_parameter_norm_agrees_with_a_loop_over_parameters(max_grad_norm, norm_type):
    parameters = random_parameters()
    before = gradients_of(parameters)
    expected = [min(1.0, max_grad_norm / slow_norm([g], norm_type)) * g for g in before]
    spec = TrainerSpec(
        clipping="per_parameter_norm", max_grad_norm=max_grad_norm, grad_norm_type=norm_type
    )
    record = make_clipper(spec, parameters).clip()

    check_against(parameters, record, before, expected)


@pytest.mark.parametrize("max_grad_value", [0.1, 1.0, 1000.0])
def test_per_parameter_value_agrees_with_a_loop_over_elements(max_grad_value):
    parameters = random_parameters()
    before = gradients_of(parameters)
    expected = [np.clip(g, -max_grad_value, max_grad_value) for g in before]
    spec = TrainerSpec(clipping="per_parameter_value", max_grad_value=max_grad_value)
    record = make_clipper(spec, parameters).clip()

    check_against(parameters, record, before, expected)


def test_a_single_clamped_element_counts_as_clipped_however_little_it_weighs():
    """One step of float32 above the bound, among 1,000 at it: the norm does not change."""
    parameters = parameters_with(torch.ones(1000))
    parameters[0].grad[7] = 1 + 2**-23
    record = make_clipper(TrainerSpec(clipping="per_parameter_value"), parameters).clip()

    assert record.is_clipped.item() is True
    assert record.coef.item() == 1.0
    assert parameters[0].grad.max().item() == 1.0


def slow_agc(weight, gradient, limit):
    """NFNets' rule, unit by unit: rows of dimension 0, or the whole of a vector."""
    if weight.ndim <= 1:
        return slow_agc(weight.reshape(1, -1), gradient.reshape(1, -1), limit).reshape(
            weight.shape
        )
    result = gradient.copy()
    for unit in range(len(weight)):
        largest = limit * max(slow_norm([weight[unit]]), 1e-3)
        norm = slow_norm([gradient[unit]])
        if norm > largest:
            result[unit] = gradient[unit] * largest / norm
    return result


@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1.0])
def test_agc_agrees_with_a_loop_over_units(scale):
    parameters = random_parameters(scale=scale)
    with torch.no_grad():
        parameters[0][1] = 0.0  # a unit that starts at zero may move by lambda * 1e-3
    before = gradients_of(parameters)
    expected = [
        slow_agc(p.detach().double().numpy(), g, 0.02)
        for p, g in zip(parameters, before, strict=True)
    ]
    spec = TrainerSpec(clipping="agc", agc_clipping=0.02)
    record = make_clipper(spec, parameters).clip()

    check_against(parameters, record, before, expected)


@pytest.mark.parametrize("percentile", [10.0, 50.0, 100.0])
def test_autoclip_agrees_with_the_percentile_of_a_list(percentile):
    """Seetharaman et al. 2020: append the norm, take the percentile, clip to it."""
    parameters = random_parameters()
    clipper = make_clipper(
        TrainerSpec(clipping="autoclip", autoclip_percentile=percentile), parameters
    )
    history = []
    for step in range(30):
        others = random_parameters(step, 1 + step % 5)
        for parameter, other in zip(parameters, others, strict=True):
            parameter.grad = other.grad
        before = gradients_of(parameters)
        history.append(slow_norm(before))
        coef = min(1.0, float(np.percentile(history, percentile)) / history[-1])
        record = clipper.clip()

        assert record.coef.item() == pytest.approx(coef, rel=1e-5)
        check_against(parameters, record, before, [coef * g for g in before])


def test_autoclip_leaves_its_first_gradient_alone():
    parameters = random_parameters()
    before = [p.grad.clone() for p in parameters]
    record = make_clipper(TrainerSpec(clipping="autoclip"), parameters).clip()

    assert record.coef.item() == 1.0
    assert not record.is_clipped.item()
    assert all(torch.equal(p.grad, g) for p, g in zip(parameters, before, strict=True))


def autoclip_coefs(clipper, parameter, norms):
    coefs = []
    for norm in norms:
        parameter.grad = torch.tensor([norm])
        coefs.append(clipper.clip().coef.item())
    return coefs


def test_autoclip_never_remembers_a_norm_that_is_not_finite():
    spec = TrainerSpec(clipping="autoclip", autoclip_percentile=50)
    [one], [other] = parameters_with([0.0]), parameters_with([0.0])
    clipper = make_clipper(spec, [one])
    with_bad = autoclip_coefs(clipper, one, [2.0, math.inf, math.nan, 1.0, 8.0, math.inf])
    without = autoclip_coefs(make_clipper(spec, [other]), other, [2.0, 1.0, 8.0])

    assert with_bad == [1.0, 1.0, 1.0, *without[1:], 1.0]
    assert without[-1] == pytest.approx(2.0 / 8.0)
    assert clipper.state_dict()["history"][:4].nan_to_num(nan=-1).tolist() == [2.0, 1.0, 8.0, -1]


def test_autoclip_forgets_the_oldest_norms(monkeypatch):
    monkeypatch.setattr(clipping, "AUTOCLIP_HISTORY", 3)
    spec = TrainerSpec(clipping="autoclip", autoclip_percentile=100)
    [parameter] = parameters_with([0.0])
    norms = [100.0, 1.0, 2.0, 4.0, 3.0, 1.0]
    clipper = make_clipper(spec, [parameter])
    autoclip_coefs(clipper, parameter, norms)

    assert sorted(clipper.state_dict()["history"].tolist()) == sorted(norms[-3:])


def test_autoclip_survives_a_history_of_zeros():
    spec = TrainerSpec(clipping="autoclip")
    [parameter] = parameters_with([0.0])
    coefs = autoclip_coefs(make_clipper(spec, [parameter]), parameter, [0.0, 0.0, 0.0])

    assert coefs == [1.0, 1.0, 1.0]
    assert parameter.grad.item() == 0.0


def test_restored_autoclip_goes_on_where_it_was():
    spec = TrainerSpec(clipping="autoclip", autoclip_percentile=50)
    [parameter] = parameters_with([0.0])
    first, second = make_clipper(spec, [parameter]), make_clipper(spec, [parameter])
    autoclip_coefs(first, parameter, [1.0, 5.0, 2.0])
    autoclip_coefs(second, parameter, [77.0])
    second.load_state_dict(first.state_dict())
    norms = [4.0, 0.5, 6.0]

    assert autoclip_coefs(second, parameter, norms) == autoclip_coefs(first, parameter, norms)


def test_without_clipping_the_norm_is_still_measured():
    parameters = random_parameters()
    before = gradients_of(parameters)
    record = make_clipper(TrainerSpec(clipping="none", max_grad_norm=0.1), parameters).clip()

    check_against(parameters, record, before, before)


@pytest.mark.parametrize("strategy", ["global_norm", "per_parameter_norm"])
def test_a_max_grad_norm_of_none_never_clips(strategy):
    parameters = random_parameters(scale=1e6)
    before = gradients_of(parameters)
    spec = TrainerSpec(clipping=strategy, max_grad_norm=None)

    check_against(parameters, make_clipper(spec, parameters).clip(), before, before)


def tight(strategy, **changes):
    """Thresholds that clip every ordinary gradient."""
    return TrainerSpec(
        clipping=strategy,
        **{"max_grad_norm": 1e-3, "max_grad_value": 1e-3, "agc_clipping": 1e-3} | changes,
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("norm_type", [2.0, 3.0, math.inf])
def test_a_gradient_that_is_not_finite_is_left_alone_and_shows(strategy, bad, norm_type):
    """``norm > max_norm`` is False for NaN: the chapter counts such a step as not clipped."""
    parameters = random_parameters()
    parameters[2].grad[0, 1, 0, 1] = bad
    before = [p.grad.clone() for p in parameters]
    spec = tight(strategy, grad_norm_type=norm_type)
    record = make_clipper(spec, parameters).clip()

    assert not math.isfinite(record.grad_norm.item())
    assert record.coef.item() == 1.0
    assert record.is_clipped.item() is False
    for parameter, gradient in zip(parameters, before, strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=0, atol=0, equal_nan=True)


def test_torch_turns_an_infinite_norm_into_zeros_and_nan():
    """What every strategy here avoids."""
    parameters = parameters_with([math.inf, 1.0], [2.0])
    nn.utils.clip_grad_norm_(parameters, 1.0)

    assert math.isnan(parameters[0].grad[0])
    assert parameters[1].grad.item() == 0.0


@pytest.mark.parametrize("strategy", ["global_norm", "per_parameter_norm"])
def test_a_norm_that_overflows_counts_as_not_finite(strategy):
    """The 2-norm of this gradient is finite, its 30-norm is not in float32."""
    parameters = parameters_with([1e4, 1.0], [2.0])
    record = make_clipper(tight(strategy, grad_norm_type=30.0), parameters).clip()

    assert math.isnan(record.grad_norm.item())
    assert parameters[0].grad.tolist() == [1e4, 1.0]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_zero_gradient_is_not_clipped(strategy):
    parameters = parameters_with(torch.zeros(3, 2), torch.zeros(3))
    record = make_clipper(tight(strategy), parameters).clip()

    assert (record.grad_norm.item(), record.coef.item()) == (0.0, 1.0)
    assert record.is_clipped.item() is False
    assert all(not p.grad.any() for p in parameters)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_parameter_without_a_gradient_is_passed_over(strategy):
    parameters, alone = random_parameters(), random_parameters()
    frozen = nn.Parameter(torch.randn(7, 7))
    record = make_clipper(tight(strategy), [frozen, *parameters]).clip()
    expected = make_clipper(tight(strategy), alone).clip()

    assert frozen.grad is None
    assert [x.item() for x in record] == [x.item() for x in expected]
    assert all(torch.equal(p.grad, a.grad) for p, a in zip(parameters, alone, strict=True))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("norm_type", [2.0, math.inf])
def test_clipping_reads_nothing_on_the_host(strategy, norm_type):
    clipper = make_clipper(tight(strategy, grad_norm_type=norm_type), random_parameters())
    with NoHostReads():
        record = clipper.clip()

    assert [x.shape for x in record] == [torch.Size([])] * 3
