"""docs/rules.md names every rule and every symptom, and no rule that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

from stabsearch.stability.rules import RULES

TEXT = (Path(__file__).parents[2] / "docs" / "rules.md").read_text()


def test_every_rule_has_a_row_with_its_symptoms():
    rows = {m[1]: m[0] for m in re.finditer(r"^\| (R\w+) \|.*$", TEXT, re.MULTILINE)}

    assert set(rows) == {rule.id for rule in RULES}
    for rule in RULES:
        assert all(f"`{symptom}`" in rows[rule.id] for symptom in rule.advice), rule.id
