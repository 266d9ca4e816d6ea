"""The strategies by their names in a study file."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from stabsearch.search.boundary import Boundary
from stabsearch.search.strategy import Grid, Sampled, Strategy
from stabsearch.spec import StudySpec

STRATEGIES: Mapping[str, Callable[[StudySpec], Strategy]] = {
    "tpe": Sampled,
    "gp": Sampled,
    "random": Sampled,
    "grid": Grid,
    "boundary": Boundary,
}


def make_strategy(spec: StudySpec) -> Strategy:
    """That of a study."""
    return STRATEGIES[spec.searcher.name](spec)
