"""The demo's verdicts against training its settings to the end (minutes: `make test-slow`)."""

from __future__ import annotations

import pytest

from benchmarks.gate_truth import STUDY, Truth, compare
from stabsearch.spec_file import load_study


@pytest.mark.slow
@pytest.mark.ray
def test_the_gate_prunes_the_unstable_and_none_of_the_ok():
    compared = compare(load_study(STUDY))

    assert compared.count(Truth.OK) >= 10
    assert compared.count(Truth.UNSTABLE) >= 3
    assert compared.pruned(Truth.OK) == 0
    assert compared.pruned(Truth.UNSTABLE) >= 0.85 * compared.count(Truth.UNSTABLE)
