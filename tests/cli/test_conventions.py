"""What a printed command starts with, to work where it is pasted; what an answer exits with."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from stabsearch.cli import conventions
from stabsearch.records import Confirmation, Recommendation


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """A current directory with an environment in .venv that is not on the PATH."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    (folder / "stabsearch").write_text("#!/bin/sh\n")
    (folder / "stabsearch").chmod(0o755)
    (folder / "python").symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    return folder


@pytest.mark.parametrize("typed", [".venv/bin/stabsearch", "{here}/.venv/bin/stabsearch"])
def test_a_program_that_is_not_on_the_path_is_named_by_its_path(environment, monkeypatch, typed):
    monkeypatch.setattr(sys, "argv", [typed.format(here=Path.cwd()), "run"])

    assert conventions.program() == ".venv/bin/stabsearch"
    assert conventions.command("plot", "a b") == ".venv/bin/stabsearch plot 'a b'"


def test_a_program_that_is_on_the_path_goes_by_its_name(environment, monkeypatch):
    monkeypatch.setenv("PATH", f"{environment}:/usr/bin:/bin")
    monkeypatch.setattr(sys, "argv", [str(environment / "stabsearch"), "run"])

    assert conventions.program() == "stabsearch"


def test_another_program_of_that_name_on_the_path_is_not_meant(environment, monkeypatch):
    other = environment.parent / "stabsearch"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{other.parent}:/usr/bin:/bin")
    monkeypatch.setattr(sys, "argv", [".venv/bin/stabsearch"])

    assert conventions.program() == ".venv/bin/stabsearch"


def test_a_file_in_the_current_directory_is_not_looked_up_on_the_path(environment, monkeypatch):
    monkeypatch.chdir(environment)
    monkeypatch.setattr(sys, "argv", ["./stabsearch"])

    assert conventions.program() == "./stabsearch"


def test_a_module_is_started_with_the_same_python(environment, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/stabsearch/__main__.py", "run"])

    assert conventions.program() == ".venv/bin/python -m stabsearch"
    # Links to one interpreter are different environments.
    monkeypatch.setenv("PATH", str(environment))
    assert conventions.program() == "python -m stabsearch"


def test_any_other_start_says_the_plain_name(environment, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/ipython"])

    assert conventions.program() == "stabsearch"


def test_paths_below_the_current_directory_are_short(environment):
    assert conventions.short(Path.cwd() / "a" / "b") == Path("a/b")
    assert conventions.short(Path("/else/where")) == Path("/else/where")


HELD = Confirmation(
    num_seeds=3,
    num_stable=3,
    stress_octaves=1.0,
    stress_learning_rate=2e-3,
    num_stress_seeds=3,
    num_stress_stable=3,
    num_stress_poor=0,
    num_asked=3,
    p_fail_bound=0.2,
    moved_from=(),
)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, 0),
        ({"is_safe": True, "is_precise": True, "confirmation": HELD}, 0),
        ({"is_precise": False}, 4),
        ({"confirmation": replace(HELD, num_stable=2)}, 4),
        ({"is_safe": False}, 4),
        ({"is_safe": False, "confirmation": HELD}, 0),
        ({"is_safe": False, "confirmation": replace(HELD, stress_octaves=0.5)}, 4),
        ({"is_safe": False, "confirmation": HELD, "margin_asked": 2.0}, 4),
        ({"is_safe": False, "confirmation": replace(HELD, stress_octaves=0.0)}, 4),
        ({"num_unjudged": 1}, 4),
        ({"params": None, "num_unjudged": 1}, 3),
    ],
    ids=[
        "nothing", "everything", "imprecise", "not held", "unsafe", "unsafe, and held",
        "held nearer by", "a wider margin", "held without a stress test", "words left",
        "nothing stable",
    ],
)  # fmt: skip
def test_exit_code_0_says_that_nothing_speaks_against_the_answer(changes, code):
    answer = Recommendation(params={"learning_rate": 1e-3}, trial_id="0000-0")

    assert conventions.exit_code_of(replace(answer, **changes)) == code
