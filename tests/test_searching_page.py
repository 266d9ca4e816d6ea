"""docs/searching.md: its table of fields, strategies and endings against the spec."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from stabsearch.errors import ExitCode
from stabsearch.records import StoppedBy
from stabsearch.spec import StudySpec
from stabsearch.spec.search import ConfirmSpec, SchedulerSpec, SearcherSpec, StopSpec

TEXT = (Path(__file__).parents[1] / "docs" / "searching.md").read_text()
SECTIONS = {
    "searcher": SearcherSpec,
    "scheduler": SchedulerSpec,
    "stop_when": StopSpec,
    "confirm": ConfirmSpec,
}
OWN = ("stop_when", "confirm", "horizon_steps", "margin_octaves", "seeds", "trials")
"""Fields of a study that the page is about."""


def table(header: str) -> list[list[str]]:
    """The cells of the table whose header row begins so."""
    pattern = rf"^\| {re.escape(header)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)"
    rows = re.findall(pattern, TEXT, re.MULTILINE)[0].splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def written(info) -> str:
    """A field's default as the page writes it."""
    if info.is_required():
        return "required"
    default = info.default
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def test_the_table_of_fields_is_that_of_the_spec():
    in_spec = {name: written(StudySpec.model_fields[name]) for name in OWN}
    for section, spec in SECTIONS.items():
        in_spec |= {f"{section}.{name}": written(i) for name, i in spec.model_fields.items()}

    on_page = {field.strip("`"): default for field, default, _ in table("field")}

    assert on_page == in_spec


@pytest.mark.parametrize(
    ("header", "column", "values"),
    [
        ("`searcher.name`", 0, get_args(SearcherSpec.model_fields["name"].annotation)),
        ("order", 1, [s.value for s in StoppedBy if s is not StoppedBy.NOBODY]),
        ("code", 0, [str(c.value) for c in ExitCode if c is not ExitCode.SAMPLER_WRONG]),
    ],
    ids=["strategies", "stopped_by", "exit codes"],
)
def test_a_table_lists_every_value_once(header, column, values):
    listed = [row[column].strip("`") for row in table(header)]

    assert sorted(value for value in listed if value != "(empty)") == sorted(values)
