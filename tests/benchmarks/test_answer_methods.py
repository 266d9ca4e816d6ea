"""Every method searches the same small world, and its library's own classes are asked."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.schedulers import AsyncHyperBandScheduler
from ray.tune.search.optuna import OptunaSearch

from benchmarks.answer import ours, replay
from benchmarks.answer.methods import METHODS
from benchmarks.answer.peers.with_ray import RayTune
from benchmarks.answer.virtual import run_search
from benchmarks.truth import grids
from stabsearch.search.scheduler import StabilityGate
from stabsearch.search.searcher import SettingSearcher
from stabsearch.stability.baselines.rank import Asha, rank_stops
from tests.benchmarks.answer_world import BEST, EDGE, EVAL_EVERY, GRID, RATES, STEPS, world

TRIALS = 12
ASKED = {
    "random, full training": [(optuna.Study, "ask"), (optuna.Study, "tell")],
    "Ray Tune: OptunaSearch + ASHA": [
        (OptunaSearch, "suggest"),
        (OptunaSearch, "on_trial_result"),
        (OptunaSearch, "on_trial_complete"),
        (AsyncHyperBandScheduler, "on_trial_result"),
    ],
    "Optuna: TPE + Hyperband": [(optuna.pruners.HyperbandPruner, "prune")],
    "Optuna: TPE + median": [(optuna.pruners.MedianPruner, "prune")],
    "Optuna: TPE + SHA": [(optuna.pruners.SuccessiveHalvingPruner, "prune")],
    "Syne Tune: ASHA": [],
    "stabsearch: tpe": [
        (SettingSearcher, "suggest"),
        (SettingSearcher, "on_trial_complete"),
        (StabilityGate, "on_trial_result"),
        (ours, "recommend"),
        (ours, "make_judge"),
    ],
}


def syne_tunes():
    baselines = pytest.importorskip("syne_tune.optimizer.baselines", reason="group peers")
    status = pytest.importorskip("benchmarks.answer.peers.with_syne_tune")
    return [
        (baselines.ASHA, "suggest"),
        (baselines.ASHA, "on_trial_result"),
        (status, "print_best_metric_found"),
    ]


def spy(monkeypatch, owner, name, counts):
    original = getattr(owner, name)

    def counting(*arguments, **keywords):
        counts[name] += 1
        return original(*arguments, **keywords)

    monkeypatch.setattr(owner, name, counting)


@pytest.mark.parametrize("name", [name for name in METHODS if name in ASKED])
def test_a_method_searches_with_its_librarys_classes(name, monkeypatch):
    asked = syne_tunes() if name == "Syne Tune: ASHA" else ASKED[name]
    counts = Counter()
    for owner, method in asked:
        spy(monkeypatch, owner, method, counts)
    blackbox = world()

    found = run_search(METHODS[name].make(blackbox, TRIALS, 0), blackbox, 0)

    assert set(counts) == {method for _, method in asked}
    assert found.trials == TRIALS
    assert EVAL_EVERY <= found.steps <= TRIALS * STEPS
    assert found.answer.learning_rate < EDGE


@pytest.mark.parametrize("name", [name for name in METHODS if name in ASKED])
def test_a_search_repeats_itself(name):
    if name == "Syne Tune: ASHA":
        syne_tunes()
    blackbox = world()
    make = METHODS[name].make

    found = [run_search(make(blackbox, TRIALS, seed), blackbox, seed) for seed in (3, 3)]

    assert found[0] == found[1]


def test_full_training_trains_fully_and_returns_the_best():
    blackbox = world()

    found = run_search(METHODS["random, full training"].make(blackbox, 40, 0), blackbox, 0)

    assert found.steps == 40 * STEPS
    assert found.wall_steps == 20 * STEPS
    assert found.answer == blackbox.snap(BEST, 1.0)


class Watched(RayTune):
    """Remembers what it saw and which trials it stopped."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.seen = {}
        self.stopped = {}

    def report(self, proposal, report, *, is_last):
        goes_on = super().report(proposal, report, is_last=is_last)
        key = str(proposal.number)
        if not goes_on and not is_last:
            self.stopped[key] = report.step // EVAL_EVERY
        return goes_on


def test_rays_asha_stops_whom_the_replayed_rule_stops():
    blackbox = world(dead_score=30.0)
    method = Watched(blackbox, 24, 1)
    courses = {}
    original = blackbox.course
    blackbox.course = lambda setting, seed: courses.setdefault(
        str(len(courses)), original(setting, seed)
    )

    run_search(method, blackbox, 1)

    evaluations = STEPS // EVAL_EVERY
    histories = {
        key: [(step // EVAL_EVERY, score) for step, score in course.evaluations]
        for key, course in courses.items()
    }
    expected = rank_stops(Asha(evaluations, 1, 4), histories, workers=2)
    assert method.stopped == {key: at for key, at in expected.items() if at is not None}
    assert method.stopped


def test_ray_trains_nan_to_the_end_and_never_returns_it():
    blackbox = world(dead_score=math.nan)
    method = RayTune(blackbox, 24, 0)

    run_search(method, blackbox, 0)

    last = [trial.last_result for trial in method.trials]
    gone = [result for result in last if math.isnan(result["score"])]
    assert gone
    assert {result["training_iteration"] for result in gone} == {STEPS // EVAL_EVERY}
    states = [trial.state for trial in method.searcher._ot_study.trials]
    assert states.count(TrialState.RUNNING) == len(gone)


def test_optuna_fails_nan_and_prunes_what_is_behind():
    blackbox = world(dead_score=math.nan)
    method = METHODS["Optuna: TPE + SHA"].make(blackbox, 24, 0)

    run_search(method, blackbox, 0)

    states = {trial.state for trial in method.study.trials}
    assert TrialState.PRUNED in states
    assert states <= {TrialState.PRUNED, TrialState.COMPLETE, TrialState.FAIL}


def test_our_unstable_trials_are_stopped_and_counted_as_the_study_counts_them():
    blackbox = world()
    method = METHODS["stabsearch: tpe"].make(blackbox, TRIALS, 0)

    found = run_search(method, blackbox, 0)

    assert method.recommendation.num_unstable > 0
    assert found.steps == method.recommendation.steps_spent < TRIALS * STEPS
    assert not method._folder.exists()


def test_outcomes_are_kept_and_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(grids, "GRIDS", (GRID, replace(GRID, name="other")))

    def outcome(method, seeds=(0, 1)):
        return replay.Outcome(
            method=method, repetition=0, answer=world().snap(BEST, None), proposed=(BEST, None),
            full_trials=1.5, wall=0.5, trials=3, seeds=seeds,
            fingerprint=GRID.fingerprint(),
        )  # fmt: skip

    replay.keep({"world": [outcome("a"), outcome("b")]}, tmp_path)
    replay.keep({"world": [outcome("b")]}, tmp_path)

    assert replay.kept("world", tmp_path) == [outcome("a"), outcome("b")]

    replay.keep({"world": [outcome("c", seeds=(0, 1, 2))]}, tmp_path)

    assert replay.kept("world", tmp_path) == [outcome("c", seeds=(0, 1, 2))]
    assert replay.kept("other", tmp_path) == []

    rates = {None: RATES[1:], 1.0: RATES}
    monkeypatch.setattr(grids, "GRIDS", (replace(GRID, learning_rates=rates),))

    assert replay.kept("world", tmp_path) == [], "searches of another grid of that name"
