"""``recommend`` and ``plot``: from a study's files to an answer. Need neither torch nor Ray."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from stabsearch.cli.conventions import examples, exit_code_of, text_width


def add_to(app: typer.Typer) -> None:
    """Mount the commands of this module."""
    app.command(epilog=_RECOMMEND_EXAMPLES)(recommend)
    app.command(epilog=_PLOT_EXAMPLES)(plot)


_RECOMMEND_EXAMPLES = examples(
    "stabsearch recommend results/digits_lr_clip",
    "stabsearch recommend results/digits_lr_clip --json > answer.json",
)
_PLOT_EXAMPLES = examples(
    "stabsearch plot results/digits_lr_clip map",
    "stabsearch plot results/digits_lr_clip map --out figures/",
)

StudyFolder = Annotated[
    Path, typer.Argument(metavar="PATH", help="A study's folder: <storage>/<name>.")
]


class FigureName(StrEnum):
    """What ``plot`` can draw."""

    MAP = "map"


def recommend(
    path: StudyFolder,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
) -> None:
    """Recommend a setting from a study's files, while it runs or after it ended.

    Exit code 0 if a setting was stable, 3 if none was, 4 if something speaks against it: the edge
    is less precise than the study asks, the setting did not hold in its confirmation, is likely to
    fail within the margin and no stress test says otherwise, or combinations of words were not
    compared.
    """
    # Here, and not above: pandas and scikit-learn take a second that --help must not wait for.
    from stabsearch.recommend.describe import describe, to_json
    from stabsearch.recommend.pick import recommend as recommend_from
    from stabsearch.results.frames import load

    results = load(path)
    answer = recommend_from(results)
    if as_json:
        typer.echo(json.dumps(to_json(answer), indent=2))
    else:
        typer.echo(describe(answer, results.trials, text_width()))
    if code := exit_code_of(answer):
        raise typer.Exit(code)


def plot(
    path: StudyFolder,
    figure: Annotated[
        FigureName, typer.Argument(help="map: which settings are stable, and why the rest is not.")
    ] = FigureName.MAP,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for the files. Default: PATH/figures."),
    ] = None,
) -> None:
    """Draw a study as PNG and SVG."""
    from stabsearch.recommend.pick import recommend as recommend_from
    from stabsearch.report.figures import write_map
    from stabsearch.results.frames import load

    results = load(path)
    writers = {FigureName.MAP: write_map}
    for file in writers[figure](results, recommend_from(results), out or path / "figures"):
        typer.echo(str(file))
