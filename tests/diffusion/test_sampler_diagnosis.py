from __future__ import annotations

import pytest

from stabsearch.diffusion.sampler_check import measure_sampler
from stabsearch.diffusion.sampler_diagnosis import diagnose
from stabsearch.diffusion.samplers import ddim, ddpm
from stabsearch.recommend.sampler_words import badness, is_right
from stabsearch.thresholds import DEFAULTS
from tests.diffusion.test_sampler_check import COSINE, DIGITS, LATENT, LINEAR, wrong


@pytest.mark.parametrize(
    ("sampler", "schedule", "prediction_type", "options", "expected"),
    [
        (ddim, LINEAR, "epsilon", {"num_inference_steps": 10}, "too few steps: with 40"),
        (wrong(ddim, schedule=COSINE), LINEAR, "epsilon", {}, "squaredcos_cap_v2"),
        (wrong(ddim, schedule=LINEAR), COSINE, "v_prediction", {}, "noise schedule linear,"),
        (wrong(ddim, schedule=LATENT), LINEAR, "epsilon", {}, "latent diffusion"),
        (wrong(ddim, offset=60), LINEAR, "epsilon", {}, "about +60 timesteps"),
        (
            wrong(ddpm, prediction_type="epsilon"),
            LINEAR,
            "v_prediction",
            {},
            "right for a model that predicts epsilon, but this one predicts v_prediction",
        ),
        (ddpm, LINEAR, "epsilon", {"clip_sample_range": 1.0}, "clips to the range of the exam"),
        (ddim, LINEAR, "epsilon", {"clip_sample_range": 1.0}, "clips to the range of the exam"),
        # half of the range is not sound, and nothing else explains it
        (ddim, LINEAR, "epsilon", {"clip_sample_range": 0.3}, ""),
    ],
)
def test_a_failure_is_explained(sampler, schedule, prediction_type, options, expected):
    measured = measure_sampler(
        sampler, DIGITS, schedule, prediction_type, name="it", options=options
    )
    why = diagnose(
        sampler,
        DIGITS,
        schedule,
        prediction_type,
        options=options,
        measured=measured,
        badness=lambda check: badness(check, DEFAULTS),
    )

    assert not is_right(measured.check, DEFAULTS)
    assert (expected in why) if expected else why == ""
