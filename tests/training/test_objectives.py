"""Which timesteps a trained model must do better at than the best scalar gain; the whole table of
objectives is `make objectives`."""

from __future__ import annotations

import pytest

from benchmarks.objectives import TO_GAIN, ratios


@pytest.mark.parametrize(
    ("prediction_type", "missed"),
    [
        ("epsilon", {4}),  # its error counts for 1,000 times less at high noise
        ("sample", {0}),  # loses its precision at low noise
        ("v_prediction", set()),
        ("flow", set()),
    ],
)
def test_training_beats_the_best_scalar_gain_where_there_is_something_to_gain(
    prediction_type, missed
):
    bins = ratios((prediction_type, "linear", "none"))
    gainful = [index for index, (_, linear) in enumerate(bins) if linear < TO_GAIN]

    assert gainful == [0, 1, 2, 3, 4]
    assert {index for index in gainful if bins[index][0] >= 1} <= missed
