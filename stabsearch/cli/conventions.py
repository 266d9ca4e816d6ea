"""What all commands share: how examples look in help, and how to say what to type next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from stabsearch.errors import ExitCode
from stabsearch.records import Recommendation

NAME = "stabsearch"


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "\n\n".join(["Examples:", *(f"  [bold]{line}[/]" for line in lines)])


def program() -> str:
    """How to start stabsearch again from this shell, told from how it was started.

    After ``make search`` that is ``.venv/bin/stabsearch``: the environment is not on the PATH.
    """
    started = Path(sys.argv[0])
    if started.name == "__main__.py" and started.parent.name == NAME:
        return f"{_as_typed(Path(sys.executable))} -m {NAME}"
    return _as_typed(started) if started.name == NAME and started.exists() else NAME


def beside_python(name: str) -> Path:
    """Where a program of this environment is, or would be once it is installed."""
    return Path(sys.executable).with_name(name)


def command(*words: str | Path) -> str:
    """A command line of stabsearch that can be pasted into this shell."""
    return f"{program()} {shlex.join(map(str, words))}"


def other_command(path: Path, *words: str | Path) -> str:
    """The same for another program."""
    return f"{_as_typed(path)} {shlex.join(map(str, words))}"


def short(path: Path) -> Path:
    """Relative to the current directory where it lies below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _as_typed(path: Path) -> str:
    """A program's name if the shell finds it by that, else its path."""
    found = shutil.which(path.name)
    # Folders are compared: an environment's python is a link to another folder's.
    if found is not None and path.exists() and Path(found).parent.samefile(path.parent):
        return path.name
    shown = str(short(path))
    return shlex.quote(shown if os.sep in shown else os.path.join(os.curdir, shown))


def text_width() -> int | None:
    """Columns of the terminal; None where the output is no terminal, and lines stay whole."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def exit_code_of(answer: Recommendation) -> ExitCode:
    """What a shell is told of a study's answer."""
    if answer.params is None:
        return ExitCode.NO_STABLE_SETTING
    return ExitCode.NOT_PRECISE if any(_doubts(answer)) else ExitCode.DONE


def _doubts(answer: Recommendation) -> Iterator[bool]:
    """What speaks against a setting that was found."""
    tested = answer.confirmation
    yield answer.is_precise is False
    yield tested is not None and not tested.has_held
    has_survived = tested is not None and tested.has_held_at(answer.margin_asked)
    yield answer.is_safe is False and not has_survived
    yield answer.num_unjudged > 0
