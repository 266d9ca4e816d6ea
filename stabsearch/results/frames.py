"""Reads a study's folder as pandas frames, while the study runs or after its cluster is gone.

For example::

    results = load("results/digits_lr_clip")
    results.trials[["params_learning_rate", "outcome", "score"]]
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from stabsearch.records import TrialRecord
from stabsearch.results import schema
from stabsearch.results.store import TRIALS_FILE, StudyStore, read_parquet


class Results:
    """A study's results at the moment of first use: frames are read once and kept.

    Call ``load`` again for a later state of a running study.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._trials_table = read_parquet(path / TRIALS_FILE)
        self.study: dict[str, Any] = StudyStore(path).study()
        """The resolved study: every field with its value."""

    def __repr__(self) -> str:
        return f"<Results of {self.name!r}: {self._trials_table.num_rows} trials, {self.path}>"

    @property
    def name(self) -> str:
        return str(self.study["name"])

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row per trial."""
        return _to_frame(self._trials_table)

    @cached_property
    def reports(self) -> pd.DataFrame:
        """One row per report of every trial that has files."""
        return _to_frame(self._read_all("reports"))

    @cached_property
    def timesteps(self) -> pd.DataFrame:
        """One row per report and timestep bin."""
        return _to_frame(self._read_all("timesteps"))

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """One row per verdict."""
        return _to_frame(self._read_all("verdicts"))

    def records(self) -> list[TrialRecord]:
        """The rows of ``trials`` as records."""
        return schema.to_records(self._trials_table)

    def _read_all(self, table: str) -> pa.Table:
        # A dot marks a file that is being written.
        paths = sorted(p for p in (self.path / table).glob("*.parquet") if p.name[0] != ".")
        pieces = [read_parquet(path).replace_schema_metadata(None) for path in paths]
        return pa.concat_tables(
            [schema.schema_of(table).remove_metadata().empty_table(), *pieces]
        ).combine_chunks()


def load(path: str | Path) -> Results:
    """The results in a study's folder, ``<storage>/<name of the study>``."""
    return Results(Path(path))


def _to_frame(table: pa.Table) -> pd.DataFrame:
    """Whole numbers stay whole: an integer column that may be null becomes Int64, not float."""
    frame: pd.DataFrame = table.to_pandas()
    for field in table.schema:
        if field.nullable and pa.types.is_integer(field.type):
            frame[field.name] = pd.array(table[field.name].to_pylist(), dtype="Int64")
    return frame
