"""A tiny grid: generated, resumed, loaded, judged."""

from __future__ import annotations

import pytest

from benchmarks.truth import generate
from benchmarks.truth.grids import GRIDS, Grid, Split, octaves, staggered, trainer
from benchmarks.truth.labels import Label
from benchmarks.truth.replay import JUDGES, load, replay
from stabsearch.results.store import StudyStore

GRID = Grid(
    name="tiny",
    split=Split.TUNING,
    task="SGD that learns, and that cannot",
    trainer=trainer(
        model={"width": 16, "num_blocks": 1},
        optimizer="sgd",
        max_train_steps=160,
        report_every=20,
        eval_every=40,
        eval_samples=200,
        grad_norm_every=0,
    ),
    learning_rates={None: (0.05, 1e5)},
    seeds=1,
)


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    path = tmp_path_factory.mktemp("truth")
    generate.generate([GRID], path, processes=1)
    return path


def test_a_grid_is_a_study_of_the_products_kind(storage):
    records = StudyStore(storage / "tiny").finished_records()

    assert [record.trial_id for record in records] == ["0000-0", "0001-0"]
    assert all(record.steps == 160 for record in records)


def test_what_is_there_is_not_trained_again(storage, monkeypatch):
    monkeypatch.setattr(generate.multiprocessing, "get_context", None)

    generate.generate([GRID], storage)


def test_stored_trials_are_labelled_and_judged(storage):
    trials = load(GRID, storage)

    replayed = replay(trials, {"name": "rules"})

    assert [trial.label for trial in trials] == [Label.OK, Label.UNSTABLE]
    assert replayed["0000-0"].pruned_step is None
    assert replayed["0001-0"].pruned_step == 20


def test_every_judge_gives_every_trial_an_account(storage):
    trials = load(GRID, storage)

    for settings in JUDGES.values():
        assert replay(trials, settings).keys() == {"0000-0", "0001-0"}


def test_a_seed_that_is_not_complete_is_left_out(storage):
    more = Grid(
        name=GRID.name,
        split=GRID.split,
        task=GRID.task,
        trainer=GRID.trainer,
        learning_rates=GRID.learning_rates,
        seeds=2,
    )

    assert {trial.course.seed for trial in load(more, storage)} == {0}


def test_hold_out_rates_differ_between_clips():
    rates = staggered((0.1, 0.2), {None: 1, 1.0: 1})

    assert rates == {None: (0.1, 0.2), 1.0: (0.119, 0.238)}
    for grid in GRIDS:
        if grid.split is not Split.TUNING:
            all_rates = [rate for rates in grid.learning_rates.values() for rate in rates]
            assert len(all_rates) == len(set(all_rates))


def test_octaves_are_steps_up():
    assert octaves(0.001, 1, 2) == (0.001, 0.002, 0.008)
