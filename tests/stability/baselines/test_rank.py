from __future__ import annotations

import math

import pytest

from stabsearch.stability.baselines.rank import (
    RANK_RULES,
    Asha,
    MedianStopping,
    rank_stops,
)

NAN, INF = math.nan, math.inf
STEPS = range(10, 101, 10)


def flat(level):
    return [(step, level) for step in STEPS]


def values(*by_step):
    return list(zip(STEPS, by_step, strict=False))


THREE = {"a": flat(0.125), "b": flat(0.25), "c": flat(0.5)}


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        (flat(0.2), None),
        (flat(0.25), None),
        (flat(0.3), 10),
        (values(0.5, 0.5, 0.1, 0.1), 10),
        (values(0.1, *[9.0] * 9), None),  # its past best is good enough for ever
        (values(NAN, *[0.1] * 9), 10),
        (values(0.1, *[NAN] * 9), None),
        (flat(INF), 10),
    ],
    ids=[
        "ahead", "at the median", "behind", "behind at first", "blew up", "nan at first",
        "nan later", "inf",
    ],
)  # fmt: skip
def test_median_compares_the_best_with_the_median_of_means(history, expected):
    stops = rank_stops(MedianStopping(10), THREE | {"d": history})

    assert stops == {"a": None, "b": None, "c": None, "d": expected}


def test_median_needs_three_trials_with_a_finite_mean():
    few = {"a": flat(0.1), "b": flat(0.2), "n": values(0.1, NAN, NAN)}

    assert rank_stops(MedianStopping(10), few | {"d": flat(0.9)})["d"] == 10
    assert rank_stops(MedianStopping(20), few | {"d": flat(0.9)})["d"] is None


def test_median_leaves_what_came_before_the_grace_period_out_of_a_mean():
    late = {name: values(9.0, *[0.1] * 9) for name in "abc"}

    assert rank_stops(MedianStopping(10), late | {"d": flat(2.0)})["d"] == 50
    assert rank_stops(MedianStopping(20), late | {"d": flat(2.0)})["d"] == 20


def test_median_knows_only_trials_that_came_as_far():
    """Trials that the rule has stopped, or that ended, no longer count."""
    short = {name: values(0.1, 0.1) for name in "abc"}

    assert rank_stops(MedianStopping(30), short | {"d": flat(0.9)})["d"] is None


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        (flat(0.05), None),
        (flat(0.25), 10),
        (values(0.05, 0.9, 0.9), 30),
        (flat(NAN), None),
        (flat(INF), 10),
    ],
    ids=["best", "behind", "falls behind", "nan is never stopped", "inf"],
)
def test_asha_keeps_the_best_third_of_a_rung(history, expected):
    stops = rank_stops(Asha(100, 10), {"a": flat(0.1), "b": flat(0.1), "d": history})

    assert stops["d"] == expected


def test_asha_lets_the_first_to_come_pass():
    worse_and_worse = {str(i): flat(0.1 * (i + 1)) for i in range(5)}
    better_and_better = dict(reversed(worse_and_worse.items()))

    assert list(rank_stops(Asha(100, 10), worse_and_worse).values()) == [None, *[10] * 4]
    assert set(rank_stops(Asha(100, 10), better_and_better).values()) == {None}


def test_asha_keeps_nan_out_of_its_percentile():
    ahead = {"n": flat(NAN), "a": flat(0.1), "b": flat(0.2)}
    stops = rank_stops(Asha(100, 10), ahead | {"d": flat(0.15)})

    assert stops["n"] is None
    assert stops["d"] == 10
    assert rank_stops(Asha(100, 10), {"n": flat(NAN), "d": flat(9.0)})["d"] is None


def test_asha_decides_nothing_at_the_end_of_the_budget():
    once = {name: [(100, loss)] for name, loss in [("a", 0.1), ("b", 0.9)]}

    assert rank_stops(Asha(100, 10), once) == {"a": None, "b": None}


def test_trials_beside_each_other_are_compared_as_they_go():
    """Alone, the first trial has nobody to be compared with."""
    trials = {"bad": [(15, 0.9), (30, 0.9)], "good": flat(0.1)}

    assert rank_stops(Asha(100, 10), trials) == {"bad": None, "good": None}
    assert rank_stops(Asha(100, 10), trials, workers=None) == {"bad": 15, "good": None}


def test_a_stopped_trial_makes_place_for_the_next():
    heard = []

    class Listener:
        def observe(self, trial_id, step, value):
            heard.append((trial_id, step))
            return trial_id == "a" and step == 20

    histories = {"a": flat(0.1), "b": values(0.1, 0.1, 0.1), "empty": [], "c": values(0.1)}
    stops = rank_stops(Listener(), histories, workers=2)

    assert heard == [("a", 10), ("b", 10), ("a", 20), ("b", 20), ("b", 30), ("c", 10)]
    assert stops == {"a": 20, "b": None, "empty": None, "c": None}


@pytest.mark.parametrize("name", RANK_RULES)
def test_no_trial_is_stopped_before_a_tenth_of_the_budget(name):
    histories = {str(i): [(s, 0.1 * (i + 1)) for s in range(5, 101, 5)] for i in range(8)}
    stops = rank_stops(RANK_RULES[name](100), histories)

    assert min(s for s in stops.values() if s is not None) == 10


@pytest.mark.ray
@pytest.mark.parametrize("name", ["median", "asha"])
@pytest.mark.parametrize("workers", [1, 4])
def test_stops_what_rays_own_scheduler_stops(name, workers):
    import random

    from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, TrialScheduler

    class Trial:
        def __init__(self, trial_id):
            self.trial_id = trial_id

    class Controller:
        @staticmethod
        def get_live_trials():
            return []

    class RayRule:
        def __init__(self):
            common = {"time_attr": "step", "metric": "loss", "mode": "min", "grace_period": 10}
            self.scheduler = (
                MedianStoppingRule(**common)
                if name == "median"
                else AsyncHyperBandScheduler(**common, max_t=101, reduction_factor=3)
            )
            self.trials = {}

        def observe(self, trial_id, step, value):
            if trial_id not in self.trials:
                self.trials[trial_id] = Trial(trial_id)
                self.scheduler.on_trial_add(Controller, self.trials[trial_id])
            result = {"step": step, "loss": value}
            action = self.scheduler.on_trial_result(Controller, self.trials[trial_id], result)
            return action == TrialScheduler.STOP

    rng = random.Random(1)
    histories = {}
    for i in range(40):
        level, odd = rng.uniform(0.1, 1), rng.random()
        losses = [level * rng.uniform(0.7, 1.3) * 0.99**s for s in STEPS]
        if odd < 0.2:
            losses[rng.randrange(10) :] = [NAN]
        elif odd < 0.3:
            losses[rng.randrange(10) :] = [INF] * 3
        histories[str(i)] = values(*losses)
    ours = rank_stops(RANK_RULES[name](100), histories, workers=workers)

    assert ours == rank_stops(RayRule(), histories, workers=workers)
    assert len({s is None for s in ours.values()}) == 2
