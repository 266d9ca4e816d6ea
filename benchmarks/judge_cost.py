"""What judging a report costs, early and late in a trial: pure Python, no training.

The reports are those of a real run, repeated with later steps; stretches of 200 reports are timed
in turn after 10 and after 10,000 others, so that both see the same machine.
"""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import replace

from benchmarks.document import machine, table, write_section
from stabsearch.records import Report, TrialFacts
from stabsearch.spec import TrainerSpec
from stabsearch.stability.analyzer import Analyzer
from stabsearch.training.trainer import Trainer

STRETCH = 200
ROUNDS = 9
HISTORIES = (10, 10_000)
BINS = (10, 20)
REPORT_EVERY = 25


def main() -> None:
    rows = []
    for bins in BINS:
        facts, reports = real_run(bins)
        times: dict[int, list[float]] = {history: [] for history in HISTORIES}
        for _ in range(ROUNDS):
            for history in HISTORIES:
                times[history].append(seconds_per_report(facts, reports, history))
        micros = {history: 1e6 * statistics.median(times[history]) for history in HISTORIES}
        ratios = [b / a for a, b in zip(*times.values(), strict=True)]
        rows.append(
            [
                str(bins),
                *(f"{micros[history]:.0f} us" for history in HISTORIES),
                f"{statistics.median(ratios):.2f}",
            ]
        )
    heading = [
        "timestep bins",
        *(f"a report after {history:,} others" for history in HISTORIES),
        "ratio, paired",
    ]
    text = (
        f"`make bench`; {machine()}.\n\nEvery rule on every report of a healthy run, an "
        "evaluation on every fourth. Target: below 100 microseconds with 10 bins, and no slower "
        "after 10,000 reports.\n\n" + table(heading, rows)
    )
    write_section("judge_cost", "What judging a report costs", text)


def real_run(bins: int) -> tuple[TrialFacts, list[Report]]:
    trainer = Trainer(
        TrainerSpec(max_train_steps=1000, learning_rate=2e-3, num_timestep_bins=bins), seed=0
    )
    reports = []
    while not trainer.is_finished:
        reports.append(trainer.train_window())
    return trainer.facts, reports[8:]


def seconds_per_report(facts: TrialFacts, reports: list[Report], history: int) -> float:
    """Over a stretch, after ``history`` others, of a budget that is a little longer than both."""
    num_reports = history + STRETCH
    stream = [
        replace(report, step=REPORT_EVERY * (i + 1))
        for i, report in enumerate(itertools.islice(itertools.cycle(reports), num_reports))
    ]
    budget = REPORT_EVERY * (num_reports + 1)
    analyzer = Analyzer(replace(facts, max_train_steps=budget, lr_warmup_steps=50))
    for report in stream[:history]:
        analyzer.judge(report)
    started = time.perf_counter()
    for report in stream[history:]:
        analyzer.judge(report)
    return (time.perf_counter() - started) / STRETCH


if __name__ == "__main__":
    main()
