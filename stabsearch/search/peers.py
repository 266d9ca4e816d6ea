"""What the trials of each model have reached: the second bar of the rules (see stability.reached).

One study may search over models and prediction types: only trials of the same kind are peers.
"""

from __future__ import annotations

from collections.abc import Iterable

from stabsearch.records import Report, TrialFacts
from stabsearch.stability.reached import Reached


class Peers:
    """The best losses so far, by kind of trial (``StudySpec.peer_kind``)."""

    def __init__(self) -> None:
        self._reached: dict[str, Reached] = {}

    def add(self, kind: str, facts: TrialFacts, reports: Iterable[Report]) -> None:
        """Take in an ended trial."""
        self._reached.setdefault(kind, Reached()).add(facts, reports)

    def curve(self, kind: str) -> tuple[tuple[int, float], ...]:
        """(step, lowest loss by then), for ``TrialFacts.reached``; empty without a peer."""
        reached = self._reached.get(kind)
        return () if reached is None else reached.curve()
