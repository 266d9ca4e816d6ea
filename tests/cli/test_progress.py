"""What a person sees while a study runs."""

from __future__ import annotations

import io
import sys
import threading
from pathlib import Path

import pytest
from rich.console import Console

from stabsearch.cli.progress import (
    LiveProgress,
    LogProgress,
    Tally,
    clock_time,
    progress_for,
    trial_line,
)
from stabsearch.records import (
    Outcome,
    Purpose,
    Recommendation,
    Severity,
    StoppedBy,
    TrialRecord,
)
from stabsearch.search.observer import StudyOverview

TRACEBACK = (
    "Traceback (most recent call last):\n"
    '  File "nets.py", line 3, in forward\n'
    "    return self.layers(x)\n"
    "RuntimeError: CUDA error: misaligned\n"
    "For debugging consider passing CUDA_LAUNCH_BLOCKING=1"
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def record(trial_id: str = "0000-0", **changes) -> TrialRecord:
    fields = {
        "trial_id": trial_id,
        "setting": int(trial_id.partition("-")[0]),
        "seed": 0,
        "params": {"learning_rate": 0.0021, "max_grad_norm": 1.0},
        "outcome": Outcome.RUNNING,
        "stopped_by": StoppedBy.NOBODY,
        "severity": Severity.NONE,
        "rule": "",
        "symptom": "",
        "reason": "",
        "advice": "",
        "verdict_step": None,
        "timestep_low": None,
        "timestep_high": None,
        "steps": 0,
        "max_train_steps": 2000,
        "score": None,
        "score_raw": None,
        "eval_loss": None,
        "kappa": None,
        "lr_gauge_octaves": None,
        "constant_score": None,
        "clip_rate": None,
        "grad_norm_median": None,
        "nonfinite_steps": 0,
        "remarks": "",
        "attempts": 1,
        "train_seconds": 0.0,
        "started_at": 0.0,
        "ended_at": None,
    }
    return TrialRecord(**(fields | changes))


def stable(trial_id: str, score: float, **changes) -> TrialRecord:
    fields = {"outcome": Outcome.COMPLETED, "steps": 2000, "score": score}
    return record(trial_id, **(fields | changes))


def pruned(trial_id: str, **changes) -> TrialRecord:
    fields = {
        "outcome": Outcome.DIVERGED,
        "stopped_by": StoppedBy.GATE,
        "severity": Severity.PRUNE,
        "rule": "R1b",
        "reason": "lost 84% of its progress by step 300, most at timesteps 900-999",
        "steps": 300,
    }
    return record(trial_id, **(fields | changes))


def overview(**changes) -> StudyOverview:
    fields = {
        "name": "digits",
        "path": Path("/results/digits"),
        "num_trials": 12,
        "num_workers": 2,
        "max_train_steps": 2000,
        "finished": (),
        "param_names": ("learning_rate", "max_grad_norm"),
    }
    return StudyOverview(**(fields | changes))


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def log(clock):
    return LogProgress(Console(file=io.StringIO(), width=60), clock)


def lines(progress) -> list[str]:
    return progress.console.file.getvalue().splitlines()


def test_log_form_is_chosen_for_a_file_and_live_form_for_a_terminal():
    assert isinstance(progress_for(Console(file=io.StringIO())), LogProgress)
    terminal = Console(file=io.StringIO(), force_terminal=True)
    assert isinstance(progress_for(terminal), LiveProgress)


@pytest.mark.parametrize("form", [LogProgress, LiveProgress])
def test_what_the_sampler_s_check_found_is_said_at_the_start(form, clock):
    console = Console(file=io.StringIO(), width=60)
    progress = form(console, clock)
    progress.on_study_start(overview(sampler=("sampler my:heun is wrong [here]",)))

    assert "sampler my:heun is wrong [here]" in console.file.getvalue()


def test_finished_trial_is_one_log_line_however_narrow_the_console(log, clock):
    log.on_study_start(overview())
    log.on_trial_start(record("0011-0"))
    clock.now += 42
    log.on_trial_end(pruned("0011-0", train_seconds=40))

    assert lines(log)[1:] == [
        "[ 1/12] 0011-0  learning_rate=2.1e-3 max_grad_norm=1  step 300/2000  DIVERGED  R1b  "
        "lost 84% of its progress by step 300, most at timesteps 900-999   "
        "(elapsed 0:42, about 3:40 left)"
    ]


def test_log_says_how_the_study_starts_and_ends(log, clock):
    log.on_study_start(overview())
    for trial in (stable("0000-0", 0.5), pruned("0001-0"), pruned("0002-0")):
        log.on_trial_start(record(trial.trial_id))
        log.on_trial_end(trial)
    clock.now += 3661
    log.on_study_end(Recommendation(params=None, trial_id=None), interrupted=True)

    assert lines(log)[0] == (
        "digits: 12 trials of up to 2000 steps, 2 at a time, results in /results/digits"
    )
    assert lines(log)[-1] == "interrupted after 1:01:01: 1 stable, 2 pruned"


def test_a_better_stable_trial_is_marked(log):
    log.on_study_start(overview())
    for trial in (stable("0000-0", 0.5), stable("0001-0", 0.7), stable("0002-0", 0.4)):
        log.on_trial_end(trial)

    assert ["best so far" in line for line in lines(log)[1:]] == [True, False, True]


def test_a_lower_score_that_is_not_stable_is_not_the_best():
    tally = Tally(Clock())
    tally.begin(overview())
    tally.end(stable("0000-0", 0.5))
    tally.end(stable("0001-0", 0.1, severity=Severity.PENALISE))

    assert tally.best().trial_id == "0000-0"


@pytest.mark.parametrize(
    ("trial", "ending"),
    [
        (stable("0000-0", 0.61234), "STABLE  score 0.612"),
        (
            stable("0000-0", 0.6, severity=Severity.PENALISE, rule="R1d", reason="spiked."),
            "POOR  score 0.6  R1d  spiked",
        ),
        (
            pruned("0000-0", outcome=Outcome.STOPPED, rule="R1c", reason="never moved"),
            "STOPPED  R1c  never moved",
        ),
        (
            record(outcome=Outcome.STOPPED, stopped_by=StoppedBy.RANK, score=0.9),
            "STOPPED behind others  score 0.9",
        ),
        (record(outcome=Outcome.FAILED, reason="CUDA out of memory."), "FAILED  CUDA out of"),
        (record(outcome=Outcome.FAILED, reason=TRACEBACK), "FAILED  RuntimeError: CUDA error"),
    ],
    ids=["stable", "penalised", "not learning", "rank", "failed", "failed in our sight"],
)
def test_ending_says_what_happened_and_why(trial, ending):
    assert f"  {ending}" in trial_line(trial)


def test_a_failed_trial_is_one_line_like_every_other(log):
    log.on_study_start(overview())
    log.on_trial_end(record(outcome=Outcome.FAILED, reason=TRACEBACK))

    assert len(lines(log)) == 2


def test_restarted_trial_is_announced(log):
    log.on_study_start(overview())
    log.on_trial_start(record("0003-0"))
    log.on_trial_start(record("0003-0", attempts=2, steps=400))

    assert lines(log)[1:] == ["0003-0  starts again from step 400, attempt 2: its worker was lost"]


def test_a_trial_that_an_earlier_run_left_goes_on_and_lost_no_worker(log):
    log.on_study_start(overview())
    log.on_trial_start(record("0003-0", attempts=2, steps=1625))
    log.on_trial_start(record("0003-0", attempts=3, steps=1700))
    log.on_trial_start(record("0004-0", attempts=2))

    assert lines(log)[1:] == [
        "0003-0  goes on from step 1625 (attempt 2)",
        "0003-0  starts again from step 1700, attempt 3: its worker was lost",
        "0004-0  starts again (attempt 2)",
    ]


def test_a_short_trial_that_once_lost_its_worker_goes_on_without_another_loss(log):
    log.on_study_start(overview())
    log.on_trial_start(record("0003-0"))
    log.on_trial_start(record("0003-0", attempts=2, steps=100))
    log.on_trial_end(stable("0003-0", 0.5, attempts=2, steps=200))
    log.on_trial_start(record("0003-0", attempts=2, steps=200))
    log.on_trial_end(stable("0004-0", 0.5, steps=200))
    log.on_trial_start(record("0004-0", steps=200))

    said = [line for line in lines(log) if "goes on" in line or "again" in line]
    assert said == [
        "0003-0  starts again from step 100, attempt 2: its worker was lost",
        "0003-0  goes on from step 200 (attempt 2)",
        "0004-0  goes on from step 200",
    ]


def test_resumed_study_counts_what_was_finished(log):
    finished = (stable("0000-0", 0.5), pruned("0001-0"))
    log.on_study_start(overview(finished=finished))
    log.on_trial_end(stable("0002-0", 0.6))

    assert "12 trials of up to 2000 steps, 2 of them already finished, 2 at" in lines(log)[0]
    assert lines(log)[1].startswith("[ 3/12] 0002-0")
    assert "best so far" not in lines(log)[1]


def test_one_trial_is_no_trials(log):
    log.on_study_start(overview(num_trials=1, is_open_ended=True))

    assert "digits: at most 1 trial of up to 2000 steps" in lines(log)[0]


def test_trials_of_the_confirmation_are_counted_apart_from_those_of_the_search(log):
    finished = (
        stable("0000-0", 0.5),
        stable("0001-0", 0.5, purpose=Purpose.PROBE),
        stable("0000-1", 0.5, purpose=Purpose.CONFIRM),
        stable("0002-0", 0.5, purpose=Purpose.STRESS),
        stable("0002-1", 0.5, purpose=Purpose.STRESS),
    )
    told = {"num_trials": 8, "is_open_ended": True, "max_train_steps": 200}
    log.on_study_start(overview(finished=finished, num_workers=0, **told))

    assert lines(log) == [
        "digits: at most 8 trials of up to 200 steps, 2 of them already finished, and 3 of the "
        "confirmation, results in /results/digits"
    ]


class TestRemainingTime:
    @pytest.fixture
    def tally(self, clock):
        return Tally(clock)

    def run_trial(self, tally, clock, trial_id, seconds):
        tally.start(record(trial_id))
        clock.now += seconds
        tally.end(stable(trial_id, 0.5, train_seconds=1.0))

    def test_is_unknown_before_anything_finished(self, tally):
        tally.begin(overview())

        assert tally.remaining() is None
        assert tally.timing() == "elapsed 0:00"

    def test_is_mean_duration_times_trials_left_over_workers(self, tally, clock):
        tally.begin(overview(num_trials=12, num_workers=2))
        tally._seconds = [8.0, 12.0]
        tally.finished = {"a": stable("0000-0", 1), "b": stable("0001-0", 1)}

        assert tally.remaining() == 10 * 10 / 2

    def test_start_of_the_workers_is_not_charged_to_every_trial(self, tally, clock):
        tally.begin(overview(num_trials=10, num_workers=1))
        self.run_trial(tally, clock, "0000-0", seconds=9.0)  # 8 of them: the worker's start

        assert tally.remaining() == 9 * 1.0

        self.run_trial(tally, clock, "0001-0", seconds=3.0)

        assert tally.remaining() == 8 * 2.0

    def test_counts_what_running_trials_have_behind_them(self, tally, clock):
        tally.begin(overview(num_trials=4, num_workers=1))
        tally._seconds = [10.0]
        tally.finished = {"a": stable("0000-0", 1)}
        tally.start(record("0001-0"))
        clock.now += 4

        assert tally.remaining() == 3 * 10 - 4

    def test_last_trials_do_not_fill_all_workers(self, tally):
        tally.begin(overview(num_trials=2, num_workers=8))
        tally._seconds = [10.0]
        tally.finished = {"a": stable("0000-0", 1)}

        assert tally.remaining() == 10

    def test_of_a_resumed_study_rests_on_the_earlier_run(self, tally):
        finished = tuple(stable(f"000{i}-0", 1, train_seconds=5.0) for i in range(2))
        tally.begin(overview(num_trials=6, num_workers=2, finished=finished))

        assert tally.remaining() == 4 * 5 / 2

    def test_is_nothing_at_the_end(self, tally):
        tally.begin(overview(num_trials=1, finished=(stable("0000-0", 1, train_seconds=5),)))

        assert tally.remaining() == 0


class TestLiveDisplay:
    @pytest.fixture
    def live(self, clock):
        console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
        return LiveProgress(console, clock)

    def drawn(self, live) -> str:
        console = Console(file=io.StringIO(), width=100, color_system=None)
        console.print(live.draw())
        return console.file.getvalue()

    def test_says_that_ray_starts_until_the_study_does(self, live, clock):
        clock.now += 3

        assert self.drawn(live).strip() == "starting Ray ... 0:03"

    def test_shows_counts_best_running_and_reasons(self, live, clock):
        live.on_study_start(overview())
        live.on_trial_end(stable("0000-0", 0.512))
        live.on_trial_end(pruned("0001-0"))
        live.on_trial_start(record("0002-0"))
        live.on_report(record("0002-0", steps=475), None, ())

        text = self.drawn(live)

        assert "2/12 trials" in text
        assert "1 running  1 stable  1 pruned" in text
        rows = {line[:12].strip(): line[14:].strip() for line in text.splitlines()}
        assert rows["best stable"].startswith("0000-0  learning_rate=2.1e-3")
        assert rows["running"].startswith("0002-0  step 475/2000")
        assert rows["last stopped"].startswith("0001-0")
        assert "most at timesteps 900-999" in " ".join(text.split())

    def test_keeps_the_last_reasons_only_newest_first(self, live):
        live.on_study_start(overview(num_trials=40))
        for i in range(9):
            live.on_trial_end(pruned(f"{i:04}-0"))

        shown = [line[14:20] for line in self.drawn(live).splitlines() if "R1b" in line]
        assert shown == ["0008-0", "0007-0", "0006-0", "0005-0", "0004-0"]

    def test_counts_running_trials_that_it_does_not_list(self, live):
        live.on_study_start(overview(num_workers=20))
        for i in range(20):
            live.on_trial_start(record(f"{i:04}-0"))

        assert "and 12 more" in self.drawn(live)

    def test_shows_reasons_of_an_earlier_run(self, live):
        live.on_study_start(overview(finished=(pruned("0004-0", ended_at=1.0),)))

        assert "0004-0" in self.drawn(live)

    def test_can_be_drawn_by_another_thread_while_trials_come_and_go(self, live):
        live.on_study_start(overview(num_trials=10_000, num_workers=50))
        failures = []
        ended = threading.Event()

        def keep_drawing():
            try:
                while not ended.is_set():
                    self.drawn(live)
            except RuntimeError as error:  # "dictionary changed size during iteration"
                failures.append(error)

        thread = threading.Thread(target=keep_drawing)
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        try:
            thread.start()
            for i in range(1500):
                live.on_trial_start(record(f"{i:04}-0"))
                live.on_trial_end(pruned(f"{i:04}-0"))
        finally:
            ended.set()
            thread.join()
            sys.setswitchinterval(interval)

        assert failures == []

    def test_prints_of_others_stay_above_the_display(self, live, monkeypatch):
        monkeypatch.setattr(sys, "stdout", live.console.file)
        with live:
            live.on_study_start(overview())
            sys.stdout.write("(TrialTrainable pid=1) a warning of Ray's\n")
            live.on_trial_end(stable("0000-0", 0.5))
            live.on_study_end(Recommendation(params=None, trial_id=None), interrupted=False)

        text = live.console.file.getvalue()
        assert text.index("a warning of Ray's") < text.rindex("1/12 trials")
        assert text.endswith("\x1b[?25h")  # the cursor is back

    def test_error_leaves_the_terminal_in_order(self, live):
        def study_that_fails():
            with live:
                live.on_study_start(overview())
                raise RuntimeError

        with pytest.raises(RuntimeError):
            study_that_fails()

        assert live.console.file.getvalue().endswith("\x1b[?25h")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (42.4, "0:42"), (59.7, "1:00"), (4200, "1:10:00")]
)
def test_clock_time(seconds, text):
    assert clock_time(seconds) == text
