"""The command ``stabsearch``: its parts mounted, its errors printed. Exit codes: ``ExitCode``."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from stabsearch.cli import (
    cluster_commands,
    explain_commands,
    result_commands,
    sampler_commands,
    study_commands,
)
from stabsearch.cli.usage import Commands
from stabsearch.errors import ExitCode, StabsearchError

DEBUG_VARIABLE = "STABSEARCH_DEBUG"
"""Set to 1: an error that nobody foresaw is shown with its traceback."""


def _show_version(is_asked: bool) -> None:
    if not is_asked:
        return
    try:
        typer.echo(f"stabsearch {version('stabsearch')}")
    except PackageNotFoundError:
        typer.echo("stabsearch (not installed)")
    raise typer.Exit


app = typer.Typer(
    name="stabsearch",
    cls=Commands,
    help="Finds which settings of a diffusion training are stable, how far they are from the "
    "edge, and why the others fail.",
    epilog="A first search:\n\n"
    "  [bold]stabsearch init my_study.yaml[/]\n\n"
    "  [bold]stabsearch run my_study.yaml[/]",
    rich_markup_mode="rich",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _options(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    del show_version  # its callback has answered


for commands in (
    study_commands,
    sampler_commands,
    result_commands,
    explain_commands,
    cluster_commands,
):
    commands.add_to(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; a user's mistake is a message, not a traceback."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="stabsearch")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    except StabsearchError as error:
        for line in str(error).splitlines() or [type(error).__name__]:
            print(f"error: {line}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
            raise
        print(_unforeseen(error), file=sys.stderr)  # noqa: T201
        return ExitCode.ABORTED
    return ExitCode.DONE


def _unforeseen(error: Exception) -> str:
    """The message; the traceback goes to a file, so that nothing has to happen again to see it."""
    story = traceback.format_exc()
    what = " ".join(f"{type(error).__name__}: {error}".split())
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="stabsearch-error-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(f"{' '.join(sys.argv)}\n{story}")
    except OSError:
        return f"{story}error: stabsearch did not foresee this: please report it."
    return (
        f"error: {what}\n"
        f"error: stabsearch did not foresee this. Please report it with {file.name}, which holds "
        f"the traceback ({DEBUG_VARIABLE}=1 shows it here instead)."
    )


if __name__ == "__main__":
    sys.exit(main())
