import itertools
import json
import math
from dataclasses import replace

import pytest

from stabsearch.recommend.candidates import candidates_of, choose
from stabsearch.recommend.describe import describe, to_json
from stabsearch.recommend.landscape import landscapes_of
from stabsearch.recommend.nothing_stable import EITHER
from stabsearch.recommend.pick import recommend
from stabsearch.recommend.space import search_space
from stabsearch.records import Outcome, Purpose, Severity, StoppedBy, Symptom
from stabsearch.results.frames import load
from tests import synthetic_study as synthetic


@pytest.fixture
def answer(tmp_path):
    """The recommendation that comes of some records, its text checked on the way."""

    folders = (tmp_path / f"study_{n}" for n in itertools.count())

    def answer_of(records, space=None, **study_fields):
        results = load(synthetic.write(next(folders), records, space, **study_fields))
        recommendation = recommend(results)
        for trials in (None, results.trials):
            text = describe(recommendation, trials)
            assert "nan" not in text
            assert all(note in text for note in recommendation.notes)
        json.dumps(to_json(recommendation), allow_nan=False)
        return recommendation

    return answer_of


# --- the known landscape ----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_the_pick_keeps_its_distance_from_the_known_edge(answer, seed):
    recommendation = answer(synthetic.draw(48, seed=seed))
    learning_rate, clip = recommendation.params.values()

    assert math.log2(synthetic.edge(clip) / learning_rate) > 1.0
    worst = max(synthetic.score(learning_rate * f, clip) for f in (0.5, 1.0, 2.0))
    assert worst < 1.4 * synthetic.score(synthetic.edge() / 2)


@pytest.mark.parametrize("seed", range(6))
def test_the_price_of_safety_is_small_and_its_gain_is_not_negative(answer, seed):
    recommendation = answer(synthetic.draw(48, seed=seed))

    assert 0 <= recommendation.price_of_safety < 0.15
    assert recommendation.worst_score <= recommendation.best_worst_score * 1.05
    assert recommendation.best_score <= recommendation.score


@pytest.mark.parametrize("seed", range(3))
def test_intervals_edge_and_margin_fit_together(answer, seed):
    recommendation = answer(synthetic.draw(48, seed=seed))
    learning_rate = recommendation.params["learning_rate"]
    edge = recommendation.edge

    numbers = [
        recommendation.region_low,
        recommendation.plateau_low,
        learning_rate,
        recommendation.plateau_high,
        recommendation.region_high,
        edge.learning_rate,
    ]
    assert numbers == sorted(numbers)
    assert learning_rate < edge.learning_rate_safe < recommendation.region_high
    assert recommendation.margin_octaves == pytest.approx(
        math.log2(edge.learning_rate_safe / learning_rate)
    )
    assert recommendation.p_unstable < recommendation.p_unstable_doubled <= 0.1


def test_the_region_is_about_stability_and_the_plateau_about_the_score(answer):
    records = synthetic.draw(96, seed=3)
    recommendation = answer(records)
    clip = recommendation.params["max_grad_norm"]
    lowest = min(r.params["learning_rate"] for r in records if r.is_stable)

    assert recommendation.region_low == pytest.approx(
        lowest
    )  # far down, where the score is three times as bad
    assert 0.4 < recommendation.region_high / synthetic.edge(clip) < 1.1
    for rate in (recommendation.plateau_low, recommendation.plateau_high):
        ratio = synthetic.score(rate, clip) / synthetic.score(
            recommendation.params["learning_rate"], clip
        )
        assert ratio < 1.25
    assert recommendation.plateau_low > 4 * recommendation.region_low


def test_where_nothing_failed_the_region_ends_with_what_was_tried(answer):
    rates = [1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2]
    records = [synthetic.record(n, learning_rate=rate) for n, rate in enumerate(rates)]

    recommendation = answer(records)

    assert (recommendation.region_low, recommendation.region_high) == pytest.approx((1e-3, 1.6e-2))
    assert "where trials were stable" in describe(recommendation)


@pytest.mark.parametrize("gated", [True, False])
def test_networks_killed_by_their_rate_count_as_unstable(answer, gated):
    """Relabelled as "did not learn", the same landscape gives the same answer."""
    records = synthetic.draw(48, seed=3)
    expected = answer(records)

    found = answer(synthetic.never_learning_above(records, gated=gated))

    assert found.params == expected.params
    assert found.edge == expected.edge
    assert found.edge_trial_ids == expected.edge_trial_ids
    assert found.unstable_trial_ids == expected.unstable_trial_ids
    assert found.num_unstable == expected.num_unstable == len(found.unstable_trial_ids)
    assert found.worst_score == expected.worst_score


def test_edge_trials_are_unstable_near_and_above(answer):
    records = {record.trial_id: record for record in synthetic.draw(48, seed=3)}
    recommendation = answer(records.values())

    assert 1 <= len(recommendation.edge_trial_ids) <= 4
    for trial_id in recommendation.edge_trial_ids:
        assert records[trial_id].is_unstable
        assert records[trial_id].params["learning_rate"] > recommendation.params["learning_rate"]


def test_steps_saved_count_finished_trials_only(answer):
    records = [
        synthetic.record(0),
        synthetic.diverged(1, learning_rate=0.1),
        synthetic.record(2, outcome=Outcome.RUNNING, steps=100),
        synthetic.record(3, outcome=Outcome.FAILED, steps=700),
    ]

    recommendation = answer(records)

    assert recommendation.num_trials == 4
    assert recommendation.num_unstable == 1
    assert recommendation.steps_budgeted == 2 * synthetic.STEPS
    assert recommendation.steps_spent == synthetic.STEPS + synthetic.STEPS // 5
    assert any("1 trial not finished" in note for note in recommendation.notes)
    assert any("1 trial failed" in note for note in recommendation.notes)


def test_the_same_files_give_the_same_answer(answer):
    records = synthetic.draw(32)

    assert answer(records) == answer(records)


# --- few trials, and one-sided ones -----------------------------------------------------------

LADDER = [1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2]


@pytest.mark.parametrize(
    ("stable", "unstable", "has_params", "has_edge", "note"),
    [
        (0, 0, False, False, "No trial has reported yet"),
        (1, 0, True, False, "Too few settings"),
        (2, 0, True, False, "No trial was unstable"),
        (3, 0, True, False, "No trial was unstable"),
        (6, 0, True, False, "Search higher learning rates"),
        (0, 1, False, False, "Every trial was unstable"),
        (0, 6, False, False, "search lower learning rates"),
        (1, 1, True, True, "the least risky"),
        (1, 5, True, True, "the least risky"),
        (3, 3, True, True, "1 clean seed"),
    ],
)
def test_few_or_one_sided_trials(answer, stable, unstable, has_params, has_edge, note):
    records = [synthetic.record(n, learning_rate=LADDER[n], score=1.0) for n in range(stable)]
    records += [
        synthetic.diverged(n, params={"learning_rate": LADDER[n], "max_grad_norm": 1.0})
        for n in range(stable, stable + unstable)
    ]

    recommendation = answer(records)

    assert (recommendation.params is not None) is has_params
    assert (recommendation.edge is not None) is has_edge
    assert note in " ".join(recommendation.notes)


def test_a_setting_counts_as_stable_only_with_all_its_seeds(answer):
    records = [
        synthetic.record(0, 0, learning_rate=4e-3, score=0.5),
        synthetic.diverged(0, 1, params={"learning_rate": 4e-3, "max_grad_norm": 1.0}),
        synthetic.record(1, 0, learning_rate=1e-3, score=1.0),
        synthetic.record(1, 1, learning_rate=1e-3, score=1.2),
    ]

    recommendation = answer(records)

    assert recommendation.trial_id == "0001-0"
    assert (recommendation.num_stable_seeds, recommendation.num_seeds) == (2, 2)
    assert recommendation.score == 1.2  # the worst seed
    assert "2 clean seeds" in " ".join(recommendation.notes)


def test_no_setting_stable_in_all_seeds_names_the_nearest(answer):
    records = [
        record
        for setting in range(3)
        for record in (synthetic.record(setting, 0), synthetic.diverged(setting, 1))
    ]

    recommendation = answer(records)

    assert recommendation.params is None
    assert "stable in 1 of 2" in " ".join(recommendation.notes)


@pytest.mark.parametrize(
    ("make", "changes", "first", "last"),
    [
        (
            synthetic.record,
            synthetic.SHORT,
            "No setting was trained to its end",
            "all were short trials.",
        ),
        (
            synthetic.diverged,
            {"purpose": Purpose.PROBE},
            "No setting was stable",
            "search lower learning rates.",
        ),
        (
            synthetic.diverged,
            {"symptom": Symptom.NON_FINITE, "verdict_step": 1},
            "No setting was stable",
            "look for NaN in the model's output, its loss or the data.",
        ),
        (
            synthetic.diverged,
            {"symptom": Symptom.NON_FINITE, "verdict_step": 2},
            "No setting was stable",
            "search lower learning rates.",
        ),
        (
            synthetic.record,
            {"severity": Severity.PENALISE, "symptom": Symptom.TIME_BLIND},
            "No setting was stable",
            "(did not look at the timestep): `stabsearch explain` says what helps.",
        ),
    ],
    ids=["short", "short-and-unstable", "dead-before-a-step", "dead-after-one", "poor"],
)
def test_why_nothing_was_stable(answer, make, changes, first, last):
    notes = answer([make(n, **changes) for n in range(3)]).notes

    assert notes[0].startswith(first)
    assert notes[-1].endswith(last)


def dead(n, rate, **changes):
    """It never learned: too timid, or killed at once."""
    never = {"severity": Severity.PRUNE, "symptom": str(Symptom.NOT_LEARNING), "rule": "R1c"}
    changes = {"outcome": Outcome.STOPPED, "stopped_by": StoppedBy.GATE} | never | changes
    return synthetic.record(n, learning_rate=rate, score=synthetic.CONSTANT_SCORE, **changes)


def short(n, rate, **changes):
    return synthetic.record(n, learning_rate=rate, **(synthetic.SHORT | changes))


def failed(n, rate):
    return synthetic.diverged(n, params={"learning_rate": rate, "max_grad_norm": 1.0})


@pytest.mark.parametrize(
    ("records", "note"),
    [
        (
            [dead(n, 0.1 * 2**n) for n in range(3)],
            f"No trial learned: {EITHER}. Search lower and higher ones, or train longer; if none "
            "learns, the model is too small, or it or the data is broken.",
        ),
        (
            [dead(0, 3e-4), short(1, 6e-4), short(2, 1e-3)],
            "What was to train to its end never learned, and at higher rates, up to learning_rate "
            "1e-3, short trials did not fail: search higher learning rates, or train longer.",
        ),
        (
            [dead(0, 3e-4), short(1, 1e-4)],
            "What was to train to its end was unstable, and short trials at lower rates were not: "
            "search lower learning rates.",
        ),
        (
            [dead(0, 3e-4), short(1, 1e-4, looks=(synthetic.look(synthetic.CONSTANT_SCORE),))],
            f"What was to train to its end never learned: {EITHER}. Search lower and higher ones, "
            "or train longer.",
        ),
        (
            [dead(0, 1e-4), failed(1, 0.1), dead(2, 1.0)],
            "Nothing was tried between learning_rate 1e-4, which never learned, and 0.1, which "
            "was unstable. Search there, and below 1e-4, too: such a rate is too low, or has "
            "killed its network at once. Or train longer.",
        ),
        (
            [dead(0, 0.08), failed(1, 0.1), dead(2, 1.0)],
            "Every trial was unstable or never learned, as one of a rate that is far too high may "
            "seem to: search lower learning rates, then train longer.",
        ),
    ],
    ids=["all dead", "alive above", "alive below", "idle below", "a gap", "no gap"],
)
def test_where_nothing_was_stable_the_advice_fits_the_rates(answer, records, note):
    assert answer(records).notes[-1] == note


@pytest.mark.parametrize(("share", "is_said"), [(0.94, False), (0.96, True), (1.02, True)])
def test_a_score_like_a_constant_s_is_a_caution(answer, share, is_said):
    """A dead network has it, too: nothing is known to be stable."""
    score = share * synthetic.CONSTANT_SCORE
    notes = answer([synthetic.record(n, score=score) for n in range(3)]).notes

    assert any(note.startswith("CAUTION: its score") for note in notes) is is_said


@pytest.mark.parametrize(("score", "low"), [(synthetic.CONSTANT_SCORE, 3e-3), (1.0, 1e-4)])
def test_the_region_does_not_begin_where_a_short_trial_learned_nothing(answer, score, low):
    idle = synthetic.SHORT | {"score": score, "looks": (synthetic.look(score),)}
    records = [synthetic.record(0, learning_rate=1e-4, **idle)]
    records += [synthetic.record(n, learning_rate=n * 3e-3) for n in range(1, 4)]

    assert answer(records).region_low == pytest.approx(low)


@pytest.mark.parametrize(
    "change",
    [
        {"outcome": Outcome.STOPPED, "stopped_by": StoppedBy.RANK},
        {"outcome": Outcome.RUNNING},
        {"outcome": Outcome.FAILED},
        {"score": None},
    ],
    ids=["stopped-by-rank", "running", "failed", "no-score"],
)
def test_what_did_not_train_to_the_end_is_not_recommended(answer, change):
    records = [synthetic.record(0, score=0.1, learning_rate=2e-3), synthetic.record(1)]
    records[0] = replace(records[0], **change)

    assert answer(records).trial_id == "0001-0"


def test_a_setting_that_fails_at_twice_its_rate_is_passed_over(answer):
    """The lowest score is one step below the edge; so far the argmin of a tuner."""
    records = [
        synthetic.record(n, learning_rate=lr, score=1.0 - 0.02 * n)
        for n, lr in enumerate([1e-3, 2e-3, 3e-3, 4e-3, 6e-3, 8e-3, 1.6e-2])
    ]
    records += [
        synthetic.diverged(7 + n, params={"learning_rate": lr, "max_grad_norm": 1.0})
        for n, lr in enumerate([2e-2, 2.4e-2, 3.2e-2, 5e-2, 0.1])
    ]

    recommendation = answer(records)

    assert recommendation.best_trial_id == "0006-0"
    assert recommendation.best_is_stable
    assert recommendation.best_margin_octaves < 1
    assert recommendation.params["learning_rate"] <= 8e-3
    assert recommendation.p_unstable_doubled <= 0.1


def test_a_tuner_does_not_know_what_is_stable(answer):
    """The lowest score belongs to a trial that completed and was penalised on its way."""
    records = [record for record in synthetic.draw(48, seed=3)]
    spiked = synthetic.record(
        48,
        learning_rate=0.028,
        score=0.5,
        severity=Severity.PENALISE,
        rule="R1d",
        symptom=str(Symptom.CATASTROPHIC_EXCURSION),
    )

    recommendation = answer([*records, spiked])

    assert recommendation.best_trial_id == "0048-0"
    assert recommendation.best_is_stable is False
    assert recommendation.best_margin_octaves < 0.5
    assert recommendation.best_worst_score > recommendation.worst_score
    assert recommendation.price_of_safety == pytest.approx(recommendation.score / 0.5 - 1)
    text = describe(recommendation)
    assert (
        "pick trial 0048-0, learning_rate 0.028  max_grad_norm 1, for its score 0.5: NOT st"
        in text
    )
    assert "PRICE OF SAFETY" in text


def test_a_tuner_has_an_answer_even_where_nothing_is_stable(answer):
    records = [
        synthetic.record(n, severity=Severity.PENALISE, symptom="lost_progress", score=1.0 + n)
        for n in range(4)
    ]

    recommendation = answer(records)

    assert recommendation.params is None
    assert recommendation.best_trial_id == "0000-0"
    assert recommendation.best_is_stable is False
    assert recommendation.price_of_safety is None


# --- ties -------------------------------------------------------------------------------------


def ladder(clip_of, score_of, rates=(1e-3, 1.8e-3, 2e-3, 2.5e-3, 3e-3, 4e-3)):
    """Stable settings on a ladder of rates, and unstable ones far above."""
    records = [
        synthetic.record(n, learning_rate=lr, max_grad_norm=clip_of(n), score=score_of(n))
        for n, lr in enumerate(rates)
    ]
    for record in records:
        assert record.clip_rate == 0.1
    records = [
        replace(r, clip_rate=0.0) if r.params["max_grad_norm"] != 1.0 else r for r in records
    ]
    return records + [
        synthetic.diverged(
            90 + n, params={"learning_rate": lr, "max_grad_norm": (1.0, 4.0)[n % 2]}
        )
        for n, lr in enumerate([0.06, 0.06, 0.1, 0.1, 0.2, 0.2])
    ]


def test_of_tied_settings_the_guarded_one_is_recommended(answer):
    recommendation = answer(ladder(lambda n: 1.0 if n == 2 else 4.0, lambda n: 1.0))

    assert recommendation.params["max_grad_norm"] == 1.0
    assert "clipping guards it" in " ".join(recommendation.notes)
    assert "not clipped in practice" not in " ".join(recommendation.notes)


def test_of_tied_settings_the_much_larger_margin_comes_first(answer):
    """The guarded setting is two octaves nearer to the edge: the guard does not make up for it."""
    recommendation = answer(ladder(lambda n: 1.0 if n == 5 else 4.0, lambda n: 1.0))

    assert recommendation.params["learning_rate"] < 2e-3
    assert "not clipped in practice (max_grad_norm 4)" in " ".join(recommendation.notes)
    assert "A max_grad_norm of 2 or less" in " ".join(recommendation.notes)


def test_a_guard_does_not_make_up_for_a_worse_score(answer):
    recommendation = answer(
        ladder(lambda n: 1.0 if n == 1 else 4.0, lambda n: 3.0 if n == 1 else 1.0)
    )

    assert recommendation.params["max_grad_norm"] == 4.0


@pytest.mark.parametrize(("own", "is_lower"), [(1.1, True), (1.02, False)])
def test_where_surroundings_tie_the_margin_decides_only_if_the_scores_tie_too(own, is_lower):
    """Within two octaves of the best rate a score as bad as any may be predicted everywhere: then
    the lowest rate, with its large margin, has no better surroundings, and a worse score."""
    records = ladder(lambda n: 1.0, lambda n: (own, 1.0)[n >= 2])
    study = {"space": synthetic.SPACE}
    (landscape,) = landscapes_of(search_space(study, records), records, study).values()
    candidates = [replace(c, worst_score=6.0) for c in candidates_of(landscape, 1, study)]

    pick = choose(candidates)

    assert (pick.params["learning_rate"] >= 2e-3) == is_lower


@pytest.mark.parametrize(
    ("space_clip", "trainer", "is_noted"),
    [
        (None, {"max_grad_norm": 1.0}, True),
        ("absent", {"max_grad_norm": None}, True),
        ("absent", {"max_grad_norm": 1.0}, False),
        (1.0, {"max_grad_norm": None}, False),
    ],
    ids=["constant-null", "trainer-null", "trainer-clips", "constant-over-trainer"],
)
def test_missing_clipping_is_noted_although_it_was_not_searched(
    answer, space_clip, trainer, is_noted
):
    space = {"learning_rate": synthetic.SPACE["learning_rate"]}
    if space_clip != "absent":
        space["max_grad_norm"] = space_clip
    records = [
        replace(r, params={"learning_rate": r.params["learning_rate"]}, clip_rate=0.0)
        for r in synthetic.draw(24, seed=1)
    ]

    notes = " ".join(answer(records, space, trainer=trainer).notes)

    assert ("not clipped in practice" in notes) is is_noted


@pytest.mark.parametrize(
    ("clipping", "clip_rate", "is_noted"),
    [("none", 0.0, True), ("agc", 0.0, True), ("agc", 0.2, False)],
)
def test_a_threshold_that_the_clipping_does_not_look_at_is_no_guard(
    answer, clipping, clip_rate, is_noted
):
    records = [replace(r, clip_rate=clip_rate) for r in synthetic.draw(24, seed=1)]
    notes = " ".join(answer(records, trainer={"clipping": clipping}).notes)

    assert (f"not clipped in practice (clipping {clipping})" in notes) is is_noted


def test_remarks_of_trials_are_told_once(answer):
    remark = "Per-sample gradient norms come from a probe every 100 steps."
    records = [replace(r, remarks=remark) for r in synthetic.draw(24, seed=1)]

    assert answer(records).notes.count(remark) == 1


# --- seeds ------------------------------------------------------------------------------------


def test_missing_replicates_are_counted_and_come_after_complete_settings(answer):
    """The better setting lost two of its three seeds to the machine."""
    records = [
        synthetic.record(0, 0, learning_rate=4e-3, score=0.5),
        synthetic.record(0, 1, learning_rate=4e-3, score=None, outcome=Outcome.FAILED),
        synthetic.record(0, 2, learning_rate=4e-3, score=None, outcome=Outcome.FAILED),
        *[synthetic.record(1, seed, learning_rate=1e-3, score=1.0) for seed in range(3)],
    ]

    complete, alone = answer(records, seeds=3), answer(records[:3], seeds=3)

    assert complete.trial_id == "0001-0"
    assert (complete.num_stable_seeds, complete.num_failed_seeds, complete.num_seeds) == (3, 0, 3)
    assert alone.trial_id == "0000-0"
    assert (alone.num_stable_seeds, alone.num_failed_seeds, alone.num_seeds) == (1, 2, 3)
    assert "stable in 1 of 3 seeds (2 failed)" in describe(alone)
    assert "2 seeds of this setting" in " ".join(alone.notes)


def test_replicates_that_have_not_begun_are_missing_too(answer):
    records = [
        synthetic.record(0, 0),
        synthetic.record(0, 1, outcome=Outcome.RUNNING, steps=100, score=None),
    ]

    text = describe(answer(records, seeds=3))

    assert "stable in 1 of 3 seeds (2 not finished)" in text


# --- what does not fit the model --------------------------------------------------------------


def test_failures_far_below_stable_rates_are_said(answer):
    rates = [1e-3 * 1.3**n for n in range(20)]
    records = [
        synthetic.diverged(n, params={"learning_rate": lr, "max_grad_norm": 1.0})
        if n in (2, 3) or lr > 0.1
        else synthetic.record(n, learning_rate=lr, score=1.0 + abs(n - 12) / 10)
        for n, lr in enumerate(rates)
    ]

    notes = " ".join(answer(records).notes)

    assert "2 trials (0002-0, 0003-0) failed an octave or more BELOW stable ones" in notes


def test_a_margin_below_zero_is_said_plainly(answer):
    records = [synthetic.record(0, learning_rate=0.02)] + [
        synthetic.diverged(n, params={"learning_rate": 0.01 * n, "max_grad_norm": 1.0})
        for n in range(1, 6)
    ]

    recommendation = answer(records)

    assert recommendation.margin_octaves < 0
    text = describe(recommendation)
    assert "MARGIN           none: " in text
    assert "ABOVE learning_rate" in text
    assert recommendation.region_low is None
    assert "There is no stable region: this setting was stable, and yet" in text


# --- other spaces -----------------------------------------------------------------------------


def test_one_searched_parameter(answer):
    records = [
        replace(record, params={"learning_rate": record.params["learning_rate"]})
        for record in synthetic.draw(24, seed=1)
    ]

    recommendation = answer(records, {"learning_rate": synthetic.SPACE["learning_rate"]})

    assert recommendation.params.keys() == {"learning_rate"}
    assert recommendation.edge is not None
    assert recommendation.region_low is not None


def test_without_the_learning_rate_there_is_no_edge(answer):
    space = {"max_grad_norm": synthetic.SPACE["max_grad_norm"]}
    records = [
        synthetic.record(n, params={"max_grad_norm": clip}, score=1 + n / 10)
        for n, clip in enumerate([0.1, 1.0, 10.0, 50.0, 90.0])
    ]

    recommendation = answer(records, space)

    assert recommendation.params is not None
    assert recommendation.edge is None
    assert recommendation.region_low is None
    notes = " ".join(recommendation.notes)
    assert "learning rate was not searched" in notes
    assert "Search higher learning rates" not in notes


def test_categories_are_judged_by_their_own_trials(answer):
    space = synthetic.SPACE | {"optimizer": {"choice": ["adamw", "sgd"]}}
    records = []
    for record in synthetic.draw(48, seed=2):
        kind = "sgd" if record.setting % 2 else "adamw"
        score = record.score and record.score * (0.5 if kind == "sgd" else 1.0)
        records.append(replace(record, params=record.params | {"optimizer": kind}, score=score))

    recommendation = answer(records, space)

    assert recommendation.params["optimizer"] == "sgd"
    assert "combination of optimizer was judged by its own" in " ".join(recommendation.notes)


def test_every_category_has_its_own_dead_network(answer):
    """A dead network scores 98 with epsilon-prediction and 1.4 with v-prediction."""
    space = synthetic.SPACE | {"prediction_type": {"choice": ["epsilon", "v_prediction"]}}
    records = []
    for record in synthetic.draw(64, seed=2):
        is_v = record.setting % 2 == 0
        params = record.params | {"prediction_type": "v_prediction" if is_v else "epsilon"}
        dead = 1.4 if is_v else 98.0
        score = record.score and record.score * (0.5 if is_v else 5.0)
        records.append(replace(record, params=params, score=score, constant_score=dead))

    recommendation = answer(records, space)

    assert recommendation.params["prediction_type"] == "v_prediction"
    assert recommendation.worst_score <= 1.4


def test_scores_of_different_noise_schedules_are_said_not_to_compare(answer):
    name = "noise_schedule.beta_schedule"
    space = synthetic.SPACE | {name: {"choice": ["linear", "squaredcos_cap_v2"]}}
    records = [
        replace(r, params=r.params | {name: ("linear", "squaredcos_cap_v2")[r.setting % 2]})
        for r in synthetic.draw(48, seed=2)
    ]

    notes = answer(records, space).notes

    assert notes[0].startswith(f"CAUTION: scores of different {name} do NOT compare")
    assert "within one value they do" in notes[0]
    assert notes[0].count(f"{name}=") == 2  # the best of each
    assert not any("CAUTION" in note for note in answer(synthetic.draw(24)).notes)


def test_only_categories(answer):
    space = {"optimizer": {"choice": ["adamw", "sgd"]}}
    records = [
        synthetic.record(n, params={"optimizer": kind}, score=score)
        for n, (kind, score) in enumerate([("adamw", 1.0), ("sgd", 2.0)])
    ]

    assert answer(records, space).params == {"optimizer": "adamw"}


def test_null_clipping_is_a_value(answer):
    space = synthetic.SPACE | {"max_grad_norm": {"choice": [0.1, 1.0, None]}}
    records = [
        replace(
            record,
            params=record.params | {"max_grad_norm": (0.1, 1.0, None)[record.setting % 3]},
        )
        for record in synthetic.draw(36, seed=5)
    ]
    best = min((r for r in records if r.is_stable), key=lambda r: r.score)

    recommendation = answer(records, space)

    assert recommendation.params is not None
    assert recommendation.best_trial_id == best.trial_id


@pytest.mark.parametrize("constant_score", [None, synthetic.CONSTANT_SCORE])
def test_trials_that_told_neither_norms_nor_a_dead_score(answer, constant_score):
    records = [
        replace(record, grad_norm_median=None, constant_score=constant_score)
        for record in synthetic.draw(24)
    ]

    assert answer(records).params is not None


# --- words ------------------------------------------------------------------------------------


def test_the_description_answers_every_question(tmp_path):
    results = load(synthetic.write(tmp_path / "demo", synthetic.draw(48, seed=3)))

    text = describe(recommend(results), results.trials)

    labels = [
        "RECOMMENDED",
        "MARGIN",
        "STABLE REGION",
        "NEARLY AS GOOD",
        "EDGE",
        "WHY OTHERS FAIL",
        "A TUNER WOULD",
        "PRUNING",
    ]
    positions = [text.index(label) for label in [*labels, "NOTES"]]
    assert positions == sorted(positions)
    assert "turned NaN or infinite: 5 trials" in text
    assert "at timesteps 750-999" in text
    assert "did not learn: 3 trials, learning_rate 1.1e-4 .. " in text
    assert "(at most 10% of runs fail)" in text
    assert "(predicted score within 10%)" in text
    assert "octaves (x" in text
    assert "below learning_rate" in text
    assert "stopped because others were ahead: 2 trials" in text


def test_what_a_high_rate_killed_is_told_from_what_never_moved(tmp_path):
    records = synthetic.never_learning_above(synthetic.draw(48, seed=3), gated=True)
    results = load(synthetic.write(tmp_path / "demo", records))

    text = describe(recommend(results), results.trials)

    assert "never learned, its rate too high: 11 trials, learning_rate 0.0" in text
    assert "did not learn: 3 trials, learning_rate 1.1e-4 .. " in text


def test_nothing_stable_is_said_first(answer):
    text = describe(answer([synthetic.diverged(n) for n in range(3)]))

    assert text.startswith("RECOMMENDED      nothing: no setting was stable to the end")


def test_json_holds_every_field(answer):
    recommendation = answer(synthetic.draw(32))

    plain = to_json(recommendation)

    assert plain["params"] == recommendation.params
    assert plain["edge"]["learning_rate"] == recommendation.edge.learning_rate
    assert plain["notes"] == list(recommendation.notes)
