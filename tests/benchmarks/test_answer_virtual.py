"""Virtual workers against a clock that ticks step by step."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from benchmarks.answer.virtual import NoTrial, Proposal, run_search
from tests.benchmarks.answer_world import BEST, RATES, REPORT_EVERY, STEPS, world


class Scripted:
    """Runs so many trials, each stopped at a step that was fixed before."""

    def __init__(self, stops, waits_for=()):
        self.stops = stops
        self.waits_for = set(waits_for)
        """Trials that begin only when no other is running."""
        self.running = {}
        self.said = []

    def propose(self):
        number = len(self.running)
        if number == len(self.stops):
            return NoTrial.FINISHED
        if number in self.waits_for and any(self.running.values()):
            return NoTrial.WAIT
        self.running[number] = True
        return Proposal(number=number, learning_rate=BEST, clip=None)

    def begin(self, proposal, course):
        self.said.append(("begin", proposal.number))

    def report(self, proposal, report, *, is_last):
        assert is_last == (report.step == STEPS)
        goes_on = report.step < self.stops[proposal.number]
        self.running[proposal.number] = goes_on and not is_last
        self.said.append((proposal.number, report.step))
        return goes_on

    def answer(self):
        return BEST * 1.1, 1.0


def ticking(stops, workers):
    """(steps, wall) by counting."""
    waiting, training, time, steps = list(stops), [], 0, 0
    while waiting or training:
        while waiting and len(training) < workers:
            training.append(waiting.pop(0))
        time += 1
        steps += len(training)
        training = [left - 1 for left in training if left > 1]
    return steps, time


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("seed", range(4))
def test_steps_and_time_are_those_of_a_ticking_clock(seed, workers):
    generator = random.Random(seed)
    stops = [REPORT_EVERY * generator.randint(1, STEPS // REPORT_EVERY) for _ in range(12)]

    found = run_search(Scripted(stops), world(), 0, workers)

    assert (found.steps, found.wall_steps) == ticking(stops, workers)
    assert found.trials == 12


def test_a_stop_between_reports_takes_effect_at_the_next_one():
    assert run_search(Scripted([REPORT_EVERY + 1]), world(), 0).steps == 2 * REPORT_EVERY


def test_reports_come_in_the_order_of_time():
    method = Scripted([STEPS, 2 * REPORT_EVERY, REPORT_EVERY])

    run_search(method, world(), 0)

    assert method.said[:9] == [
        ("begin", 0), ("begin", 1), (0, 10), (1, 10), (0, 20), (1, 20), ("begin", 2), (0, 30),
        (2, 10),
    ]  # fmt: skip


def test_a_worker_waits_for_a_method_that_waits():
    method = Scripted([100, 40, 40], waits_for=[2])

    found = run_search(method, world(), 0)

    assert (found.steps, found.wall_steps) == (180, 140)


def test_a_trial_that_goes_on_costs_what_is_left_of_it():
    class GoesOn(Scripted):
        def propose(self):
            proposal = super().propose()
            is_second = isinstance(proposal, Proposal) and proposal.number == 1
            return replace(proposal, first_step=40) if is_second else proposal

    method = GoesOn([40, 100], waits_for=[1])
    found = run_search(method, world(), 0)

    assert (found.steps, found.wall_steps) == (100, 100)
    assert [step for number, step in method.said if number == 1] == [50, 60, 70, 80, 90, 100]


def test_a_method_that_waits_for_nothing_is_an_error():
    class Waits(Scripted):
        def propose(self):
            return NoTrial.WAIT

    with pytest.raises(RuntimeError, match="nothing is running"):
        run_search(Waits([]), world(), 0)


def test_the_answer_becomes_a_setting_of_the_grid():
    found = run_search(Scripted([10]), world(), 0)

    assert found.proposed == (BEST * 1.1, 1.0)
    assert (found.answer.clip_index, found.answer.learning_rate) == (1, RATES[4])
