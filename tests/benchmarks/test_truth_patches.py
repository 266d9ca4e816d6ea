"""The patches of photographs, against the photographs."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_sample_images

from benchmarks.truth.patches import load


def test_patches_are_grey_squares_of_the_photographs_none_twice():
    patches = load(size=8, num_examples=200)
    blocks = set()
    for photograph in load_sample_images().images:
        grey = photograph.astype(np.float64).sum(axis=2) / 3 / 127.5 - 1
        for top in range(0, 427 - 7, 8):
            for left in range(0, 640 - 7, 8):
                block = grey[top : top + 8, left : left + 8]
                blocks.add(block.astype(np.float32).round(5).tobytes())

    assert patches.shape == (200, 1, 8, 8)
    assert patches.dtype == np.float32
    assert -1 <= patches.min() < -0.5 < 0.5 < patches.max() <= 1
    found = {patch[0].round(5).tobytes() for patch in patches}
    assert len(found) > 190  # parts of the sky are alike
    assert len(found & blocks) == len(found)


def test_colours_are_channels():
    patches = load(size=4, colour=True, num_examples=50)
    photographs = [image.astype(np.float64) / 127.5 - 1 for image in load_sample_images().images]

    assert patches.shape == (50, 3, 4, 4)
    for patch in patches[:5]:
        pixels = patch.transpose(1, 2, 0)
        assert any(
            np.allclose(image[top : top + 4, left : left + 4], pixels, atol=1e-6)
            for image in photographs
            for top, left in np.argwhere(np.isclose(image[::4, ::4], pixels[0, 0]).all(2)) * 4
        )


def test_the_same_seed_draws_the_same():
    assert np.array_equal(load(seed=1, num_examples=9), load(seed=1, num_examples=9))
    assert not np.array_equal(load(seed=1, num_examples=9), load(seed=2, num_examples=9))
