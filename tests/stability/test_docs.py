"""docs/rules.md names every rule, symptom and threshold. Run this file to write its table."""

from __future__ import annotations

import re
from pathlib import Path

from stabsearch.stability.rules import RULES
from stabsearch.thresholds import THRESHOLDS

DOCS = Path(__file__).parents[2] / "docs" / "rules.md"
BEGIN = "<!-- thresholds: written by tests/stability/test_docs.py -->\n"
END = "<!-- thresholds: end -->"


def thresholds_table() -> str:
    lines = [
        "| threshold | default | strict | lenient | what is compared | source |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in THRESHOLDS.items():
        numbers = [
            "" if number is None else f"{number:g}"
            for number in (row.default, row.strict, row.lenient)
        ]
        lines.append(f"| `{name}` | {' | '.join(numbers)} | {row.meaning} | {row.source} |")
    return "\n".join(lines) + "\n"


def test_every_rule_has_a_row_with_its_symptoms():
    rows = {m[1]: m[0] for m in re.finditer(r"^\| (R\w+) \|.*$", DOCS.read_text(), re.MULTILINE)}

    assert set(rows) == {rule.id for rule in RULES}
    for rule in RULES:
        assert all(f"`{symptom}`" in rows[rule.id] for symptom in rule.advice), rule.id


def test_the_page_lists_the_thresholds_as_they_are():
    text = DOCS.read_text()

    assert text.partition(BEGIN)[2].partition(END)[0] == thresholds_table(), (
        f"run: python {Path(__file__).relative_to(DOCS.parents[1])}"
    )


if __name__ == "__main__":
    head, begin, rest = DOCS.read_text().partition(BEGIN)
    DOCS.write_text(head + begin + thresholds_table() + END + rest.partition(END)[2])
