"""module:function becomes a function, or a reason."""

from __future__ import annotations

import sys

import pytest

from stabsearch.errors import SpecError
from stabsearch.references import check_references, resolve


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module in a fresh current directory; forgets it afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    before = set(sys.modules)

    def write(text: str, name: str = "mine_for_test") -> str:
        (tmp_path / f"{name}.py").write_text(text)
        return name

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_module_in_the_current_directory_is_found(module):
    module("class Net:\n    def make(self): return 3\ndef unet(): return 7\n")

    assert resolve("mine_for_test:unet")() == 7
    assert resolve("mine_for_test:Net.make")(None) == 3


def test_an_installed_package_wins_over_a_stray_file(module):
    module("loads = None\n", name="json")

    assert resolve("json:loads")("[1]") == [1]


@pytest.mark.parametrize(
    ("reference", "text", "expected"),
    [
        ("no_such_module_here:unet", "", "no module named no_such_module_here. Correct the name"),
        ("json.no_such:unet", "", "no module named json.no_such"),
        ("mine_for_test:unett", "unet = max", "module mine_for_test has no attribute unett"),
        ("mine_for_test:size", "size = 3", "is a int, which cannot be called"),
        ("mine_for_test:f", "import not_there_at_all", "imports not_there_at_all, which is not"),
        ("mine_for_test:f", "1 / 0", "importing mine_for_test raised ZeroDivisionError"),
        ("mine_for_test:f", "import sys; sys.exit(5)", "ended the program (sys.exit: 5)"),
        ("mine_for_test:f", "import argparse; argparse.ArgumentParser().error('x')", "__main__"),
        ("mine_for_test:f", "def f(:", "importing mine_for_test raised SyntaxError"),
        ("mine_for_test", "", "must be module:function"),
    ],
)
def test_a_reference_that_cannot_be_used_says_why(module, reference, text, expected):
    module(text)

    with pytest.raises(SpecError) as caught:
        resolve(reference, "trainer.model.name")

    assert str(caught.value).startswith(f"trainer.model.name: {reference} — ")
    assert expected in str(caught.value)


def test_all_bad_references_of_a_study_are_told_at_once():
    class Study:
        def references(self):
            return {"trainer.model.name": "nope_a:x", "trainer.data.name": "nope_b:y"}

    with pytest.raises(SpecError) as caught:
        check_references(Study(), "study.yaml")

    lines = str(caught.value).splitlines()
    assert [line.split(" — ")[0] for line in lines] == [
        "study.yaml: trainer.model.name: nope_a:x",
        "study.yaml: trainer.data.name: nope_b:y",
    ]
