"""The boundary strategy in worlds whose edge and best rate are known."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest

from stabsearch.recommend.candidates import TIE_RATIO
from stabsearch.recommend.pick import recommend_from
from stabsearch.records import Outcome, Purpose, Severity, StoppedBy
from stabsearch.search.best_rate import CONSTANT
from stabsearch.search.boundary import SNAP, Boundary
from stabsearch.search.lines import Timing, View
from stabsearch.search.strategy import Length, Pause, Proposal, next_step
from stabsearch.spec import StudySpec
from tests.search.worlds import (
    DEAD_SCORE,
    NOT_LEARNING,
    World,
    next_round,
    search,
    search_and_confirm,
)

RATE = {"log_uniform": [1e-4, 0.3]}
CLIP = {"log_uniform": [0.01, 100]}
LOW, HIGH = math.log2(1e-4), math.log2(0.3)


def study(space=None, *, trainer=None, **changes):
    fields = {
        "name": "a",
        "space": space or {"learning_rate": RATE},
        "trainer": trainer or {"max_train_steps": 2000, "eval_every": 100},
        "searcher": {"name": "boundary"},
        "stop_when": "edge within 0.5 octave",
    }
    return StudySpec.model_validate(fields | changes)


def rate(record):
    return math.log2(record.params["learning_rate"])


def cost(records):
    """In trainings to the end."""
    return sum(r.steps / r.max_train_steps for r in records)


# --- whole searches -----------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize(
    ("edge", "best"),
    [(0.05, 0.004), (0.02, 0.008), (0.25, 0.001), (3e-3, 5e-4), (0.11, 0.05)],
    ids=["usual", "near the edge", "far below it", "low", "high"],
)
def test_edge_and_best_rate_are_found_for_a_fraction_of_the_cost(edge, best, workers):
    spec = study()
    world = World(edge=math.log2(edge), best=math.log2(best))
    records = search(spec, world, workers=workers)
    answer = recommend_from(records, spec.model_dump(mode="json"))

    assert answer.edge is not None
    assert abs(math.log2(answer.edge.learning_rate / edge)) <= 0.5
    assert answer.is_precise
    assert answer.params is not None
    recommended = math.log2(answer.params["learning_rate"])
    # As near to the best as a margin of an octave to the edge allows.
    assert recommended <= math.log2(edge) - 1.0
    assert abs(recommended - min(math.log2(best), math.log2(edge) - 1.5)) <= 1.0
    assert cost(records) < 4.0
    assert sum(r.purpose is Purpose.SEARCH for r in records) <= 2


def test_a_full_trial_that_the_edge_limits_waits_for_short_ones_under_way():
    """They may show that the edge is lower."""
    spec = study()
    world = World(edge=math.log2(0.02), best=math.log2(0.02))
    records = search(spec, world)
    number = next(i for i, r in enumerate(records) if r.purpose is Purpose.SEARCH)
    before = records[:number]
    short = next(p for p in before if p.purpose is Purpose.PROBE)
    under_way = Proposal(params=short.params | {"learning_rate": 0.019}, purpose=Purpose.PROBE)

    full = Boundary(spec).next(before, (), number)
    assert full.purpose is Purpose.SEARCH
    assert Boundary(spec).next(before, (under_way,), number) is Pause.WAIT


@pytest.mark.parametrize("workers", [1, 3])
def test_no_setting_is_tried_twice_and_none_is_outside_of_the_space(workers):
    seen = []

    def check(proposal):
        assert list(proposal.params) == ["learning_rate", "max_grad_norm"]
        assert 1e-4 <= proposal.params["learning_rate"] <= 0.3
        assert 0.01 <= proposal.params["max_grad_norm"] <= 100
        assert (proposal.params, proposal.length) not in seen
        seen.append((proposal.params, proposal.length))

    spec = study({"learning_rate": RATE, "max_grad_norm": CLIP}, stop_when=None, trials=40)
    records = search(spec, World(), workers=workers, check=check)

    assert len(records) == 40 <= len(seen)  # some short trials go on


def test_the_clip_of_the_main_line_is_a_guard():
    spec = study({"learning_rate": RATE, "max_grad_norm": CLIP})
    records = search(spec, World())

    full = [r for r in records if r.purpose is Purpose.SEARCH]
    assert [r.params["max_grad_norm"] for r in full] == [1.0]  # twice the typical norm of 0.5


def test_of_clips_to_choose_from_the_nearest_to_a_guard_is_taken():
    space = {"learning_rate": RATE, "max_grad_norm": {"choice": [0.1, 0.8, 5.0, None]}}
    records = search(study(space), World())

    assert {r.params["max_grad_norm"] for r in records[3:]} == {0.8}


def test_a_clip_that_no_gradient_reaches_is_no_guard():
    """2.5 is nearer to twice the norm of 0.5 than 0.3 is, and guards nothing."""
    space = {"learning_rate": RATE, "max_grad_norm": {"choice": [0.3, 2.5, None]}}
    records = search(study(space), World())

    assert [r.params["max_grad_norm"] for r in records if r.purpose is Purpose.SEARCH] == [0.3]


def test_with_adam_what_is_known_of_the_best_rate_at_one_clip_holds_at_others():
    """With SGD the clip is part of the step."""
    space = {"learning_rate": RATE, "max_grad_norm": {"choice": [0.1, 1.0, 10.0]}}
    num_readers = {}
    for optimizer in ("adamw", "sgd"):
        spec = study(space, trainer=SHORT | {"optimizer": optimizer})
        records = search(spec, World(norm_falls=True, best=-8.0))
        readers = [r for r in records if r.purpose is Purpose.PROBE and r.steps == 100]
        full = next(r for r in records if r.purpose is Purpose.SEARCH)
        assert full.params["max_grad_norm"] == 0.1
        assert len({r.params["max_grad_norm"] for r in readers}) == 2
        num_readers[optimizer] = sum(r.params["max_grad_norm"] == 0.1 for r in readers)

    assert num_readers["adamw"] < num_readers["sgd"]


def test_without_stop_when_other_clips_and_the_inside_are_explored():
    spec = study({"learning_rate": RATE, "max_grad_norm": CLIP}, stop_when=None, trials=44)
    records = search(spec, World(edge_moves_with_clip=0.3))

    clips = {r.params["max_grad_norm"] for r in records if r.purpose is Purpose.PROBE}
    assert {0.01, 100.0} <= clips
    assert sum(r.purpose is Purpose.SEARCH for r in records) > 4
    answer = recommend_from(records, spec.model_dump(mode="json"))
    assert answer.params is not None
    assert abs(math.log2(answer.params["learning_rate"] / 0.004)) <= 1.0


@pytest.mark.parametrize(
    ("world", "most"),
    [(World(edge=5.0), 9), (World(edge=-20.0), 9), (World(learns_from=5.0, edge=5.0), 7)],
    ids=["nothing fails", "everything fails", "nothing learns"],
)
def test_a_search_without_an_edge_in_its_range_ends_soon(world, most):
    records = search(study(), world)

    assert len(records) <= most


def test_where_nothing_fails_the_best_rate_is_trained():
    records = search(study(), World(edge=5.0))

    full = [rate(r) for r in records if r.purpose is Purpose.SEARCH]
    assert full == [pytest.approx(math.log2(0.004), abs=0.5)]


def test_rates_too_low_to_learn_say_nothing_of_the_edge():
    spec = study()
    records = search(spec, World(learns_from=math.log2(0.01), best=math.log2(0.015)))
    answer = recommend_from(records, spec.model_dump(mode="json"))

    assert answer.edge is not None
    assert abs(math.log2(answer.edge.learning_rate / 0.05)) <= 0.5


@pytest.mark.parametrize("workers", [1, 2])
def test_networks_that_are_killed_at_once_below_the_first_failure_do_not_end_the_search(workers):
    """Up to four octaves above the edge they never learn, and diverge beyond."""
    spec = study({"learning_rate": {"log_uniform": [1e-4, 10]}})
    world = World(edge=math.log2(0.02), best=math.log2(0.004), kills_to=math.log2(0.25))
    records = search(spec, world, workers=workers)
    answer = recommend_from(records, spec.model_dump(mode="json"))

    assert answer.params is not None
    assert abs(math.log2(answer.edge.learning_rate / 0.02)) <= 0.6
    assert cost(records) < 3.0


@pytest.mark.parametrize(
    "world",
    [World(has_gauge=False), World(gauge_slope=0.0, gauge_offset=-1.5), World(gauge_slope=2.5)],
    ids=["no gauge", "flat", "steep"],
)
@pytest.mark.parametrize("steps", [400, 2000])
def test_whatever_the_gauge_reads_one_full_trial_is_near_the_best_rate(world, steps):
    spec = study(trainer={"max_train_steps": steps, "eval_every": steps // 20, "report_every": 20})
    records = search(spec, world)
    (full,) = [r for r in records if r.purpose is Purpose.SEARCH]

    assert rate(full) == pytest.approx(math.log2(0.004), abs=1.0)


def test_without_scores_of_short_trials_several_rates_below_the_edge_are_trained():
    records = search(study(), World(has_score=False))
    full = sorted(rate(r) for r in records if r.purpose is Purpose.SEARCH)

    assert len(full) == 3
    assert full[-1] <= math.log2(0.05) - 1.0
    assert all(high - low >= 1.0 for low, high in itertools.pairwise(full))


@pytest.mark.parametrize("workers", [1, 3])
def test_where_a_short_trial_would_take_the_whole_budget_it_is_an_ordinary_one(workers):
    spec = study(trainer={"max_train_steps": 2000, "eval_every": 100, "lr_warmup_fraction": 0.6})
    records = search(spec, World(), workers=workers)
    answer = recommend_from(records, spec.model_dump(mode="json"))

    assert {r.purpose for r in records} == {Purpose.SEARCH}
    assert len({r.params["learning_rate"] for r in records}) == len(records)
    assert answer.is_precise
    assert abs(math.log2(answer.params["learning_rate"] / 0.004)) <= 1.0


def test_where_every_full_trial_fails_late_no_rate_is_tried_twice():
    """The lowest stable rate is above the lowest failure then: there is nothing in between."""
    spec = study({"learning_rate": {"log_uniform": [3.5e-4, 5.2e-4]}}, stop_when=None, trials=16)
    world = World(edge=math.log2(6.2e-4), best=math.log2(6.1e-4), late_edge=math.log2(1e-4))
    proposed = []

    def check(proposal):
        assert 3.5e-4 <= proposal.params["learning_rate"] <= 5.2e-4
        assert (proposal.params, proposal.length) not in proposed
        proposed.append((proposal.params, proposal.length))

    records = search(spec, world, workers=2, check=check)

    assert len(records) == 16


SHORT = {"max_train_steps": 400, "eval_every": 20, "report_every": 20}


def test_of_few_steps_only_the_gauge_gets_a_quarter():
    """Beyond the edge, or near it, a tenth of the budget has told."""
    records = search(study(trainer=SHORT, stop_when="edge within 0.25 octave"), World())
    steps = {r.steps for r in records if r.purpose is Purpose.PROBE and not r.is_unstable}

    assert steps == {40, 100}
    readers = [r for r in records if r.steps == 100]
    assert min(abs(rate(r) - math.log2(0.004)) for r in readers) < 0.5


@pytest.mark.parametrize("workers", [2, 3])
def test_where_short_trials_fail_slowly_those_about_the_edge_are_longer(workers):
    """The shortest ones would say that all is well up to the other edge."""
    slow_edge = -7.6
    spec = study(trainer=SHORT)
    world = World(edge=-1.8, slow_edge=slow_edge, best=-8.0)
    records = search(spec, world, workers=workers)
    answer = recommend_from(records, spec.model_dump(mode="json"))

    assert math.log2(answer.edge.learning_rate) == pytest.approx(slow_edge, abs=0.6)
    assert math.log2(answer.params["learning_rate"]) <= slow_edge - 1.0
    assert len(records) <= 24


@pytest.mark.parametrize("has_gauge", [True, False])
@pytest.mark.parametrize("edge", [0.05, 0.007, 0.001])
def test_ordinary_trials_in_the_place_of_short_ones_leave_a_safe_answer(has_gauge, edge):
    spec = study(trainer={"max_train_steps": 2000, "eval_every": 2000, "lr_schedule": "cosine"})
    world = World(edge=math.log2(edge), best=math.log2(edge) - 4, has_gauge=has_gauge)
    answer = recommend_from(search(spec, world), spec.model_dump(mode="json"))

    assert answer.params is not None
    assert answer.p_unstable_doubled <= 0.1


@pytest.mark.parametrize("stress", [1, 2, 3])
def test_of_few_steps_too_the_next_setting_is_as_far_down_as_the_stress_was_up(stress):
    spec = study(trainer=SHORT, confirm={"seeds": 2, "stress_octaves": stress})
    records = search_and_confirm(spec, World(edge=-3.0, best=-6.0, late_edge=-5.5))
    full = [rate(r) for r in records if r.purpose is Purpose.SEARCH]
    answer = recommend_from(records, spec.model_dump(mode="json"))

    assert answer.confirmation.has_held
    assert all(
        low == pytest.approx(high - stress, abs=0.1) for high, low in itertools.pairwise(full)
    )


@pytest.mark.parametrize("late_edge", [-6.7, -7.2])
@pytest.mark.parametrize("steps", [400, 2000])
def test_where_full_trials_fail_late_lower_ones_follow(late_edge, steps):
    spec = study(trainer={"max_train_steps": steps, "eval_every": steps // 20, "report_every": 20})
    records = search(spec, World(edge=-3.0, best=-6.0, late_edge=late_edge))
    answer = recommend_from(records, spec.model_dump(mode="json"))

    assert len(records) < 20
    assert math.log2(answer.params["learning_rate"]) <= late_edge


@pytest.mark.parametrize(
    ("trainer", "clips", "guard"),
    [
        (None, [0.2, 0.65, 2.0, None], 0.65),  # a full trial has 0.1, a short one so far 1.0
        (SHORT, [0.18, 0.27, 0.8, None], 0.27),  # 0.1 and 0.4
    ],
)
def test_norms_that_fall_are_predicted_from_short_trials(trainer, clips, guard):
    space = {"learning_rate": RATE, "max_grad_norm": {"choice": clips}}
    records = search(study(space, trainer=trainer), World(norm_falls=True))
    full = next(r for r in records if r.purpose is Purpose.SEARCH)
    after = records[records.index(full) :]

    assert {r.params["max_grad_norm"] for r in after} == {guard}


def test_an_answer_that_the_edge_limits_has_a_reserve_and_a_well_known_edge():
    spec = study(stop_when="edge within 1.5 octave")
    for edge in (-5.6, -6.1, -6.9, -7.3):
        records = search(spec, World(edge=edge, best=edge))
        answer = recommend_from(records, spec.model_dump(mode="json"))
        high, low = answer.edge.learning_rate_high, answer.edge.learning_rate_low

        assert answer.p_unstable_doubled <= 0.06
        assert math.log2(high / low) / 2 <= 0.75


@pytest.mark.parametrize("gauge_octaves", [0.3, 0.6, 1.0])
def test_a_short_trial_that_was_stopped_before_it_was_read_is_not_repeated(gauge_octaves):
    """By the gauge, at step 80 of the 100."""
    spec = study(trainer=SHORT)
    strategy, records = Boundary(spec), []
    while isinstance(step := strategy.next(records, (), len(records)), Proposal):
        record = World().record(spec, step, len(records))
        octaves = record.lr_gauge_octaves
        if record.steps == 100 and octaves is not None and abs(octaves) > gauge_octaves:
            record = dataclasses.replace(record, steps=80, stopped_by=StoppedBy.GAUGE)
        records.append(record)

    rates = sorted(rate(r) for r in records if r.stopped_by is StoppedBy.GAUGE)
    assert rates
    assert all(high - low > 0.3 for low, high in itertools.pairwise(rates))


@pytest.mark.parametrize("workers", [2, 4])
def test_several_workers_do_not_try_the_lowest_rate_at_once(workers):
    """The best rate may lie below the range."""
    space = {
        "learning_rate": {"log_uniform": [0.01, 0.3]},
        "max_grad_norm": {"choice": [0.1, 1.0, 10.0]},
    }
    seen = []

    def check(proposal):
        assert (proposal.params, proposal.length) not in seen
        seen.append((proposal.params, proposal.length))

    search(
        study(space, trainer=SHORT),
        World(norm_falls=True, best=-12.0, edge=5.0, score_ahead=0.0),
        workers=workers,
        check=check,
    )


def test_beyond_the_main_line_too_trials_are_longer_where_short_ones_fail_slowly():
    space = {"learning_rate": RATE, "max_grad_norm": CLIP}
    spec = study(space, trainer=SHORT, stop_when=None, trials=30)
    records = search(spec, World(edge=-1.8, slow_edge=-7.6))
    first = next(i for i, r in enumerate(records) if r.is_unstable and r.steps > 40)
    later = [r for r in records[first + 1 :] if r.purpose is Purpose.PROBE]

    assert len({r.params["max_grad_norm"] for r in later}) > 2
    assert {r.steps for r in later if not r.is_unstable} == {100}


def test_what_short_trials_show_is_read_by_the_schedule():
    spec = study({"learning_rate": RATE, "lr_schedule": {"choice": ["constant", "cosine"]}})
    full = {
        r.params["lr_schedule"]: rate(r)
        for r in search(spec, World())
        if r.purpose is Purpose.SEARCH
    }

    # Under a constant rate what trains faster is ahead for longer.
    assert -0.7 < full["constant"] - full["cosine"] < -0.1


def test_every_combination_of_words_has_a_line_of_its_own():
    space = {"learning_rate": RATE, "optimizer": {"choice": ["adamw", "sgd"]}}
    records = search(study(space, trials=64), World())
    full = [r.params["optimizer"] for r in records if r.purpose is Purpose.SEARCH]

    assert sorted(set(full)) == ["adamw", "sgd"]


def test_the_same_trials_give_the_same_proposal():
    spec = study({"learning_rate": RATE, "max_grad_norm": CLIP}, stop_when=None, trials=40)
    records = search(spec, World())

    for count in (0, 3, 10, 25, 38):
        ended = records[:count]
        again = [Boundary(spec).next(ended, (), count) for _ in range(2)]
        assert again[0] == again[1]
        # Whichever trial ended first: files are read in another order than trials ended.
        assert Boundary(spec).next(ended[::-1], (), count) == again[0]


@pytest.mark.parametrize("workers", [5, 8])
def test_many_workers_wait_where_nothing_has_ended(workers):
    """There is nothing yet to fit a free proposal to."""
    records = search(study(stop_when=None, trials=16), World(), workers=workers)

    assert len(records) == 16


def run(spec, world, *, is_lost):
    """Proposals and records, by setting, of a search on one worker, some of whose trials fail for
    the machine's sake."""
    strategy, records, steps = Boundary(spec), {}, []
    while len(steps) < 60:
        step = next_step(spec, strategy, list(records.values()), (), len(records))
        if not isinstance(step, Proposal):
            break
        number = len(records) if step.goes_on is None else step.goes_on
        record = world.record(spec, step, number)
        if is_lost(len(steps), step):
            record = dataclasses.replace(record, outcome=Outcome.FAILED, steps=0, score=None)
        records[number] = record
        steps.append(step)
    return steps, records


def test_a_setting_that_fails_is_not_tried_again():
    """The machine or the code failed it, and would again."""
    steps, _ = run(study(), World(), is_lost=lambda n, _: n % 2 == 0)

    rates = [step.params["learning_rate"] for step in steps if step.goes_on is None]
    assert len(set(rates)) == len(rates)


@pytest.mark.parametrize("lost", [0, 3, 6, 9])
def test_a_lost_worker_does_not_move_the_answer(lost):
    """It says nothing of the setting: a trial beside it, or the same one, answers instead."""
    _, undisturbed = run(study(), World(), is_lost=lambda *_: False)
    _, records = run(study(), World(), is_lost=lambda n, _: n == lost)

    assert abs(rate_of_answer(records) - rate_of_answer(undisturbed)) < 0.3


def test_a_lost_full_trial_is_tried_again_beside_it_and_not_an_octave_lower():
    is_first = itertools.count()

    def is_lost(_, step):
        return step.purpose is Purpose.SEARCH and next(is_first) == 0

    steps, records = run(study(), World(), is_lost=is_lost)

    lost, again = [s for s in steps if s.purpose is Purpose.SEARCH]
    octaves = math.log2(again.params["learning_rate"] / lost.params["learning_rate"])
    assert -0.3 < octaves < 0.3
    assert any(record.is_stable for record in records.values())


def rate_of_answer(records):
    full = [r for r in records.values() if r.purpose is Purpose.SEARCH and r.is_stable]
    assert len(full) == 1
    return math.log2(full[0].params["learning_rate"])


@pytest.mark.parametrize("trials", [2, 3, 5, 8])
def test_with_all_trials_spent_a_short_one_goes_on_to_the_end(trials):
    """Else the study would answer that no setting was stable."""
    records = search(study(trials=trials), World())

    assert len(records) == trials
    (full,) = [r for r in records if r.purpose is Purpose.SEARCH]
    assert full.is_stable
    assert recommend_from(records, study().model_dump(mode="json")).params == full.params


def test_full_trials_that_never_learn_do_not_send_the_next_one_lower():
    """The margin of two octaves holds them where nothing learns: lower is no better."""
    world = World(edge=math.log2(0.02), best=math.log2(0.02), learns_from=math.log2(4.4e-3))
    records = search(study(margin_octaves=2.0), world)

    assert len([r for r in records if r.purpose is Purpose.SEARCH]) <= 1


def test_other_lines_are_searched_before_free_proposals_begin():
    """Shortly: a full trial there comes with the free ones."""
    space = {"learning_rate": RATE, "max_grad_norm": {"choice": [0.1, 1.0, None]}}
    spec = study(space, stop_when=None, trials=28)
    records = search(spec, World(edge_moves_with_clip=-0.2))

    main = next(r for r in records if r.purpose is Purpose.SEARCH).params["max_grad_norm"]
    first_free = [r.setting for r in records if r.purpose is Purpose.SEARCH][1]
    for clip in {0.1, 1.0, None} - {main}:
        before = [r for r in records if r.params["max_grad_norm"] == clip]
        before = [r for r in before if r.setting < first_free]
        assert len(before) >= 2, clip
        assert all(abs(rate(r) - World().edge) < 2 for r in before)


@pytest.mark.parametrize("choice", [[16, 64, 128], [64, 16, 128], [128, 64, 16]])
def test_the_order_of_numbers_to_choose_from_means_nothing(choice):
    spec = study({"learning_rate": RATE, "batch_size": {"choice": choice}}, stop_when=None)
    step = Boundary(spec).next([], (), 0)

    assert step.params["batch_size"] == 64


def test_a_trial_of_a_longer_budget_fails_no_more_slowly_for_that():
    """A tenth of 4000 steps is 400: a failure at 300 is early there, and says nothing of where
    trials of 1000 steps fail."""
    spec = study({"learning_rate": RATE, "max_train_steps": {"choice": [1000, 4000]}})
    world = World()
    failed = [
        world.record(spec, Proposal(params=params, purpose=Purpose.PROBE, length=Length.BRIEF), n)
        for n, params in enumerate(
            {"learning_rate": 0.2, "max_train_steps": steps} for steps in (1000, 4000)
        )
    ]

    view = View(spec.model_dump(mode="json"), failed, ())

    assert all(record.is_unstable for record in failed)
    assert edge_length(view) is Length.BRIEF


def test_a_failure_is_as_late_as_it_was_known_not_as_its_trial_ended():
    """Without the gate a trial trains on."""
    spec = study(trainer=SHORT)
    step = Proposal(
        params={"learning_rate": 0.2},
        purpose=Purpose.PROBE,
        length=Length.READABLE,
    )
    record = World(edge=10.0, slow_edge=math.log2(0.05)).record(spec, step, 0)
    early = dataclasses.replace(record, stopped_by=StoppedBy.PROBE, verdict_step=1)

    assert edge_length(View(spec.model_dump(mode="json"), [record], ())) is Length.READABLE
    assert edge_length(View(spec.model_dump(mode="json"), [early], ())) is Length.BRIEF


@pytest.mark.parametrize(
    ("steps", "length"),
    [(40, Length.BRIEF), (60, Length.READABLE), (100, Length.READABLE), (101, Length.LATE)],
)
def test_trials_about_the_edge_are_as_long_as_short_ones_took_to_fail(steps, length):
    spec = study(trainer=SHORT)
    step = Proposal(params={"learning_rate": 0.2}, purpose=Purpose.PROBE, length=Length.READABLE)
    slow = World(edge=10.0, slow_edge=math.log2(0.05)).record(spec, step, 0)
    record = dataclasses.replace(slow, steps=steps)

    assert edge_length(View(spec.model_dump(mode="json"), [record], ())) is length


def edge_length(view):
    """On a line of 400 steps, where the gauge is read after 100 and late is after 120."""
    steps = {Length.BRIEF: 40, Length.READABLE: 100, Length.LATE: 120, Length.WHOLE: 400}
    return view.edge_length(Timing(has_short=True, steps=steps, expected=CONSTANT))


@pytest.mark.parametrize("slow_edge", [-10.0, -9.0, -8.0])
@pytest.mark.parametrize("space", [None, {"learning_rate": {"log_uniform": [1e-5, 1.0]}}])
def test_where_runs_fail_slowly_a_stable_rate_is_still_found(space, slow_edge):
    """The briefest trials say nothing of the edge then: with them alone nothing is stable."""
    spec = study(space, trainer=SHORT, trials=60)
    records = search(spec, World(edge=-1.8, slow_edge=slow_edge, best=slow_edge - 1))
    answer = recommend_from(records, spec.model_dump(mode="json"))

    assert answer.params is not None
    assert math.log2(answer.params["learning_rate"]) < slow_edge
    assert len(records) <= 15


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeadAtOnce(World):
    """Above a rate a network is dead at once, and a short trial too short for a rule to say so."""

    dead_from: float

    def record(self, spec, proposal, number, seed=0):
        record = super().record(spec, proposal, number, seed)
        if math.log2(proposal.params["learning_rate"]) <= self.dead_from:
            return record
        if record.purpose is not Purpose.PROBE:
            return dataclasses.replace(record, score=DEAD_SCORE, **NOT_LEARNING)
        looks = (dataclasses.replace(each, score=1.02 * DEAD_SCORE) for each in record.looks)
        return dataclasses.replace(record, score=1.02 * DEAD_SCORE, looks=tuple(looks))


@pytest.mark.parametrize("trainer", [None, SHORT], ids=["2000", "400"])
@pytest.mark.parametrize("dead_from", [-4.0, -7.0, -9.0, -11.0])
def test_the_edge_is_found_where_networks_are_dead_at_once(dead_from, trainer):
    spec = study(trainer=trainer, trials=40)
    world = DeadAtOnce(edge=4.0, best=dead_from - 1.5, dead_from=dead_from)
    records = search(spec, world)
    answer = recommend_from(records, spec.model_dump(mode="json"))

    assert abs(math.log2(answer.edge.learning_rate) - dead_from) <= 0.5
    assert answer.is_precise
    assert cost(records) < 3.6
    # They were so from the first look on: nothing here fails slowly.
    assert edge_length(View(spec.model_dump(mode="json"), records, ())) is Length.BRIEF


@pytest.mark.parametrize("late_edge", [math.inf, -6.5])
def test_a_setting_of_which_one_seed_fails_late_sends_the_search_down(late_edge):
    spec = study(trials=40, seeds=2)
    worlds = World(edge=-3.0, best=-6.0), World(edge=-3.0, best=-6.0, late_edge=late_edge)
    records, proposed = [], 0
    while isinstance(step := next_step(spec, Boundary(spec), records, (), proposed), Proposal):
        number = max((r.setting for r in records), default=-1) + 1
        of = number if step.goes_on is None else step.goes_on
        seeds = [world.record(spec, step, of, seed) for seed, world in enumerate(worlds)]
        records = [*(r for r in records if r.setting != of), *seeds]
        proposed += step.goes_on is None
    answer = recommend_from(records, spec.model_dump(mode="json"))

    assert answer.num_stable_seeds == 2
    assert math.log2(answer.params["learning_rate"]) < late_edge


@pytest.mark.parametrize("stress_octaves", [0.25, 0.5, 0.75, 1.0, 2.0])
def test_a_lower_setting_follows_a_broken_one_however_far_the_stress_test_was(stress_octaves):
    spec = study(trials=60, confirm={"seeds": 2, "stress_octaves": stress_octaves})
    records = search_and_confirm(spec, World(edge=-1.8, late_edge=-7.7, best=-8.0))
    answer = recommend_from(records, spec.model_dump(mode="json"))

    assert answer.confirmation.has_held
    assert math.log2(answer.params["learning_rate"]) + stress_octaves <= -7.7


class WorseUnderAdam(World):
    """Under ``adam`` every score is three times as high, and the edge an octave lower."""

    def record(self, spec, proposal, number, seed=0):
        if proposal.params["optimizer"] != "adam":
            return super().record(spec, proposal, number, seed)
        world = World(edge=self.edge - 1, best=self.best - 2)
        record = world.record(spec, proposal, number, seed)

        def worse(score):
            return score and min(3 * score, 0.9 * DEAD_SCORE)

        looks = (dataclasses.replace(each, score=worse(each.score)) for each in record.looks)
        return dataclasses.replace(record, score=worse(record.score), looks=tuple(looks))


@pytest.mark.parametrize("words", [["adamw", "adam"], ["adam", "adamw"]])
def test_a_longer_search_of_several_words_ends_with_the_better_one(words):
    space = {"learning_rate": RATE, "optimizer": {"choice": words}}
    spec = study(space, stop_when=None, trials=40)
    records = search(spec, WorseUnderAdam(edge=-4.3, best=-8.0))
    answer = recommend_from(records, spec.model_dump(mode="json"))

    assert answer.params["optimizer"] == "adamw"
    assert answer.score < 6.0


def test_a_full_trial_without_a_score_is_not_repeated():
    """It was stopped by rank, or was poor: the same setting and seed would be so again."""
    spec = study()
    strategy, records = Boundary(spec), {}
    while isinstance(step := strategy.next([*records.values()], (), len(records)), Proposal):
        number = len(records) if step.goes_on is None else step.goes_on
        record = World().record(spec, step, number)
        if step.purpose is Purpose.SEARCH:
            record = dataclasses.replace(
                record, outcome=Outcome.STOPPED, stopped_by=StoppedBy.RANK, steps=1000
            )
        records[number] = record

    full = [rate(r) for r in records.values() if r.purpose is Purpose.SEARCH]
    assert 1 < len(full) <= 4
    assert all(below - above <= SNAP - 1.0 for above, below in itertools.pairwise(full))


def test_a_strategy_waits_only_for_what_is_under_way():
    spec = study()
    first = Boundary(spec).next((), (), 0)
    assert isinstance(first, Proposal)
    under_way = [first]
    while isinstance(step := Boundary(spec).next((), under_way, len(under_way)), Proposal):
        under_way.append(step)

    assert step is Pause.WAIT
    assert len(under_way) == 4


# --- confirmation -------------------------------------------------------------------------------

CONFIRM = {"confirm": {"seeds": 2, "stress_octaves": 1}, "trials": 60}


def test_a_setting_that_holds_ends_the_study():
    spec = study(**CONFIRM)
    records = search_and_confirm(spec, World())
    answer = recommend_from(records, spec.model_dump(mode="json"))

    assert answer.confirmation is not None
    assert answer.confirmation.has_held
    assert answer.confirmation.moved_from == ()
    assert sum(r.purpose is Purpose.SEARCH for r in records) == 1
    assert sum(r.purpose is Purpose.STRESS for r in records) == 2


def test_a_setting_that_fails_late_under_stress_sends_the_search_down():
    """Short trials see no failure between the late edge and their own."""
    spec = study(**CONFIRM)
    records = search_and_confirm(spec, World(late_edge=math.log2(0.006)))
    answer = recommend_from(records, spec.model_dump(mode="json"))

    assert answer.params is not None
    assert answer.params["learning_rate"] <= 0.003
    assert answer.confirmation is not None
    assert answer.confirmation.has_held
    assert len(answer.confirmation.moved_from) == 1
    full = [rate(r) for r in records if r.purpose is Purpose.SEARCH]
    assert full[1] <= full[0] - 1.0 + 1e-3


def test_where_nothing_holds_the_study_ends_and_says_so():
    spec = study(**CONFIRM)
    records = search_and_confirm(spec, World(late_edge=LOW - 1))
    answer = recommend_from(records, spec.model_dump(mode="json"))

    assert answer.confirmation is None or not answer.confirmation.has_held
    assert sum(r.purpose is Purpose.SEARCH for r in records) <= 4


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_short_trials_about_the_best_rate_go_on_and_one_of_them_to_the_end(workers):
    proposed = []
    records = search(study(), World(), workers=workers, check=proposed.append)
    later = {p.goes_on for p in proposed if p.length is Length.LATE} - {None}
    (full,) = [p for p in proposed if p.purpose is Purpose.SEARCH]

    assert len(later) >= 2
    assert sum(500 in [look.step for look in r.looks] for r in records) == 3
    assert full.goes_on is not None
    assert len({r.setting for r in records}) == len(records)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(("rise", "number"), [(1.08, 1), (1.13, 1), (1.17, 2), (1.5, 2)])
def test_where_scores_are_sharp_a_second_full_trial_follows_below_the_first(rise, number, workers):
    spec, world = study(), World(rise=rise, late_ahead=0.8)
    records = search(spec, world, workers=workers)
    full = [r for r in records if r.purpose is Purpose.SEARCH]
    answer = recommend_from(records, spec.model_dump(mode="json"))

    assert len(full) == number
    (answered,) = [r for r in full if r.params == answer.params]
    assert answered.score <= TIE_RATIO * min(r.score for r in full)
    if number > 1:
        first, second = map(rate, full)
        assert -0.75 <= second - first <= -0.25


def test_where_the_edge_decides_sharp_scores_need_no_second_full_trial():
    world = World(edge=math.log2(0.004) + 0.5, best=math.log2(0.004), rise=1.5)
    full = [r for r in search(study(), world) if r.purpose is Purpose.SEARCH]

    assert len(full) == 1


def test_a_second_full_trial_that_is_lost_is_tried_again_beside_it():
    seen = itertools.count()

    def is_lost(_, step):
        return step.purpose is Purpose.SEARCH and next(seen) == 1

    steps, records = run(study(), World(rise=1.5), is_lost=is_lost)
    first, lost, again = [s for s in steps if s.purpose is Purpose.SEARCH]

    assert lost.params != again.params
    assert -0.8 <= math.log2(again.params["learning_rate"] / first.params["learning_rate"]) < -0.2
    assert sum(r.purpose is Purpose.SEARCH and r.is_stable for r in records.values()) == 2


def test_there_is_no_second_full_trial_below_the_range():
    space = {"learning_rate": {"log_uniform": [0.004, 0.3]}}
    records = search(study(space), World(rise=1.5))

    assert [rate(r) for r in records if r.purpose is Purpose.SEARCH] == [
        pytest.approx(math.log2(0.004), abs=0.5)
    ]


def test_where_the_edge_decides_no_trial_goes_on_to_say_where_the_best_rate_is():
    proposed = []
    world = World(edge=math.log2(0.004) + 0.2, best=math.log2(0.004) + 1.5)
    search(study(), world, check=proposed.append)

    assert not any(p.length is Length.LATE for p in proposed)


def test_a_short_trial_near_the_best_rate_is_not_trained_to_the_end_where_the_edge_decides():
    """As high as it may be is as high as it should be."""
    proposed = []
    world = World(edge=math.log2(0.004) + 1.0, best=math.log2(0.004) + 1.5)
    search(study(), world, check=proposed.append)
    full = [p for p in proposed if p.purpose is Purpose.SEARCH]

    assert full
    assert all(p.goes_on is None for p in full)


# --- what else may happen -----------------------------------------------------------------------

WORDS = ["adamw", "adam", "NAdam", "RAdam"]


@pytest.mark.parametrize(("num_trials", "each"), [(16, 4), (32, 8)])
def test_words_take_turns_and_all_have_a_trial_of_the_whole_budget(num_trials, each):
    space = {"learning_rate": RATE, "optimizer": {"choice": WORDS}}
    records = search(study(space, trials=num_trials), World())

    tried = [r.params["optimizer"] for r in records]
    assert [tried.count(word) for word in WORDS] == [each] * 4
    whole = {r.params["optimizer"] for r in records if r.purpose is Purpose.SEARCH}
    assert whole == set(WORDS)


@pytest.mark.parametrize("num_trials", [4, 6, 8])
def test_of_few_trials_one_of_the_words_gets_down_to_where_its_rates_work(num_trials):
    space = {"learning_rate": RATE, "optimizer": {"choice": WORDS}}
    world = World(edge=math.log2(6e-4), best=math.log2(2e-4))
    spec = study(space, trials=num_trials)
    records = search(spec, world)

    assert recommend_from(records, spec.model_dump(mode="json")).params is not None
    first = [r.params["optimizer"] for r in records].count("adamw")
    assert first <= 5


def test_other_lines_are_those_of_the_best_words():
    class Better(World):
        def record(self, spec, proposal, number, seed=0):
            found = super().record(spec, proposal, number, seed)
            factor = 0.3 if proposal.params["optimizer"] == "adam" else 1.0
            looks = tuple(dataclasses.replace(k, score=factor * k.score) for k in found.looks)
            return dataclasses.replace(found, score=factor * found.score, looks=looks)

    space = {
        "learning_rate": RATE,
        "max_grad_norm": CLIP,
        "optimizer": {"choice": ["adamw", "adam"]},
    }
    records = search(study(space, stop_when=None, trials=32), Better())

    clips = {word: set() for word in ("adamw", "adam")}
    for record in records:
        clips[record.params["optimizer"]].add(record.params["max_grad_norm"])
    assert {0.01, 100} <= clips["adam"]
    assert not {0.01, 100} & clips["adamw"]


@pytest.mark.parametrize(
    ("domain", "value", "held"),
    [
        ({"uniform": [0.0, 0.95]}, 0.9, 0.9),
        ({"uniform": [0.0, 0.8]}, 0.9, 0.4),
        ({"choice": [0.8, 0.5, 0.9]}, 0.9, 0.9),
        ({"choice": [0.8, 0.5, 0.7]}, 0.9, 0.7),
    ],
    ids=["of the trainer", "not searched", "in a list", "not in the list"],
)
def test_the_main_line_holds_other_numbers_at_the_value_of_the_trainer(domain, value, held):
    trainer = {"max_train_steps": 2000, "eval_every": 100, "adam_beta1": value}
    space = {"learning_rate": RATE, "adam_beta1": domain}
    records = search(study(space, trainer=trainer), World())

    assert {r.params["adam_beta1"] for r in records} == {held}


def test_without_stop_when_every_searched_number_is_varied():
    """However noisy failure is: no line takes all trials."""

    class Noisy(World):
        def record(self, spec, proposal, number, seed=0):
            noise = [0.0, 0.9, -0.7, 0.4, -0.9, 0.6][number % 6]
            moved = dataclasses.replace(self, edge=self.edge + noise)
            return World.record(moved, spec, proposal, number, seed)

    space = {
        "learning_rate": RATE,
        "adam_beta1": {"uniform": [0.0, 0.95]},
        "weight_decay": {"log_uniform": [1e-3, 1.0]},
        "batch_size": {"choice": [16, 32, 64]},
    }
    records = search(study(space, stop_when=None, trials=30), Noisy())

    for name in ("adam_beta1", "weight_decay", "batch_size"):
        assert len({r.params[name] for r in records}) >= 2


@pytest.mark.parametrize("unlucky", [0, 1, 3, 5])
def test_one_failure_by_chance_does_not_send_the_answer_to_the_end_of_the_range(unlucky):
    class Unlucky(World):
        def record(self, spec, proposal, number, seed=0):
            moved = self if number != unlucky else dataclasses.replace(self, edge=-99.0)
            return World.record(moved, spec, proposal, number, seed)

    spec, world = study(), Unlucky()
    answer = recommend_from(search(spec, world), spec.model_dump(mode="json"))

    assert answer.params is not None
    assert abs(math.log2(answer.params["learning_rate"]) - world.best) <= 1.5


def test_a_round_with_a_lost_seed_sends_the_search_down_as_one_without():
    spec = study(confirm={"seeds": 3, "stress_octaves": 1})
    records = search(spec, World())
    round_ = [
        dataclasses.replace(r, outcome=Outcome.FAILED, looks=(), score=None)
        if (r.purpose, r.seed) == (Purpose.STRESS, 2)
        else r
        for r in next_round(spec, World(late_edge=math.log2(0.006)), records)
    ]
    full = next(r for r in records if r.purpose is Purpose.SEARCH)
    step = next_step(spec, Boundary(spec), [*records, *round_], (), len(records))

    assert isinstance(step, Proposal)
    assert step.purpose is Purpose.SEARCH
    assert math.log2(step.params["learning_rate"]) == pytest.approx(rate(full) - 1, abs=0.01)


@pytest.mark.parametrize("learns_from", [-10.0, -9.0, -8.5])
def test_where_only_the_upper_end_of_the_range_learns_the_answer_is_there(learns_from):
    spec = study({"learning_rate": {"log_uniform": [1e-5, 2.0**-8]}})
    world = World(best=-7.0, edge=0.0, learns_from=learns_from)
    answer = recommend_from(search(spec, world), spec.model_dump(mode="json"))

    assert answer.params is not None
    assert math.log2(answer.params["learning_rate"]) >= learns_from


def test_a_short_trial_with_a_finding_does_not_go_on():
    """It could not be called stable in the end."""

    class Poor(World):
        def record(self, spec, proposal, number, seed=0):
            found = super().record(spec, proposal, number, seed)
            return dataclasses.replace(found, severity=Severity.PENALISE, rule="R7")

    seen = []
    search(study(), Poor(), check=seen.append)

    assert seen
    assert all(proposal.goes_on is None for proposal in seen)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("num_trials", [1, 2, 3, 5])
def test_with_all_trials_spent_one_goes_on_whatever_the_guard_is_by_then(num_trials, optimizer):
    space = {"learning_rate": RATE, "max_grad_norm": {"log_uniform": [1, 1e4]}}
    trainer = {"max_train_steps": 2000, "eval_every": 100, "optimizer": optimizer}
    spec = study(space, trainer=trainer, trials=num_trials)
    records = search(spec, World())

    assert len({r.params["max_grad_norm"] for r in records}) > 1 or num_trials < 2
    assert any(r.purpose is Purpose.SEARCH for r in records)


def test_a_short_trial_that_has_not_begun_to_learn_may_go_on():
    """Where nothing has begun by then it is only too early."""

    class Slow(World):
        def record(self, spec, proposal, number, seed=0):
            found = super().record(spec, proposal, number, seed)
            if found.stopped_by is not StoppedBy.PROBE:
                return found
            looks = tuple(dataclasses.replace(k, score=1.01 * DEAD_SCORE) for k in found.looks)
            return dataclasses.replace(found, score=1.01 * DEAD_SCORE, looks=looks)

    spec = study(trials=3)
    records = search(spec, Slow())

    assert recommend_from(records, spec.model_dump(mode="json")).params is not None
