"""Combinations of words that were not compared are said, and are no answer without a doubt."""

from __future__ import annotations

import pytest

from stabsearch.recommend.pick import recommend_from
from stabsearch.records import Outcome, StoppedBy
from tests import synthetic_study as synthetic

RATE = {"learning_rate": synthetic.SPACE["learning_rate"]}
TRAINER = {"clipping": "global_norm", "optimizer": "adamw"}


def study(*optimizers, **fields):
    space = RATE | {"optimizer": {"choice": list(optimizers)}}
    return {"space": space, "trainer": TRAINER, **fields}


def of(optimizer, number, learning_rate=2e-3, make=synthetic.record, **changes):
    params = {"learning_rate": learning_rate, "optimizer": optimizer}
    return make(number, params=params, **changes)


def notes(answer):
    return " ".join(answer.notes)


def test_a_word_without_a_trial_is_named_although_one_value_was_tried_only():
    """Of which one value alone was tried is no category."""
    answer = recommend_from([of("adamw", 0)], study("adamw", "RAdam"))

    assert answer.num_unjudged == 1
    assert (
        "1 of 2 combinations of optimizer was not compared so far: no trial of optimizer=RAdam. "
        "To compare it, give the search more --trials." in notes(answer)
    )


def test_a_word_with_short_trials_alone_is_named_too():
    records = [of("adamw", 0), of("adam", 1), of("NAdam", 2, **synthetic.SHORT)]
    answer = recommend_from(records, study("adamw", "adam", "NAdam", "RAdam"))

    assert answer.num_unjudged == 2
    assert (
        "2 of 4 combinations of optimizer were not compared so far: no trial of optimizer=RAdam; "
        "none trained to its end of optimizer=NAdam. To compare them" in notes(answer)
    )


OUTRUN = {"outcome": Outcome.STOPPED, "stopped_by": StoppedBy.RANK, "steps": 500}
FAR = OUTRUN | {"stopped_by": StoppedBy.GAUGE}
POOR = OUTRUN | {"stopped_by": StoppedBy.GATE}


@pytest.mark.parametrize(
    ("trials", "num_unjudged"),
    [
        ([of("adam", 1)], 0),
        ([of("adam", 1, **OUTRUN)], 0),
        ([of("adam", 1, **FAR)], 0),
        ([of("adam", 1, **POOR)], 0),
        ([of("adam", 1, 1.5e-4, make=synthetic.diverged)], 0),
        ([of("adam", 1, 3e-3, make=synthetic.diverged)], 1),
        ([of("adam", 1, 1.5e-4, **synthetic.SHORT), of("adam", 2, make=synthetic.diverged)], 1),
        ([of("adam", 1, outcome=Outcome.FAILED)], 1),
    ],
    ids=[
        "full",
        "outrun",
        "far",
        "poor",
        "failed at the bottom",
        "failed above",
        "short",
        "machine",
    ],
)
def test_what_need_not_be_trained_to_its_end_is_judged(trials, num_unjudged):
    answer = recommend_from([of("adamw", 0), *trials], study("adamw", "adam"))

    assert answer.num_unjudged == num_unjudged
    assert ("not compared" in notes(answer)) is bool(num_unjudged)


def test_many_combinations_are_counted_and_few_named():
    """Ten to the seventh: they are never listed."""
    words = {f"p{n}": {"choice": [f"v{m}" for m in range(10)]} for n in range(7)}
    params = {"learning_rate": 2e-3} | {name: "v0" for name in words}
    answer = recommend_from(
        [synthetic.record(0, params=params)], {"space": RATE | words, "trainer": TRAINER}
    )

    assert answer.num_unjudged == 10**7 - 1
    assert notes(answer).count("p0=v0 p1=v0 p2=v0 p3=v0 p4=v0 p5=v0 p6=v") == 4
    assert "p6=v4 and 9,999,995 more. To compare them" in notes(answer)


EDGE = [
    of("adamw", n, 1e-3 * 2.0**n, make=synthetic.record if n < 4 else synthetic.diverged)
    for n in range(8)
]


@pytest.mark.parametrize(
    ("records", "trials", "remedy"),
    [
        (EDGE, 8, "more --trials"),
        (EDGE, 99, "a smaller stop_when"),
        ([*EDGE, of("adamw", 8)], 9, "more --trials"),  # proposed twice: the budget is spent
        ([of("adamw", 0)], 99, "more --trials"),
    ],
    ids=["spent", "precise", "spent with a repetition", "not precise"],
)
def test_more_trials_do_not_help_a_search_that_knew_enough(records, trials, remedy):
    fields = {"trials": trials, "stop_when": {"edge_within_octaves": 1.0}}
    answer = recommend_from(records, study("adamw", "RAdam", **fields))

    assert f"To compare it, give the search {remedy}." in notes(answer)


def test_while_trials_run_there_is_no_remedy():
    running = of("RAdam", 1, outcome=Outcome.RUNNING)
    said = notes(recommend_from([of("adamw", 0), running], study("adamw", "RAdam")))

    assert "not compared so far" in said
    assert "To compare" not in said


def test_words_of_which_nothing_survived_are_told_from_those_that_were_short():
    records = [of("adamw", 0), of("adam", 1, 3e-3, make=synthetic.diverged)]
    said = notes(recommend_from(records, study("adamw", "adam")))

    assert "none survived, and lower rates were not tried, of optimizer=adam" in said


def test_numbers_to_choose_from_are_no_words():
    space = RATE | {"max_grad_norm": {"choice": [0.1, 1.0, None]}}
    answer = recommend_from([synthetic.record(0)], {"space": space, "trainer": TRAINER})

    assert answer.num_unjudged == 0
