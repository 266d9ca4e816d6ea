"""The rules' rows of docs/rules.md against the code: severities, numbers and times in a row."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from stabsearch.records import Severity, Symptom
from stabsearch.stability import rules
from stabsearch.stability.rules import RULES
from stabsearch.thresholds import THRESHOLDS

TEXT = (Path(__file__).parents[2] / "docs" / "rules.md").read_text()
ROWS = {m[1]: m[0] for m in re.finditer(r"^\| (R\w+) \|.*$", TEXT, re.MULTILINE)}

IN_WORDS = {
    "R1a.standing_share": "more than half of at least 10 steps",
    "R1c.midpoint": "half-way from C0 to triv",
    "R15.frozen": "a weight matrix",
}
"""Thresholds that the page does not write as a number."""


def severities_in_code(rule):
    """The severities that a rule's function, or a helper that makes its finding, names."""
    sources = [inspect.getsource(rule.find)]
    if "_dead(" in sources[0]:
        sources.append(inspect.getsource(rules._dead))
    return {
        Severity[node.attr]
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "Severity"
    }


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_the_row_names_the_severities_and_no_others(rule):
    last = ROWS[rule.id].rstrip("| ").rpartition("|")[2]

    assert {s for s in Severity if s.name.lower() in last} == severities_in_code(rule)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_the_row_names_the_symptoms_and_no_others(rule):
    symptoms = set(re.findall(r"`(\w+)`", ROWS[rule.id].split("|")[2]))

    assert symptoms == {symptom.value for symptom in rule.advice}


def test_every_symptom_belongs_to_one_rule():
    said = [symptom for rule in RULES for symptom in rule.advice]

    assert sorted(said) == sorted(Symptom)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_the_row_says_how_often_in_a_row(rule):
    assert ("*twice*" in ROWS[rule.id]) is (rule.times == 2)
    assert rule.times in (1, 2)


@pytest.mark.parametrize("name", THRESHOLDS)
def test_the_rule_s_words_hold_the_threshold_s_number(name):
    """In its row, or in the remarks below the tables that begin with the rule's name."""
    rule = name.split(".")[0]
    remarks = re.findall(rf"^\* \*\*{rule}\b.*?(?=^\* |^$|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    row = ROWS[{"R5.x0_error": "R5b", "R14.precision": "R14b"}.get(name, rule)]
    number = THRESHOLDS[name].default
    forms = [f"{number:g}", f"{number:.0%}", f"{number:.1%}"]
    words = IN_WORDS.get(name)

    assert any(
        re.search(rf"(?<![\d.]){re.escape(form)}(?![\d.]*\d)", text)
        for form in ([words] if words else forms)
        for text in (row, *(" ".join(remark.split()) for remark in remarks))
    )


def test_the_page_names_every_severity():
    table = TEXT.partition("## Severities")[2].partition("## References")[0]
    rows = re.findall(r"^\| (\w+) \|", table, re.MULTILINE)

    assert rows[1:] == [s.name.lower() for s in sorted(Severity) if s is not Severity.NONE]
