"""Syne Tune: its ASHA with its default searcher, called in the order of its ``Tuner``.

The order of calls is that of ``Tuner._schedule_new_task`` and ``_update_running_trials`` (Syne
Tune 0.16); the best trial is that of ``Tuner.best_config``: the lowest score that any of its
reports had.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import logging
from typing import Any

import numpy as np
from syne_tune.backend.trial_status import Status, Trial
from syne_tune.config_space import choice, loguniform
from syne_tune.optimizer.baselines import ASHA
from syne_tune.optimizer.scheduler import SchedulerDecision
from syne_tune.tuning_status import TuningStatus, print_best_metric_found

from benchmarks.answer.blackbox import Blackbox, Course
from benchmarks.answer.virtual import NoTrial, Proposal
from benchmarks.truth.grids import Clip
from stabsearch.records import Report

SCORE, EPOCH = "score", "epoch"


class SyneTune:
    """``Tuner(scheduler=ASHA(space, "score", "epoch", max_t=<evaluations of a trial>))``."""

    def __init__(self, blackbox: Blackbox, trials: int, seed: int) -> None:
        logging.getLogger("syne_tune").setLevel(logging.ERROR)  # it warns of its own defaults
        low, high = blackbox.rate_range
        # A choice of Syne Tune holds values of one type, and None is none of a number.
        self._clips: dict[str, Clip] = {str(clip): clip for clip in blackbox.clips}
        space = {
            "learning_rate": loguniform(low, high),
            "max_grad_norm": choice(list(self._clips)),
        }
        np.random.seed(seed)  # its RandomSearcher draws from the global generator
        self.scheduler = ASHA(
            space,
            metric=SCORE,
            time_attr=EPOCH,
            max_t=len(blackbox.evaluation_steps),
            random_seed=seed,
        )
        self.status = TuningStatus(metric_names=[SCORE])
        self._max_num_trials_started = trials
        self._trials: list[Trial] = []

    def propose(self) -> Proposal | NoTrial:
        number = len(self._trials)
        if number == self._max_num_trials_started:
            return NoTrial.FINISHED
        suggestion = self.scheduler.suggest()
        now = datetime.datetime.now()
        trial = Trial(trial_id=number, config=suggestion.config, creation_time=now)
        self._trials.append(trial)
        self.scheduler.on_trial_add(trial=trial)
        self.status.update({number: (trial, Status.in_progress)}, [])
        rate, clip = self._setting(trial)
        return Proposal(number=number, learning_rate=rate, clip=clip)

    def begin(self, proposal: Proposal, course: Course) -> None:
        """Nothing: Syne Tune's tuner tells nobody."""

    def report(self, proposal: Proposal, report: Report, *, is_last: bool) -> bool:
        if report.evaluation is None:
            return True
        trial = self._trials[proposal.number]
        reported = self.status.trial_metric_statistics[trial.trial_id].count
        result: dict[str, Any] = {SCORE: report.evaluation.score_ema, EPOCH: reported + 1}
        decision = self.scheduler.on_trial_result(trial=trial, result=result)
        status = Status.completed if is_last else Status.in_progress
        if decision == SchedulerDecision.STOP:
            status = Status.completed if is_last else Status.stopped
            self.scheduler.on_trial_remove(trial=trial)
        elif is_last:
            self.scheduler.on_trial_complete(trial=trial, result=result)
        self.status.update({trial.trial_id: (trial, status)}, [(trial.trial_id, result)])
        return decision == SchedulerDecision.CONTINUE

    def answer(self) -> tuple[float, Clip] | None:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints all trials
            found = print_best_metric_found(self.status, [SCORE], "min")
        return None if found is None else self._setting(self._trials[found[0]])

    def _setting(self, trial: Trial) -> tuple[float, Clip]:
        return trial.config["learning_rate"], self._clips[trial.config["max_grad_norm"]]
