import math
from dataclasses import replace

import pytest

from stabsearch.recommend.choice import choice_of
from stabsearch.recommend.confirm import (
    PlannedTrial,
    planned_trials,
    seeds_bound,
    stress_bound,
)
from stabsearch.recommend.describe import describe
from stabsearch.recommend.landscape import safety_octaves
from stabsearch.recommend.pick import edge_precision, recommend_from
from stabsearch.records import Outcome, Purpose, Severity, StoppedBy, Symptom
from tests import synthetic_study as synthetic

STUDY = {
    "space": synthetic.SPACE,
    "trainer": {"clipping": "global_norm", "optimizer": "adamw"},
    "confirm": {"seeds": 3, "stress_octaves": 1.0},
}
LADDER = [1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2]


def searched(unstable_from=0.06):
    """Stable settings 0 to 4, the best scores at the higher rates, and unstable ones above."""
    stable = [
        synthetic.record(n, learning_rate=rate, score=1.0 - 0.1 * n)
        for n, rate in enumerate(LADDER)
    ]
    return stable + [
        synthetic.diverged(
            5 + n, params={"learning_rate": unstable_from * 2**n, "max_grad_norm": 1.0}
        )
        for n in range(5)
    ]


def ended(planned, *, unstable=(), **changes):
    """The planned trials as they end: stable, but for some purposes and seeds."""
    records = []
    for plan in planned:
        is_bad = (plan.purpose, plan.seed) in unstable
        make = synthetic.diverged if is_bad else synthetic.record
        records.append(
            make(
                plan.setting,
                plan.seed,
                params=plan.params,
                purpose=plan.purpose,
                started_at=1.8e9 + plan.setting,
                **changes,
            )
        )
    return records


ALL_STRESS = {(Purpose.STRESS, seed) for seed in range(3)}
DEAD = {
    "outcome": Outcome.STOPPED,
    "stopped_by": StoppedBy.GATE,
    "severity": Severity.PRUNE,
    "symptom": str(Symptom.NOT_LEARNING),
}
"""Changes that make a record one of a network that was dead from its first step."""

CLIP_ONLY = STUDY | {
    "space": {"max_grad_norm": synthetic.SPACE["max_grad_norm"]},
    "trainer": {"clipping": "global_norm", "learning_rate": 0.01},
}


def clips_searched():
    """Stable settings 0 to 4, from the loosest clip, which has the best score, to the tightest."""
    return [
        synthetic.record(n, params={"max_grad_norm": clip}, score=1 + n / 10)
        for n, clip in enumerate([90.0, 50.0, 10.0, 1.0, 0.1])
    ]


# --- the plan ---------------------------------------------------------------------------------


def test_a_round_is_the_missing_seeds_and_the_stress_test():
    records = searched()
    pick = recommend_from(records, STUDY)
    setting = int(pick.trial_id.split("-")[0])

    planned = planned_trials(records, STUDY)

    stress = pick.params | {"learning_rate": 2 * pick.params["learning_rate"]}
    assert planned == [
        PlannedTrial(setting=setting, seed=seed, params=pick.params, purpose=Purpose.CONFIRM)
        for seed in (1, 2)
    ] + [
        PlannedTrial(setting=10, seed=seed, params=stress, purpose=Purpose.STRESS)
        for seed in range(3)
    ]


@pytest.mark.parametrize(
    ("confirm", "expected"),
    [
        (None, 0.5),
        ({"seeds": 3, "stress_octaves": 0}, 0.5),
        ({"seeds": 3, "stress_octaves": 0.25}, 0.5),
        ({"seeds": 3}, 1.0),
        ({"seeds": 3, "stress_octaves": 3.5}, 3.5),
    ],
)
def test_few_runs_may_fail_up_to_the_stress_test_if_that_is_further_than_the_margin(
    confirm, expected
):
    assert safety_octaves({"margin_octaves": 0.5, "confirm": confirm}) == expected


@pytest.mark.parametrize("octaves", [1.0, 2.0, 3.0])
def test_a_setting_that_is_expected_to_fail_its_stress_test_is_not_given_one(octaves):
    study = STUDY | {"confirm": {"seeds": 3, "stress_octaves": octaves}}

    planned = planned_trials(searched(), study)

    (landscape,) = choice_of(searched(), study).landscapes.values()
    assert landscape.octaves == 1.0
    assert landscape.p_unstable(planned[-1].params) <= 0.1
    next_higher = planned[0].params | {"learning_rate": 2 * planned[0].params["learning_rate"]}
    assert landscape.p_unstable(next_higher, factor=2.0**octaves) > 0.1


def test_the_plan_is_the_same_until_one_of_its_trials_has_ended_and_shrinks_then():
    records = searched()
    planned = planned_trials(records, STUDY)
    running = [replace(r, outcome=Outcome.RUNNING, score=None) for r in ended(planned)]

    assert planned_trials(records, STUDY) == planned
    assert planned_trials([*records, *running], STUDY) == planned
    for num_ended in range(len(planned) + 1):
        now = [*records, *ended(planned)[:num_ended]]
        assert planned_trials(now, STUDY) == planned[num_ended:]


def test_without_a_confirm_section_nothing_is_planned():
    study = STUDY | {"confirm": None}

    assert planned_trials(searched(), study) == []
    assert recommend_from(searched(), study).confirmation is None


def test_nothing_is_planned_where_nothing_is_stable():
    records = [r for r in searched() if r.is_unstable]

    assert planned_trials(records, STUDY) == []
    assert recommend_from(records, STUDY).confirmation is None


def test_the_stress_test_of_another_setting_begins_no_round_when_the_study_asks_for_less():
    """1e-3 held at 4e-3, two octaves above; one octave above 2e-3 is the same rate."""
    space = {"learning_rate": {"choice": [1e-3, 2e-3, 4e-3]}}
    records = [
        synthetic.record(n, params={"learning_rate": rate}, score=0.9 + 0.1 * n, started_at=1.0)
        for n, rate in enumerate(space["learning_rate"]["choice"])
    ]
    records += [
        synthetic.record(0, seed, params={"learning_rate": 1e-3}, score=0.9, started_at=100.0,
                         purpose=Purpose.CONFIRM) for seed in (1, 2)
    ]  # fmt: skip
    records += [
        synthetic.record(3, seed, params={"learning_rate": 4e-3}, score=1.2, started_at=101.0,
                         purpose=Purpose.STRESS) for seed in range(3)
    ]  # fmt: skip

    for octaves in (2.0, 1.0):
        study = STUDY | {"space": space, "confirm": {"seeds": 3, "stress_octaves": octaves}}
        assert recommend_from(records, study).params == {"learning_rate": 1e-3}


def test_zero_stress_octaves_is_no_stress_test():
    study = STUDY | {"confirm": {"seeds": 3, "stress_octaves": 0}}
    records = searched()

    planned = planned_trials(records, study)
    answer = recommend_from([*records, *ended(planned)], study)

    assert [plan.purpose for plan in planned] == [Purpose.CONFIRM] * 2
    assert answer.confirmation.has_held
    assert answer.confirmation.p_fail_bound is None


def test_search_seeds_count_and_failed_ones_get_no_replacement():
    records = searched()
    records += [
        synthetic.record(n, 1, learning_rate=rate, outcome=Outcome.FAILED, score=None)
        for n, rate in enumerate(LADDER)
    ]
    planned = planned_trials(records, STUDY)

    confirm = [plan.seed for plan in planned if plan.purpose is Purpose.CONFIRM]
    answer = recommend_from([*records, *ended(planned)], STUDY)

    assert confirm == [2]
    assert planned_trials([*records, *ended(planned)], STUDY) == []
    assert (answer.confirmation.num_seeds, answer.confirmation.num_stable) == (2, 2)
    assert not answer.confirmation.is_complete
    assert not answer.confirmation.has_held
    assert answer.confirmation.moved_from == ()


# --- what becomes of the recommendation -------------------------------------------------------


def test_a_setting_that_held_is_confirmed_and_bounded():
    records = searched()
    before = recommend_from(records, STUDY)

    answer = recommend_from([*records, *ended(planned_trials(records, STUDY))], STUDY)

    confirmation = answer.confirmation
    assert answer.params == before.params
    assert confirmation.has_held
    assert (confirmation.num_stable, confirmation.num_stress_stable) == (3, 3)
    assert confirmation.num_stress_poor == 0
    assert confirmation.stress_learning_rate == 2 * answer.params["learning_rate"]
    assert confirmation.p_fail_bound == pytest.approx(
        stress_bound(3, answer.edge.slope_low, 1.0), rel=1e-9
    )
    assert answer.num_stable_seeds == answer.num_seeds == 3


@pytest.mark.parametrize(
    ("stress_scores", "is_said"),
    [((0.5, 0.55, 0.5), True), ((0.5, 0.55, 0.7), False), ((0.595, 0.59, 0.59), False)],
    ids=["better in every seed", "worse in one", "hardly better"],
)
def test_a_stress_test_with_better_scores_says_that_the_best_rate_is_higher(
    stress_scores, is_said
):
    records = searched()
    for trial in ended(planned_trials(records, STUDY)):
        is_stress = trial.purpose is Purpose.STRESS
        records.append(replace(trial, score=stress_scores[trial.seed] if is_stress else 0.6))
    answer = recommend_from(records, STUDY)
    said = [note for note in answer.notes if "the best learning rate lies higher" in note]

    assert answer.confirmation.has_held
    assert bool(said) == is_said
    if said:
        assert "the score is 17% lower, and in 3 of 3 seeds" in said[0]


def test_a_setting_that_held_stays_although_a_better_one_is_found():
    records = searched()
    records += ended(planned_trials(records, STUDY))
    held = recommend_from(records, STUDY)
    better = [
        synthetic.record(20 + n, learning_rate=rate, score=0.1 + n / 1000)
        for n, rate in enumerate([1.1e-3, 1.3e-3, 1.5e-3, 1.8e-3])
    ]

    assert recommend_from([*records, *better], STUDY).params == held.params
    assert planned_trials([*records, *better], STUDY) == []
    without = STUDY | {"confirm": None}
    assert recommend_from([*records, *better], without).params != held.params


@pytest.mark.parametrize(
    ("unstable", "moves"),
    [
        ({(Purpose.STRESS, 1)}, True),
        ({(Purpose.CONFIRM, 2)}, True),
        (ALL_STRESS, True),
        (set(), False),
    ],
    ids=["one-stress-seed", "one-own-seed", "all-stress-seeds", "none"],
)
def test_the_recommendation_moves_when_a_complete_round_did_not_hold(unstable, moves):
    records = searched()
    planned = planned_trials(records, STUDY)
    first = planned[0].setting

    answer = recommend_from([*records, *ended(planned, unstable=unstable)], STUDY)

    moved = (first,) if moves else ()
    assert answer.confirmation.moved_from == moved
    assert (int(answer.trial_id.split("-")[0]) != first) is moves
    assert any(
        f"Setting {first} (" in note and "did not hold" in note for note in answer.notes
    ) is (moves)


def test_the_recommendation_waits_for_the_whole_round():
    records = searched()
    planned = planned_trials(records, STUDY)
    half = ended(planned, unstable={(Purpose.STRESS, 0)})[:3]
    assert half[-1].is_unstable

    answer = recommend_from([*records, *half], STUDY)

    assert answer.confirmation.moved_from == ()
    assert int(answer.trial_id.split("-")[0]) == planned[0].setting
    assert planned_trials([*records, *half], STUDY) == planned[3:]


def test_a_stress_trial_that_is_poor_and_not_unstable_does_not_count_against_the_setting():
    records = searched()
    planned = planned_trials(records, STUDY)
    trials = [
        replace(r, severity=Severity.PENALISE, symptom=str(Symptom.TIME_BLIND))
        if r.purpose is Purpose.STRESS
        else r
        for r in ended(planned)
    ]

    answer = recommend_from([*records, *trials], STUDY)

    assert answer.confirmation.has_held
    assert "in 3 of 3 at twice the rate (3 of them poor)" in describe(answer)


def test_a_stress_trial_that_never_learned_was_killed_by_its_rate():
    records = searched()
    planned = planned_trials(records, STUDY)
    trials = [replace(r, **DEAD) if r.purpose is Purpose.STRESS else r for r in ended(planned)]

    answer = recommend_from([*records, *trials], STUDY)

    assert answer.confirmation.moved_from == (planned[0].setting,)


def test_after_three_rounds_the_least_risky_is_kept_and_nothing_more_is_planned():
    records = [*searched(), *lower_ones()]
    rounds = []
    while planned := planned_trials(records, STUDY):
        rounds.append(planned)
        records += ended(planned, unstable=ALL_STRESS)

    answer = recommend_from(records, STUDY)

    assert len(rounds) == 3
    assert [each[-1].setting for each in rounds] == [14, 15, 16]  # the next free ones
    tried = [each[0].params["learning_rate"] for each in rounds]
    assert tried == sorted(tried, reverse=True)  # further down, by the new evidence
    assert answer.params["learning_rate"] <= tried[-1]
    assert not answer.confirmation.has_held
    assert len(answer.confirmation.moved_from) >= 2
    assert any("Nothing held in the confirmation (3 settings" in note for note in answer.notes)


def lower_ones():
    """Stable settings below the others, each an octave lower, with scores that are worse."""
    return [
        synthetic.record(10 + n, learning_rate=LADDER[0] / 2 ** (n + 1), score=1.1 + 0.1 * n)
        for n in range(4)
    ]


def lowest_best():
    """The best score at the lowest rate, which is recommended."""
    return [replace(r, score=r.score and 1.0 + 0.2 * r.setting) for r in searched()]


@pytest.mark.parametrize("unstable", [{(Purpose.STRESS, 1)}, {(Purpose.CONFIRM, 1)}, ALL_STRESS])
def test_the_recommendation_does_not_move_up_from_a_setting_that_failed(unstable):
    records = lowest_best()
    planned = planned_trials(records, STUDY)
    records += ended(planned, unstable=unstable)

    answer = recommend_from(records, STUDY)

    assert {c.setting for c in choice_of(records, STUDY).candidates} >= {1, 2, 3, 4}
    assert planned[0].setting == int(answer.trial_id.split("-")[0]) == 0
    assert not answer.confirmation.has_held
    assert planned_trials(records, STUDY) == []
    assert any("(no other setting is farther from the edge)" in note for note in answer.notes)


def test_a_lower_setting_that_is_trained_after_one_failed_is_next():
    records = lowest_best()
    records += ended(planned_trials(records, STUDY), unstable={(Purpose.STRESS, 1)})
    records.append(synthetic.record(30, learning_rate=LADDER[0] / 2, score=1.5))

    assert planned_trials(records, STUDY)[0].setting == 30


def test_the_recommendation_may_move_up_from_a_setting_that_was_only_poor():
    records = lowest_best()
    poor = {"severity": Severity.PENALISE, "symptom": str(Symptom.DEAD_TIMESTEPS)}
    records += [
        replace(r, **poor) if r.purpose is Purpose.CONFIRM else r
        for r in ended(planned_trials(records, STUDY))
    ]

    answer = recommend_from(records, STUDY)

    assert answer.confirmation.moved_from == (0,)
    assert answer.params["learning_rate"] > LADDER[0]


def test_a_setting_with_other_words_may_follow_whatever_its_rate():
    """Nothing compares the edges of two optimizers but their own trials."""
    words = {"optimizer": {"choice": ["adamw", "lion"]}}
    study = STUDY | {"space": synthetic.SPACE | words}
    records = [replace(r, params=r.params | {"optimizer": "adamw"}) for r in lowest_best()]
    records += [
        replace(r, trial_id=f"{20 + r.setting:04d}-0", setting=20 + r.setting,
                score=r.score and r.score + 0.5, params=r.params | {"optimizer": "lion"})
        for r in lowest_best() if r.setting > 0
    ]  # fmt: skip
    records += ended(planned_trials(records, study), unstable={(Purpose.STRESS, 1)})

    answer = recommend_from(records, study)

    assert answer.confirmation.moved_from == (0,)
    assert answer.params["optimizer"] == "lion"


def test_a_failed_setting_of_which_nothing_is_stable_any_more_leaves_what_is_sound():
    """As by stricter thresholds, under which its first trial is no longer stable either."""
    records = lowest_best()
    planned = planned_trials(records, STUDY)
    failed = {(plan.purpose, plan.seed) for plan in planned}
    records += ended(planned, unstable=failed)
    records[0] = synthetic.diverged(0, params=records[0].params)

    choice = choice_of(records, STUDY)

    assert choice.is_final
    assert choice.pick.is_sound


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((4e-3, 1.0), (2e-3, 1.0), True),
        ((2e-3, 1.0), (4e-3, 1.0), False),
        ((4e-3, 1.0), (4e-3, 1.0), True),
        ((4e-3, 1.0), (4e-3, 0.1), False),  # a tighter clip lowers this edge
        ((4e-3, 0.1), (4e-3, 1.0), True),
        ((4e-3, 50.0), (4e-3, None), True),  # neither ever acts
        ((4e-3, None), (4e-3, 50.0), True),
    ],
)
def test_how_near_a_setting_is_to_a_logistic_edge_is_a_matter_of_its_clip_too(
    first, second, expected
):
    (landscape,) = choice_of(synthetic.draw(96), STUDY).landscapes.values()
    settings = [{"learning_rate": rate, "max_grad_norm": clip} for rate, clip in (first, second)]

    assert landscape.is_as_near(*settings) is expected


@pytest.mark.parametrize(
    ("space", "first", "second", "expected"),
    [
        (("learning_rate", "max_grad_norm"), (4e-3, 1.0), (4e-3, 1.0), True),
        (("learning_rate", "max_grad_norm"), (8e-3, 2.0), (4e-3, 1.0), True),
        (("learning_rate", "max_grad_norm"), (8e-3, 0.5), (4e-3, 1.0), False),
        (("learning_rate", "max_grad_norm"), (2e-3, 2.0), (4e-3, 1.0), False),
        (("max_grad_norm",), (2e-3, 2.0), (4e-3, 1.0), True),
        (("max_grad_norm",), (8e-3, 0.5), (4e-3, 1.0), False),
        (("learning_rate",), (8e-3, 0.5), (4e-3, 1.0), True),
        ((), (8e-3, 2.0), (4e-3, 1.0), False),
    ],
)
def test_without_a_logistic_edge_neither_rate_nor_clip_may_be_safer(
    space, first, second, expected
):
    records = [
        synthetic.record(n, learning_rate=rate, max_grad_norm=clip)
        for n, (rate, clip) in enumerate((first, second))
    ]
    study = STUDY | {"space": {name: synthetic.SPACE[name] for name in space}}
    (landscape,) = choice_of(records, study).landscapes.values()

    assert landscape.is_as_near(records[0].params, records[1].params) is expected


def test_where_the_rate_is_not_searched_a_looser_clip_does_not_follow_one_that_failed():
    best = {10.0: 1.0, 50.0: 1.01, 90.0: 1.02, 1.0: 1.5, 0.1: 1.6}
    records = [replace(r, score=best[r.params["max_grad_norm"]]) for r in clips_searched()]
    planned = planned_trials(records, CLIP_ONLY)

    answer = recommend_from([*records, *ended(planned, unstable=ALL_STRESS)], CLIP_ONLY)

    assert planned[0].params["max_grad_norm"] >= 10.0
    assert answer.params["max_grad_norm"] < planned[0].params["max_grad_norm"]


def test_lower_rates_that_failed_for_another_reason_are_not_asked_for():
    records = [
        replace(
            r,
            severity=Severity.PENALISE,
            symptom=str(Symptom.TIME_BLIND),
        )
        if r.params["learning_rate"] <= LADDER[1]
        else r
        for r in searched()
    ]
    while planned := planned_trials(records, STUDY):
        records += ended(planned, unstable=ALL_STRESS)
    notes = " ".join(recommend_from(records, STUDY).notes)

    assert "Nothing held" in notes
    assert (
        "Lower rates were trained, and are not called stable for another reason (did not look at "
        "the timestep)" in notes
    )
    assert "search lower learning rates" not in notes.lower()


def test_when_the_picks_run_out_the_best_of_what_is_known_is_said():
    records = [searched()[0], *searched()[5:]]
    records += ended(planned_trials(records, STUDY), unstable={(Purpose.CONFIRM, 1)})

    answer = recommend_from(records, STUDY)

    assert answer.params["learning_rate"] == LADDER[0]
    assert not answer.confirmation.has_held
    assert planned_trials(records, STUDY) == []
    assert any("no other setting is left" in note for note in answer.notes)
    assert (answer.num_stable_seeds, answer.num_seeds) == (2, 3)


def test_stress_trials_are_evidence_and_never_recommended():
    records = searched()
    planned = planned_trials(records, STUDY)
    trials = ended(planned, score=0.01)

    answer = recommend_from([*records, *trials], STUDY)
    before = recommend_from(records, STUDY)

    assert answer.params == before.params
    assert answer.best_trial_id == before.best_trial_id
    assert answer.edge.learning_rate_low > before.edge.learning_rate_low


def test_where_the_rate_is_not_searched_the_stress_test_raises_the_trainers():
    records = clips_searched()
    planned = planned_trials(records, CLIP_ONLY)
    stress = [plan for plan in planned if plan.purpose is Purpose.STRESS]

    assert stress[0].params == planned[0].params | {"learning_rate": 0.02}
    held = recommend_from([*records, *ended(planned)], CLIP_ONLY)
    assert held.confirmation.has_held
    assert held.confirmation.p_fail_bound is None
    moved = recommend_from([*records, *ended(planned, unstable=ALL_STRESS)], CLIP_ONLY)
    assert moved.confirmation.moved_from == (planned[0].setting,)


@pytest.mark.parametrize("is_gated", [True, False])
def test_where_the_rate_is_not_searched_dead_stress_trials_are_not_stable_either(is_gated):
    """No other trial says that a rate so high kills: the setting's own seeds do."""
    dead = (
        DEAD if is_gated else DEAD | {"outcome": Outcome.COMPLETED, "stopped_by": StoppedBy.NOBODY}
    )
    records = clips_searched()
    planned = planned_trials(records, CLIP_ONLY)
    trials = [replace(r, **dead) if r.purpose is Purpose.STRESS else r for r in ended(planned)]

    answer = recommend_from([*records, *trials], CLIP_ONLY)

    assert answer.confirmation.moved_from == (planned[0].setting,)
    assert any("and in 0 of 3 at twice the rate" in note for note in answer.notes)


# --- the statement ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seeds", "expected"), [(3, 0.63), (5, 0.45), (10, 0.26), (29, 0.10), (59, 0.05)]
)
def test_clean_seeds_alone(seeds, expected):
    """science.md 4.1-3"""
    assert seeds_bound(seeds) == pytest.approx(expected, abs=0.005)


def test_clean_seeds_at_twice_the_rate_say_much_more():
    """science.md 4.1-3: one octave divides the odds by 1000 at the lower bound of the slope."""
    bound = stress_bound(5, math.log(1000), 1.0)

    assert bound == pytest.approx(0.45 / 0.55 / 1000, rel=0.01)
    assert stress_bound(5, math.log(1000), 2.0) == pytest.approx(bound / 1000, rel=0.01)
    assert stress_bound(5, 0.0, 1.0) == pytest.approx(seeds_bound(5))


@pytest.mark.parametrize(
    ("change", "has_bound"),
    [({}, True), ({"clip_rate": 0.0, "grad_norm_median": 0.1}, False)],
    ids=["guarded", "unguarded"],
)
def test_a_bound_takes_a_guard(change, has_bound):
    records = [replace(r, **change) for r in searched()]
    records += ended(planned_trials(records, STUDY), **change)

    answer = recommend_from(records, STUDY)

    assert answer.confirmation.has_held
    assert (answer.confirmation.p_fail_bound is not None) is has_bound


# --- precision --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop_when", "expected"),
    [
        (None, None),
        ({"edge_within_octaves": 3.0}, True),
        ({"edge_within_octaves": 0.01}, False),
    ],
)
def test_precision_is_asked_for(stop_when, expected):
    study = STUDY | {"stop_when": stop_when}

    assert recommend_from(searched(), study).is_precise is expected


def test_without_an_edge_nothing_is_precise():
    study = STUDY | {"stop_when": {"edge_within_octaves": 3.0}}
    stable = searched()[:5]

    assert recommend_from(stable, study).is_precise is False
    assert edge_precision(stable, study) is None
    assert edge_precision([], study) is None


def test_precision_is_that_of_the_recommended_setting():
    records = searched()

    assert edge_precision(records, STUDY) == pytest.approx(
        recommend_from(records, STUDY).edge.half_width_octaves, rel=0.05
    )


def test_there_is_no_precision_without_a_setting_that_could_be_recommended():
    """Every setting failed in one of its seeds: the edge is known, and there is no answer."""
    rates = [4e-3 * 1.15**n for n in range(12)]
    records = [synthetic.record(n, learning_rate=rate) for n, rate in enumerate(rates)]
    for n, rate in enumerate((*rates, 0.03, 0.06)):
        params = {"learning_rate": rate, "max_grad_norm": 1.0}
        records.append(synthetic.diverged(n, seed=1, params=params))

    assert recommend_from(records, STUDY | {"seeds": 2}).params is None
    assert edge_precision(records, STUDY | {"seeds": 2}) is None
