"""The glyphs: against a drawing of one by other means, and what may not be among them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from benchmarks.truth.glyphs import fitted, glyphs, load


def test_they_are_small_images_none_twice_and_none_blank():
    images = load(size=8, num_examples=300)

    assert images.shape == (300, 1, 8, 8)
    assert images.dtype == np.float32
    assert images.min() == -1
    assert 0.5 < images.max() <= 1
    assert len({image.tobytes() for image in images}) == 300
    assert np.ptp(images.reshape(300, -1), axis=1).min() > 0


def test_a_glyph_looks_as_pillow_draws_it():
    """A larger R, without what a small one's hinting moves; its mirror image is none of them."""
    path = Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    page = Image.new("L", (600, 600))
    ImageDraw.Draw(page).text((100, 50), "R", font=ImageFont.truetype(path, 400), fill=255)
    ink = np.asarray(page) / 255.0
    drawn = 2 * fitted(ink, 8) - 1

    every = list(glyphs("DejaVuSans", 8))
    nearest, mirrored = (
        min(np.abs(image - wanted).mean() for image in every) for wanted in (drawn, drawn[::-1])
    )

    assert nearest < 0.1 < mirrored


@pytest.mark.parametrize("shape", [(30, 10), (10, 30), (20, 20)])
def test_a_drawing_is_centred_and_keeps_its_proportions(shape):
    page = np.zeros((50, 70))
    page[5 : 5 + shape[0], 40 : 40 + shape[1]] = 1.0

    image = fitted(page, 40)

    rows, columns = (np.flatnonzero(image.max(axis=axis) > 0.5) for axis in (1, 0))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert height / width == pytest.approx(shape[0] / shape[1], rel=0.15)
    assert max(height, width) == pytest.approx(40 * (1 - 2 * 0.08), abs=2)
    for first, last in ((rows[0], rows[-1]), (columns[0], columns[-1])):
        assert abs(first - (39 - last)) <= 2
