from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from stabsearch.diffusion.datasets.images import (
    evenly_chosen,
    pixels,
    signed_unit,
    stack_images,
)


def random_image(height, width, mode="RGB"):
    shape = (height, width) if mode == "L" else (height, width, len(mode))
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8), mode)


def test_pixels_without_a_size_are_the_image_channels_first():
    image = random_image(5, 7)

    assert np.array_equal(pixels(image, None), np.asarray(image).transpose(2, 0, 1))


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("L", 1), ("P", 3), ("RGBA", 3)])
def test_grey_images_have_one_channel_and_others_three(mode, channels):
    image = random_image(4, 4).convert(mode)

    assert pixels(image, None).shape == (channels, 4, 4)


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_are_as_asked_for(channels):
    assert pixels(random_image(4, 4), 4, channels).shape == (channels, 4, 4)


@pytest.mark.parametrize(("height", "width"), [(8, 20), (20, 8), (9, 8), (8, 8)])
def test_crop_is_the_central_square(height, width):
    image = random_image(height, width)
    top, left = (height - 8) // 2, (width - 8) // 2

    expected = np.asarray(image)[top : top + 8, left : left + 8].transpose(2, 0, 1)

    assert np.array_equal(pixels(image, 8), expected)


def test_shrinking_averages_what_lies_between_the_new_pixels():
    checkerboard = Image.fromarray((np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8))

    assert pixels(checkerboard, 16) == pytest.approx(np.full((1, 16, 16), 127.5), abs=3)


def test_shrinking_keeps_what_is_where():
    halves = np.zeros((40, 40), np.uint8)
    halves[:, 20:] = 255

    shrunk = pixels(Image.fromarray(halves), 8)[0]

    assert shrunk[:, :3].max() < 20
    assert shrunk[:, 5:].min() > 235


def test_image_is_turned_upright(tmp_path):
    image = random_image(4, 6)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held a quarter turn clockwise
    image.save(tmp_path / "turned.png", exif=exif)

    with Image.open(tmp_path / "turned.png") as turned:
        upright = pixels(turned, None)

    assert np.array_equal(upright, np.rot90(np.asarray(image), -1).transpose(2, 0, 1))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_more_than_eight_bits_are_refused(dtype):
    with pytest.raises(ValueError, match="more than 8 bits"):
        pixels(Image.fromarray(np.full((4, 4), 1000, dtype)), None)


def test_pixels_span_minus_one_to_one():
    assert signed_unit(np.array([0, 51, 255], np.uint8)).tolist() == pytest.approx([-1, -0.6, 1])


def test_grey_images_among_colour_ones_get_equal_channels():
    grey, colour = pixels(random_image(4, 4, "L"), None), pixels(random_image(4, 4), None)

    stacked = stack_images([grey, colour, grey])

    assert (stacked.shape, stacked.dtype) == ((3, 3, 4, 4), np.float32)
    assert np.array_equal(stacked[0], np.repeat(signed_unit(grey), 3, axis=0))
    assert np.array_equal(stacked[1], signed_unit(colour))
    assert np.array_equal(stacked[2], stacked[0])


def test_images_of_different_sizes_ask_for_a_size():
    images = [pixels(random_image(4, width), None) for width in (5, 4, 7)]

    with pytest.raises(ValueError, match=r"from 4x4 to 7x4\)\. Set data\.image_size"):
        stack_images(images)


def test_no_image_is_an_error():
    with pytest.raises(ValueError, match="no images"):
        stack_images([])


@pytest.mark.parametrize(
    ("num_examples", "max_examples", "expected"),
    [
        (4, None, [0, 1, 2, 3]),
        (4, 9, [0, 1, 2, 3]),
        (9, 3, [0, 3, 6]),
        (10, 4, [0, 2, 5, 7]),
        (0, 3, []),
    ],
)
def test_examples_are_chosen_evenly(num_examples, max_examples, expected):
    assert evenly_chosen(num_examples, max_examples) == expected
