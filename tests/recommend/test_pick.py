import json
import math
from dataclasses import replace

import pytest

from stabsearch.recommend.describe import (
    SYMPTOM_WORDS,
    describe,
    number,
    param_text,
    rate,
    to_json,
)
from stabsearch.recommend.pick import recommend
from stabsearch.records import Outcome, StoppedBy, Symptom
from stabsearch.results.frames import load
from tests import synthetic_study as synthetic


@pytest.fixture
def answer(tmp_path):
    """The recommendation that comes of some records, its text checked on the way."""

    def answer_of(records, space=None):
        results = load(synthetic.write(tmp_path / "study", records, space))
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

    assert recommendation.score < 1.15 * recommendation.best_score
    assert recommendation.worst_score <= recommendation.best_worst_score * 1.01
    assert recommendation.best_score <= recommendation.score


def test_region_edge_and_margin_fit_together(answer):
    recommendation = answer(synthetic.draw(48, seed=3))
    learning_rate = recommendation.params["learning_rate"]
    edge = recommendation.edge.learning_rate

    assert recommendation.region_low <= learning_rate <= recommendation.region_high < edge
    assert recommendation.margin_octaves == pytest.approx(math.log2(edge / learning_rate))


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
        (1, 0, True, False, "Too few trials"),
        (2, 0, True, False, "No trial was unstable"),
        (3, 0, True, False, "No trial was unstable"),
        (6, 0, True, False, "Search higher learning rates"),
        (0, 1, False, False, "Every trial was unstable"),
        (0, 6, False, False, "search lower learning rates"),
        (1, 1, True, True, "Too few trials"),
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
    assert recommendation.params["learning_rate"] <= 8e-3
    assert recommendation.margin_octaves > 1


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
    assert "learning rate was not searched" in " ".join(recommendation.notes)


def test_categories_are_judged_by_their_own_trials(answer):
    space = synthetic.SPACE | {"optimizer": {"choice": ["adamw", "sgd"]}}
    records = []
    for record in synthetic.draw(48, seed=2):
        kind = "sgd" if record.setting % 2 else "adamw"
        score = record.score and record.score * (0.5 if kind == "sgd" else 1.0)
        records.append(replace(record, params=record.params | {"optimizer": kind}, score=score))

    recommendation = answer(records, space)

    assert recommendation.params["optimizer"] == "sgd"
    assert "optimizer = sgd" in " ".join(recommendation.notes)


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
        "STABLE REGION",
        "EDGE",
        "WHY OTHERS FAIL",
        "A TUNER WOULD",
        "PRUNING",
    ]
    positions = [text.index(label) for label in [*labels, "NOTES"]]
    assert positions == sorted(positions)
    assert "turned NaN or infinite: 5 trials" in text
    assert "at timesteps 750-999" in text
    assert "did not learn: 3 trials" in text
    assert "stopped because others were ahead: 2 trials" in text


def test_nothing_stable_is_said_first(answer):
    text = describe(answer([synthetic.diverged(n) for n in range(3)]))

    assert text.startswith("RECOMMENDED      nothing: no setting was stable")


def test_json_holds_every_field(answer):
    recommendation = answer(synthetic.draw(32))

    plain = to_json(recommendation)

    assert plain["params"] == recommendation.params
    assert plain["edge"]["learning_rate"] == recommendation.edge.learning_rate
    assert plain["notes"] == list(recommendation.notes)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "none"),
        (True, "True"),
        (64, "64"),
        ("adamw", "adamw"),
        (1.0, "1.0"),
        (0.25, "0.25"),
        (12.54, "12.5"),
        (52.04, "52"),
        (2.44e-4, "2.4e-04"),
        (1e-3, "1e-03"),
        (0.0, "0.0"),
        (123456.0, "1.2e+05"),
    ],
)
def test_numbers_are_short(value, expected):
    assert number(value) == expected


def test_learning_rates_have_an_exponent():
    assert rate(0.0167) == "1.7e-02"
    assert param_text("learning_rate", 0.0167) == "1.7e-02"
    assert param_text("max_grad_norm", 0.0167) == "0.0167"


def test_every_symptom_has_words():
    assert set(SYMPTOM_WORDS) == set(Symptom)
