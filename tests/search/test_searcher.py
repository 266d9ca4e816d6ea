"""What Optuna is told, outcome by outcome."""

from __future__ import annotations

import optuna
import pytest
from optuna.distributions import FloatDistribution

from stabsearch.recommend.confirm import PlannedTrial
from stabsearch.records import Outcome, Purpose, Severity, StoppedBy
from stabsearch.results.store import StudyStore
from stabsearch.search.ledger import Ledger
from stabsearch.search.lines import View
from stabsearch.search.observer import StudyObserver
from stabsearch.search.samplers import distributions_for, make_sampler
from stabsearch.search.scheduler import StabilityGate
from stabsearch.search.searcher import SettingSearcher, instability, tell
from stabsearch.search.strategy import Length, Pause, Proposal, is_complete
from stabsearch.search.study import _rebuild
from stabsearch.spec import SearcherSpec, StudySpec
from tests import synthetic_study
from tests.stability.reports import evaluation, facts, report

DISTRIBUTIONS = {"learning_rate": FloatDistribution(1e-4, 1e-1, log=True)}


def record(**changes):
    fields = {"steps": 1000, "max_train_steps": 1000, "score": 5.0, "constant_score": 100.0}
    return synthetic_study.record(**fields | changes)


STABLE = {}
DIVERGED = {
    "outcome": Outcome.DIVERGED,
    "stopped_by": StoppedBy.GATE,
    "severity": Severity.PRUNE,
    "symptom": "lost_progress",
    "rule": "R1b",
    "steps": 250,
    "score": 4.0,
}
NAN = DIVERGED | {"symptom": "non_finite", "rule": "R1a", "score": None}
PENALISED = {"severity": Severity.PENALISE, "symptom": "lost_progress", "rule": "R1b"}
NOT_LEARNING = {
    "outcome": Outcome.STOPPED,
    "stopped_by": StoppedBy.GATE,
    "severity": Severity.PRUNE,
    "symptom": "not_learning",
    "steps": 200,
    "score": 99.0,
}
BEHIND = {"outcome": Outcome.STOPPED, "stopped_by": StoppedBy.RANK, "steps": 500, "score": 20.0}
FAILED = {"outcome": Outcome.FAILED, "score": None, "constant_score": None, "steps": 0}


@pytest.mark.parametrize(
    ("replicates", "state", "value", "constraint"),
    [
        ([STABLE], "COMPLETE", 5.0, 0.0),
        ([STABLE, {"score": 7.0}], "COMPLETE", 7.0, 0.0),
        ([{"score": 400.0}], "COMPLETE", 100.0, 0.0),
        ([DIVERGED], "COMPLETE", 200.0, 1.75),
        ([NAN], "COMPLETE", 200.0, 1.75),
        ([STABLE, DIVERGED], "COMPLETE", 200.0, 0.875),
        ([PENALISED], "COMPLETE", 200.0, 0.5),
        ([NOT_LEARNING], "COMPLETE", 99.0, 0.0),
        ([BEHIND], "PRUNED", 20.0, 0.0),
        ([FAILED], "FAIL", None, None),
        ([FAILED, STABLE], "COMPLETE", 5.0, 0.0),
        ([BEHIND, DIVERGED], "COMPLETE", 200.0, 0.875),
        ([BEHIND, BEHIND | {"score": 60.0}], "PRUNED", 60.0, 0.0),
        ([BEHIND, STABLE], "PRUNED", 20.0, 0.0),
    ],
    ids=[
        "stable",
        "the worst seed counts",
        "no score is worse than a dead network's",
        "diverged: never its last score",
        "nan",
        "one seed of two diverged",
        "penalised",
        "not learning is not beyond the edge",
        "stopped by rank",
        "infrastructure says nothing",
        "a failed replicate says nothing",
        "a divergence outweighs a rank",
        "of two behind the worse seed counts",
        "one seed behind",
    ],
)
def test_what_optuna_is_told(replicates, state, value, constraint):
    study = optuna.create_study()
    trial = study.ask(DISTRIBUTIONS)
    tell(study, trial, [record(**changes) for changes in replicates], 100.0)
    [told] = study.trials

    assert told.state.name == state
    assert told.value == value
    assert told.constraints.get("instability") == constraint


def test_an_earlier_death_is_a_larger_violation():
    early, late = (record(**DIVERGED | {"steps": steps}) for steps in (100, 900))

    assert instability(early) > instability(late) > instability(record(**PENALISED)) > 0


def test_reasons_are_attributes_for_the_dashboard():
    study = optuna.create_study()
    tell(study, study.ask(DISTRIBUTIONS), [record(**DIVERGED | {"reason": "lost 84%"})], 100.0)
    attributes = study.trials[0].user_attrs

    assert attributes["outcome"] == ["diverged"]
    assert attributes["symptom"] == "lost_progress"
    assert attributes["reason"] == "lost 84%"


def test_told_divergences_keep_tpe_away_from_the_unstable_side():
    """The failure that design decision 2 is about: 60 trials whose score improves up to an edge.

    Told as FAIL, or with the last finite score, 45 to 50 of them land beyond it.
    """
    spec = SearcherSpec(name="tpe", startup_trials=10, seed=0)
    study = optuna.create_study()
    beyond = 0
    for setting in range(60):
        study.sampler = make_sampler(spec, setting)
        trial = study.ask(DISTRIBUTIONS)
        learning_rate = trial.params["learning_rate"]
        is_beyond = learning_rate > 1e-2
        beyond += is_beyond
        score = 1e-2 / learning_rate
        tell(study, trial, [record(**DIVERGED) if is_beyond else record(score=score)], 100.0)

    assert beyond <= 25


def test_proposals_depend_on_what_was_told_not_on_the_process():
    spec = SearcherSpec(name="tpe", startup_trials=2, seed=0)

    def propose(study, setting):
        study.sampler = make_sampler(spec, setting)
        return study.ask(DISTRIBUTIONS)

    whole = optuna.create_study()
    for setting in range(6):
        trial = propose(whole, setting)
        tell(whole, trial, [record(score=trial.params["learning_rate"])], 100.0)
    resumed = optuna.create_study()
    resumed.add_trials(whole.trials[:5])

    assert propose(resumed, 5).params == whole.trials[5].params


def test_every_kind_of_domain_reaches_optuna():
    study = StudySpec.model_validate(
        {
            "name": "all_domains",
            "space": {
                "learning_rate": {"log_uniform": [1e-4, 1e-1]},
                "adam_beta1": {"uniform": [0.5, 0.9]},
                "batch_size": {"int": [16, 64]},
                "max_grad_norm": {"choice": [None, 1.0]},
                "weight_decay": 0.01,
            },
        }
    )
    distributions = distributions_for(study)

    assert {name: type(d).__name__ for name, d in distributions.items()} == {
        "learning_rate": "FloatDistribution",
        "adam_beta1": "FloatDistribution",
        "batch_size": "IntDistribution",
        "max_grad_norm": "CategoricalDistribution",
    }
    assert distributions["learning_rate"].log
    assert distributions["max_grad_norm"].choices == (None, 1.0)


def boundary_searcher(tmp_path, **fields):
    spec = StudySpec.model_validate(
        {
            "name": "waits",
            "space": {"learning_rate": {"log_uniform": [1e-4, 1e-1]}},
            "searcher": {"name": "boundary"},
            "stop_when": "edge within 1 octave",
            "storage": str(tmp_path),
            **fields,
        }
    )
    store = StudyStore(spec.path)
    store.create(spec.model_dump(mode="json"), spec.fingerprint())
    return SettingSearcher(
        spec,
        Ledger(store, StudyObserver()),
        distributions_for(spec),
        tmp_path / "optuna.journal",
        dict,
        99,
    )


def test_a_second_seed_of_a_short_trial_is_as_long_as_the_first(tmp_path):
    """A study of few steps has short trials of two lengths."""
    searcher = boundary_searcher(
        tmp_path,
        seeds=2,
        trainer={"max_train_steps": 400, "eval_every": 20, "report_every": 20},
    )
    finished = [
        record(
            trial_id=f"{n:04d}-0",
            setting=n,
            params={"learning_rate": rate},
            purpose=Purpose.PROBE,
            outcome=Outcome.STOPPED,
            stopped_by=StoppedBy.PROBE,
            max_train_steps=400,
            steps=steps,
        )
        for n, (rate, steps) in enumerate([(1e-3, 100), (1e-2, 40)])
    ]
    searcher.restore_settings(finished, (), ())

    lengths = {i: searcher.ledger.live(i).stop_at for i in ("0000-1", "0001-1")}
    assert lengths == {"0000-1": 100, "0001-1": 40}


def test_a_strategy_that_waits_is_not_asked_again_before_something_has_changed(
    tmp_path, monkeypatch
):
    """Ray asks many times a second, and an answer may take a fit."""
    searcher = boundary_searcher(tmp_path)
    monkeypatch.setattr(searcher, "_make_config", lambda live: {"trial_id": live.trial_id})
    asked = 0
    while searcher.suggest(f"ray-{asked}") is not None:
        asked += 1
    monkeypatch.setattr(searcher, "_strategy", None)  # it would raise

    assert asked == 4
    assert searcher.suggest("ray-again") is None
    assert searcher.ledger.fatal is None


@pytest.fixture
def going_on(tmp_path, monkeypatch):
    """A searcher with one short trial that has ended, and a strategy that lets it go on."""
    searcher = boundary_searcher(tmp_path, trainer=SHORT)
    monkeypatch.setattr(searcher, "_make_config", lambda live: {"trial_id": live.trial_id})
    searcher._strategy = Scripted(
        [
            Proposal(params={"learning_rate": 1e-3}, purpose=Purpose.PROBE, length=Length.BRIEF),
            Proposal(params={"learning_rate": 1e-3}, goes_on=0),
        ]
    )
    train_next(searcher, "ray-0", (20, 40), Outcome.STOPPED, StoppedBy.PROBE)
    return searcher


SHORT = {"max_train_steps": 400, "eval_every": 20, "report_every": 20}


class Scripted:
    def __init__(self, proposals):
        self.proposals = list(proposals)
        self.asked = []

    def next(self, records, under_way, number):
        self.asked.append((list(records), list(under_way), number))
        return self.proposals.pop(0) if self.proposals else Pause.DONE


def train_next(searcher, ray_id, steps, outcome, stopped_by=StoppedBy.NOBODY):
    trial_id = searcher.suggest(ray_id)["trial_id"]
    searcher.ledger.begin(trial_id)
    for step in steps:
        searcher.ledger.receive(trial_id, facts(max_train_steps=400), evaluated(step), ())
    searcher.ledger.end(trial_id, outcome, stopped_by)
    searcher.on_trial_complete(ray_id)


def evaluated(step):
    return report(step, 0.1, evaluation=evaluation((0.1,) * 4, score_ema=400 / step))


def test_a_short_trial_that_goes_on_is_the_same_trial_and_no_further_setting(going_on):
    train_next(going_on, "ray-1", range(60, 401, 20), Outcome.COMPLETED)
    [found] = going_on.ledger.finished()

    assert (found.trial_id, found.steps, found.purpose) == ("0000-0", 400, Purpose.SEARCH)
    assert [look.step for look in found.looks] == [40, 100]
    assert going_on._num_proposed == 1
    assert going_on.ledger.fatal is None


def test_while_it_goes_on_the_strategy_knows_both(going_on):
    going_on.suggest("ray-1")
    going_on.suggest("ray-2")
    [known], [under_way], number = going_on._strategy.asked[-1]

    assert (known.steps, known.stopped_by) == (40, StoppedBy.PROBE)
    assert (under_way.goes_on, under_way.length) == (0, Length.WHOLE)
    assert number == 1


def test_optuna_is_told_once_more(going_on):
    train_next(going_on, "ray-1", range(60, 401, 20), Outcome.COMPLETED)

    assert [t.state.name for t in going_on._study.trials] == ["PRUNED", "COMPLETE"]
    assert {t.user_attrs["setting"] for t in going_on._study.trials} == {0}


def lose_next(searcher, ray_id, steps=()):
    """The next trial reports at ``steps``; then its worker is lost for good."""
    trial_id = searcher.suggest(ray_id)["trial_id"]
    searcher.ledger.begin(trial_id)
    for step in steps:
        searcher.ledger.receive(trial_id, facts(max_train_steps=400), evaluated(step), ())
    searcher.on_trial_complete(ray_id, error=True)


def test_one_that_failed_while_it_went_on_is_known_as_both(going_on):
    """It says what a short trial says, and is not to go on again in this run."""
    lose_next(going_on, "ray-1", (60, 80))
    going_on.suggest("ray-2")
    short, lost = going_on._strategy.asked[-1][0]

    assert (short.trial_id, short.steps, short.stopped_by) == ("0000-0", 40, StoppedBy.PROBE)
    assert (lost.trial_id, lost.outcome) == ("0000-0", Outcome.FAILED)
    assert lost.purpose is Purpose.SEARCH
    assert [r.steps for r in going_on.ledger.finished()] == [40]
    assert [t.state.name for t in going_on._study.trials] == ["PRUNED", "FAIL"]
    assert going_on.ledger.fatal is None


def in_the_next_run(tmp_path):
    again = boundary_searcher(tmp_path, trainer=SHORT)
    gate = StabilityGate(again._spec.scheduler, 400, again.ledger)
    _rebuild(again._spec, again.ledger._store, again.ledger, gate, again)
    return again


@pytest.mark.parametrize(
    ("purpose", "length", "stop_at"),
    [(Purpose.PROBE, Length.READABLE, 100), (Purpose.SEARCH, Length.WHOLE, None)],
)
def test_in_the_next_run_it_goes_on_from_where_it_was(purpose, length, stop_at, tmp_path):
    searcher = boundary_searcher(tmp_path, trainer=SHORT)
    searcher._make_config = lambda live: {"trial_id": live.trial_id}
    short = Proposal(params={"learning_rate": 1e-3}, purpose=Purpose.PROBE, length=Length.BRIEF)
    searcher._strategy = Scripted(
        [short, Proposal(params=short.params, purpose=purpose, length=length, goes_on=0)]
    )
    train_next(searcher, "ray-0", (20, 40), Outcome.STOPPED, StoppedBy.PROBE)
    [before] = searcher.ledger.finished()
    lose_next(searcher, "ray-1", (60, 80))
    searcher.ledger.close()

    again = in_the_next_run(tmp_path)
    trial = again.ledger.live("0000-0")

    assert again._waiting == ["0000-0"]
    assert (trial.purpose, trial.stop_at) == (purpose, stop_at)
    assert trial.went_on_at == 40
    assert sorted(trial.reports) == [20, 40, 60, 80]
    assert again.ledger.finished() == []
    [as_it_was] = again.ledger.as_they_were()
    assert (as_it_was.steps, as_it_was.looks) == (40, before.looks)
    [setting] = again._settings.values()
    assert (setting.proposal.goes_on, setting.proposal.length) == (0, length)


def test_what_it_had_reached_is_a_bar_for_its_peers_in_the_next_run_too(tmp_path):
    searcher = boundary_searcher(tmp_path, trainer=SHORT)
    searcher._make_config = lambda live: {"trial_id": live.trial_id}
    searcher._strategy = Scripted(
        [
            Proposal(params={"learning_rate": 1e-3}, purpose=Purpose.PROBE, length=Length.BRIEF),
            Proposal(params={"learning_rate": 1e-3}, goes_on=0),
        ]
    )
    train_next(searcher, "ray-0", (10, 20, 30, 40), Outcome.STOPPED, StoppedBy.PROBE)
    kind = searcher._spec.peer_kind({"learning_rate": 1e-3})
    reached = searcher.ledger.peers.curve(kind)
    lose_next(searcher, "ray-1")
    again = in_the_next_run(tmp_path)

    assert again.ledger.peers.curve(kind) == reached != ()


def with_two_short_seeds(tmp_path):
    """A searcher whose only setting has two short trials that have ended."""
    searcher = boundary_searcher(tmp_path, seeds=2, trainer=SHORT)
    searcher._strategy = Scripted(
        [Proposal(params={"learning_rate": 1e-3}, purpose=Purpose.PROBE, length=Length.BRIEF)]
    )
    searcher._make_config = lambda live: {"trial_id": live.trial_id}
    for k in range(2):
        train_next(searcher, f"ray-{k}", (20, 40), Outcome.STOPPED, StoppedBy.PROBE)
    return searcher


def test_a_study_killed_before_a_second_seed_went_on_lets_it_go_on(tmp_path):
    searcher = with_two_short_seeds(tmp_path)
    ledger = searcher.ledger
    first = searcher._trial(0, 0, Proposal(params={"learning_rate": 1e-3}))
    ledger.go_on(first)
    ledger.begin("0000-0")

    again = boundary_searcher(tmp_path, seeds=2, trainer=SHORT)
    again.restore_settings(
        [r for r in again.ledger.finished() if r.trial_id == "0000-1"], (), [first]
    )

    second = again.ledger.live("0000-1")
    assert (second.purpose, second.stop_at, second.went_on_at) == (Purpose.SEARCH, None, 40)
    assert sorted(second.reports) == [20, 40]


def test_a_seed_that_failed_while_it_went_on_is_not_confirmed_in_its_place(tmp_path, monkeypatch):
    """It would be the same trial, from the first step on."""
    searcher = with_two_short_seeds(tmp_path)
    searcher._strategy = Scripted([Proposal(params={"learning_rate": 1e-3}, goes_on=0)])
    train_next(searcher, "ray-2", (200, 400), Outcome.COMPLETED)
    lose_next(searcher, "ray-3")
    planned = [
        PlannedTrial(setting=0, seed=s, params={"learning_rate": 1e-3}, purpose=Purpose.CONFIRM)
        for s in (1, 2)
    ]
    monkeypatch.setattr("stabsearch.search.searcher.planned_trials", lambda *_: planned)

    assert searcher.suggest("ray-4") == {"trial_id": "0000-2"}
    assert searcher._waiting == []
    assert searcher.ledger.fatal is None


def short_record(number, seed=0, **changes):
    fields = {
        "trial_id": f"{number:04d}-{seed}",
        "setting": number,
        "seed": seed,
        "params": {"learning_rate": 1e-3 * 2**number},
        "purpose": Purpose.PROBE,
        "outcome": Outcome.STOPPED,
        "stopped_by": StoppedBy.PROBE,
        "max_train_steps": 400,
        "steps": 40,
    }
    return record(**fields | changes)


def test_a_second_seed_goes_on_though_the_first_has_ended(tmp_path):
    """Killed between the two: nothing is unfinished, and one of them is still a short trial."""
    searcher = with_two_short_seeds(tmp_path)
    searcher.ledger.go_on(searcher._trial(0, 0, Proposal(params={"learning_rate": 1e-3})))
    searcher.ledger.begin("0000-0")
    searcher.ledger.end("0000-0", Outcome.COMPLETED)

    again = boundary_searcher(tmp_path, seeds=2, trainer=SHORT)
    finished = again.ledger.finished()
    is_over = is_complete(again._spec, Scripted([]), finished)
    again.restore_settings(finished, (), ())

    assert not is_over
    assert again._waiting == ["0000-1"]
    assert again.ledger.live("0000-1").went_on_at == 40
    assert again.ledger.live("0000-1").purpose is Purpose.SEARCH


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": Outcome.DIVERGED, "stopped_by": StoppedBy.GATE, "steps": 20},
        {"outcome": Outcome.FAILED, "stopped_by": StoppedBy.NOBODY, "steps": 20},
    ],
    ids=["diverged", "failed"],
)
def test_of_one_that_did_not_come_to_its_end_the_other_seed_is_as_short_as_it_was(
    changes, tmp_path
):
    searcher = boundary_searcher(tmp_path, seeds=2, trainer=SHORT)
    searcher.restore_settings([short_record(0, **changes)], (), ())

    assert searcher.ledger.live("0000-1").stop_at == 40


def test_a_gap_in_the_numbers_is_not_filled_with_a_trial_that_is_to_go_on(tmp_path):
    """Killed while setting 1 waited for its worker: what comes next is decided when it runs."""
    killed = boundary_searcher(tmp_path, trainer=SHORT)
    killed.ledger._store.write_trials([short_record(0), short_record(2)])
    searcher = boundary_searcher(tmp_path, trainer=SHORT)
    searcher._strategy = Scripted([Proposal(params={"learning_rate": 1e-3}, goes_on=0)])
    searcher.restore_settings(searcher.ledger.finished(), (), ())

    assert searcher._waiting == []
    assert searcher._num_proposed == 2


def test_when_all_trials_are_spent_a_short_one_may_still_go_on(tmp_path):
    searcher = boundary_searcher(tmp_path, trainer=SHORT, trials=1)
    short = Proposal(params={"learning_rate": 1e-3}, purpose=Purpose.PROBE, length=Length.BRIEF)
    searcher._strategy = Scripted([short, Proposal(params={"learning_rate": 1e-3}, goes_on=0)])
    searcher._make_config = lambda live: {"trial_id": live.trial_id}
    train_next(searcher, "ray-0", (20, 40), Outcome.STOPPED, StoppedBy.PROBE)
    train_next(searcher, "ray-1", (200, 400), Outcome.COMPLETED)
    searcher._strategy = Scripted([Proposal(params={"learning_rate": 2e-3})])

    assert searcher.suggest("ray-2") == "FINISHED"
    assert [r.purpose for r in searcher.ledger.finished()] == [Purpose.SEARCH]


def test_seeds_of_which_one_failed_do_not_go_on():
    """Nothing is known of the one that did."""
    records = [
        short_record(0, params={"learning_rate": 4e-3}, seed=seed, lr_gauge_octaves=0.0)
        for seed in range(2)
    ]
    failed = short_record(0, params={"learning_rate": 4e-3}, seed=1, **FAILED)
    others = {"max_grad_norm": None}

    def extendable(*them):
        spec = {"space": {"learning_rate": {"log_uniform": [1e-4, 1e-1]}}}
        return View(spec, them, ()).extendable(others)

    assert [r.trial_id for r in extendable(*records)] == ["0000-0"]
    assert extendable(records[0], failed) == []
