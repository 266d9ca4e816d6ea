from __future__ import annotations

import math

import pytest
import torch

from stabsearch.training.clipping import clip_grad_norm


@pytest.mark.parametrize(
    ("max_grad_norm", "coef"),
    [(None, 1.0), (10.0, 1.0), (5.0, 1.0), (1.0, 0.2)],
    ids=["no clipping", "below", "at the threshold", "above"],
)
def test_gradients_are_scaled_by_the_reported_coefficient(max_grad_norm, coef):
    gradients = [torch.tensor([3.0]), torch.tensor([[0.0, 4.0]])]
    record = clip_grad_norm(gradients, max_grad_norm)

    assert record.grad_norm.item() == pytest.approx(5.0)
    assert record.coef.item() == pytest.approx(coef)
    assert gradients[0].item() == pytest.approx(3.0 * coef)
    assert gradients[1][0, 1].item() == pytest.approx(4.0 * coef)


def test_zero_gradient_is_not_clipped():
    gradients = [torch.zeros(3)]

    assert clip_grad_norm(gradients, 1.0).coef.item() == 1.0
    assert gradients[0].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf], ids=["nan", "inf"])
def test_nonfinite_gradient_shows_in_the_record(bad):
    """``norm > max_norm`` is False for NaN: the chapter counts such a step as not clipped."""
    gradients = [torch.tensor([bad, 1.0])]
    record = clip_grad_norm(gradients, 1.0)

    assert not math.isfinite(record.grad_norm.item())
    assert math.isnan(gradients[0][0].item())  # not repaired
