"""What the built-in denoisers demand of their options and of the data's shape."""

from __future__ import annotations

import math


def check_width(width: int, multiple: int, reason: str) -> None:
    """Raise ValueError for a width that is not a positive multiple of ``multiple``."""
    if width < multiple or width % multiple:
        number = (
            "a positive even number" if multiple == 2 else f"a positive multiple of {multiple}"
        )
        nearest = max(1, math.ceil(width / multiple)) * multiple
        raise ValueError(
            f"model.width must be {number} ({reason}), but got {width}; set it to {nearest}."
        )


def image_shape(model: str, sample_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Channels, height and width; raises ValueError where the examples are no images."""
    if len(sample_shape) != 3:
        shape = ", ".join(map(str, sample_shape))
        remedy = (
            f"if they are images of one channel, save them as [N, 1, {shape}] (images[:, None]); "
            "else use mlp"
            if len(sample_shape) == 2
            else "use mlp for them"
        )
        raise ValueError(
            f"model.name {model} needs images [channels, height, width], but the data's examples "
            f"have shape [{shape}]; {remedy}."
        )
    channels, height, width = sample_shape
    return channels, height, width
