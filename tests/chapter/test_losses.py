"""The chapter's losses, and what it expects of them, beside ours."""

from __future__ import annotations

import pytest

from stabsearch.diffusion.noise_schedule import make_noise_schedule
from stabsearch.diffusion.reference_loss import reference_curves
from tests.chapter import chapter


def test_expected_losses_are_upside_down(data, train):
    """Item 1. The best epsilon loss is highest at t = 1 and falls by orders of magnitude to t = T.
    "Very low" at t = 1 is what only a model that has memorised its training set would get."""
    curves = reference_curves(data.statistics, make_noise_schedule(), "epsilon")
    best = dict(zip(chapter.EXPECTED_LOSS_ORDER, curves.linear[[0, 499, 999]], strict=True))
    trained = train().evaluation.bin_loss_raw

    assert sorted(best, key=best.__getitem__) == list(reversed(chapter.EXPECTED_LOSS_ORDER))
    assert best["t = 1"] == pytest.approx(0.883, abs=0.01)
    assert best["t = T/2"] == pytest.approx(0.0224, rel=0.02)
    assert curves.posterior[0] < 1e-3
    # a short real training has the order of ours
    assert trained[0] > trained[1] > trained[2] > trained[3] > 5 / 4 * trained[-1]
    assert trained[0] > 5 * trained[-1]


def test_clipped_loss_freezes_a_diverged_run(train, train_as_the_chapter):
    """Item 9. Where the clamp acts there is no gradient: the run stays at 100 for ever. Without
    it the same learning rate comes back to the loss of a dead network, and says so."""
    pinned = train_as_the_chapter(learning_rate=3.0)
    unclamped = train(learning_rate=3.0)
    clamped = train(learning_rate=3.0, loss="clamped_mse")

    assert set(pinned.diagnostics.losses[-300:]) == {100.0}
    assert all(not p.grad.any() for p in pinned.model.parameters())
    assert max(r.max_batch_loss for r in unclamped.reports) > 1e6
    assert unclamped.reports[-1].loss < 3
    # ours has the clamp for comparison: it counts what it hides, and reports the true loss
    assert clamped.reports[-1].clamped_fraction == pytest.approx(1.0, abs=1e-3)
    assert clamped.reports[-1].loss > 1e6
