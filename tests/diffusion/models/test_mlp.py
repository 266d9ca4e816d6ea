from __future__ import annotations

import pytest
import torch
from torch import nn

from stabsearch.diffusion.models.mlp import TimeEmbeddedMLP


def test_default_model_is_pinned():
    """Results of earlier versions stay valid: the same seed makes the same model."""
    torch.manual_seed(0)
    model = TimeEmbeddedMLP((1, 2, 2))
    x_t = torch.linspace(-2, 2, 12).reshape(3, 1, 2, 2)
    expected = [
        [0.5013099312782288, 0.32721877098083496, 0.12411250174045563, 0.32628560066223145],
        [0.3186039626598358, 0.09837351739406586, 0.1873455047607422, 0.2252161055803299],
        [0.16731378436088562, 0.025256771594285965, 0.727038562297821, 0.1644185185432434],
    ]

    # Another CPU sums in another order.
    assert torch.allclose(
        model(x_t, torch.tensor([0, 17, 999])).flatten(1), torch.tensor(expected), atol=1e-6
    )


def test_names_of_the_default_model_are_pinned():
    """Checkpoints of earlier versions can be loaded."""
    linears = ["embed_time.1", "embed_time.3", "project_in"]
    linears += [f"blocks.{block}.linear{layer}" for block in (0, 1) for layer in (1, 2)]
    expected = ["embed_time.0.frequencies"]
    linears += ["project_out"]
    expected += [f"{name}.{part}" for name in linears for part in ("weight", "bias")]

    assert list(TimeEmbeddedMLP((1, 8, 8)).state_dict()) == expected


def test_examples_may_have_any_shape():
    for shape in [(4,), (1, 8, 8), (3, 5)]:
        model = TimeEmbeddedMLP(shape, width=16, num_blocks=1)

        assert model(torch.randn(3, *shape), torch.tensor([0, 5, 999])).shape == (3, *shape)


def test_layer_norm_makes_blocks_blind_to_the_scale_of_their_input():
    for conditioning in ("add", "film"):
        block = TimeEmbeddedMLP((4,), conditioning=conditioning, layer_norm=True).blocks[0]
        hidden, time = torch.randn(2, 64), torch.randn(2, 64)

        assert torch.allclose(block(1000 * hidden, time), block(hidden, time), atol=1e-3)


def test_film_scales_and_shifts_the_input_of_a_block():
    block = TimeEmbeddedMLP((4,), width=16, conditioning="film", layer_norm=True).blocks[0]
    hidden, time = torch.randn(3, 16), torch.randn(3, 16)
    scale, shift = block.modulation(nn.functional.silu(time)).split(16, dim=1)
    normed = nn.functional.layer_norm(hidden, (16,))
    inner = block.linear1(nn.functional.silu((1 + scale) * normed + shift))

    assert torch.allclose(block(hidden, time), block.linear2(nn.functional.silu(inner)), atol=1e-6)


def test_without_residual_a_block_replaces_its_input():
    """A block that returns zeros then hides the example; with the residual path it does not."""
    for residual, is_hidden in [(False, True), (True, False)]:
        model = TimeEmbeddedMLP((4,), residual=residual)
        nn.init.zeros_(model.blocks[0].linear2.weight)
        one, other = (model(torch.randn(1, 4), torch.tensor([7])) for _ in range(2))

        assert torch.equal(one, other) == is_hidden


@pytest.mark.parametrize("width", [15, 0])
def test_odd_width_is_refused_with_the_next_even_one(width):
    with pytest.raises(ValueError, match=rf"model\.width .* even .* {width}; set it to (16|2)\."):
        TimeEmbeddedMLP((4,), width=width)
