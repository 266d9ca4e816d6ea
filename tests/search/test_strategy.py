"""What is tried next by grid and by chance, and how long a short trial is."""

from __future__ import annotations

import pytest

from stabsearch.records import Outcome, Purpose
from stabsearch.search.strategies import make_strategy
from stabsearch.search.strategy import (
    Length,
    Pause,
    Proposal,
    grid_points,
    is_complete,
    is_known,
    trial_end,
)
from stabsearch.spec import StudySpec, TrainerSpec
from tests import synthetic_study

RATE = {"log_uniform": [1e-4, 1e-1]}
CLIPS = {"choice": [None, 1.0, 0.1]}


def study(space, **changes):
    return StudySpec.model_validate({"name": "a", "space": space, **changes})


@pytest.mark.parametrize(
    ("space", "trials", "counts"),
    [
        ({"learning_rate": RATE}, 7, {"learning_rate": 7}),
        ({"learning_rate": RATE, "max_grad_norm": CLIPS}, 32, {"learning_rate": 10}),
        (
            {"learning_rate": RATE, "weight_decay": {"uniform": [0, 0.1]}},
            32,
            {"learning_rate": 6, "weight_decay": 5},
        ),
        ({"weight_decay": {"uniform": [0, 0.1]}}, 1, {"weight_decay": 2}),
        (
            {"learning_rate": RATE, "batch_size": {"int": [16, 64], "log": True}},
            9,
            {"learning_rate": 3, "batch_size": 3},
        ),
    ],
    ids=["one range", "a choice has all", "two ranges", "two at least", "whole numbers"],
)
def test_a_grid_gives_the_learning_rate_what_is_left_over(space, trials, counts):
    points = grid_points(study(space, trials=trials))

    for name, count in counts.items():
        assert len({point[name] for point in points}) == count
    assert len({tuple(point.items()) for point in points}) == len(points)


def test_a_grid_spreads_evenly_in_the_domain_s_own_measure():
    points = grid_points(
        study(
            {"learning_rate": RATE, "batch_size": {"int": [16, 64], "log": True}},
            trials=12,
        )
    )

    assert sorted({p["batch_size"] for p in points}) == [16, 32, 64]
    assert sorted({p["learning_rate"] for p in points}) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1])


def test_a_grid_strategy_goes_through_all_points_once_and_ends():
    spec = study({"learning_rate": RATE}, trials=5, searcher={"name": "grid", "seed": 3})
    strategy = make_strategy(spec)
    proposals: list[Proposal] = []
    while isinstance(step := strategy.next((), proposals, len(proposals)), Proposal):
        proposals.append(step)

    assert step is Pause.DONE
    assert len(proposals) == 5
    tried = [p.params["learning_rate"] for p in proposals[:5]]
    assert sorted(tried) == sorted(p["learning_rate"] for p in grid_points(spec))
    assert tried != sorted(tried)
    again = [make_strategy(spec).next((), proposals[:number], number) for number in range(5)]
    assert again == proposals


def test_a_grid_of_an_extended_study_repeats_no_point():
    spec = study({"learning_rate": RATE}, trials=8, searcher={"name": "grid"})
    tried = [Proposal(params=point) for point in grid_points(spec)]
    longer = make_strategy(spec.model_copy(update={"trials": 15}))
    while isinstance(step := longer.next((), tried, len(tried)), Proposal):
        tried.append(step)

    rates = [proposal.params["learning_rate"] for proposal in tried]
    assert len(set(rates)) == len(rates) >= 15


@pytest.mark.parametrize(
    ("trainer", "fraction", "step"),
    [
        ({"max_train_steps": 2000, "eval_every": 100}, 0.1, 200),
        ({"max_train_steps": 2000, "eval_every": 75, "report_every": 25}, 0.1, 225),
        ({"max_train_steps": 2000, "eval_every": 100, "lr_warmup_steps": 220}, 0.1, 500),
        ({"max_train_steps": 2000, "eval_every": 100, "lr_warmup_fraction": 0.08}, 0.1, 400),
        ({"max_train_steps": 2000, "eval_every": 100, "lr_warmup_steps": 1000}, 0.1, None),
        ({"max_train_steps": 100, "eval_every": 100, "report_every": 25}, 0.1, None),
        ({"max_train_steps": 2000, "eval_every": 100}, 0.25, 500),
    ],
    ids=[
        "a tenth",
        "the next evaluation",
        "twice a warm-up in steps",
        "twice a warm-up in parts",
        "all of it",
        "one evaluation only",
        "as asked",
    ],
)
def test_a_short_trial_ends_where_rules_and_gauge_have_spoken(trainer, fraction, step):
    spec = study({"learning_rate": RATE}, searcher={"probe_fraction": fraction})

    assert trial_end(spec, TrainerSpec.model_validate(trainer), Length.BRIEF) == step


@pytest.mark.parametrize(
    ("steps", "every", "warmup", "step"),
    [
        (2000, 20, 0.05, 200),
        (1000, 20, 0.05, 160),
        (400, 20, 0.05, 100),
        (500, 100, 0.05, 100),
        (400, 20, 0.2, 160),
        (400, 400, 0.05, None),
    ],
    ids=[
        "100 steps are over",
        "100 steps",
        "a quarter at most",
        "the evaluation before the quarter",
        "twice warm-up comes first",
        "no evaluation",
    ],
)
def test_one_that_reads_the_gauge_goes_on_until_it_is_readable(steps, every, warmup, step):
    trainer = {"max_train_steps": steps, "eval_every": every, "report_every": 20}
    spec = TrainerSpec.model_validate(trainer | {"lr_warmup_fraction": warmup})

    assert trial_end(study({"learning_rate": RATE}), spec, Length.READABLE) == step


# --- the end ------------------------------------------------------------------------------------


def records(edge=0.02, count=24, **changes):
    """Trials an even distance apart; those above ``edge`` diverged."""
    rates = [1e-4 * 1000 ** (i / (count - 1)) for i in range(count)]
    return [
        synthetic_study.record(
            trial_id=f"{i:04d}-0",
            setting=i,
            params={"learning_rate": rate},
            outcome=Outcome.DIVERGED if rate > edge else Outcome.COMPLETED,
            **changes,
        )
        for i, rate in enumerate(rates)
    ]


@pytest.mark.parametrize(
    ("stop_when", "trials", "known"),
    [
        (None, records(), False),
        ("edge within 1 octave", records(), True),
        ("edge within 0.01 octave", records(), False),
        ("edge within 1 octave", records(edge=1.0), False),
        ("edge within 1 octave", records(edge=1e-5), False),
        ("edge within 1 octave", [], False),
    ],
    ids=["not asked", "known", "not so well", "no edge seen", "nothing stable", "no trial"],
)
def test_the_answer_is_known_when_the_edge_is_and_something_is_stable(stop_when, trials, known):
    assert is_known(study({"learning_rate": RATE}, stop_when=stop_when), trials) is known


def test_a_search_by_chance_ends_when_the_answer_is_known():
    spec = study(
        {"learning_rate": RATE}, searcher={"name": "random"}, stop_when="edge within 1 octave"
    )
    strategy = make_strategy(spec)

    assert strategy.next(records(), (), 24) is Pause.DONE
    assert strategy.next(records()[:3], (), 3) == Proposal(params=None)


def test_a_study_is_complete_when_seeds_search_and_confirmation_are():
    spec = study({"learning_rate": RATE}, trials=24, searcher={"name": "random"})
    strategy = make_strategy(spec)

    assert is_complete(spec, strategy, records())
    assert not is_complete(spec, strategy, records()[:23])
    longer = spec.model_copy(update={"trials": 25})
    assert not is_complete(longer, make_strategy(longer), records())
    assert not is_complete(spec.model_copy(update={"seeds": 2}), strategy, records())
    asked = StudySpec.model_validate(spec.model_dump() | {"confirm": {"seeds": 2}})
    assert not is_complete(asked, strategy, records())


def test_trials_that_confirm_are_no_settings_of_the_search():
    spec = study({"learning_rate": RATE}, trials=25, searcher={"name": "random"})
    stress = synthetic_study.record(
        trial_id="0024-0", setting=24, params={"learning_rate": 1e-2}, purpose=Purpose.STRESS
    )

    assert not is_complete(spec, make_strategy(spec), [*records(), stress])
