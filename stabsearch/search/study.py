"""Drives a study: spec in, a folder of results and a recommendation out.

The same call starts a study, resumes one, and returns the answer of a finished one. Ray Tune
schedules the trials; what happened is in our own files, and a restart is rebuilt from them.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stabsearch.cluster.local import RayRuntime, ray_runtime
from stabsearch.errors import EnvironmentProblem, SpecError, StudyAborted, exception_text
from stabsearch.records import Purpose, Recommendation
from stabsearch.results.store import StudyStore
from stabsearch.results.stored_trial import read_trials
from stabsearch.search.ledger import Ledger, LiveTrial
from stabsearch.search.observer import StudyObserver, StudyOverview
from stabsearch.search.peers import Peers
from stabsearch.search.sampler_checks import SamplerChecks, check_study_sampler
from stabsearch.spec import ResourcesSpec, StudySpec
from stabsearch.thresholds import resolve

if TYPE_CHECKING:
    from ray.tune import Tuner

    from stabsearch.diffusion.prepared_data import PreparedData
    from stabsearch.results.frames import Results
    from stabsearch.search.scheduler import StabilityGate
    from stabsearch.search.searcher import SettingSearcher

FAILED_NOTE = "The study is not complete: the same command trains again what failed."


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResult:
    """What a study returns."""

    results: Results
    recommendation: Recommendation
    interrupted: bool
    """Stopped before all trials had ended, in whatever way; the same call resumes."""
    path: Path


def run_study(
    spec: StudySpec, *, address: str | None = None, observer: StudyObserver | None = None
) -> StudyResult:
    """Run or resume a study.

    ``address`` is a Ray cluster to join (``auto`` inside a job); None starts a local Ray, or
    uses the one that this process has already initialised.

    Raises SpecError if the data cannot be loaded or the model does not fit it, EnvironmentProblem
    if the cluster cannot hold a single trial or the storage cannot be written, ResultsError if the
    folder holds another study, ClusterError if the address does not answer, and StudyAborted if
    the trials themselves cannot run. Finished trials stay on disk.
    """
    observer = observer or StudyObserver()
    store = StudyStore(spec.path)
    study, fingerprint = spec.model_dump(mode="json"), spec.fingerprint()
    if store.holds(study, fingerprint):
        ledger = Ledger(store, observer)
        if _is_complete(store, ledger, spec):
            if store.study() != study:  # another horizon, say: its answer is another one
                with _only_driver(spec.path):
                    store.take_over(study, fingerprint)
            ledger.observe_start(_overview(spec, ledger, num_workers=0))
            return _result(spec, ledger, *_answer(spec.path), interrupted=False)
        store.create(study, fingerprint)  # where that cannot be written, Ray need not start
    # Before Ray starts, and not beside it: Ray forks, and a fork while numpy computes in another
    # thread can hang for ever.
    data = prepare_study_data(spec)
    check_model(spec, data)
    sampler_checks = check_study_sampler(spec, data)
    # Ray takes more than a second to end: time enough for the answer.
    with ThreadPoolExecutor(1) as beside:
        with ray_runtime(address) as runtime:
            ledger = _run_trials(spec, store, observer, runtime, data, sampler_checks)
            answer = beside.submit(_answer, spec.path)
        results, recommendation = answer.result()
        is_complete = _is_complete(store, ledger, spec)
        if is_complete:
            store.drop_checkpoints()  # short trials had theirs kept, to go on from
        elif ledger.is_over:
            recommendation = replace(recommendation, notes=(*recommendation.notes, FAILED_NOTE))
        interrupted = not (is_complete or ledger.is_over)
        return _result(spec, ledger, results, recommendation, interrupted=interrupted)


def _run_trials(
    spec: StudySpec,
    store: StudyStore,
    observer: StudyObserver,
    runtime: RayRuntime,
    data: PreparedData,
    sampler_checks: SamplerChecks,
) -> Ledger:
    """Train what is not finished; on return every file is complete."""
    num_workers = count_workers(spec.resources, runtime)
    study, fingerprint = spec.model_dump(mode="json"), spec.fingerprint()
    store.create(study, fingerprint)
    with _only_driver(spec.path):
        store.take_over(study, fingerprint)
        ledger = Ledger(store, observer)
        ledger.observe_start(_overview(spec, ledger, num_workers, sampler_checks))
        if not _is_complete(store, ledger, spec):
            _search(spec, store, ledger, num_workers, data, sampler_checks)
    return ledger


def _is_complete(store: StudyStore, ledger: Ledger, spec: StudySpec) -> bool:
    """Whether the next run has nothing to train. To it what failed is missing."""
    begun = (store.read_journal(trial_id) for trial_id in store.unfinished_trial_ids())
    ended = [record for record in ledger.finished() if record.has_result]
    if not ended or any(journal.started for journal in begun):
        return False
    # Imported here: what it fits to the trials takes scikit-learn, which a new study can wait for.
    from stabsearch.search.strategies import make_strategy
    from stabsearch.search.strategy import is_complete

    return is_complete(spec, make_strategy(spec), ended)


def _overview(
    spec: StudySpec,
    ledger: Ledger,
    num_workers: int,
    sampler_checks: SamplerChecks | None = None,
) -> StudyOverview:
    limits = resolve(spec.analyzer.preset, spec.analyzer.thresholds)
    finished = ledger.finished()
    # A file may ask for fewer trials than an extended study has.
    settings = {record.setting for record in finished if record.purpose.is_search}
    num_trials = max(spec.trials, len(settings)) * spec.seeds
    return StudyOverview(
        name=spec.name,
        path=spec.path,
        num_trials=num_trials,
        is_open_ended=spec.stop_when is not None or spec.confirm is not None,
        num_workers=min(num_workers, num_trials),
        max_train_steps=spec.longest_trial,
        finished=tuple(finished),
        param_names=tuple(spec.searched()),
        sampler=sampler_checks.sentences(limits) if sampler_checks else (),
    )


def _result(
    spec: StudySpec,
    ledger: Ledger,
    results: Results,
    recommendation: Recommendation,
    *,
    interrupted: bool,
) -> StudyResult:
    ledger.observe_end(recommendation, interrupted=interrupted)
    return StudyResult(
        results=results,
        recommendation=recommendation,
        interrupted=interrupted,
        path=spec.path,
    )


def _answer(path: Path) -> tuple[Results, Recommendation]:
    # Imported when the trials are done: scikit-learn would cost a second before the first one.
    from stabsearch.recommend.pick import recommend
    from stabsearch.results.frames import load

    results = load(path)
    return results, recommend(results)


def count_workers(resources: ResourcesSpec, runtime: RayRuntime) -> int:
    """Trials that fit the cluster at the same time. A trial must fit one node.

    Raises EnvironmentProblem if not even one does.
    """
    where = "this machine has" if runtime.is_local else "no node of the cluster has more than"
    asked = {"cpus": resources.cpus, "gpus": resources.gpus}
    for name, per_trial in asked.items():
        largest = max(getattr(node, name) for node in runtime.nodes)
        if per_trial > largest:
            raise EnvironmentProblem(
                f"resources.{name}: {per_trial:g} for a trial, but {where} {largest:g}. "
                f"Lower resources.{name}, or run on a cluster that has them (--address)."
            )
    fits = sum(
        min(
            int(getattr(node, name) / per_trial + 1e-9)
            for name, per_trial in asked.items()
            if per_trial > 0
        )
        for node in runtime.nodes
    )
    if fits == 0:
        raise EnvironmentProblem(
            f"resources: no single node of the cluster has {resources.cpus:g} CPUs and "
            f"{resources.gpus:g} GPUs. Lower one of them, or add such a node."
        )
    return min(fits, resources.workers or fits)


def prepare_study_data(spec: StudySpec) -> PreparedData:
    """Load the study's data, once for all trials.

    Raises SpecError if it cannot be loaded, whatever was raised.
    """
    from stabsearch.diffusion.prepared_data import prepare_data

    try:
        return prepare_data(spec.trainer_for({}).data)
    except (ValueError, OSError) as error:
        raise SpecError(f"trainer.data: {error}") from error
    except (Exception, SystemExit) as error:  # of the libraries that read it
        raise SpecError(
            f"trainer.data: loading the data raised {exception_text(error)}. Correct its fields, "
            "or the files that they name."
        ) from error


ANY_DATA_MODELS = {"mlp"}
"""Built-in models that take examples of any shape; their fields were checked with the study."""


def check_model(spec: StudySpec, data: PreparedData) -> None:
    """Build the study's model here and call it once: its mistakes need no worker to be found.

    Raises SpecError if it cannot be built, or is no denoiser of these examples.
    """
    domain = spec.searched().get("model.name")
    names = domain.probes() if domain else [spec.trainer_for({}).model.name]
    if ANY_DATA_MODELS.issuperset(names):
        return  # the import of torch takes two seconds
    from stabsearch.training.model_check import check_study_model

    check_study_model(spec, data)


def _search(
    spec: StudySpec,
    store: StudyStore,
    ledger: Ledger,
    num_workers: int,
    data: PreparedData,
    sampler_checks: SamplerChecks,
) -> None:
    """Let Ray Tune run every trial that is not finished."""
    # Ray and Optuna are imported here so that importing this module, for its types, stays light.
    import optuna
    from ray.tune.error import TuneError

    from stabsearch.search.samplers import distributions_for
    from stabsearch.search.scheduler import StabilityGate
    from stabsearch.search.searcher import SettingSearcher

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # Ray logs a page for every lost worker; the trial's attempts and its outcome say it in words.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    gate = StabilityGate(
        spec.scheduler,
        spec.longest_trial,
        ledger,
        spares_whole=spec.searcher.name == "boundary",
    )
    searcher = SettingSearcher(
        spec,
        ledger,
        distributions_for(spec),
        store.path / "optuna.journal",
        lambda trial: trial_config(spec, store, trial, ledger.peers, sampler_checks),
        num_workers,
    )
    _rebuild(spec, store, ledger, gate, searcher)
    with _scratch_folder() as scratch:
        tuner = _tuner(spec, ledger, gate, searcher, data, num_workers, scratch)
        try:
            tuner.fit()
        except TuneError as error:
            ledger.fatal = ledger.fatal or error
        finally:
            ledger.close()
    if ledger.fatal is not None:
        raise StudyAborted(_abort_text(ledger.fatal, store.path)) from ledger.fatal


def _tuner(
    spec: StudySpec,
    ledger: Ledger,
    gate: StabilityGate,
    searcher: SettingSearcher,
    data: PreparedData,
    num_workers: int,
    scratch: str,
) -> Tuner:
    """Ray Tune, told to leave the search, the stopping and the files to us."""
    from ray import tune
    from ray.tune.execution.placement_groups import PlacementGroupFactory

    from stabsearch.search.scheduler import AbortStopper, SilentReporter, StudyCallback
    from stabsearch.search.trainable import TrialTrainable

    resources = PlacementGroupFactory([{"CPU": spec.resources.cpus, "GPU": spec.resources.gpus}])
    return tune.Tuner(
        tune.with_resources(tune.with_parameters(TrialTrainable, data=data), resources),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=gate,
            num_samples=-1,  # the searcher says when it has no more
            reuse_actors=True,
            max_concurrent_trials=num_workers,
        ),
        run_config=tune.RunConfig(
            name=spec.name,
            storage_path=scratch,
            verbose=0,
            progress_reporter=SilentReporter(),
            stop=AbortStopper(ledger),
            callbacks=[StudyCallback(ledger)],
            failure_config=tune.FailureConfig(max_failures=spec.resources.max_failures),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )


def _abort_text(fatal: Exception, path: Path) -> str:
    return (
        f"the study stopped: {str(fatal) or type(fatal).__name__}\n"
        f"Finished trials are in {path}. If the mistake was in your code, mend it and run the "
        "same command to go on. If the study file has to be changed, give the study another "
        "`name:` as well, or delete that folder: its trials are those of the old file."
    )


def _rebuild(
    spec: StudySpec,
    store: StudyStore,
    ledger: Ledger,
    gate: StabilityGate,
    searcher: SettingSearcher,
) -> None:
    """Bring a new gate and searcher to where an earlier run left them, from the files."""
    unfinished = _unfinished(spec, store)
    open_ids = {trial.trial_id for trial in unfinished}
    ended = (record for record in ledger.finished() if record.trial_id not in open_ids)
    finished = sorted(ended, key=lambda record: record.ended_at or 0.0)
    for record in finished:
        if record.constant_score is not None:
            if record.purpose.is_search:
                gate.replay_ended(record, store.score_history(record.trial_id))
            ledger.peers.add(
                spec.peer_kind(record.params),
                store.trial_facts(record.trial_id),
                store.trial_reports(record.trial_id),
            )
    for trial in unfinished:
        if trial.purpose.is_search:
            gate.replay(trial.trial_id, trial.scores(), trial.worst_score())
        if trial.before is not None and trial.before.facts is not None:
            ledger.peers.add(trial.peer_kind, trial.before.facts, trial.before.reports)
    searcher.restore_settings(finished, ledger.failed(), unfinished)


def trial_config(
    spec: StudySpec,
    store: StudyStore,
    trial: LiveTrial,
    peers: Peers,
    sampler_checks: SamplerChecks,
) -> dict[str, Any]:
    """What a worker is told about a trial."""
    trainer = json.loads(spec.trainer_for(trial.params).model_dump_json())
    if trainer["device"] == "auto":
        # Not left to the worker: Ray shows a machine's GPUs to workers that asked for none too.
        trainer["device"] = "cuda" if spec.resources.gpus > 0 else "cpu"
    return {
        "trial_id": trial.trial_id,
        "seed": trial.seed,
        "trainer": trainer,
        "gate": spec.scheduler.gate,
        "stop_at": trial.stop_at,
        "may_go_on": trial.may_go_on,
        "analyzer": spec.analyzer.model_dump(mode="json"),
        "reached": peers.curve(trial.peer_kind),
        "sampler_check": sampler_checks.of(trial.params),
        "num_threads": max(1, int(spec.resources.cpus)),
        "checkpoint": str(store.checkpoint_path(trial.trial_id)),
        "search_path": os.getcwd(),
    }


def _unfinished(spec: StudySpec, store: StudyStore) -> list[LiveTrial]:
    """Trials that an earlier run began and did not finish, with what they had reported.

    Those are among them that failed while they went on, and are finished as what they had been.
    """
    from stabsearch.search.strategy import look_steps

    shorter = {t.record.trial_id: t for t in read_trials(store.path, store.fallen_back())}
    trials = []
    for trial_id in sorted([*store.unfinished_trial_ids(), *shorter]):
        journal = store.read_journal(trial_id)
        if not journal.started:
            continue  # its first line was torn: nothing is known, and nothing lost
        started = journal.started
        trainer = spec.trainer_for(started["params"])
        trial = LiveTrial(
            trial_id=trial_id,
            setting=started["setting"],
            seed=started["seed"],
            params=started["params"],
            max_train_steps=trainer.max_train_steps,
            peer_kind=spec.peer_kind(started["params"]),
            purpose=Purpose(started["purpose"]),
            stop_at=started["stop_at"],
            look_steps=look_steps(spec, trainer),
            attempts=started["attempts"],
            started_at=started["started_at"],
        )
        if trial_id in shorter:
            trial.take_up(shorter[trial_id])
        trial.reports |= {report.step: report for report in journal.reports}
        trial.add_verdicts(journal.verdicts)
        if trial_id not in shorter and (step := started.get("went_on_at")) is not None:
            trial.facts = store.trial_facts(trial_id)
            trial.before = trial.as_it_was_at(step)
        trials.append(trial)
    return trials


@contextmanager
def _only_driver(path: Path) -> Iterator[None]:
    """Hold the study's folder; a lock of the operating system, so a killed driver lets go."""
    with (path / ".driver.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EnvironmentProblem(
                f"{path}: another process is running this study. Wait for it, stop it, or give "
                "the study another `name:`."
            ) from None
        yield


@contextmanager
def _scratch_folder() -> Iterator[str]:
    """Where Ray Tune keeps its own state, which nobody reads."""
    folder = tempfile.mkdtemp(prefix="stabsearch-tune-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
