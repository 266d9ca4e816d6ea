from dataclasses import replace

import numpy as np
import pytest

from stabsearch.recommend.evidence import (
    Evidence,
    detected_by,
    evidence,
    out_of_order,
    unstable_trials,
)
from stabsearch.records import Outcome, Severity, StoppedBy, Symptom
from tests import synthetic_study as synthetic

HALF = synthetic.STEPS // 2
NOT_LEARNING = {"symptom": str(Symptom.NOT_LEARNING), "severity": Severity.PRUNE}
BY_RANK = {"outcome": Outcome.STOPPED, "stopped_by": StoppedBy.RANK}
ENDED_BY = {
    by: {"outcome": Outcome.STOPPED, "stopped_by": by} for by in (StoppedBy.PROBE, StoppedBy.GAUGE)
}
PROBE = synthetic.STEPS // 10
C0 = synthetic.CONSTANT_SCORE
BEYOND, WITHIN = Evidence(is_unstable=True), Evidence(is_unstable=False)
WITHIN_BY = {
    share: Evidence(is_unstable=False, detection=detection)
    for share, detection in ((0.1, 0.87), (0.5, 0.95))
}
BY_GATE = {"outcome": Outcome.STOPPED, "stopped_by": StoppedBy.GATE, "steps": 300}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (synthetic.record(), WITHIN),
        (synthetic.diverged(), BEYOND),
        (synthetic.record(severity=Severity.PENALISE, symptom="lost_progress"), BEYOND),
        (synthetic.record(**NOT_LEARNING), None),
        (synthetic.record(**NOT_LEARNING, **BY_GATE), None),
        (synthetic.record(**BY_RANK, steps=HALF), WITHIN_BY[0.5]),
        (synthetic.record(**BY_RANK, steps=PROBE), WITHIN_BY[0.1]),
        (synthetic.record(**ENDED_BY[StoppedBy.PROBE], steps=PROBE), WITHIN_BY[0.1]),
        (synthetic.record(**ENDED_BY[StoppedBy.GAUGE], steps=PROBE), WITHIN_BY[0.1]),
        (synthetic.record(outcome=Outcome.RUNNING, steps=PROBE), WITHIN_BY[0.1]),
        (synthetic.record(outcome=Outcome.RUNNING, steps=PROBE // 2), None),
        (synthetic.record(outcome=Outcome.FAILED, steps=synthetic.STEPS), None),
        (replace(synthetic.diverged(), outcome=Outcome.FAILED), None),
    ],
    ids=[
        "completed",
        "diverged",
        "penalised",
        "not-learning",
        "not-learning-stopped",
        "rank-late",
        "rank-early",
        "probe",
        "gauge",
        "running",
        "just-begun",
        "failed",
        "failed-after-a-verdict",
    ],
)
def test_what_a_trial_says_of_the_edge(record, expected):
    is_unstable = record.trial_id in unstable_trials([record], {})

    assert evidence(record, is_unstable=is_unstable) == expected


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.0, 0.0),
        (0.05, 0.0),
        (0.0625, 0.25),
        (0.075, 0.5),
        (0.1, 0.87),
        (0.2, 0.92),
        (0.35, 0.935),
        (0.5, 0.95),
        (1.0, 1.0),
    ],
)
def test_the_share_of_failures_that_show_by_then(share, expected):
    """docs/benchmarks.md, section truth: rules, tuning grids; linear in between."""
    assert detected_by(share) == pytest.approx(expected)


@pytest.mark.parametrize("ending", [{}, BY_GATE], ids=["without-gate", "stopped-by-gate"])
@pytest.mark.parametrize(
    ("rate", "stable_rates", "is_killed"),
    [
        (0.1, [1e-3], True),
        (0.1, [1e-3, 0.2], True),
        (0.1, [1e-3, 0.2, 0.4], False),
        (1e-4, [1e-3], False),
        (1e-3, [1e-3], False),
        (0.1, [], False),
    ],
    ids=["above", "between", "mostly-below", "below", "equal", "nothing-stable"],
)
def test_a_network_that_never_learned_was_killed_if_a_stable_one_lies_below(
    rate, stable_rates, is_killed, ending
):
    records = [synthetic.record(n, learning_rate=lr) for n, lr in enumerate(stable_rates)]
    records.append(synthetic.record(9, learning_rate=rate, **NOT_LEARNING, **ending))

    assert (unstable_trials(records, {}) == {"0009-0"}) is is_killed


@pytest.mark.parametrize(
    ("optimizer", "clip", "is_killed"),
    [("adamw", 0.001, True), ("sgd", 0.001, False), ("sgd", 1.0, True), ("sgd", None, True)],
)
def test_under_sgd_a_tight_clip_may_be_what_kept_it_from_learning(optimizer, clip, is_killed):
    records = [
        synthetic.record(0, learning_rate=0.01, max_grad_norm=1.0),
        synthetic.record(1, learning_rate=0.1, max_grad_norm=clip, **NOT_LEARNING),
    ]

    unstable = unstable_trials(
        records, {"trainer": {"optimizer": optimizer, "clipping": "global_norm"}}
    )

    assert bool(unstable) is is_killed


def short(number, learning_rate, score, **changes):
    ended = ENDED_BY[StoppedBy.PROBE] | {"steps": PROBE, "looks": (synthetic.look(score),)}
    return synthetic.record(number, learning_rate=learning_rate, score=score, **ended | changes)


@pytest.mark.parametrize(
    ("mine", "others", "is_killed"),
    [
        (C0, [(1e-3, 0.9 * C0)], True),
        (1.1 * C0, [(1e-3, 0.95 * C0)], True),
        (C0, [(1e-3, 0.96 * C0)], False),
        (0.99 * C0, [(1e-3, 0.1 * C0)], False),
        (None, [(1e-3, 0.9 * C0)], False),
        (C0, [(1e-3, None)], False),
        (C0, [(0.2, 0.9 * C0)], False),
        (C0, [(1e-3, 0.9 * C0), (0.2, 0.9 * C0)], True),
        (C0, [(1e-3, 0.9 * C0), (0.2, 0.9 * C0), (0.4, 0.9 * C0)], False),
        (C0, [], False),
    ],
    ids=[
        "learned-below",
        "barely",
        "hardly-learned-below",
        "begun",
        "no-score",
        "no-score-below",
        "learned-above",
        "between",
        "mostly-above",
        "alone",
    ],
)
def test_a_short_trial_without_progress_was_killed_if_a_lower_rate_had_learned(
    mine, others, is_killed
):
    records = [short(n, rate, score) for n, (rate, score) in enumerate(others)]
    records.append(short(9, 0.1, mine))

    assert (unstable_trials(records, {}) == {"0009-0"}) is is_killed


@pytest.mark.parametrize(
    ("changes", "is_killed"),
    [
        ({}, True),
        ({"stopped_by": StoppedBy.RANK}, False),
        (
            {"looks": (synthetic.look(C0, PROBE), synthetic.look(0.5 * C0, HALF)), "steps": HALF},
            False,
        ),
        (
            {"looks": (synthetic.look(0.5 * C0, PROBE), synthetic.look(C0, HALF)), "steps": HALF},
            False,
        ),
        ({"constant_score": None}, False),
    ],
    ids=["short", "stopped-by-rank", "learned-later", "nobody-else-so-late", "no-constant"],
)
def test_a_short_trial_is_compared_where_it_ended(changes, is_killed):
    records = [short(0, 1e-3, 0.5 * C0), short(1, 0.1, C0, **changes)]

    assert (unstable_trials(records, {}) == {"0001-0"}) is is_killed


def test_what_learned_later_is_held_against_it_as_it_was_by_then():
    full = synthetic.record(
        0, score=0.1 * C0, looks=(synthetic.look(C0), synthetic.look(0.5 * C0, HALF))
    )

    assert not unstable_trials([full, short(1, 0.1, C0)], {})


@pytest.mark.parametrize(("score", "is_killed"), [(C0, True), (0.5 * C0, False)])
def test_a_short_trial_without_progress_speaks_for_no_other(score, is_killed):
    """Of two that learned, one above: only then it was too timid."""
    records = [short(0, 1e-3, 0.5 * C0), short(1, 0.2, score), short(2, 0.4, score)]
    records.append(synthetic.record(9, learning_rate=0.1, **NOT_LEARNING))

    assert ("0009-0" in unstable_trials(records, {})) is is_killed


@pytest.mark.parametrize(
    ("octaves", "unstable", "expected"),
    [
        ([0, 1, 2, 3, 4], [0, 0, 0, 1, 1], []),
        ([0, 1, 2, 3, 4], [1, 0, 0, 0, 1], [0]),
        ([0, 0.3, 0.6, 0.9, 4], [1, 0, 0, 0, 1], []),
        ([0, 1, 2, 3, 4], [1, 0, 0, 1, 1], []),
    ],
    ids=["in-order", "one-below-three", "not-clearly-below", "two-may-be-luck"],
)
def test_what_is_out_of_order(octaves, unstable, expected):
    found = out_of_order(np.array(octaves, dtype=float), np.array(unstable, dtype=bool))

    assert list(np.flatnonzero(found)) == expected
