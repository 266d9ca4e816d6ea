"""stabsearch itself: its searcher, gate, ledger, store, judge and recommendation.

Only the trainer is replaced: a trial's reports are the stored ones, judged where
``search/trainable.py`` judges them. Everything else is what ``search/study.py`` puts together,
called in Ray's order, with packets of one report each.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from benchmarks.answer.blackbox import Blackbox, Course
from benchmarks.answer.virtual import WORKERS, NoTrial, Proposal
from benchmarks.truth.grids import Clip
from stabsearch.recommend.pick import recommend
from stabsearch.records import Edge, Recommendation, Report, TrialFacts
from stabsearch.results.frames import load
from stabsearch.results.store import StudyStore
from stabsearch.search.ledger import Ledger
from stabsearch.search.observer import StudyObserver
from stabsearch.search.packet import PACKET_KEY, STEP_KEY, Packet
from stabsearch.search.sampler_checks import SamplerChecks
from stabsearch.search.samplers import distributions_for
from stabsearch.search.scheduler import StabilityGate
from stabsearch.search.searcher import SettingSearcher
from stabsearch.search.study import trial_config
from stabsearch.spec import StudySpec
from stabsearch.stability.judge import Judge
from stabsearch.stability.judges import make_judge


def study_of(
    blackbox: Blackbox, trials: int, seed: int, strategy: Mapping[str, Any], storage: Path
) -> StudySpec:
    """The study that searches a grid's task. ``strategy``: fields of the study file that say how,
    such as ``{"searcher": {"name": "tpe"}}``."""
    searcher = {**strategy.get("searcher", {}), "seed": seed}
    return StudySpec.model_validate(
        {
            "name": f"{blackbox.grid.name}_{seed}",
            "space": {
                "learning_rate": {"log_uniform": list(blackbox.rate_range)},
                "max_grad_norm": {"choice": list(blackbox.clips)},
            },
            "trainer": blackbox.grid.trainer,
            "trials": trials,
            "storage": str(storage),
            **strategy,
            "searcher": searcher,
        }
    )


@dataclass(frozen=True, slots=True)
class RayTrial:
    """What the gate sees of a trial of Ray's."""

    trial_id: str
    config: dict[str, Any]


@dataclass(slots=True)
class Running:
    """A trial that a virtual worker trains."""

    trial: RayTrial
    judge: Judge | None = None
    facts: TrialFacts | None = None


class Stabsearch:
    """A study in a temporary folder, which is removed when it has answered."""

    def __init__(
        self,
        blackbox: Blackbox,
        trials: int,
        seed: int,
        strategy: Mapping[str, Any],
        workers: int = WORKERS,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # as a study does
        self._folder = Path(tempfile.mkdtemp(prefix="stabsearch-answer-"))
        self._spec = spec = study_of(blackbox, trials, seed, strategy, self._folder)
        self._store = StudyStore(spec.path)
        study, fingerprint = spec.model_dump(mode="json"), spec.fingerprint()
        self._store.create(study, fingerprint)
        self._store.take_over(study, fingerprint)
        self.ledger = Ledger(self._store, StudyObserver())
        self.gate = StabilityGate(spec.scheduler, spec.longest_trial, self.ledger)
        self.searcher = SettingSearcher(
            spec,
            self.ledger,
            distributions_for(spec),
            self._store.path / "optuna.journal",
            lambda trial: trial_config(
                spec, self._store, trial, self.ledger.peers, SamplerChecks()
            ),
            workers,
        )
        self._running: dict[Proposal, Running] = {}
        self._num_asked = 0
        self.recommendation: Recommendation | None = None
        """What the study answered, when it has."""

    def propose(self) -> Proposal | NoTrial:
        ray_id = f"{self._num_asked:05d}"
        config = self.searcher.suggest(ray_id)
        self._raise_what_was_caught()
        if config is None:
            return NoTrial.WAIT
        if not isinstance(config, dict):
            assert config == Searcher.FINISHED
            return NoTrial.FINISHED
        self._num_asked += 1
        trial = self.ledger.live(config["trial_id"])
        rate, clip = trial.params["learning_rate"], trial.params["max_grad_norm"]
        assert isinstance(rate, float)
        assert clip is None or isinstance(clip, float)
        proposal = Proposal(
            number=trial.setting,
            learning_rate=rate,
            clip=clip,
            replicate=trial.seed,
            first_step=trial.went_on_at or 0,
        )
        self._running[proposal] = Running(RayTrial(ray_id, config))
        return proposal

    def begin(self, proposal: Proposal, course: Course) -> None:
        running = self._running[proposal]
        config = running.trial.config
        self.gate.on_trial_add(None, running.trial)
        self.ledger.begin(config["trial_id"])  # as StudyCallback does
        # As TrialTrainable does.
        running.facts = replace(
            course.facts, reached=config["reached"], sampler_check=config["sampler_check"]
        )
        running.judge = make_judge(config["analyzer"], running.facts)
        for report in course.reports:
            if report.step <= proposal.first_step:
                running.judge.judge(report)  # what the checkpoint of a trial that goes on holds
        self._raise_what_was_caught()

    def report(self, proposal: Proposal, report: Report, *, is_last: bool) -> bool:
        running = self._running[proposal]
        assert running.judge is not None
        packet = Packet(facts=running.facts, reports=(running.judge.judge(report),), is_saved=True)
        result = {PACKET_KEY: packet, STEP_KEY: report.step}
        action = self.gate.on_trial_result(None, running.trial, result)
        self._raise_what_was_caught()
        if action != TrialScheduler.STOP:
            assert not is_last
            return True
        self.gate.on_trial_complete(None, running.trial, result)
        self.searcher.on_trial_complete(running.trial.trial_id, result=result)
        del self._running[proposal]
        self._raise_what_was_caught()
        return False

    def answer(self) -> tuple[float, Clip] | None:
        self.ledger.close()
        self.recommendation = recommend(load(self._spec.path))
        shutil.rmtree(self._folder)
        params = self.recommendation.params
        if params is None:
            return None
        rate, clip = params["learning_rate"], params["max_grad_norm"]
        assert isinstance(rate, float)
        assert clip is None or isinstance(clip, float)
        return rate, clip

    @property
    def edge(self) -> Edge | None:
        """What the answer says of it; None before there is one."""
        return self.recommendation.edge if self.recommendation else None

    def _raise_what_was_caught(self) -> None:
        if self.ledger.fatal is not None:
            raise self.ledger.fatal


def strategy(**fields: Any) -> Callable[[Blackbox, int, int], Stabsearch]:
    """A method of ``replay.METHODS`` from fields of a study file."""
    return lambda blackbox, trials, seed: Stabsearch(blackbox, trials, seed, fields)
