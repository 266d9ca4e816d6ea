"""The edge of a search against the one of the whole grid."""

import math
from dataclasses import replace

import pytest

from benchmarks.answer.blackbox import Setting
from benchmarks.answer.edges import compare, grid_bracket
from benchmarks.answer.replay import Outcome

RATES = (0.01, 0.02, 0.04, 0.08)
UNSTABLE = {Setting(0, rate): share for rate, share in zip(RATES, (0, 0.4, 0.5, 1), strict=True)}
MIDDLE = math.sqrt(0.02 * 0.04)
FOUND = Outcome(
    method="any", repetition=0, answer=Setting(0, 0.01), proposed=(0.01, None), full_trials=2.0,
    wall=1.0, trials=9, seeds=(0,), fingerprint="", edge=4 * MIDDLE, edge_interval=(0.05, 0.2),
)  # fmt: skip


def test_the_edge_of_a_grid_is_where_half_of_the_trials_fail():
    assert grid_bracket(UNSTABLE, 0) == (0.02, 0.04)
    assert grid_bracket(UNSTABLE, 1) is None
    assert grid_bracket(dict.fromkeys(UNSTABLE, 0.4), 0) is None
    assert grid_bracket(dict.fromkeys(UNSTABLE, 0.5), 0) is None


@pytest.mark.parametrize(
    ("interval", "is_inside"),
    [((0.05, 0.2), False), ((0.039, 0.2), True), ((0.001, 0.021), True), ((0.001, 0.019), False)],
)
def test_an_interval_reaches_the_grid_s_edge_or_not(interval, is_inside):
    compared = compare(replace(FOUND, edge_interval=interval), UNSTABLE)

    assert compared.octaves == pytest.approx(2.0)
    assert compared.is_inside is is_inside


@pytest.mark.parametrize(
    "changes", [{"answer": None}, {"edge": None}, {"answer": Setting(1, 0.01)}], ids=str
)
def test_without_an_edge_there_is_nothing_to_compare(changes):
    assert compare(replace(FOUND, **changes), UNSTABLE) is None
