"""Samplers that studies name by reference."""

from __future__ import annotations

import math

import torch

from stabsearch.diffusion.samplers import ddim


def reads_epsilon(model, shape, *, generator, noise_schedule):
    """Right for models that predict epsilon, whatever it is told."""
    return ddim(
        model, shape, generator=generator, noise_schedule=noise_schedule, prediction_type="epsilon"
    )


def not_a_number(model, shape, *, generator):
    return torch.full(shape, math.nan)


def raises(model, shape, *, generator):
    raise RuntimeError("this sampler is broken")
