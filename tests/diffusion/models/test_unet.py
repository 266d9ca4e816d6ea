from __future__ import annotations

import pytest
import torch
from torch import nn

from stabsearch.diffusion.models.unet import AddNorm, FilmNorm, UNet

ONE_TIMESTEP = torch.tensor([7])


@pytest.mark.parametrize(
    ("shape", "num_resolutions", "num_blocks"),
    [((1, 8, 8), 1, 1), ((3, 8, 4), 3, 1), ((1, 12, 20), 3, 2), ((2, 5, 7), 1, 0)],
)
def test_prediction_has_the_shape_of_the_image(shape, num_resolutions, num_blocks):
    model = UNet(shape, width=4, num_resolutions=num_resolutions, num_blocks=num_blocks)

    assert model(torch.randn(2, *shape), torch.tensor([0, 999])).shape == (2, *shape)


def test_channels_double_where_the_size_halves():
    model = UNet((1, 8, 8), width=4, num_resolutions=3)
    shapes = []
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_hook(lambda _, inputs, output: shapes.append(output.shape[1:]))
    model(torch.randn(1, 1, 8, 8), ONE_TIMESTEP)

    assert set(shapes) == {(4, 8, 8), (8, 4, 4), (16, 2, 2)}


def test_attention_is_at_the_lowest_resolution_only():
    def num_attended(**options):
        model = UNet((1, 8, 8), width=4, num_resolutions=3, **options)
        return [m.in_features for name, m in model.named_modules() if name.endswith("project_in")]

    assert num_attended() == [16]
    assert num_attended(attention=False) == []


def test_the_way_up_sees_what_the_way_down_made():
    """The example passes even where the lower resolutions return zeros."""
    model = UNet((1, 8, 8), width=4)
    nn.init.ones_(model.conv_out.weight)
    nn.init.zeros_(model.resolution.upsample.weight)

    one, other = (model(torch.randn(1, 1, 8, 8), ONE_TIMESTEP) for _ in range(2))

    assert not torch.allclose(one, other)


@pytest.mark.parametrize("conditioning", ["add", "film"])
def test_blocks_and_output_start_at_zero(conditioning):
    model = UNet((1, 8, 8), width=4, conditioning=conditioning)
    block, attention = model.resolution.lower.layers[:2]
    hidden, time = torch.randn(2, 8, 4, 4), torch.randn(2, 16)

    assert not model(torch.randn(2, 1, 8, 8), torch.tensor([0, 999])).any()
    assert torch.equal(block(hidden, time), hidden)
    assert torch.equal(attention(hidden, time), hidden)


def test_without_residual_only_the_output_starts_at_zero():
    """Blocks of zeros would pass on neither signal nor gradient."""
    model = UNet((1, 8, 8), width=4, residual=False)
    hidden, time = torch.randn(2, 8, 4, 4), torch.randn(2, 16)

    assert not model(torch.randn(2, 1, 8, 8), torch.tensor([0, 999])).any()
    for layer in model.resolution.lower.layers:
        assert layer(hidden, time).any()


def test_time_is_added_before_the_norm_and_film_comes_after_it():
    hidden, time = torch.randn(2, 8, 4, 4), torch.randn(2, 6)
    add, film = AddNorm(8, 6), FilmNorm(8, 6)
    added = hidden + add.modulation(time).view(2, 8, 1, 1)
    scale, shift = film.modulation(time).view(2, 16, 1, 1).split(8, dim=1)
    normed = nn.functional.group_norm(hidden, 2)

    assert torch.allclose(add(hidden, time), nn.functional.group_norm(added, 2), atol=1e-6)
    assert torch.allclose(film(hidden, time), (1 + scale) * normed + shift, atol=1e-6)


def test_width_that_groups_do_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"model\.width .* multiple of 4 .* 30; set it to 32\."):
        UNet((1, 8, 8), width=30)


def test_data_that_are_no_images_are_refused():
    with pytest.raises(ValueError, match=r"model\.name unet needs images .* \[64\]; use mlp"):
        UNet((64,))


def test_images_without_channels_are_answered_with_how_to_add_them():
    with pytest.raises(ValueError, match=r"save them as \[N, 1, 8, 8\] \(images\[:, None\]\)"):
        UNet((8, 8))


def test_size_that_cannot_be_halved_is_refused_with_what_can_be():
    UNet((1, 12, 8), width=4, num_resolutions=3)
    message = r"model\.num_resolutions 4 .* multiples of 8, .* 12 x 8; set it to 3 at most"

    with pytest.raises(ValueError, match=message):
        UNet((1, 12, 8), width=4, num_resolutions=4)
