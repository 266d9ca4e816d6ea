"""Optuna: ask, report, should_prune, tell, as ``Study.optimize`` does it.

A trial that is pruned is told as PRUNED, one whose last score is NaN as FAIL, and the best trial
is ``Study.best_trial``: the lowest value of those that completed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from benchmarks.answer.blackbox import Blackbox, Course
from benchmarks.answer.virtual import NoTrial, Proposal
from benchmarks.truth.grids import Clip
from stabsearch.records import Report

MakePruner = Callable[[int], BasePruner]
"""From the number of evaluations of a trial."""


class Optuna:
    """A sampler, and a pruner that is asked at every evaluation."""

    def __init__(
        self,
        blackbox: Blackbox,
        trials: int,
        seed: int,
        make_sampler: Callable[[int], BaseSampler],
        make_pruner: MakePruner,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        low, high = blackbox.rate_range
        self._distributions = {
            "learning_rate": FloatDistribution(low, high, log=True),
            "max_grad_norm": CategoricalDistribution(blackbox.clips),
        }
        self.study = optuna.create_study(
            study_name=f"repetition {seed}",  # Hyperband's brackets hang on the name
            sampler=make_sampler(seed),
            pruner=make_pruner(len(blackbox.evaluation_steps)),
        )
        self._n_trials = trials
        self._trials: list[optuna.Trial] = []
        self._evaluations: list[int] = []

    def propose(self) -> Proposal | NoTrial:
        if len(self._trials) == self._n_trials:
            return NoTrial.FINISHED
        trial = self.study.ask(self._distributions)
        self._trials.append(trial)
        self._evaluations.append(0)
        return Proposal(
            number=trial.number,
            learning_rate=trial.params["learning_rate"],
            clip=trial.params["max_grad_norm"],
        )

    def begin(self, proposal: Proposal, course: Course) -> None:
        """Nothing: ``ask`` has begun it."""

    def report(self, proposal: Proposal, report: Report, *, is_last: bool) -> bool:
        if report.evaluation is None:
            return True
        trial = self._trials[proposal.number]
        # "Note that pruners assume that step starts at zero" (Trial.report).
        trial.report(report.evaluation.score_ema, self._evaluations[proposal.number])
        self._evaluations[proposal.number] += 1
        if trial.should_prune():
            self.study.tell(trial, state=TrialState.PRUNED)
            return False
        if is_last:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # one for every NaN: it is a FAIL
                self.study.tell(trial, report.evaluation.score_ema)
        return True

    def answer(self) -> tuple[float, Clip] | None:
        if not self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            return None
        params = self.study.best_trial.params
        return params["learning_rate"], params["max_grad_norm"]
