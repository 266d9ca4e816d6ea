"""Ray Tune: OptunaSearch and AsyncHyperBandScheduler, called in the order of its controller.

The order of calls is that of ``TuneController._process_trial_result`` and ``stop_trial`` (Ray
2.60, tune/execution/tune_controller.py), with as many concurrent trials as workers. A trial is
Ray's own ``Trial``, the best one the own ``get_best_trial`` that ``ResultGrid.get_best_result``
asks: the last reported score, NaN and infinity left out.
"""

from __future__ import annotations

import logging
from typing import Any

import optuna
from ray import tune
from ray.tune import ExperimentAnalysis
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from benchmarks.answer.blackbox import Blackbox, Course
from benchmarks.answer.virtual import NoTrial, Proposal
from benchmarks.truth.grids import Clip
from stabsearch.records import Report

SCORE, ITERATION = "score", "training_iteration"


class RayTune:
    """``Tuner(..., TuneConfig(metric="score", mode="min", search_alg=OptunaSearch(),
    scheduler=AsyncHyperBandScheduler(max_t=<evaluations of a trial>), num_samples=32))``."""

    def __init__(self, blackbox: Blackbox, trials: int, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        # It logs a warning for every NaN that it is told.
        logging.getLogger("ray.tune.search.optuna").setLevel(logging.ERROR)
        low, high = blackbox.rate_range
        space = {
            "learning_rate": tune.loguniform(low, high),
            "max_grad_norm": tune.choice(list(blackbox.clips)),
        }
        self.searcher = OptunaSearch(seed=seed)
        self.searcher.set_search_properties(SCORE, "min", space)
        # Stock: time_attr="training_iteration", grace_period=1, reduction_factor=4, brackets=1.
        self.scheduler = AsyncHyperBandScheduler(max_t=len(blackbox.evaluation_steps))
        self.scheduler.set_search_properties(SCORE, "min")
        self._num_samples = trials
        self.trials: list[Trial] = []

    def propose(self) -> Proposal | NoTrial:
        number = len(self.trials)
        if number == self._num_samples:
            return NoTrial.FINISHED
        trial_id = f"{number:05d}"
        config = self.searcher.suggest(trial_id)
        trial = Trial("blackbox", config=config, trial_id=trial_id, stub=True)
        self.trials.append(trial)
        self.scheduler.on_trial_add(None, trial)
        return Proposal(
            number=number, learning_rate=config["learning_rate"], clip=config["max_grad_norm"]
        )

    def begin(self, proposal: Proposal, course: Course) -> None:
        """Nothing: Ray tells neither of them."""

    def report(self, proposal: Proposal, report: Report, *, is_last: bool) -> bool:
        if report.evaluation is None:
            return True
        trial = self.trials[proposal.number]
        result: dict[str, Any] = {
            SCORE: report.evaluation.score_ema,
            ITERATION: trial.last_result.get(ITERATION, 0) + 1,
        }
        stops = self.scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP
        if not stops:
            self.searcher.on_trial_result(trial.trial_id, result)
        trial.update_last_result(result)
        if stops or is_last:
            self.scheduler.on_trial_complete(None, trial, result)
            self.searcher.on_trial_complete(trial.trial_id, result=result)
        return not stops

    def answer(self) -> tuple[float, Clip] | None:
        best = Analysis(self.trials).get_best_trial(SCORE, "min")
        return (
            None if best is None else (best.config["learning_rate"], best.config["max_grad_norm"])
        )


class Analysis(ExperimentAnalysis):
    """Of trials that are here, and not in the files of an experiment."""

    def __init__(self, trials: list[Trial]) -> None:
        self.trials = trials
        self.default_metric = self.default_mode = None
