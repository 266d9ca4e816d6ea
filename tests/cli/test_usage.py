"""What is said of a value that no argument takes."""

from __future__ import annotations

import pytest

from stabsearch.cli import main as cli


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run", "x.yaml", "--trials", "x"], "'--trials': 'x' must be a whole number."),
        (["plot", "results/x", "foo"], "'figure': 'foo' is not one of 'map'."),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_value_is_named_in_our_words(words, expected, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")

    assert cli.main(words) == 2

    said = capsys.readouterr().err
    assert expected in said
    assert "Value error" not in said


def test_other_complaints_stay(capsys):
    assert cli.main(["run", "x.yaml", "--nothing"]) == 2

    assert "No such option: --nothing" in capsys.readouterr().err
