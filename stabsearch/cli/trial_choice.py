"""Which trials a command line means: ``0007-0``, ``7-0``, or ``7`` for every seed of a setting."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from stabsearch.cli.progress import running_line, trial_line
from stabsearch.errors import ResultsError
from stabsearch.problems import nearest
from stabsearch.records import Outcome, TrialRecord

MAX_LISTED = 40

_SETTING_AND_SEED = re.compile(r"(\d+)(?:-(\d+))?")


def choose_trials(
    path: Path, records: Sequence[TrialRecord], wanted: str | None
) -> list[TrialRecord]:
    """The trials that are meant, one at least; all if none is named.

    Raises ResultsError that says what may be asked for.
    """
    if not records:
        raise ResultsError(f"{path}: the study has no trials yet. Ask again once one has begun.")
    if wanted is None:
        return list(records)
    match = _SETTING_AND_SEED.fullmatch(wanted.strip())
    if match:
        setting, seed = int(match[1]), match[2]
        replicates = [record for record in records if record.setting == setting]
        chosen = [r for r in replicates if seed is None or r.seed == int(seed)]
        if chosen:
            return chosen
        if replicates:
            ids = ", ".join(record.trial_id for record in replicates)
            raise ResultsError(f"{path}: there is no trial {wanted!r}. Of that setting: {ids}.")
    known = [record.trial_id for record in records]
    found = nearest(wanted, known)
    meant = f"Did you mean {found}? " if found else ""
    raise ResultsError(
        f"{path}: there is no trial {wanted!r}. {meant}The study has {known[0]} to {known[-1]}."
    )


def listing(records: Sequence[TrialRecord]) -> list[str]:
    """One line per trial, and one for those that are too many."""
    lines = [
        running_line(record) if record.outcome is Outcome.RUNNING else trial_line(record)
        for record in records[:MAX_LISTED]
    ]
    more = len(records) - MAX_LISTED
    return [*lines, f"and {more} more, in trials.parquet"] if more > 0 else lines
