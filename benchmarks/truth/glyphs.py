"""Glyphs of many fonts: another data set for the grids, without a download."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.truth.patches import drawn

FONTS = ("DejaVuSans", "DejaVuSansMono", "DejaVuSerif", "STIXGeneral")
MARGIN = 0.08
"""Of the side of an image, around the glyph."""
OVERSAMPLED = 8
"""Pixels of the drawing that one of the image is the mean of, along each side."""


def load(size: int = 8, seed: int = 0, num_examples: int = 4000) -> np.ndarray:
    """Letters and signs ``[num_examples, 1, size, size]`` in [-1, 1], each as large as fits, of
    the fonts that come with matplotlib; ink is 1."""
    every = np.stack([image for font in FONTS for image in glyphs(font, size)])
    # Fonts share signs, and a blank says nothing.
    every = np.unique(every.reshape(len(every), -1), axis=0)
    every = every[np.ptp(every, axis=1) > 0]
    return drawn(every.reshape(-1, 1, size, size), num_examples, seed)


def glyphs(font: str, size: int) -> Iterator[NDArray[np.float64]]:
    """Every glyph of a font that has a character, in the order of the characters."""
    from matplotlib import get_data_path
    from matplotlib.ft2font import FT2Font

    face = FT2Font(str(Path(get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"))
    face.set_size(size * OVERSAMPLED, 72)
    for character in sorted(face.get_charmap()):
        face.clear()
        face.set_text(chr(character), 0.0)
        face.draw_glyphs_to_bitmap(antialiased=True)
        ink = np.asarray(face.get_image(), dtype=np.float64) / 255
        if ink.any():
            yield 2 * fitted(ink, size) - 1


def fitted(ink: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """A drawing in the middle of a square, as large as fits, as an image of so many pixels."""
    from PIL import Image

    rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    side = int(np.ceil(max(ink.shape) / (1 - 2 * MARGIN)))
    square = np.zeros((side, side))
    top, left = ((side - length) // 2 for length in ink.shape)
    square[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    image = Image.fromarray(square.astype(np.float32))
    return np.asarray(image.resize((size, size), Image.Resampling.BOX), dtype=np.float64)
