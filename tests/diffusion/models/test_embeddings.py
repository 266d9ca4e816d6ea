from __future__ import annotations

import math

import pytest
import torch

from stabsearch.diffusion.models.embeddings import (
    TIME_EMBEDDINGS,
    FourierEmbedding,
    SinusoidalEmbedding,
    position_embedding,
)

TIMESTEPS = torch.tensor([0, 1, 500, 999])


@pytest.mark.parametrize("name", TIME_EMBEDDINGS)
def test_every_time_embedding_has_its_width(name):
    assert TIME_EMBEDDINGS[name](6)(TIMESTEPS).shape == (4, 6)


def test_sinusoidal_frequencies_run_from_one_to_a_ten_thousandth():
    frequencies = [1.0, 10_000**-0.5, 1e-4]
    expected = torch.tensor(
        [
            [wave(t * f) for wave in (math.sin, math.cos) for f in frequencies]
            for t in TIMESTEPS.tolist()
        ]
    )

    assert torch.allclose(SinusoidalEmbedding(6)(TIMESTEPS), expected, atol=1e-4)


def test_fourier_features_are_those_of_song_et_al():
    torch.manual_seed(0)
    embedding = FourierEmbedding(6)
    torch.manual_seed(0)
    weights = (torch.randn(3) * 16).tolist()
    expected = torch.tensor(
        [
            [wave(2 * math.pi * w * t / 1000) for wave in (math.sin, math.cos) for w in weights]
            for t in TIMESTEPS.tolist()
        ]
    )

    assert torch.allclose(embedding(TIMESTEPS), expected, atol=1e-4)


def test_fourier_frequencies_are_saved_and_not_trained():
    embedding = FourierEmbedding(6)

    assert list(embedding.state_dict()) == ["frequencies"]
    assert list(embedding.parameters()) == []


def test_no_embedding_says_nothing():
    assert not TIME_EMBEDDINGS["none"](6)(TIMESTEPS).any()


def test_position_embedding_of_a_token_is_its_row_and_its_column():
    height, width, num_channels = 2, 3, 8
    frequencies = [10_000 ** (-k / 2) for k in range(2)]  # num_channels / 4 of them
    expected = torch.tensor(
        [
            [
                wave(place * f)
                for place in (row, column)
                for wave in (math.sin, math.cos)
                for f in frequencies
            ]
            for row in range(height)
            for column in range(width)
        ]
    )

    assert torch.allclose(position_embedding(height, width, num_channels)[0], expected)
