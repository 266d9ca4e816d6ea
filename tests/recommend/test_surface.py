import numpy as np
import pytest

from stabsearch.recommend.space import search_space
from stabsearch.recommend.surface import constant_score_of, fit_surface, surface_score
from stabsearch.records import Outcome, Severity, StoppedBy, Symptom
from tests import synthetic_study as synthetic

DEAD = synthetic.CONSTANT_SCORE


def surface_of(records, space=None):
    searched = search_space({"space": space or synthetic.SPACE}, records)
    unstable = frozenset(record.trial_id for record in records if record.is_unstable)
    return searched, fit_surface(searched, records, DEAD, unstable)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (synthetic.record(score=1.5), 1.5),
        (synthetic.record(score=99.0), DEAD),
        (synthetic.record(score=None), DEAD),
        (synthetic.diverged(score=0.8), DEAD),
        (synthetic.record(score=1.5, symptom="lost_progress", severity=Severity.PENALISE), DEAD),
        (
            synthetic.record(
                score=4.0,
                outcome=Outcome.STOPPED,
                stopped_by=StoppedBy.GATE,
                symptom=str(Symptom.NOT_LEARNING),
                severity=Severity.PRUNE,
            ),
            4.0,
        ),
        (
            synthetic.record(score=1.5, outcome=Outcome.STOPPED, stopped_by=StoppedBy.RANK),
            None,
        ),
        (synthetic.record(score=1.5, outcome=Outcome.RUNNING), None),
        (synthetic.record(score=1.5, outcome=Outcome.FAILED), None),
    ],
    ids=[
        "stable",
        "worse-than-dead",
        "score-not-finite",
        "diverged",
        "penalised",
        "not-learning",
        "stopped-by-rank",
        "running",
        "failed",
    ],
)
def test_how_a_trial_enters_the_surface(record, expected):
    assert surface_score(record, DEAD, is_unstable=record.is_unstable) == expected


def test_predictions_are_near_the_truth_where_training_is_stable():
    searched, surface = surface_of(synthetic.draw(96, seed=1))
    settings = [
        {"learning_rate": lr, "max_grad_norm": clip}
        for lr in (1e-3, 2e-3, 4e-3)
        for clip in (0.1, 1.0, 10.0)
    ]

    predicted = surface.predict(searched.points(settings))

    truth = [synthetic.score(*setting.values()) for setting in settings]
    assert np.abs(np.log(predicted / truth)).mean() < 0.08


def test_predictions_stay_between_the_best_and_a_dead_network():
    records = synthetic.draw(48, seed=2)
    searched, surface = surface_of(records)
    rates, clips = np.meshgrid(np.geomspace(1e-6, 10, 40), np.geomspace(1e-3, 1e3, 20))
    settings = [
        {"learning_rate": lr, "max_grad_norm": clip}
        for lr, clip in zip(rates.ravel(), clips.ravel(), strict=True)
    ]

    predicted = surface.predict(searched.points(settings))

    assert predicted.max() <= DEAD
    assert predicted.min() >= min(r.score for r in records if r.is_stable) * (1 - 1e-12)


def test_the_worst_nearby_is_the_worst_of_a_fine_grid():
    searched, surface = surface_of(synthetic.draw(48))
    here = {"learning_rate": 0.008, "max_grad_norm": 1.0}
    box = [
        {"learning_rate": 0.008 * 2**i, "max_grad_norm": 2.0**j}
        for i in np.linspace(-1, 1, 41)
        for j in np.linspace(-1, 1, 41)
    ]

    worst = surface.worst_nearby(searched.points([here]))[0]

    finest = surface.predict(searched.points(box)).max()
    assert worst == pytest.approx(finest, rel=0.02)
    assert worst >= surface.predict(searched.points([here]))[0]


def test_the_fit_is_deterministic():
    records = synthetic.draw(24)
    predictions = []
    for _ in range(2):
        searched, surface = surface_of(records)
        predictions.append(surface.predict(searched.points([records[0].params])))

    assert predictions[0] == predictions[1]


@pytest.mark.parametrize("trials", [0, 1, 3])
def test_too_few_trials_have_no_surface(trials):
    assert surface_of(synthetic.draw(trials))[1] is None


def test_seeds_of_one_setting_are_not_a_surface():
    records = [synthetic.record(0, seed) for seed in range(8)]

    assert surface_of(records)[1] is None


@pytest.mark.parametrize("num_alive", [3, 4])
@pytest.mark.parametrize(
    ("outcome", "stopped_by"),
    [(Outcome.STOPPED, StoppedBy.GATE), (Outcome.COMPLETED, StoppedBy.NOBODY)],
    ids=["gate", "end"],
)
def test_trials_that_never_learned_are_no_part_of_the_four_that_a_surface_takes(
    outcome, stopped_by, num_alive
):
    timid = {"symptom": str(Symptom.NOT_LEARNING), "severity": Severity.PRUNE, "score": DEAD}
    records = [
        synthetic.record(n, learning_rate=rate, outcome=outcome, stopped_by=stopped_by, **timid)
        for n, rate in enumerate(np.geomspace(1e-7, 1e-5, 4))
    ]
    records += [
        synthetic.record(4 + n, learning_rate=rate)
        for n, rate in enumerate(np.geomspace(1e-3, 1e-2, num_alive))
    ]

    assert (surface_of(records)[1] is not None) is (num_alive == 4)


@pytest.mark.parametrize(
    ("domain", "values", "expected"),
    [
        ({"log_uniform": [0.1, 10]}, [0.5, 2.0], (0.1, 10.0, True)),
        ({"uniform": [0.0, 1.0]}, [0.5, 0.7], (0.0, 1.0, False)),
        ({"int": [8, 64], "log": False}, [8, 9], (8.0, 64.0, False)),
        ({"int": [8, 64], "log": True}, [8, 9], (8.0, 64.0, True)),
        ({"choice": [0.1, 1.0, 10.0]}, [0.1, 1.0], (0.1, 10.0, True)),
        ({"choice": [1.0, 2.0]}, [1.0, 2.0], (1.0, 2.0, False)),
        # null: above every threshold and above 4 x the gradient norm, which is CEILING = 2
        ({"choice": [0.1, 0.5, None]}, [0.1, None], (0.1, 2.0, True)),
        ({"choice": [0.1, 4.0, None]}, [0.1, None], (0.1, 8.0, True)),
        ({"choice": ["a", "b"]}, ["a", "b"], None),
        ({"choice": [None]}, [None, None], None),
        ({"choice": [1.0]}, [1.0, 1.0], None),
        (1.0, [1.0, 1.0], None),
    ],
)
def test_a_domain_becomes_an_axis(domain, values, expected):
    records = [synthetic.record(n, max_grad_norm=value) for n, value in enumerate(values)]

    axis = search_space({"space": {"max_grad_norm": domain}}, records).axis("max_grad_norm")

    assert (axis and (axis.low, axis.high, axis.is_log)) == expected
    if axis:
        assert axis.value(axis.position(values[0])) == pytest.approx(values[0])


def test_words_are_categories_and_constants_are_neither():
    space = {"optimizer": {"choice": ["adamw", "sgd"]}, "ema_decay": 0.999, "batch_size": 64}
    records = [
        synthetic.record(n, params={"optimizer": o}) for n, o in enumerate(["adamw", "sgd"])
    ]

    searched = search_space({"space": space}, records)

    assert searched.axes == ()
    assert searched.categories == ("optimizer",)


def test_the_score_of_a_dead_network_is_guessed_when_no_trial_says():
    records = [synthetic.record(n, score=s, constant_score=None) for n, s in enumerate([1.0, 3.0])]

    assert constant_score_of(records) == 3.0
    assert constant_score_of([synthetic.record(score=None, constant_score=None)]) is None


@pytest.mark.parametrize(
    ("rate", "clip", "at_the_rate", "both"),
    [
        (1e-3, 1.0, True, True),
        (1.9e-3, 1.0, True, True),
        (2.1e-3, 1.0, False, False),
        (1e-3, 3.9, True, True),
        (1e-3, 4.1, True, False),
    ],
)
def test_a_prediction_is_measured_near_a_trial_only(rate, clip, at_the_rate, both):
    records = [
        synthetic.record(n, params={"learning_rate": 1e-3 / 1.1**n, "max_grad_norm": 1.0})
        for n in range(4)
    ]
    searched, surface = surface_of(records)
    points = searched.points([{"learning_rate": rate, "max_grad_norm": clip}])

    assert surface.is_measured(points, ("learning_rate", "max_grad_norm")) == [both]
    assert surface.is_measured(points, ("learning_rate",)) == [at_the_rate]


def test_settings_that_differ_by_rounding_are_one():
    records = [
        synthetic.record(n, params={"learning_rate": rate, "max_grad_norm": 1.0})
        for n, rate in enumerate([1e-3, 2e-3, 4e-3, 4.0004e-3])
    ]

    assert surface_of(records)[1] is None
