import math
from dataclasses import replace

import numpy as np
import pytest

from stabsearch.recommend.edge import evidence, fit_edge
from stabsearch.recommend.space import search_space
from stabsearch.records import Outcome, Severity, StoppedBy, Symptom
from tests import synthetic_study as synthetic

STUDY = {"space": synthetic.SPACE}
HALF = synthetic.STEPS // 2


def fit(records, space=None):
    return fit_edge(records, search_space(space or STUDY, records).axis("learning_rate"))


def octaves_off(edge, clip):
    return math.log2(edge.learning_rate / synthetic.edge(clip))


@pytest.mark.parametrize(
    ("clip", "octaves"),
    [(0.05, 0.5), (0.5, 0.3), (2.0, 0.3), (50.0, 0.3)],  # few trials lie near the tilted end
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_posterior_finds_the_known_edge(seed, clip, octaves):
    posterior = fit(synthetic.draw(96, seed=seed))

    edge = posterior.edge({"learning_rate": 1e-3, "max_grad_norm": clip})

    assert abs(octaves_off(edge, clip)) < octaves
    assert edge.learning_rate_low < edge.learning_rate < edge.learning_rate_high
    assert edge.learning_rate_safe < edge.learning_rate


def test_the_edge_is_found_within_a_third_of_an_octave():
    """science.md 4.1: median error .17 octaves at 64 trials; the landscape here is as steep."""
    errors, covered = [], 0
    for seed in range(10):
        posterior = fit(synthetic.draw(64, seed=seed))
        edge = posterior.edge({"learning_rate": 1e-3, "max_grad_norm": 1.0})
        errors.append(abs(octaves_off(edge, 1.0)))
        truth = synthetic.edge(1.0)
        covered += edge.learning_rate_low <= truth <= edge.learning_rate_high

    assert np.median(errors) < 0.3
    assert covered >= 7


def test_clipping_above_the_gradients_is_no_clipping():
    posterior = fit(synthetic.draw(64))
    params = {"learning_rate": 1e-3}

    edges = [posterior.edge(params | {"max_grad_norm": clip}) for clip in (2.0, 40.0, None)]

    assert edges[0].learning_rate == pytest.approx(edges[1].learning_rate)
    assert edges[1] == edges[2]


def test_without_clip_in_the_space_the_edge_is_along_the_learning_rate_alone():
    space = {"space": {"learning_rate": synthetic.SPACE["learning_rate"]}}
    records = [
        (synthetic.diverged if lr > 0.02 else synthetic.record)(n, params={"learning_rate": lr})
        for n, lr in enumerate([1e-3, 3e-3, 0.01, 0.015, 0.03, 0.05, 0.1])
    ]

    edge = fit(records, space).edge({"learning_rate": 1e-3})

    assert 0.012 < edge.learning_rate < 0.035
    assert edge.learning_rate_low < 0.02 < edge.learning_rate_high


def test_more_trials_narrow_the_interval():
    widths = []
    for trials in (12, 48, 192):
        edge = fit(synthetic.draw(trials, seed=4)).edge({"max_grad_norm": 1.0})
        widths.append(math.log2(edge.learning_rate_high / edge.learning_rate_low))

    assert widths == sorted(widths, reverse=True)


def test_probability_rises_with_the_learning_rate():
    posterior = fit(synthetic.draw(48))

    p = posterior.probability(np.array([1e-3, 0.01, 0.03, 0.1, 0.3]), {"max_grad_norm": 1.0})

    assert list(p) == sorted(p)
    assert p[0] < 0.02
    assert p[-1] > 0.95


@pytest.mark.parametrize(
    "records",
    [[synthetic.record(n) for n in range(5)], [synthetic.diverged(n) for n in range(5)], []],
    ids=["all-stable", "all-unstable", "none"],
)
def test_one_side_alone_has_no_edge(records):
    assert fit(records) is None


NOT_LEARNING = {"symptom": str(Symptom.NOT_LEARNING), "severity": Severity.PENALISE}
BY_RANK = {"outcome": Outcome.STOPPED, "stopped_by": StoppedBy.RANK}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (synthetic.record(), False),
        (synthetic.diverged(), True),
        (synthetic.record(severity=Severity.PENALISE, symptom="lost_progress"), True),
        (synthetic.record(**NOT_LEARNING), False),
        (synthetic.record(**BY_RANK, steps=HALF - 1), None),
        (synthetic.record(**BY_RANK, steps=HALF), False),
        (synthetic.record(outcome=Outcome.RUNNING, steps=100), None),
        (synthetic.record(outcome=Outcome.FAILED, steps=synthetic.STEPS), None),
        (replace(synthetic.diverged(), outcome=Outcome.FAILED), None),
    ],
    ids=[
        "completed",
        "diverged",
        "penalised",
        "not-learning",
        "rank-early",
        "rank-late",
        "running",
        "failed",
        "failed-after-a-verdict",
    ],
)
def test_what_a_trial_says_of_the_edge(record, expected):
    assert evidence(record) is expected
