"""docs/training.md names what exists: every value, file, function and test."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from typing import get_args

import pytest

from stabsearch.spec import NoiseScheduleSpec, TrainerSpec
from stabsearch.training.gradient_norms.layers import LAYERS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "training.md").read_text()
CHOICES, PARTS, MISTAKES = (
    re.findall(rf"^\| {header} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)[0].splitlines()
    for header in ("field", "part of the chapter", "#")
)
FUNCTIONS = re.findall(r"`([\w/]+\.py):(\w[\w.]*)`", TEXT)
TESTS = re.findall(r"`([\w/]+\.py)::(\w+)`", TEXT)


def field_of(name):
    spec, _, nested = name.rpartition(".")
    return {"": TrainerSpec, "noise_schedule": NoiseScheduleSpec}[spec].model_fields[nested]


def test_table_of_choices_lists_the_values_of_the_spec():
    listed: dict[str, list[str]] = {}
    for row in CHOICES:
        field, value = re.match(r"\| (?:`([\w.]+)`)? ?\| `(\w+)` \|", row).groups()
        if field:
            listed[field] = []
        values = listed[next(reversed(listed))]
        values.append(value)

    assert listed == {name: list(get_args(field_of(name).annotation)) for name in listed}
    assert len(listed) == 10


def test_layers_that_ghost_norms_know_are_listed():
    known = re.search(r"They know ([\w, ]+):", " ".join(TEXT.split()))[1]

    assert re.split(", | and ", known) == [layer.__name__ for layer in LAYERS]


@pytest.mark.parametrize(("path", "name"), FUNCTIONS)
def test_named_function_exists(path, name):
    found = importlib.import_module("stabsearch." + path.removesuffix(".py").replace("/", "."))
    for part in name.split("."):
        found = getattr(found, part)


@pytest.mark.parametrize(("path", "name"), TESTS)
def test_named_test_exists(path, name):
    tree = ast.parse((ROOT / "tests" / path).read_text())

    assert name in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


def test_every_part_of_the_chapter_has_a_place_and_a_test():
    assert len(PARTS) == 14
    for row in PARTS:
        _, _, place, tests, _ = row.split("|")
        assert re.search(r"\.py:\w", place), row
        assert re.search(r"\.py::test_", tests), row


def test_every_mistake_of_the_chapter_has_its_own_test_which_names_it():
    for number, row in enumerate(MISTAKES, start=1):
        path, name = re.search(r"`([\w/]+\.py)::(\w+)`", row).groups()
        tree = ast.parse((ROOT / "tests" / path).read_text())
        docstring = next(
            ast.get_docstring(node) for node in tree.body if getattr(node, "name", "") == name
        )

        assert row.startswith(f"| {number} |")
        assert docstring.startswith(f"Item {number}.")
    assert len(MISTAKES) == 25


def test_files_and_fields_that_the_text_names_exist():
    files = re.findall(r"`((?:tests|stabsearch|training)/[\w/]+\.py)`|\]\((\w+\.md)\)", TEXT)
    for code, page in files:
        places = [ROOT / code, ROOT / "stabsearch" / code] if code else [ROOT / "docs" / page]
        assert any(place.is_file() for place in places), code or page
