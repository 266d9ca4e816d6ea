"""A tuner's answer: what is known of its stability, and whether safety had a price."""

from __future__ import annotations

import pytest

from stabsearch.recommend.describe import describe
from stabsearch.recommend.pick import recommend_from
from stabsearch.records import Purpose, Severity, Symptom
from tests import synthetic_study as synthetic

RATE = {"learning_rate": synthetic.SPACE["learning_rate"]}
TRAINER = {"clipping": "global_norm", "max_grad_norm": 1.0, "optimizer": "adamw"}
STUDY = {"space": RATE, "trainer": TRAINER, "confirm": {"seeds": 2, "stress_octaves": 1.0}}
POOR = {"severity": Severity.PENALISE, "rule": "R6", "symptom": str(Symptom.TIME_BLIND)}

OURS, THEIRS = 4e-3, 8e-3


def of(number, learning_rate, seed=0, make=synthetic.record, **changes):
    params = {"learning_rate": learning_rate}
    return make(number, seed, **({"params": params} | changes))


def ladder(theirs=THEIRS, **changes):
    """A setting with the lowest score, one that is nearly as good, and failures far above."""
    failed = [of(10 + n, 0.1 * 1.5**n, make=synthetic.diverged) for n in range(4)]
    return [of(0, OURS, score=5.12), of(1, theirs, score=5.0, **changes), *failed]


def judged(records, study=STUDY):
    answer = recommend_from(records, study)
    text = describe(answer)
    assert answer.best_trial_id == "0001-0"
    assert answer.trial_id == "0000-0"
    assert f"for its score 5: {answer.best_judgement}" in text
    assert ("PRICE OF SAFETY" in text) is (answer.price_of_safety is not None)
    return answer


def test_a_setting_that_lies_nearer_to_the_edge_was_passed_over_for_safety():
    """The price compares two trials of the search; the line above it names the worst seed."""
    records = [
        *ladder(theirs=0.05),
        *(of(0, OURS, 1 + n, score=5.78, purpose=Purpose.CONFIRM) for n in range(4)),
    ]
    answer = judged(records)

    assert answer.best_judgement == "stable"
    assert (answer.score, answer.trial_score) == (5.78, 5.12)
    text = describe(answer)
    assert "score 5.78 at worst (5.12 in trial 0000-0)" in text
    assert (
        "PRICE OF SAFETY  a score 2.4% above the tuner's: 5.12 in trial 0000-0 against 5 in "
        "trial 0001-0\n" in text
    )


def test_one_score_is_said_once():
    answer = recommend_from(ladder(theirs=0.05), STUDY)

    assert "stable in 1 of 1 seed, score 5.12 (trial 0000-0)" in describe(answer)


def confirmed(unstable=(), poor=()):
    """Both settings and a confirmation of the tuner's, in which some of the trials do not hold."""
    records = ladder()
    for number, rate, seed, purpose in (
        (1, THEIRS, 1, Purpose.CONFIRM),
        (2, 2 * THEIRS, 0, Purpose.STRESS),
        (2, 2 * THEIRS, 1, Purpose.STRESS),
    ):
        make = synthetic.diverged if purpose in unstable else synthetic.record
        changes = POOR if purpose in poor else {}
        records.append(of(number, rate, seed, make=make, purpose=purpose, **changes))
    return records


@pytest.mark.parametrize(
    ("fates", "judgement", "has_price"),
    [
        ({"unstable": [Purpose.CONFIRM]}, "NOT stable in 1 of 2 seeds", True),
        (
            {"unstable": [Purpose.STRESS]},
            "stable, but at twice the rate 2 of 2 failed",
            True,
        ),
        (
            {"poor": [Purpose.CONFIRM]},
            "not called stable, because it did not look at the timestep in 1 of 2 seeds",
            False,
        ),
    ],
    ids=["a seed failed", "the stress test failed", "a seed is poor"],
)
def test_what_did_not_hold_is_not_called_stable(fates, judgement, has_price):
    answer = judged(confirmed(**fates))

    assert answer.best_is_stable
    assert answer.best_judgement == judgement
    assert (answer.price_of_safety is not None) is has_price


def test_a_poor_trial_is_not_called_unstable_and_its_score_is_no_price():
    answer = judged(ladder(**POOR))

    assert answer.best_judgement == "not called stable, because it did not look at the timestep"
    assert answer.price_of_safety is None


def test_a_trial_of_other_words_that_is_as_safe_has_no_price():
    """Both are safe, and their scores tie: ours has the larger margin."""
    study = STUDY | {"space": RATE | {"kind": {"choice": ["a", "b"]}}}
    records = [
        of(0, OURS, score=5.12, params={"learning_rate": OURS, "kind": "a"}),
        of(1, THEIRS, score=5.0, params={"learning_rate": THEIRS, "kind": "b"}),
    ]
    for n, kind in enumerate("ab"):
        for m, rate in enumerate((0.04, 0.05, 0.1, 0.15)):
            make = synthetic.diverged if rate >= 0.1 else synthetic.record
            params = {"learning_rate": rate, "kind": kind}
            records.append(of(10 + 10 * n + m, rate, make=make, params=params, score=9.0))

    assert judged(records, study).price_of_safety is None


def test_the_same_choice_costs_nothing():
    answer = recommend_from([of(0, OURS, score=5.0), of(1, OURS / 4, score=9.0)], STUDY)

    assert answer.price_of_safety == 0
    assert "A TUNER WOULD    pick the same" in describe(answer)
    assert "PRICE" not in describe(answer)
