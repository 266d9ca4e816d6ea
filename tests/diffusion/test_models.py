from __future__ import annotations

import pytest
import torch

from stabsearch.diffusion.models import TimeEmbeddedMLP


def test_prediction_has_the_shape_of_the_example():
    model = TimeEmbeddedMLP((1, 8, 8), width=16, num_blocks=1)

    assert model(torch.randn(3, 1, 8, 8), torch.tensor([0, 5, 999])).shape == (3, 1, 8, 8)


def test_prediction_depends_on_the_timestep():
    torch.manual_seed(0)
    model = TimeEmbeddedMLP((4,), width=16, num_blocks=1)
    x_t = torch.randn(1, 4)

    assert not torch.allclose(model(x_t, torch.tensor([10])), model(x_t, torch.tensor([900])))


def test_odd_width_is_refused():
    with pytest.raises(ValueError, match="even"):
        TimeEmbeddedMLP((4,), width=15)
