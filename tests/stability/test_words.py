from __future__ import annotations

import pytest

from stabsearch.stability.words import (
    bin_place,
    describe_gauge,
    describe_timesteps,
    ordinal,
    timestep_range,
)
from tests.stability.reports import facts


@pytest.mark.parametrize(
    ("timestep_bin", "num_bins", "expected"),
    [
        (0, 1, "all there are"),
        (0, 2, "the cleaner half"),
        (1, 2, "the noisier half"),
        (1, 3, "the middle third"),
        (0, 4, "the cleanest quarter"),
        (2, 4, "the 2nd quarter from the noisy end"),
        (2, 5, "the middle fifth"),
        (7, 8, "the noisiest eighth"),
        (0, 10, "the cleanest tenth"),
        (1, 10, "the 2nd tenth from the clean end"),
        (4, 10, "the 5th tenth from the clean end"),
        (5, 10, "the 5th tenth from the noisy end"),
        (9, 10, "the noisiest tenth"),
        (2, 24, "the 3rd 1/24 from the clean end"),
        (23, 24, "the noisiest 1/24"),
    ],
)
def test_a_bin_has_a_place_between_clean_and_noisy(timestep_bin, num_bins, expected):
    assert bin_place(timestep_bin, num_bins) == expected


@pytest.mark.parametrize("num_bins", range(1, 60))
def test_every_bin_has_a_place_of_its_own(num_bins):
    assert len({bin_place(i, num_bins) for i in range(num_bins)}) == num_bins


def test_timesteps_are_a_range_and_a_place():
    ten = facts(bin_edges=tuple(range(0, 1001, 100)), bin_share=(0.1,) * 10)

    assert describe_timesteps(ten, 9) == "timesteps 900-999, the noisiest tenth"
    assert describe_timesteps(facts(), 0) == "timesteps 0-249, the cleanest quarter"


def test_a_range_of_one_timestep_is_one():
    assert timestep_range(7, 7) == "timestep 7"
    assert timestep_range(7, 8) == "timesteps 7-8"


@pytest.mark.parametrize(
    ("number", "expected"),
    [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (13, "13th"), (21, "21st"),
     (112, "112th"), (123, "123rd")],
)  # fmt: skip
def test_ordinal(number, expected):
    assert ordinal(number) == expected


@pytest.mark.parametrize(
    ("octaves", "expected"),
    [
        (0.0, "the learning rate is about the best one"),
        (-0.4, "the learning rate is about the best one"),
        (1.0, "the learning rate is about 1.0 octaves (x2) above the best one"),
        (-1.5, "the learning rate is about 1.5 octaves (x2.8) below the best one"),
        (5.9, "the learning rate is about 5.9 octaves (x60) above the best one"),
        (6.0, "the learning rate is far above the best one"),
        (-6.0, "the learning rate is far below the best one"),
    ],
)
def test_the_gauge_in_words(octaves, expected):
    assert describe_gauge(octaves) == expected
