from __future__ import annotations

import math

import pytest

from stabsearch.stability.reached import SMOOTHED_WINDOWS, Reached
from stabsearch.stability.window import TrialWindow
from tests.stability.reports import curve, facts, nan_report, report


def test_nothing_is_reached_before_a_trial_ended():
    assert Reached().curve() == ()


def test_the_lowest_smoothed_loss_by_each_step_over_all_trials():
    reached = Reached()
    reached.add(facts(), curve([0.8] * 6))
    reached.add(facts(), curve([0.9] * 4 + [0.5] * 4))

    assert reached.curve() == ((100, 0.8), (125, 0.8), (150, 0.7), (175, 0.6), (200, 0.5))


def test_what_comes_after_a_nan_does_not_count():
    reached = Reached()
    reached.add(facts(), [*curve([0.8] * 5), nan_report(150, 140), *curve([0.1] * 20)])

    assert min(loss for _, loss in reached.curve()) == 0.8


def test_only_the_bins_that_training_is_about_count():
    reached = Reached()
    losses = (0.4, 0.4, 0.4, 9.0)
    reports = [report(25 * i, 0.4, bin_loss=losses) for i in range(1, SMOOTHED_WINDOWS + 1)]
    reached.add(facts(bin_share=(0.5, 0.3, 0.19, 0.01)), reports)

    assert [round(loss, 9) for _, loss in reached.curve()] == [0.4]


def test_a_report_that_drew_easy_timesteps_only_has_reached_nothing():
    """Ten samples a report: four in a row may all be noisy ones, at a loss of 0.01."""
    easy = {"bin_loss": (math.nan,) * 3 + (0.01,), "bin_count": (0, 0, 0, 10)}
    even = {"bin_loss": (0.9, 0.4, 0.2, 0.01), "bin_count": (4, 2, 2, 2)}
    reports = [report(i, 0.4, **(easy if 200 < i <= 220 else even)) for i in range(1, 401)]
    reached = Reached()
    reached.add(facts(report_every=1), reports)

    assert min(loss for _, loss in reached.curve()) == pytest.approx((0.9 + 0.4 + 0.2 + 0.01) / 4)


def test_a_long_curve_is_thinned_and_keeps_its_end():
    reached = Reached()
    reached.add(facts(), curve([1 / (1 + i) for i in range(200)]))
    points = reached.curve(num_points=20)

    assert len(points) == 20
    assert points[-1][0] == 5000
    assert points == tuple(sorted(points))


def test_the_bar_is_what_a_peer_had_by_then_and_never_below_the_trivial_denoiser():
    window = TrialWindow(facts(reached=((500, 0.5), (1000, 0.1))))

    assert window.reachable(499) == window.isotropic
    assert window.reachable(500) == 0.5 * 1.25
    assert window.reachable(1500) == window.isotropic
