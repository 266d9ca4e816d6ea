"""Decoded images become numbers: ``[N, C, H, W]`` in [-1, 1].

Pixels stay uint8 until all images are there: loading needs at most half as much memory again as
its result.
"""

# N = images, C = channels, H, W = rows and columns, S = image_size

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

Array = NDArray[np.float32]
Pixels = NDArray[np.uint8]

MODES = {1: "L", 3: "RGB"}
"""Pillow's mode for a number of channels."""

GREY_MODES = ("1", "L", "LA")


def pixels(image: Image, image_size: int | None, channels: int | None = None) -> Pixels:
    """Pixels ``[C, H, W]`` of an image, upright; with ``image_size``, its central square.

    Without ``channels``, a grey image has 1 and any other has 3.

    Raises ValueError for more than 8 bits per channel, which Pillow would cut off at 255.
    """
    from PIL import ImageOps

    if image.mode.startswith(("I", "F")):
        raise ValueError(f"its pixels have more than 8 bits (Pillow mode {image.mode})")
    if channels is None:
        channels = 1 if image.mode in GREY_MODES else 3
    upright = ImageOps.exif_transpose(image).convert(MODES[channels])
    array = np.asarray(upright if image_size is None else _square(upright, image_size))
    return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)


def stack_images(images: Sequence[Pixels]) -> Array:
    """Images ``[C, H, W]`` of one size as ``[N, C, H, W]`` in [-1, 1].

    Among colour images, a grey one gets three equal channels.

    Raises ValueError if there is no image, or if the sizes differ.
    """
    if not images:
        raise ValueError("the data holds no images.")
    sizes = sorted({image.shape[1:] for image in images})
    if len(sizes) > 1:
        (height, width), (other_height, other_width) = sizes[0], sizes[-1]
        raise ValueError(
            f"the images have different sizes (from {width}x{height} to "
            f"{other_width}x{other_height}). Set data.image_size to crop and resize them all."
        )
    shape = (max(len(image) for image in images), *sizes[0])
    return signed_unit(np.stack([np.broadcast_to(image, shape) for image in images]))


def signed_unit(array: Pixels) -> Array:
    """Pixels 0 .. 255 as numbers in [-1, 1]: ``x / 127.5 - 1``."""
    scaled = array.astype(np.float32, order="C")
    scaled /= 127.5
    scaled -= 1
    return scaled


def evenly_chosen(num_examples: int, max_examples: int | None) -> list[int]:
    """Indices of at most ``max_examples`` examples, spread evenly over all.

    The first ones would often be of one class only: files are sorted by their folder.
    """
    num_chosen = num_examples if max_examples is None else min(max_examples, num_examples)
    return [index * num_examples // num_chosen for index in range(num_chosen)]


def _square(image: Image, image_size: int) -> Image:
    from PIL.Image import Resampling

    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    cropped = image.crop((left, top, left + side, top + side))
    # Pillow widens the filter when it shrinks an image, so that nothing aliases.
    return cropped.resize((image_size, image_size), Resampling.LANCZOS)
