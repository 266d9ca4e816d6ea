"""The methods that are compared, by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import RandomSampler, TPESampler

from benchmarks.answer.blackbox import Blackbox
from benchmarks.answer.ours import strategy
from benchmarks.answer.peers.with_optuna import MakePruner, Optuna
from benchmarks.answer.peers.with_ray import RayTune
from benchmarks.answer.virtual import Method

TRIALS = 32
"""Of every search, at most."""

STRATEGIES: dict[str, dict[str, Any]] = {
    "tpe": {"searcher": {"name": "tpe"}},
    "boundary, half an octave": {
        "searcher": {"name": "boundary"},
        "stop_when": "edge within 0.5 octave",
    },
    "boundary, an octave, confirmed": {
        "searcher": {"name": "boundary"},
        "stop_when": "edge within 1 octave",
        "confirm": {"seeds": 2, "stress_octaves": 1},
    },
    "boundary, an octave": {
        "searcher": {"name": "boundary"},
        "stop_when": "edge within 1 octave",
    },
}
"""How stabsearch searches: fields of a study file. The last one is what peers are held against."""

MakeMethod = Callable[[Blackbox, int, int], Method]
"""From the trainer, the number of trials and the seed of the repetition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A row of the comparison."""

    make: MakeMethod
    what: str
    """Its settings in words, for the document."""
    is_ours: bool = False


def _optuna(make_pruner: MakePruner) -> MakeMethod:
    return lambda blackbox, trials, seed: Optuna(
        blackbox, trials, seed, lambda seed: TPESampler(seed=seed), make_pruner
    )


def _random(blackbox: Blackbox, trials: int, seed: int) -> Method:
    return Optuna(
        blackbox,
        trials,
        seed,
        lambda seed: RandomSampler(seed=seed),
        lambda evaluations: NopPruner(),  # noqa: ARG005
    )


def _syne_tune(blackbox: Blackbox, trials: int, seed: int) -> Method:
    # The tests' environment does without it: `make answer` installs the group `peers`.
    from benchmarks.answer.peers.with_syne_tune import SyneTune

    return SyneTune(blackbox, trials, seed)


METHODS: dict[str, Entry] = {
    "random, full training": Entry(make=_random, what="Optuna's RandomSampler, no pruner"),
    "Ray Tune: OptunaSearch + ASHA": Entry(
        make=RayTune,
        what="OptunaSearch() (TPE), AsyncHyperBandScheduler(max_t=evaluations): grace_period=1, "
        "reduction_factor=4",
    ),
    "Optuna: TPE + Hyperband": Entry(
        make=_optuna(lambda evaluations: HyperbandPruner(max_resource=evaluations)),
        what="TPESampler(), HyperbandPruner(max_resource=evaluations): min_resource=1, "
        "reduction_factor=3",
    ),
    "Optuna: TPE + median": Entry(
        make=_optuna(lambda evaluations: MedianPruner()),  # noqa: ARG005
        what="TPESampler(), MedianPruner(): n_startup_trials=5, n_warmup_steps=0",
    ),
    "Optuna: TPE + SHA": Entry(
        make=_optuna(lambda evaluations: SuccessiveHalvingPruner()),  # noqa: ARG005
        what='TPESampler(), SuccessiveHalvingPruner(): min_resource="auto", reduction_factor=4',
    ),
    "Syne Tune: ASHA": Entry(
        make=_syne_tune,
        what="ASHA(max_t=evaluations) with its default searcher (random): grace_period=1, "
        "reduction_factor=3",
    ),
    **{
        f"stabsearch: {name}": Entry(
            make=strategy(**fields), what=f"a study file with `{json.dumps(fields)}`", is_ours=True
        )
        for name, fields in STRATEGIES.items()
    },
}

OURS = next(reversed([name for name, entry in METHODS.items() if entry.is_ours]))
"""What peers are held against."""
