"""docs/results.md lists the columns as they are. Run this file to write it again."""

from dataclasses import fields
from pathlib import Path

import pytest

from stabsearch.records import Report, TrialRecord, Verdict
from stabsearch.results import schema

DOCS = Path(__file__).parents[2] / "docs" / "results.md"
MARK = "<!-- the tables: written by tests/results/test_docs.py -->"

REPORT_FIELDS = [field.name for field in fields(Report)]
ROWS = {
    "trials": "One row per trial, the running ones included: `trials.parquet`.",
    "reports": "One row per report of a trial: `reports/<trial_id>.parquet`.",
    "timesteps": "One row per report and timestep bin: `timesteps/<trial_id>.parquet`.",
    "verdicts": "One row per verdict: `verdicts/<trial_id>.parquet`.",
}


def tables_as_markdown() -> str:
    lines = [MARK]
    for table, columns in schema.TABLES.items():
        lines += ["", f"## {table}", "", ROWS[table], ""]
        lines += ["| column | type | null? | meaning |", "|---|---|---|---|"]
        for column in columns:
            null = "yes" if column.nullable else ""
            kind = str(column.type).replace("element: ", "").replace("item: ", "")
            lines.append(f"| `{column.name}` | {kind} | {null} | {column.description} |")
        if table == "trials":
            lines.append("| `params_<name>` | by value | yes | Sampled value of a parameter. |")
    return "\n".join(lines) + "\n"


def test_the_page_lists_the_columns_as_they_are():
    remedy = f"run: python {Path(__file__).relative_to(DOCS.parents[1])}"

    assert DOCS.read_text().partition(MARK)[1:] == (MARK, tables_as_markdown()[len(MARK) :]), (
        remedy
    )


@pytest.mark.parametrize(
    ("table", "record", "derived"),
    [
        ("trials", TrialRecord, {"params"}),
        ("reports", Report, {*(n for n in REPORT_FIELDS if n.startswith("bin_")), "evaluation"}),
        ("verdicts", Verdict, set()),
    ],
)
def test_every_field_of_a_record_has_its_column(table, record, derived):
    columns = {column.name for column in schema.TABLES[table]}

    assert {field.name for field in fields(record)} - derived <= columns


if __name__ == "__main__":
    text = DOCS.read_text().partition(MARK)[0]
    DOCS.write_text(text + tables_as_markdown())
