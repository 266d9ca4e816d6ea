from __future__ import annotations

import pytest
import torch
from torch import nn

from stabsearch.diffusion.models.dit import DiT

SMALL = {"width": 8, "num_blocks": 1, "num_heads": 2}


@pytest.mark.parametrize(
    ("shape", "patch_size", "num_blocks"),
    [((1, 8, 8), 2, 1), ((3, 4, 8), 4, 1), ((2, 3, 5), 1, 0), ((1, 6, 6), 3, 2)],
)
def test_prediction_has_the_shape_of_the_image(shape, patch_size, num_blocks):
    model = DiT(shape, width=8, num_heads=2, patch_size=patch_size, num_blocks=num_blocks)

    assert model(torch.randn(2, *shape), torch.tensor([0, 999])).shape == (2, *shape)


def test_a_token_is_a_patch_and_returns_to_its_place():
    """Without blocks nothing passes between tokens: a pixel sees its own patch, and all of it."""
    model = DiT((2, 4, 8), width=8, num_heads=2, num_blocks=0, conditioning="add")
    nn.init.normal_(model.project_out.function.weight)
    x_t = torch.randn(1, 2, 4, 8, requires_grad=True)
    model(x_t, torch.tensor([7]))[0, 1, 2, 5].backward()
    expected = torch.zeros(1, 2, 4, 8, dtype=torch.bool)
    expected[0, :, 2:4, 4:6] = True

    assert torch.equal(x_t.grad != 0, expected)


def test_tokens_know_their_place():
    """Attention alone would give equal patches equal predictions."""
    model = DiT((1, 4, 4), **SMALL)
    nn.init.normal_(model.project_out.function.weight)
    prediction = model(torch.ones(1, 1, 4, 4), torch.tensor([7]))
    patches = prediction[0, 0].unfold(0, 2, 2).unfold(1, 2, 2).reshape(4, 4)

    assert len(torch.unique(patches, dim=0)) == 4


def test_adaln_zero_starts_as_the_identity():
    model = DiT((1, 8, 8), **SMALL)
    tokens, time = torch.randn(2, 16, 8), torch.randn(2, 8)

    for branch in model.branches:
        assert torch.equal(branch(tokens, time), tokens)


@pytest.mark.parametrize("conditioning", ["add", "film"])
@pytest.mark.parametrize("residual", [True, False])
def test_output_starts_at_zero(conditioning, residual):
    model = DiT((1, 8, 8), **SMALL, conditioning=conditioning, residual=residual)

    assert not model(torch.randn(2, 1, 8, 8), torch.tensor([0, 999])).any()


def test_without_residual_no_gate_shuts_a_branch():
    model = DiT((1, 8, 8), **SMALL, residual=False)
    tokens, time = torch.randn(2, 16, 8), torch.randn(2, 8)

    for branch in model.branches:
        assert branch(tokens, time).any()


def test_film_is_adaln_zero():
    branch = DiT((1, 8, 8), **SMALL).branches[0]
    nn.init.normal_(branch.modulation.weight)
    tokens, time = torch.randn(2, 16, 8), torch.randn(2, 8)
    modulation = branch.modulation(nn.functional.silu(time)).unsqueeze(1)
    scale, shift, gate = modulation.split(8, dim=2)
    normed = nn.functional.layer_norm(tokens, (8,), eps=1e-6)
    expected = tokens + gate * branch.function((1 + scale) * normed + shift)

    assert torch.allclose(branch(tokens, time), expected, atol=1e-5)


def test_width_that_heads_do_not_divide_is_refused():
    message = r"model\.width .* multiple of 12 .*model\.num_heads is 3.* 64; set it to 72\."

    with pytest.raises(ValueError, match=message):
        DiT((1, 8, 8), num_heads=3)


def test_data_that_are_no_images_are_refused():
    with pytest.raises(ValueError, match=r"model\.name dit needs images .* \[4\]; use mlp"):
        DiT((4,))


def test_images_without_channels_are_answered_with_how_to_add_them():
    with pytest.raises(ValueError, match=r"save them as \[N, 1, 8, 6\] \(images\[:, None\]\)"):
        DiT((8, 6))


def test_patches_that_do_not_fill_the_image_are_refused_with_those_that_do():
    with pytest.raises(ValueError, match=r"model\.patch_size .* 5 for 8 x 12; .* one of 1, 2, 4"):
        DiT((1, 8, 12), patch_size=5)
