"""Nothing of ours may raise inside Ray Tune: an exception in a scheduler, searcher or callback
kills the whole run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from stabsearch.search.ledger import Ledger

P = ParamSpec("P")
R = TypeVar("R")


def guarded(otherwise: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Remember a method's exception in its object's ``ledger`` and return ``otherwise``.

    The study then ends in order, and its driver raises what was remembered.
    """

    def decorate(method: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(method)
        def call(*arguments: P.args, **keywords: P.kwargs) -> R:
            ledger: Ledger = arguments[0].ledger  # type: ignore[attr-defined]
            try:
                return method(*arguments, **keywords)
            except Exception as error:
                ledger.fatal = ledger.fatal or error
                return otherwise  # type: ignore[no-any-return]

        return call

    return decorate
