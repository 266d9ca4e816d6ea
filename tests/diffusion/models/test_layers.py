from __future__ import annotations

import math

import torch
from torch import nn

from stabsearch.diffusion.models.layers import SelfAttention, modulate, zero_initialised


def test_attention_is_that_of_vaswani_et_al_head_by_head():
    torch.manual_seed(0)
    width, num_heads = 6, 3
    attention = SelfAttention(width, num_heads)
    tokens = torch.randn(2, 5, width)
    query, key, value = attention.project_in(tokens).split(width, dim=2)
    heads = []
    for first in range(0, width, width // num_heads):
        of_head = slice(first, first + width // num_heads)
        scores = query[:, :, of_head] @ key[:, :, of_head].transpose(1, 2)
        weights = (scores / math.sqrt(width // num_heads)).softmax(dim=2)
        heads.append(weights @ value[:, :, of_head])
    expected = attention.project_out(torch.cat(heads, dim=2))

    assert torch.allclose(attention(tokens), expected, atol=1e-6)


def test_modulation_by_nothing_changes_nothing():
    hidden = torch.randn(2, 3)
    nothing = torch.zeros(2, 3)

    assert torch.equal(modulate(hidden, nothing, nothing), hidden)
    assert torch.allclose(modulate(hidden, nothing + 1, nothing + 5), 2 * hidden + 5)


def test_a_zero_initialised_layer_returns_zeros():
    assert not zero_initialised(nn.Linear(3, 2))(torch.randn(4, 3)).any()
    assert not zero_initialised(nn.Conv2d(3, 2, 1, bias=False))(torch.randn(4, 3, 2, 2)).any()
