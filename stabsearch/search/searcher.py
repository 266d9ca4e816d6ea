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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray.tune.search import Searcher

from stabsearch.recommend.confirm import planned_trials
from stabsearch.records import Outcome, Purpose, Severity, StoppedBy, TrialRecord
from stabsearch.search.guard import guarded
from stabsearch.search.ledger import Ledger, LiveTrial, make_trial_id
from stabsearch.search.samplers import GivenSampler, make_sampler
from stabsearch.search.strategies import make_strategy
from stabsearch.search.strategy import (
    Length,
    Pause,
    Proposal,
    left_behind,
    look_steps,
    next_step,
    trial_end,
)
from stabsearch.spec import StudySpec

CONSTRAINT = "instability"
PENALTY_RATIO = 2.0
"""An unstable setting is told as this many times the score of a dead network."""

UNFINISHED = (StoppedBy.RANK, StoppedBy.GAUGE, StoppedBy.PROBE)
"""Who stops a stable trial early: its score is that of a shorter training."""


@dataclass(slots=True)
class Setting:
    """A proposed setting: one Optuna trial, one Ray trial per seed."""

    number: int
    trial: optuna.Trial
    proposal: Proposal
    """With the params that it got."""
    num_open: int
    """Replicates that have no outcome yet."""


class SettingSearcher(Searcher):  # type: ignore[misc]
    """A strategy and an Optuna study behind Ray Tune's searcher interface.

    First the search, as long as the strategy has proposals; when the last of its trials has ended,
    the confirmation of the answer, round by round.
    """

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
        self._resolved = spec.model_dump(mode="json")
        self._strategy = make_strategy(spec)
        self._distributions = distributions
        self._make_config = make_config
        self._max_concurrent = max_concurrent
        self._study = optuna.create_study(study_name=spec.name)
        self._mirror = _fresh_mirror(spec.name, journal)
        self._settings: dict[int, Setting] = {}
        """Settings of the search with replicates that have no outcome yet."""
        self._waiting: list[str] = []
        """Replicates that are proposed and not yet started."""
        self._num_proposed = 0
        """Settings of the search so far."""
        self._next_number = 0
        self._num_continued = 0
        """Times that short trials went on."""
        self._pause: tuple[tuple[int, ...], Pause] | None = None
        """What the strategy said last, if it had no proposal, and the state in which it said so:
        Ray asks again many times a second."""
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
        everything: list[TrialRecord | LiveTrial] = [*finished, *failed, *unfinished]
        done = {record.trial_id for record in finished}
        proposed = [*finished, *failed, *(_as_if_ended(trial) for trial in unfinished)]
        behind = left_behind(proposed)
        started = {trial.trial_id: trial for trial in unfinished}
        # A confirmation adds seeds to a setting of the search, whose own purpose counts; of
        # replicates that go on some may not have begun to.
        known = {t.setting: self._proposal_of(t) for t in sorted(everything, key=_reach)}
        self._next_number = max(known, default=-1) + 1
        begun: list[TrialRecord | LiveTrial] = [*failed, *unfinished]
        open_settings = {trial.setting for trial in begun if trial.purpose.is_search}
        for number in range(self._next_number):
            # A setting that no file knows was proposed and never begun: it is proposed again.
            later = [known[n] for n in known if n > number and n in open_settings]
            proposal = known.get(number) or self._decide_anew(later)
            if proposal is None or not proposal.purpose.is_search:
                continue
            self._add_setting(number, proposal)
            self._num_proposed += 1
            for seed in range(self._spec.seeds):
                trial_id = make_trial_id(number, seed)
                if trial_id not in done:
                    self._queue(started.get(trial_id) or self._new_trial(number, seed))
                elif trial_id in behind:
                    self._continue(self._new_trial(number, seed))
                else:
                    self._settings[number].num_open -= 1
            self._tell_if_complete(number)
        for trial in unfinished:
            if not trial.purpose.is_search and not self.ledger.is_live(trial.trial_id):
                self._queue(trial)

    @guarded(Searcher.FINISHED)
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next replicate; None while all workers are busy, or a result must come first."""
        if len(self._our_id) >= self._max_concurrent:
            return None
        if not self._waiting and not self._extend():
            return None if self._our_id else str(Searcher.FINISHED)
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
        record = self.ledger.record(our_id)
        if record.setting in self._settings and record.seed < self._spec.seeds:
            self._settings[record.setting].num_open -= 1
            self._tell_if_complete(record.setting)

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Slots are counted here: a lost one would hang Ray's own limiter."""
        del max_concurrent
        return True

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is rebuilt from the results."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the study is rebuilt from the results."""

    def _extend(self) -> bool:
        """Queue what comes next; whether there is anything."""
        training = [self.ledger.live(i) for i in self._our_id.values() if self.ledger.is_live(i)]
        if any(not trial.purpose.is_search for trial in training):
            return False  # a round of the confirmation decides first where the search goes
        proposal = self._decide()
        if isinstance(proposal, Proposal):
            self._propose(proposal)
        elif proposal is Pause.DONE and not self._our_id:
            self._confirm()
            self.ledger.is_over = not self._waiting
        return bool(self._waiting)

    def _decide(self, also: Sequence[Proposal] = ()) -> Proposal | Pause:
        """``also``: proposals under way that have no Optuna trial yet."""
        state = (
            len(self.ledger.finished()),
            self._num_proposed,
            self._num_continued,
            len(self._settings),
        )
        if self._pause is not None and self._pause[0] == state:
            return self._pause[1]
        under_way = [*(setting.proposal for setting in self._settings.values()), *also]
        # One that failed while it went on says what a short trial says, and does not go on again.
        known = (*self.ledger.finished(), *self.ledger.lost())
        ended = [r for r in known if r.setting not in self._settings]
        ended += self.ledger.as_they_were()
        proposal = next_step(self._spec, self._strategy, ended, under_way, self._num_proposed)
        self._pause = (state, proposal) if isinstance(proposal, Pause) else None
        return proposal

    def _decide_anew(self, later: Sequence[Proposal]) -> Proposal | None:
        """For a number that no file knows. That a short trial is to go on is no setting's number,
        and is decided again when the study runs."""
        proposal = self._decide(later)
        return None if isinstance(proposal, Pause) or proposal.goes_on is not None else proposal

    def _proposal_of(self, trial: TrialRecord | LiveTrial) -> Proposal:
        """What a trial on file was proposed as."""
        is_continued = isinstance(trial, LiveTrial) and trial.went_on_at is not None
        plain = Proposal(
            params=trial.params,
            purpose=trial.purpose,
            goes_on=trial.setting if is_continued else None,
        )
        if trial.purpose is not Purpose.PROBE:
            return plain
        trainer = self._spec.trainer_for(trial.params)
        # One that was stopped for what it did, or failed, did not come to its end.
        steps = (trial.stop_at if isinstance(trial, LiveTrial) else trial.steps) or 0
        ends = ((each, trial_end(self._spec, trainer, each)) for each in Length)
        length = next(each for each, end in ends if end is None or end >= steps)
        return replace(plain, length=length)

    def _propose(self, proposal: Proposal) -> None:
        if proposal.goes_on is not None:
            self._let_go_on(proposal.goes_on, proposal)
            return
        number = self._next_number
        self._next_number += 1
        self._add_setting(number, proposal)
        self._num_proposed += 1
        for seed in range(self._spec.seeds):
            self._queue(self._new_trial(number, seed))

    def _let_go_on(self, number: int, proposal: Proposal) -> None:
        """To Optuna it is one more trial with the same params: what was told is told."""
        self._num_continued += 1
        self._add_setting(number, proposal)
        for seed in range(self._spec.seeds):
            self._continue(self._new_trial(number, seed))

    def _confirm(self) -> None:
        """Queue a round of the confirmation, if one is due. Optuna is not told: its space may end
        below the rate of a stress test."""
        lost = {record.trial_id for record in self.ledger.lost()}
        for planned in planned_trials(self.ledger.finished(), self._resolved):
            if make_trial_id(planned.setting, planned.seed) in lost:
                continue  # a seed of the search: the next run lets it go on
            self._next_number = max(self._next_number, planned.setting + 1)
            proposal = Proposal(params=planned.params, purpose=planned.purpose)
            self._queue(self._trial(planned.setting, planned.seed, proposal))

    def _add_setting(self, number: int, proposal: Proposal) -> None:
        """Open an Optuna trial, with given params or with the sampler's."""
        params, ordinal = proposal.params, self._num_proposed
        self._study.sampler = (
            make_sampler(self._spec.searcher, ordinal)
            if params is None
            else GivenSampler({name: params[name] for name in self._distributions})
        )
        trial = self._study.ask(self._distributions)
        trial.set_user_attr("setting", number)
        trial.set_user_attr("purpose", proposal.purpose.value)
        in_order = {name: trial.params[name] for name in self._distributions}
        self._settings[number] = Setting(
            number, trial, replace(proposal, params=in_order), self._spec.seeds
        )

    def _new_trial(self, number: int, seed: int) -> LiveTrial:
        return self._trial(number, seed, self._settings[number].proposal)

    def _trial(self, number: int, seed: int, proposal: Proposal) -> LiveTrial:
        params = proposal.params
        assert params is not None
        trainer = self._spec.trainer_for(params)
        is_short = proposal.purpose is Purpose.PROBE
        return LiveTrial(
            trial_id=make_trial_id(number, seed),
            setting=number,
            seed=seed,
            params=params,
            max_train_steps=trainer.max_train_steps,
            purpose=proposal.purpose,
            stop_at=trial_end(self._spec, trainer, proposal.length) if is_short else None,
            look_steps=look_steps(self._spec, trainer),
            peer_kind=self._spec.peer_kind(params),
        )

    def _queue(self, trial: LiveTrial) -> None:
        self.ledger.add(trial)
        self._waiting.append(trial.trial_id)

    def _continue(self, trial: LiveTrial) -> None:
        self.ledger.go_on(trial)
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
    elif any(record.stopped_by in UNFINISHED for record in usable):
        # TPE ranks PRUNED trials by step, then value: the worst seed at the earliest stop counts.
        trial.report(worst_score, min(record.steps for record in usable))
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, worst_score)


def _as_if_ended(trial: LiveTrial) -> TrialRecord:
    """An unfinished trial, as far as it was to go."""
    return replace(trial.record(), steps=trial.stop_at or trial.max_train_steps)


def _reach(trial: TrialRecord | LiveTrial) -> tuple[bool, bool, int]:
    """Of the trials of a setting the one that says most of what it was proposed as is the
    greatest: one of the search, to the end, or the longest."""
    steps = trial.stop_at if isinstance(trial, LiveTrial) else trial.steps
    return trial.purpose.is_search, trial.purpose is Purpose.SEARCH, steps or 0


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
