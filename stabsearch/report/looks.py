"""How a trial looks on the map: its marker says how it ended, a ring why it was started."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from matplotlib.colors import Colormap
from matplotlib.lines import Line2D

from stabsearch.recommend.landscape import Landscape
from stabsearch.recommend.words import symptom_words
from stabsearch.records import Outcome, Purpose, StoppedBy, Symptom, TrialRecord

INK = "#222222"

Marker = str | tuple[int, Literal[1], int]
"""A name of matplotlib's, or a star: (points, 1, angle)."""

SYMPTOM_MARKERS: dict[str, Marker] = {
    Symptom.LOST_PROGRESS.value: "X",
    Symptom.WORSE_THAN_TRIVIAL.value: "v",
    Symptom.NON_FINITE.value: "P",
    Symptom.CATASTROPHIC_EXCURSION.value: "^",
    Symptom.NOT_LEARNING.value: "s",
    Symptom.LOSS_STUCK.value: (6, 1, 0),
    Symptom.NOISY_TIMESTEPS_HIGH.value: (3, 1, 0),
    Symptom.TIME_BLIND.value: (8, 1, 0),
    Symptom.EARLY_TIMESTEP_DOMINATION.value: "<",
    Symptom.LATE_TIMESTEP_DOMINATION.value: ">",
    Symptom.TIMESTEP_DOMINATION.value: (4, 1, 0),
    Symptom.DEAD_TIMESTEPS.value: (4, 1, 45),
}
"""Of the symptoms for which a setting is not called stable."""
OTHER_SYMPTOM_MARKER = "d"

STOPPED_LOOKS: dict[StoppedBy, tuple[str, Marker]] = {
    StoppedBy.RANK: ("stopped: others were ahead", "D"),
    StoppedBy.GAUGE: ("stopped: its rate far from the best", "H"),
    StoppedBy.PROBE: ("stable so far", "o"),
}
"""Of the trials that ended early without having diverged."""

PURPOSE_WORDS = {
    Purpose.PROBE: "short trial",
    Purpose.CONFIRM: "confirmation",
    Purpose.STRESS: "stress test",
}
PURPOSE_ORDER = (Purpose.SEARCH, Purpose.PROBE, Purpose.CONFIRM, Purpose.STRESS)
RINGS = {Purpose.CONFIRM: "#1b7837", Purpose.STRESS: "#762a83"}
"""Trials of a confirmation wear a ring; green and purple are told apart by all kinds of colour
vision."""
RING: dict[str, Any] = {"s": 190, "linewidths": 1.5, "zorder": 5, "clip_on": False}

MARKER: dict[str, Any] = {"s": 62, "linewidths": 1.0, "zorder": 4, "clip_on": False}


class Ringed(tuple[Line2D, Line2D]):
    """A ring and the marker inside of it: drawn over each other in a legend."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One look of trials, with its words for the legend."""

    words: str
    marker: Marker
    face: str
    is_scored: bool = False
    purpose: Purpose = Purpose.SEARCH

    @property
    def size(self) -> float:
        """Short trials are drawn at half the area."""
        return 0.5 if self.purpose is Purpose.PROBE else 1.0


def kinds_of(landscape: Landscape) -> dict[Kind, list[TrialRecord]]:
    """The trials by their look: stable, unstable by symptom, then the rest; by purpose in each."""
    groups: dict[Kind, list[TrialRecord]] = {}
    for record in landscape.records:
        kind = _kind_of(record, is_unstable=landscape.is_unstable(record))
        if record.purpose is not Purpose.SEARCH:
            words = f"{PURPOSE_WORDS[record.purpose]}: {kind.words}"
            kind = replace(kind, words=words, purpose=record.purpose)
        groups.setdefault(kind, []).append(record)
    order = sorted(
        groups,
        key=lambda kind: (
            PURPOSE_ORDER.index(kind.purpose),
            not kind.is_scored,
            kind.face == "none",
            kind.words,
        ),
    )
    return {kind: groups[kind] for kind in order}


def _kind_of(record: TrialRecord, *, is_unstable: bool) -> Kind:
    if record.is_stable and record.score is not None:
        return Kind(words="stable", marker="o", face="", is_scored=True)
    if is_unstable:
        marker = SYMPTOM_MARKERS.get(record.symptom, OTHER_SYMPTOM_MARKER)
        return Kind(words=f"unstable: {symptom_words(record.symptom)}", marker=marker, face=INK)
    if record.symptom == Symptom.NOT_LEARNING:
        words = symptom_words(record.symptom, is_unstable=False)
        return Kind(words=words, marker="s", face="none")
    if record.outcome is Outcome.RUNNING:
        return Kind(words="still running", marker="h", face="none")
    if record.outcome is Outcome.FAILED:
        return Kind(words="failed (machine or code)", marker="p", face="none")
    if record.outcome is Outcome.STOPPED:
        words, marker = STOPPED_LOOKS.get(record.stopped_by, STOPPED_LOOKS[StoppedBy.RANK])
        return Kind(words=words, marker=marker, face="none")
    if record.symptom in SYMPTOM_MARKERS:
        words = f"not called stable: {symptom_words(record.symptom, is_unstable=False)}"
        return Kind(words=words, marker=SYMPTOM_MARKERS[record.symptom], face="none")
    return Kind(words="completed, not called stable", marker="8", face="none")


def legend_marker(kind: Kind, colours: Colormap) -> object:
    face = colours(0.3) if kind.is_scored else kind.face
    edge = INK if kind.is_scored or kind.face == "none" else "white"
    size = 8 * math.sqrt(kind.size)
    look: dict[str, Any] = {"linestyle": "", "color": edge, "markerfacecolor": face}
    marker = Line2D([], [], marker=kind.marker, markersize=size, **look)
    ring = RINGS.get(kind.purpose)
    if ring is None:
        return marker
    around = Line2D([], [], linestyle="", marker="o", markersize=13, color=ring)
    around.set_markerfacecolor("none")
    return Ringed((around, marker))
