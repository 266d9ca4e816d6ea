"""What the answers are worth: which trainings, and how they are labelled."""

from __future__ import annotations

import math
import statistics
from collections import Counter

import numpy as np
import pytest

from benchmarks.answer import fresh
from benchmarks.answer.blackbox import Setting
from benchmarks.answer.fresh import Job, Kind
from benchmarks.answer.methods import OURS
from benchmarks.answer.replay import Outcome
from benchmarks.truth import grids
from benchmarks.truth.labels import course_of
from tests.benchmarks.answer_world import BEST, CLIPS, EDGE, GRID, RATES, course

GOOD, DEAD = Setting(1, BEST), Setting(1, EDGE)
NEAR_BEST = [Setting(0, BEST), GOOD]
SAFEST = Setting(0, RATES[3])


@pytest.fixture(autouse=True)
def _world(monkeypatch):
    monkeypatch.setattr(grids, "GRIDS", (GRID,))
    monkeypatch.setattr(fresh, "seeds_of", lambda grid, kind: 2 if kind is Kind.LONGER else 10)
    peers = []
    for index, clip in enumerate(CLIPS):
        for rate in RATES:
            known = course(Setting(index, rate), 0)
            name = f"{index} {rate}"
            peers.append(course_of(name, 0, rate, clip, known.facts, known.reports))
    monkeypatch.setattr(fresh, "grid_courses", lambda grid: peers)
    monkeypatch.setattr(fresh, "near_best", lambda grid: NEAR_BEST)
    monkeypatch.setattr(fresh, "safest", lambda grid: SAFEST)


def job(setting=GOOD, kind=Kind.SAME, seed=1000):
    return Job(grid=GRID.name, setting=setting, kind=kind, seed=seed)


def outcome(answer, *, method="any", proposed=None):
    return Outcome(
        method=method, repetition=0, answer=answer, proposed=proposed, full_trials=1.0, wall=1.0,
        trials=1, seeds=(0,), fingerprint=GRID.fingerprint(),
    )  # fmt: skip


def test_the_most_frequent_answers_are_trained_first_and_none_of_no_answer():
    found = {GRID.name: [outcome(a) for a in (None, DEAD, GOOD, GOOD)]}

    jobs = list(fresh.first_jobs(found))

    # Before them what they are compared with.
    compared = [*(setting for setting in NEAR_BEST for _ in range(4)), *[SAFEST] * 10]
    assert [j.setting for j in jobs[:18]] == compared
    assert {j.kind for j in jobs[:18]} == {"same"}
    assert [j.setting for j in jobs[18:]] == [GOOD] * 22 + [DEAD] * 22
    assert Counter(j.kind for j in jobs[18:40]) == {"same": 10, "doubled": 10, "longer": 2}
    assert {j.seed for j in jobs} == set(range(1000, 1010))


def test_our_answers_are_trained_at_the_rates_that_were_given_too():
    ours = [outcome(GOOD, method=OURS, proposed=(rate, 1.0)) for rate in (0.011, 0.011, 0.012)]
    others = [outcome(DEAD, proposed=(0.9, 1.0)), outcome(None, method=OURS)]

    jobs = list(fresh.given_jobs({GRID.name: [*ours, *others]}))

    given = [Setting(GOOD.clip_index, 0.011), Setting(GOOD.clip_index, 0.012)]
    assert Counter((j.setting, j.kind) for j in jobs) == {
        (setting, kind): 10 for setting in given for kind in (Kind.SAME, Kind.DOUBLED)
    }


def test_they_get_as_many_further_seeds_as_what_they_are_compared_with(tmp_path):
    ours = outcome(GOOD, method=OURS, proposed=(0.011, 1.0))

    jobs = list(fresh.later_jobs({GRID.name: [ours]}, 40, tmp_path))

    assert sum(j.setting == Setting(GOOD.clip_index, 0.011) for j in jobs) == 40


def test_the_further_seeds_are_those_of_answers_and_of_what_may_still_be_best(tmp_path):
    found = {GRID.name: [outcome(DEAD)]}

    everything = list(fresh.later_jobs(found, 10, tmp_path))
    kept(tmp_path, GOOD, [4.0] * 10)
    kept(tmp_path, NEAR_BEST[0], [4.2] * 10)
    contending = list(fresh.later_jobs(found, 40, tmp_path))

    assert Counter(j.setting for j in everything) == dict.fromkeys([*NEAR_BEST, SAFEST, DEAD], 10)
    assert Counter(j.setting for j in contending) == {GOOD: 40, SAFEST: 40, DEAD: 40}
    assert {j.kind for j in contending} == {"same"}


@pytest.mark.parametrize(
    ("seeds", "score", "is_left"),
    [
        (3, 9.0, True),
        (4, 4.25, False),
        (4, 4.23, True),
        (9, 4.23, True),
        (10, 4.13, False),
        (10, 4.11, True),
    ],
)
def test_a_setting_may_still_be_best(seeds, score, is_left, tmp_path):
    kept(tmp_path, GOOD, [4.0] * 10)
    kept(tmp_path, NEAR_BEST[0], [score] * seeds)

    assert (NEAR_BEST[0] in fresh.contenders(GRID.name, tmp_path)) is is_left


@pytest.mark.parametrize(
    ("kind", "rate", "steps", "report_every", "eval_every"),
    [
        (Kind.SAME, BEST, 400, 10, 40),
        (Kind.DOUBLED, 2 * BEST, 400, 10, 40),
        (Kind.LONGER, BEST, 1600, 40, 160),
    ],
)
def test_a_kind_of_training(kind, rate, steps, report_every, eval_every):
    spec = fresh.trainer_of(job(kind=kind))

    assert (spec.learning_rate, spec.max_grad_norm) == (rate, 1.0)
    assert (spec.max_train_steps, spec.report_every, spec.eval_every) == (
        steps,
        report_every,
        eval_every,
    )


@pytest.mark.parametrize(("setting", "failed"), [(GOOD, False), (DEAD, True)])
def test_it_is_labelled_as_the_grids_trials_are(setting, failed, tmp_path):
    known = course(setting, 1)

    judged = fresh.judge(job(setting), setting.learning_rate, known.facts, known.reports)

    assert (judged.failed, judged.ends_dead) == (failed, failed)
    assert judged.steps == 400


def test_what_is_kept_is_read_again_unless_the_grid_has_changed(tmp_path, monkeypatch):
    known = course(GOOD, 1)
    judged = fresh.judge(job(), BEST, known.facts, known.reports)

    fresh.keep(job(), judged, tmp_path)

    assert fresh.read(job(), tmp_path) == judged
    assert fresh.read(job(seed=1001), tmp_path) is None
    assert fresh.trainings(GRID.name, GOOD, Kind.SAME, tmp_path) == [judged]
    assert fresh.failure_rate([judged]) == 0.0
    assert fresh.failure_rate([]) is None

    monkeypatch.setattr(type(GRID), "fingerprint", lambda self: "another")
    assert fresh.read(job(), tmp_path) is None


def test_nothing_is_trained_when_the_time_is_up(tmp_path):
    fresh.train_answers({GRID.name: [outcome(GOOD)]}, minutes=0, folder=tmp_path)

    assert list(tmp_path.iterdir()) == []


def kept(folder, setting, scores, *, ends_dead=False):
    for k, score in enumerate(scores):
        found = fresh.Fresh(
            fingerprint=GRID.fingerprint(), failed=False, ends_dead=ends_dead,
            had_excursion=False, score=score, eval_loss=0.1, steps=400, train_seconds=1.0,
        )  # fmt: skip
        fresh.keep(job(setting, seed=1000 + k), found, folder)


@pytest.fixture
def scores(tmp_path):
    """A function that keeps the scores of a setting's fresh seeds."""
    return lambda setting, values, **how: kept(tmp_path, setting, values, **how)


@pytest.fixture
def bounds(tmp_path):
    """A function from a setting to both bounds of its regret, or to None."""

    def of(setting):
        found = fresh.regret(GRID.name, setting, tmp_path)
        return found and (found.at_least, found.at_most)

    return of


def test_regret_compares_the_same_fresh_seeds_with_the_best_of_those_that_may_be_it(
    scores, bounds
):
    for setting, level in ((NEAR_BEST[0], 5.0), (GOOD, 4.0), (DEAD, 6.0)):
        scores(setting, [level + 0.1 * k for k in range(10)])

    assert bounds(GOOD) == (0.0, 0.0)
    assert bounds(DEAD) == pytest.approx((6.45 / 4.45 - 1,) * 2)


def test_of_settings_that_only_luck_tells_apart_the_truth_lies_between_the_bounds(monkeypatch):
    """Equal ones have no regret; against the luckiest of 20 seeds each they would."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(1000):
        drawn = {setting: generator.normal(5.0, 0.5, 20) for setting in (*NEAR_BEST, DEAD)}
        monkeypatch.setattr(fresh, "_scores", lambda grid, setting, folder, it=drawn: it[setting])
        found.append(fresh.regret(GRID.name, DEAD))

    luck = 0.85 * 0.1 / math.sqrt(20)  # the lowest of three means, in their standard deviations
    assert statistics.fmean(r.at_most for r in found) == pytest.approx(luck, rel=0.1)
    assert abs(statistics.fmean(r.at_least for r in found)) < luck / 5


def test_of_different_lengths_the_seeds_that_all_have_count(scores, bounds):
    scores(NEAR_BEST[0], [5.0] * 12 + [1.0] * 8)
    scores(GOOD, [4.0] * 12)

    assert bounds(NEAR_BEST[0]) == (0.25, 0.25)


def test_with_fewer_than_ten_there_is_no_regret(scores, bounds):
    scores(GOOD, [4.0] * 10)
    scores(NEAR_BEST[0], [4.0] * 9)

    assert bounds(GOOD) is None


def test_a_missing_seed_ends_what_is_known(scores, tmp_path):
    scores(GOOD, [4.0] * 12)
    job(GOOD, seed=1003).path(tmp_path).unlink()

    assert len(fresh.trainings(GRID.name, GOOD, Kind.SAME, tmp_path)) == 3


def test_an_answer_better_than_all_that_may_be_best_has_no_regret(scores, bounds):
    for setting, level in ((NEAR_BEST[0], 5.0), (GOOD, 5.0), (DEAD, 4.9)):
        scores(setting, [level] * 10)

    assert bounds(DEAD) == (0.0, 0.0)


def test_one_with_a_dead_seed_is_infinitely_far_and_never_the_best(scores, bounds):
    scores(NEAR_BEST[0], [5.0] * 10)
    scores(GOOD, [4.0] * 9 + [math.nan])
    scores(DEAD, [4.0] * 10, ends_dead=True)

    assert bounds(DEAD) == (math.inf, math.inf)
    assert bounds(NEAR_BEST[0]) == (0.0, 0.0)
