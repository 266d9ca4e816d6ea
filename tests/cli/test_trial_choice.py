"""The list of trials that one may name."""

from __future__ import annotations

from stabsearch.cli.trial_choice import listing
from stabsearch.records import Outcome
from tests.cli.test_progress import TRACEBACK, record


def test_of_a_failed_trial_the_list_says_what_was_raised():
    [line] = listing([record(outcome=Outcome.FAILED, reason=TRACEBACK)])

    assert line.endswith("FAILED  RuntimeError: CUDA error: misaligned")
