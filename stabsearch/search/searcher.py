"""Proposes settings with Optuna, and tells it what became of them.

What Optuna is told decides where it goes next (docs/decisions.md):

    stable              COMPLETE, its score, constraint 0
    unstable            COMPLETE, a penalty above every score, constraint > 0
    not learning        COMPLETE, its (bad) score, constraint 0: it is not beyond the edge
    stopped by rank     PRUNED, its scores as intermediate values
    failed              FAIL: says nothing about the setting
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray.tune.search import Searcher

from stabsearch.records import Outcome, Params, Severity, StoppedBy, TrialRecord
from stabsearch.search.guard import guarded
from stabsearch.search.ledger import Ledger, LiveTrial, make_trial_id
from stabsearch.spec import Choice, IntRange, LogUniform, SearcherSpec, StudySpec, Uniform

CONSTRAINT = "instability"
PENALTY_RATIO = 2.0
"""An unstable setting is told as this many times the score of a dead network."""

SAMPLERS: dict[str, Callable[[SearcherSpec, int], BaseSampler]] = {
    "tpe": lambda spec, seed: TPESampler(
        seed=seed, n_startup_trials=spec.startup_trials, multivariate=True
    ),
    "random": lambda spec, seed: RandomSampler(seed=seed),  # noqa: ARG005
}


def make_sampler(spec: SearcherSpec, setting: int) -> BaseSampler:
    """A sampler for one proposal.

    Seeded by the study's seed and the setting's number, so that a proposal depends on what has
    been told so far and not on the process that makes it: a resumed study goes on as the
    uninterrupted one would have.
    """
    seed = int(np.random.SeedSequence([spec.seed, setting]).generate_state(1)[0])
    return SAMPLERS[spec.name](spec, seed)


@dataclass(slots=True)
class Setting:
    """A proposed setting: one Optuna trial, one Ray trial per seed."""

    number: int
    trial: optuna.Trial
    params: Params
    num_open: int
    """Replicates that have no outcome yet."""


class SettingSearcher(Searcher):  # type: ignore[misc]
    """An Optuna study behind Ray Tune's searcher interface."""

    def __init__(
        self,
        spec: StudySpec,
        ledger: Ledger,
        distributions: dict[str, BaseDistribution],
        journal: Path,
        make_config: Callable[[LiveTrial], dict[str, Any]],
        max_concurrent: int,
    ) -> None:
        super().__init__(metric=None, mode=None)
        self.ledger = ledger
        self._spec = spec
        self._distributions = distributions
        self._make_config = make_config
        self._max_concurrent = max_concurrent
        self._study = optuna.create_study(study_name=spec.name)
        self._mirror = _fresh_mirror(spec.name, journal)
        self._settings: dict[int, Setting] = {}
        self._waiting: list[str] = []
        """Replicates that are proposed and not yet started."""
        self._num_proposed = 0
        self._our_id: dict[str, str] = {}
        """Ray's trial id -> ours, of trials in flight."""

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles its searcher for a restore that we never use."""
        return {}

    def restore_settings(
        self,
        finished: Sequence[TrialRecord],
        failed: Sequence[TrialRecord],
        unfinished: Sequence[LiveTrial],
    ) -> None:
        """Rebuild the Optuna study from the files of an earlier run, in the order of proposal.

        What failed gets another chance, with the params that it had.
        """
        known = {trial.setting: trial.params for trial in unfinished}
        known |= {record.setting: record.params for record in [*finished, *failed]}
        done = {record.trial_id for record in finished}
        started = {trial.trial_id: trial for trial in unfinished}
        for number in range(max(known, default=-1) + 1):
            # A setting that no file knows was proposed and never begun: it is proposed again.
            self._add_setting(number, known.get(number))
            for seed in range(self._spec.seeds):
                trial_id = make_trial_id(number, seed)
                if trial_id in done:
                    self._settings[number].num_open -= 1
                else:
                    self._queue(started.get(trial_id) or self._new_trial(number, seed))
            self._tell_if_complete(number)
        self._num_proposed = max(known, default=-1) + 1

    @guarded(Searcher.FINISHED)
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next replicate; None while all workers are busy."""
        if len(self._our_id) >= self._max_concurrent:
            return None
        if not self._waiting:
            if self._num_proposed >= self._spec.trials:
                return str(Searcher.FINISHED)
            self._propose()
        our_id = self._waiting.pop(0)
        self._our_id[trial_id] = our_id
        self.ledger.await_start(our_id)
        live = self.ledger.live(our_id)
        config: dict[str, Any] = self._make_config(live)
        return config

    @guarded(None)
    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        del result  # the ledger knows
        our_id = self._our_id.pop(trial_id)
        if error and self.ledger.is_live(our_id):
            attempts = self.ledger.live(our_id).attempts
            self.ledger.end(
                our_id,
                Outcome.FAILED,
                reason=f"its worker was lost; it had been started {attempts} times",
            )
        if self.ledger.is_live(our_id):
            return  # the study is being stopped
        setting = self._settings[self.ledger.record(our_id).setting]
        setting.num_open -= 1
        self._tell_if_complete(setting.number)

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Slots are counted here: a lost one would hang Ray's own limiter."""
        del max_concurrent
        return True

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is rebuilt from the results."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the study is rebuilt from the results."""

    def _propose(self) -> None:
        number = self._num_proposed
        self._add_setting(number, None)
        for seed in range(self._spec.seeds):
            self._queue(self._new_trial(number, seed))
        self._num_proposed += 1

    def _add_setting(self, number: int, params: Params | None) -> None:
        """Open an Optuna trial, with given params or with the sampler's."""
        if params is not None:
            self._study.enqueue_trial({name: params[name] for name in self._distributions})
        self._study.sampler = make_sampler(self._spec.searcher, number)
        trial = self._study.ask(self._distributions)
        trial.set_user_attr("setting", number)
        in_order = {name: trial.params[name] for name in self._distributions}
        self._settings[number] = Setting(number, trial, in_order, self._spec.seeds)

    def _new_trial(self, number: int, seed: int) -> LiveTrial:
        params = self._settings[number].params
        return LiveTrial(
            trial_id=make_trial_id(number, seed),
            setting=number,
            seed=seed,
            params=params,
            max_train_steps=self._spec.trainer_for(params).max_train_steps,
            peer_kind=self._spec.peer_kind(params),
        )

    def _queue(self, trial: LiveTrial) -> None:
        self.ledger.add(trial)
        self._waiting.append(trial.trial_id)

    def _worst_constant_score(self, records: Sequence[TrialRecord]) -> float:
        known = [r.constant_score for r in [*self.ledger.finished(), *records]]
        return max((score for score in known if score is not None), default=1.0)

    def _tell_if_complete(self, number: int) -> None:
        setting = self._settings[number]
        if setting.num_open > 0:
            return
        records = [
            self.ledger.record(make_trial_id(number, seed)) for seed in range(self._spec.seeds)
        ]
        tell(self._study, setting.trial, records, self._worst_constant_score(records))
        self._mirror.add_trial(self._study.trials[setting.trial.number])
        del self._settings[number]


def tell(
    study: optuna.Study,
    trial: optuna.Trial,
    records: Sequence[TrialRecord],
    worst_constant_score: float,
) -> None:
    """Tell Optuna what became of a setting, given the records of all its replicates.

    ``worst_constant_score`` is the largest score of a dead network that the study has seen: it
    differs between trials only if the data, the schedule or the prediction type is searched.
    """
    worst = max(records, key=lambda r: (instability(r), r.score or 0.0))
    trial.set_user_attr("outcome", [str(record.outcome) for record in records])
    trial.set_user_attr("trial_ids", [record.trial_id for record in records])
    for name in ("rule", "symptom", "reason", "verdict_step"):
        trial.set_user_attr(name, getattr(worst, name))
    usable = [record for record in records if record.outcome is not Outcome.FAILED]
    if not usable:
        study.tell(trial, state=TrialState.FAIL)
        return
    # The worst seed counts: a mean would hide a seed that went wrong.
    worst_score = max(_bounded_score(record) for record in usable)
    share = sum(instability(record) for record in usable) / len(usable)
    trial.set_constraint(CONSTRAINT, share)
    if share > 0:
        study.tell(trial, PENALTY_RATIO * worst_constant_score)
    elif any(record.stopped_by is StoppedBy.RANK for record in usable):
        # TPE ranks PRUNED trials by step, then value: the worst seed at the earliest stop counts.
        trial.report(worst_score, min(record.steps for record in usable))
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, worst_score)


def instability(record: TrialRecord) -> float:
    """Constraint of one trial: 0 if it is not unstable, more the earlier it had to be stopped.

    A penalised trial that lived to the end counts 0.5, one stopped at the very start nearly 2.
    """
    if not record.is_unstable:
        return 0.0
    if record.severity < Severity.PRUNE:
        return 0.5
    return 2.0 - record.steps / record.max_train_steps


def _bounded_score(record: TrialRecord) -> float:
    worst = record.constant_score or 1.0
    return worst if record.score is None else min(record.score, worst)


def _fresh_mirror(name: str, journal: Path) -> optuna.Study:
    """A copy of the study that optuna-dashboard opens; rebuilt at every start."""
    for file in (journal, journal.with_name(journal.name + ".lock")):
        file.unlink(missing_ok=True)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    return optuna.create_study(study_name=name, storage=storage)


DISTRIBUTIONS: dict[type, Callable[[Any], BaseDistribution]] = {
    LogUniform: lambda domain: FloatDistribution(domain.low, domain.high, log=True),
    Uniform: lambda domain: FloatDistribution(domain.low, domain.high),
    IntRange: lambda domain: IntDistribution(domain.low, domain.high, log=domain.log),
    Choice: lambda domain: CategoricalDistribution(domain.choice),
}


def distributions_for(spec: StudySpec) -> dict[str, BaseDistribution]:
    """The searched domains in Optuna's terms."""
    return {name: DISTRIBUTIONS[type(domain)](domain) for name, domain in spec.searched().items()}
