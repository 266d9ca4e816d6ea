"""What a person sees while a study runs: a live display, or a log line per finished trial."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stabsearch.errors import exception_line
from stabsearch.recommend.words import count, number, params_text
from stabsearch.records import (
    Ending,
    Outcome,
    Purpose,
    Recommendation,
    Report,
    TrialRecord,
    Verdict,
)
from stabsearch.search.observer import StudyObserver, StudyOverview

NUM_REASONS = 5
"""Last finished trials that did not prove stable, shown with their reasons."""
NUM_RUNNING = 8
"""Running trials that are shown; more are counted."""

Clock = Callable[[], float]


class StudyProgress(StudyObserver):
    """Base of both forms. As a context manager it leaves the terminal in order."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self.console = console
        self.tally = Tally(clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop drawing; may be called twice."""


def progress_for(console: Console) -> StudyProgress:
    """A live display on a terminal, log lines anywhere else."""
    return LiveProgress(console) if console.is_terminal else LogProgress(console)


# ------------------------------------------------------------------------------------------------
# What is counted


@dataclass
class Tally:
    """The state of a study, as far as it was told."""

    clock: Clock = time.monotonic
    overview: StudyOverview | None = None
    finished: dict[str, TrialRecord] = field(default_factory=dict)
    running: dict[str, TrialRecord] = field(default_factory=dict)
    began: float = 0.0
    _started: dict[str, float] = field(default_factory=dict)
    """Clock at the start of every running trial."""
    _seconds: list[float] = field(default_factory=list)
    """Duration of the trials that this run finished."""
    _num_started: int = 0
    _warming_up: set[str] = field(default_factory=set)
    """The first trial of every worker."""

    def __post_init__(self) -> None:
        self.began = self.clock()

    def begin(self, overview: StudyOverview) -> None:
        self.overview = overview
        self.began = self.clock()
        self.finished = {record.trial_id: record for record in overview.finished}

    def start(self, trial: TrialRecord) -> None:
        self.running[trial.trial_id] = trial
        self._started[trial.trial_id] = self.clock()
        if self.overview and self._num_started < self.overview.num_workers:
            self._warming_up.add(trial.trial_id)
        self._num_started += 1

    def report(self, trial: TrialRecord) -> None:
        if trial.trial_id in self.running:
            self.running[trial.trial_id] = trial

    def end(self, trial: TrialRecord) -> None:
        self.running.pop(trial.trial_id, None)
        self.finished[trial.trial_id] = trial
        started = self._started.pop(trial.trial_id, None)
        if started is None:
            return
        # The wall time of a worker's first trial holds the worker's own start, paid once.
        is_first = trial.trial_id in self._warming_up and trial.train_seconds > 0
        self._seconds.append(trial.train_seconds if is_first else self.clock() - started)

    @property
    def num_trials(self) -> int:
        return self.overview.num_trials if self.overview else 0

    @property
    def is_open_ended(self) -> bool:
        """Whether nobody knows how many trials there will be."""
        return self.overview is not None and self.overview.is_open_ended

    def progress(self) -> str:
        """``3/32``; the number alone where the search ends when it knows enough."""
        if self.is_open_ended:
            return str(self.num_done)
        return f"{self.num_done:>{len(str(self.num_trials))}}/{self.num_trials}"

    @property
    def num_done(self) -> int:
        return len(self.finished)

    @property
    def elapsed(self) -> float:
        """Seconds since the study began or was resumed."""
        return self.clock() - self.began

    def remaining(self) -> float | None:
        """Estimated seconds to the end: mean duration of a trial x trials left / workers.

        Trials that an earlier run finished stand in until one of this run has ended.
        """
        if self.overview is None:
            return None
        seconds = self._seconds or [
            r.train_seconds for r in self.overview.finished if r.train_seconds > 0
        ]
        if not seconds:
            return None
        mean = sum(seconds) / len(seconds)
        num_left = max(0, self.num_trials - self.num_done)
        if num_left == 0:
            return 0.0
        now = self.clock()
        spent = sum(min(now - started, 0.9 * mean) for started in self._started.values())
        num_parallel = max(1, min(self.overview.num_workers, num_left))
        return max(0.0, num_left * mean - spent) / num_parallel

    def best(self) -> TrialRecord | None:
        """The stable trial of the search with the lowest score so far."""
        found = (r for r in self.finished.values() if r.is_stable and r.purpose.is_search)
        scored = [r for r in found if r.score is not None]
        return min(scored, key=lambda r: (r.score or 0.0, r.trial_id), default=None)

    def counts(self) -> dict[Ending, int]:
        """Finished trials by how they ended, in the words of the display."""
        counts = dict.fromkeys(LABELS, 0)
        for record in self.finished.values():
            counts[record.ending] += 1
        return counts

    def timing(self) -> str:
        left = None if self.is_open_ended else self.remaining()
        about = "" if left is None else f", about {clock_time(left)} left"
        return f"elapsed {clock_time(self.elapsed)}{about}"


LABELS = {
    Ending.STABLE: "green",
    Ending.WITHIN: "green",
    Ending.PRUNED: "red",
    Ending.UNSTABLE: "red",
    Ending.POOR: "yellow",
    Ending.BEHIND: "yellow",
    Ending.FAR: "yellow",
    Ending.FAILED: "",
}
"""How a trial can end -> its colour."""

# ------------------------------------------------------------------------------------------------
# A log file


class LogProgress(StudyProgress):
    """One line when the study starts, one per finished trial, one at the end."""

    def on_study_start(self, overview: StudyOverview) -> None:
        self.tally.begin(overview)
        # No worker is needed where all trials have ended.
        workers = f", {overview.num_workers} at a time" if overview.num_workers else ""
        self._say(
            f"{overview.name}: {_how_many(overview)} of up to {overview.max_train_steps} "
            f"steps{_already(overview)}{workers}, results in {overview.path}"
        )
        for sentence in overview.sampler:
            self._say(sentence)

    def on_trial_start(self, trial: TrialRecord) -> None:
        was_running = trial.trial_id in self.tally.running
        self.tally.start(trial)
        if (said := _start_words(trial, was_running=was_running)) is not None:
            self._say(f"{trial.trial_id}  {said}")

    def on_report(self, trial: TrialRecord, report: Report, verdicts: tuple[Verdict, ...]) -> None:
        del report, verdicts  # the record holds what is shown
        self.tally.report(trial)

    def on_trial_end(self, trial: TrialRecord) -> None:
        self.tally.end(trial)
        self._say(
            f"[{self.tally.progress()}] "
            f"{trial_line(trial)}{self._best_mark(trial)}   ({self.tally.timing()})"
        )

    def on_study_end(self, recommendation: Recommendation, *, interrupted: bool) -> None:
        del recommendation  # the command prints it
        counts = ", ".join(f"{n} {label}" for label, n in self.tally.counts().items() if n)
        ended = "interrupted" if interrupted else "finished"
        self._say(f"{ended} after {clock_time(self.tally.elapsed)}: {counts or 'no trials'}")

    def _best_mark(self, trial: TrialRecord) -> str:
        best = self.tally.best()
        return "  best so far" if best and best.trial_id == trial.trial_id else ""

    def _say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True, markup=False, highlight=False, emoji=False)


# ------------------------------------------------------------------------------------------------
# A terminal


class LiveProgress(StudyProgress):
    """A display that is redrawn four times a second, by a thread of rich's."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        super().__init__(console, clock)
        self._lock = threading.Lock()  # rich draws in its own thread while the study goes on
        self._reasons: deque[TrialRecord] = deque(maxlen=NUM_REASONS)
        self._live = Live(
            console=console,
            get_renderable=self.draw,
            refresh_per_second=4,
            # What Ray prints goes above the display and stays.
            redirect_stdout=True,
            redirect_stderr=True,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def close(self) -> None:
        self._live.stop()

    def on_study_start(self, overview: StudyOverview) -> None:
        with self._lock:
            self.tally.begin(overview)
            ended = sorted(overview.finished, key=lambda record: record.ended_at or 0.0)
            self._reasons.extend(r for r in ended if not r.ending.is_sound)
        for sentence in overview.sampler:  # above the display, where it stays
            self.console.print(sentence, markup=False, highlight=False, emoji=False)

    def on_trial_start(self, trial: TrialRecord) -> None:
        with self._lock:
            self.tally.start(trial)

    def on_report(self, trial: TrialRecord, report: Report, verdicts: tuple[Verdict, ...]) -> None:
        del report, verdicts  # the record holds what is shown
        with self._lock:
            self.tally.report(trial)

    def on_trial_end(self, trial: TrialRecord) -> None:
        with self._lock:
            self.tally.end(trial)
            if not trial.ending.is_sound:
                self._reasons.append(trial)

    def on_study_end(self, recommendation: Recommendation, *, interrupted: bool) -> None:
        del recommendation, interrupted  # the command prints both
        with self._lock:
            self.tally.running.clear()
        self.close()

    def draw(self) -> RenderableType:
        """The display as of now."""
        with self._lock:
            if self.tally.overview is None:
                return Text(f"starting Ray ... {clock_time(self.tally.elapsed)}", style="dim")
            return Group(self._header(self.tally.overview), self._body())

    def _header(self, overview: StudyOverview) -> RenderableType:
        grid = Table.grid(padding=(0, 2))
        for _ in range(3):
            grid.add_column(no_wrap=True)
        grid.add_row(
            Text(overview.name, style="bold"),
            ProgressBar(total=self.tally.num_trials, completed=self.tally.num_done, width=24),
            Text(f"{self.tally.progress().strip()} trials   {self.tally.timing()}"),
        )
        return grid

    def _body(self) -> RenderableType:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True, style="dim", min_width=12)
        grid.add_column()
        grid.add_row("trials", self._counts())
        best = self.tally.best()
        if best is None:
            grid.add_row("best stable", Text("none yet", style="dim"))
        else:
            grid.add_row("best stable", _one_line(trial_line(best), "green"))
        running = sorted(self.tally.running.values(), key=lambda record: record.trial_id)
        if not running and self.tally.num_done < self.tally.num_trials:
            grid.add_row("running", Text("workers are starting ...", style="dim"))
        for i, record in enumerate(running[:NUM_RUNNING]):
            grid.add_row("" if i else "running", _one_line(running_line(record)))
        if len(running) > NUM_RUNNING:
            grid.add_row("", f"and {len(running) - NUM_RUNNING} more")
        for i, record in enumerate(reversed(self._reasons)):
            style = LABELS[record.ending]
            grid.add_row("" if i else "last stopped", Text(trial_line(record), style=style))
        return grid

    def _counts(self) -> Text:
        text = Text(f"{len(self.tally.running)} running")
        for label, n in self.tally.counts().items():
            if n or label in ("stable", "pruned"):
                text.append("  ")
                text.append(f"{n} {label}", style=LABELS[label] if n else "dim")
        return text


def _one_line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


# ------------------------------------------------------------------------------------------------
# Words


def trial_line(record: TrialRecord) -> str:
    """One finished trial: what was tried, how far it came, how it ended, why."""
    parts = [
        record.trial_id,
        params_text(record.params),
        PURPOSES[record.purpose],
        f"step {record.steps}/{record.max_train_steps}",
        _ending(record),
    ]
    return "  ".join(part for part in parts if part)


def running_line(record: TrialRecord) -> str:
    step = f"step {record.steps}/{record.max_train_steps}"
    again = f"attempt {record.attempts}" if record.attempts > 1 else ""
    parts = (record.trial_id, step, params_text(record.params), PURPOSES[record.purpose], again)
    return "  ".join(part for part in parts if part)


PURPOSES = {
    Purpose.SEARCH: "",
    Purpose.PROBE: "short",
    Purpose.CONFIRM: "confirmation",
    Purpose.STRESS: "stress test",
}

ENDED_WELL = {
    Ending.STABLE: "STABLE",
    Ending.WITHIN: "WITHIN the edge",
    Ending.BEHIND: "STOPPED behind others",
    Ending.FAR: "STOPPED far from the best rate",
}
"""How the endings are written that need no reason."""


def _ending(record: TrialRecord) -> str:
    score = "" if record.score is None else f"  score {number(record.score)}"
    if record.ending in ENDED_WELL:
        return f"{ENDED_WELL[record.ending]}{score}"
    # A failed trial's reason is a traceback; `explain` shows it whole.
    is_failed = record.outcome is Outcome.FAILED
    reason = exception_line(record.reason) if is_failed else record.reason
    why = "  ".join(part for part in (record.rule, reason.rstrip(".")) if part)
    why = f"  {why}" if why else ""
    if record.ending in (Ending.UNSTABLE, Ending.POOR):
        return f"{record.ending.value.upper()}{score}{why}"
    return f"{record.outcome.value.upper()}{why}"


def _how_many(overview: StudyOverview) -> str:
    at_most = "at most " * overview.is_open_ended
    return f"{at_most}{count(overview.num_trials, 'trial')}"


def _already(overview: StudyOverview) -> str:
    """What an earlier run finished; the confirmation's trials are beyond the study's number."""
    num_searched = sum(record.purpose.is_search for record in overview.finished)
    num_confirming = len(overview.finished) - num_searched
    text = f", {num_searched} of them already finished" if num_searched else ""
    return text + (f", and {num_confirming} of the confirmation" if num_confirming else "")


def _start_words(trial: TrialRecord, *, was_running: bool) -> str | None:
    """What is said of a trial that starts; None of one that simply begins.

    One that was running in this run, and starts, has lost its worker. Of others that were started
    before, an earlier run was ended, or they had ended as shorter trials.
    """
    again = f"attempt {trial.attempts}"
    if was_running:
        return f"starts again from step {trial.steps}, {again}: its worker was lost"
    goes_on = f"goes on from step {trial.steps}" if trial.steps else None
    return f"{goes_on or 'starts again'} ({again})" if trial.attempts > 1 else goes_on


def clock_time(seconds: float) -> str:
    """``0:42``, ``1:10:00``"""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
