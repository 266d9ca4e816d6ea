"""The trainable without Ray around it: packets, failures, checkpoints."""

from __future__ import annotations

import pytest

from stabsearch.search import trainable
from stabsearch.search.packet import PACKET_KEY, STEP_KEY
from tests.search.conftest import TINY_TRAINER


@pytest.fixture
def config(tmp_path):
    def make(*, gate=True, stop_at=None, may_go_on=False, seed=0, **trainer):
        return {
            "trial_id": "0000-0",
            "seed": seed,
            "trainer": TINY_TRAINER | {"device": "cpu", "learning_rate": 3e-3} | trainer,
            "gate": gate,
            "stop_at": stop_at,
            "may_go_on": may_go_on,
            "analyzer": {"name": "rules"},
            "reached": (),
            "sampler_check": None,
            "num_threads": 1,
            "checkpoint": str(tmp_path / "checkpoints" / "0000-0.safetensors"),
            "search_path": str(tmp_path),
        }

    return make


@pytest.fixture(autouse=True)
def whole_trial_a_packet(monkeypatch):
    """However slow the machine is."""
    monkeypatch.setattr(trainable, "PACKET_SECONDS", 3600.0)


@pytest.fixture
def one_report_a_packet(monkeypatch, whole_trial_a_packet):
    monkeypatch.setattr(trainable, "PACKET_SECONDS", 0.0)


@pytest.fixture
def checkpoint_every_packet(monkeypatch, one_report_a_packet):
    monkeypatch.setattr(trainable, "CHECKPOINT_SECONDS", 0.0)


def packets(trial, count):
    return [trial.step()[PACKET_KEY] for _ in range(count)]


def losses(some_packets):
    return {j.report.step: j.report.loss for p in some_packets for j in p.reports}


def test_a_packet_gathers_reports(config):
    result = trainable.TrialTrainable(config()).step()

    assert result[STEP_KEY] == 60
    assert [j.report.step for j in result[PACKET_KEY].reports] == [10, 20, 30, 40, 50, 60]


@pytest.mark.parametrize(("gate", "last_step"), [(True, 20), (False, 60)])
def test_a_gated_trial_trains_no_further_than_its_prune(config, gate, last_step):
    model = {"name": "tests.search.models:TurnsNaN", "first_nan_step": 14}
    packet = trainable.TrialTrainable(config(gate=gate, model=model)).step()[PACKET_KEY]

    assert packet.reports[-1].report.step == last_step


def test_a_short_trial_trains_no_further_than_its_answer(config):
    worker = trainable.TrialTrainable(config(stop_at=30))

    assert [j.report.step for j in worker.step()[PACKET_KEY].reports] == [10, 20, 30]
    assert worker.step()[PACKET_KEY].reports == ()


def test_a_failure_keeps_the_reports_that_came_before_it(config, tmp_path):
    model = {"name": "tests.search.models:RaisesOnce", "marker": str(tmp_path / "never")}
    packet = trainable.TrialTrainable(config(model=model)).step()[PACKET_KEY]

    assert [j.report.step for j in packet.reports] == [10, 20]
    assert packet.facts is not None
    assert "RuntimeError: out of memory, say" in packet.failure


def test_a_reused_worker_gives_the_next_trial_a_clean_start(config):
    alone = losses(packets(trainable.TrialTrainable(config(seed=1)), 1))
    worker = trainable.TrialTrainable(config(model={"name": "tests.search.models:broken"}))
    failed = worker.step()[PACKET_KEY]
    worker.reset_config(config(seed=1))

    assert "cannot be built" in failed.failure
    assert failed.facts is None
    assert losses(packets(worker, 1)) == alone


@pytest.mark.usefixtures("one_report_a_packet")
def test_a_replaced_worker_goes_on_from_the_checkpoint_without_a_gap(config, monkeypatch):
    undisturbed = losses(packets(trainable.TrialTrainable(config()), 6))
    monkeypatch.setattr(trainable, "CHECKPOINT_SECONDS", 0.0)
    before = losses(packets(trainable.TrialTrainable(config()), 4))
    # The checkpoint was taken when the fourth packet was asked for: three had arrived by then.
    after = losses(packets(trainable.TrialTrainable(config()), 3))

    assert sorted(after) == [40, 50, 60]
    assert before | after == undisturbed


@pytest.mark.usefixtures("checkpoint_every_packet")
@pytest.mark.parametrize("damage", ["another setting", "another seed", "torn file"])
def test_a_checkpoint_of_something_else_is_ignored(config, damage, tmp_path):
    expected = losses(packets(trainable.TrialTrainable(config()), 3))
    for file in (tmp_path / "checkpoints").iterdir():
        file.unlink()
    other = {"another setting": config(learning_rate=1e-2), "another seed": config(seed=5)}
    packets(trainable.TrialTrainable(other.get(damage, config())), 3)
    [file] = (tmp_path / "checkpoints").iterdir()
    if damage == "torn file":
        file.write_bytes(file.read_bytes()[:1000])

    assert losses(packets(trainable.TrialTrainable(config()), 3)) == expected


@pytest.mark.usefixtures("one_report_a_packet")
def test_a_short_trial_goes_on_from_where_it_ended_as_if_it_had_not(config):
    undisturbed = losses(packets(trainable.TrialTrainable(config()), 6))
    short = trainable.TrialTrainable(config(stop_at=30, may_go_on=True))
    ended = packets(short, 5)
    longer = trainable.TrialTrainable(config())

    # All of it has arrived when its state is written, once.
    assert [p.is_saved for p in ended] == [False, False, False, True, False]
    assert losses(ended) | losses(packets(longer, 3)) == undisturbed


@pytest.mark.usefixtures("one_report_a_packet")
def test_a_worker_lost_after_it_was_saved_says_so_again_and_trains_no_further(config):
    packets(trainable.TrialTrainable(config(stop_at=30, may_go_on=True)), 4)
    again = packets(trainable.TrialTrainable(config(stop_at=30, may_go_on=True)), 2)

    assert [p.is_saved for p in again] == [True, False]
    assert losses(again) == {}


def test_a_pruned_short_trial_is_not_saved(config, tmp_path):
    model = {"name": "tests.search.models:TurnsNaN", "first_nan_step": 14}
    worker = trainable.TrialTrainable(config(model=model, stop_at=30, may_go_on=True))
    packets(worker, 3)

    assert not (tmp_path / "checkpoints").exists()
