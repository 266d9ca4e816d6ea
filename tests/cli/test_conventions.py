"""What a printed command starts with: it must work where it is pasted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from stabsearch.cli import conventions


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
