"""Optuna's samplers, by their names in a study file, and the domains in Optuna's terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from stabsearch.records import Params
from stabsearch.spec import Choice, IntRange, LogUniform, SearcherSpec, StudySpec, Uniform


class GivenSampler(BaseSampler):
    """Proposes what a strategy has decided: its study is an Optuna study like any other."""

    def __init__(self, params: Params) -> None:
        self._params = params

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All that is asked for is asked at once, with its distributions."""
        del study, trial
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        del study, trial, search_space
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        del study, trial, param_distribution
        return self._params[param_name]


SAMPLERS: Mapping[str, Callable[[SearcherSpec, int], BaseSampler]] = {
    "tpe": lambda spec, seed: TPESampler(
        seed=seed, n_startup_trials=spec.startup_trials, multivariate=True
    ),
    "gp": lambda spec, seed: GPSampler(seed=seed, n_startup_trials=spec.startup_trials),
    "random": lambda spec, seed: RandomSampler(seed=seed),  # noqa: ARG005
}
"""Those that draw by themselves."""


def make_sampler(spec: SearcherSpec, ordinal: int) -> BaseSampler:
    """A sampler for one proposal.

    Seeded by the study's seed and the proposal's number, so that a proposal depends on what has
    been told so far and not on the process that makes it: a resumed study goes on as the
    uninterrupted one would have.
    """
    seed = int(np.random.SeedSequence([spec.seed, ordinal]).generate_state(1)[0])
    return SAMPLERS[spec.name](spec, seed)


DISTRIBUTIONS: dict[type, Callable[[Any], BaseDistribution]] = {
    LogUniform: lambda domain: FloatDistribution(domain.low, domain.high, log=True),
    Uniform: lambda domain: FloatDistribution(domain.low, domain.high),
    IntRange: lambda domain: IntDistribution(domain.low, domain.high, log=domain.log),
    Choice: lambda domain: CategoricalDistribution(domain.choice),
}


def distributions_for(spec: StudySpec) -> dict[str, BaseDistribution]:
    """The searched domains in Optuna's terms."""
    return {name: DISTRIBUTIONS[type(domain)](domain) for name, domain in spec.searched().items()}
