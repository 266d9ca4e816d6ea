"""What the answers are worth: which trainings, and how they are labelled."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.answer import fresh
from benchmarks.answer.blackbox import Setting
from benchmarks.answer.fresh import Job, Kind
from benchmarks.answer.replay import Outcome
from benchmarks.truth import grids
from benchmarks.truth.labels import course_of
from tests.benchmarks.answer_world import BEST, CLIPS, EDGE, GRID, RATES, course

GOOD, DEAD = Setting(1, BEST), Setting(1, EDGE)


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


def job(setting=GOOD, kind=Kind.SAME, seed=1000):
    return Job(grid=GRID.name, setting=setting, kind=kind, seed=seed)


def outcome(answer):
    return Outcome(
        method="any", repetition=0, answer=answer, proposed=None, full_trials=1.0, wall=1.0,
        trials=1, seeds=(0,), fingerprint=GRID.fingerprint(),
    )  # fmt: skip


def test_the_most_frequent_answers_are_trained_first_and_none_of_no_answer():
    found = {GRID.name: [outcome(a) for a in (None, DEAD, GOOD, GOOD)]}

    jobs = list(fresh.jobs_of(found))

    assert [j.setting for j in jobs] == [GOOD] * 22 + [DEAD] * 22
    assert Counter(j.kind for j in jobs[:22]) == {"same": 10, "doubled": 10, "longer": 2}
    assert min(j.seed for j in jobs) == 1000


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
