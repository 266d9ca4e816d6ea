"""``run``, ``validate``, ``init``, ``schema``: from a study file to a study."""

from __future__ import annotations

import json
import math
import random
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from stabsearch.cli.conventions import (
    beside_python,
    command,
    examples,
    exit_code_of,
    other_command,
    short,
    text_width,
)
from stabsearch.cli.progress import progress_for
from stabsearch.errors import EnvironmentProblem, ExitCode, ResultsError, SpecError
from stabsearch.recommend.words import params_text
from stabsearch.references import check_references
from stabsearch.spec import ConfirmSpec, StudySpec
from stabsearch.spec_file import dump_study, json_schema, load_study, starter_file

if TYPE_CHECKING:
    from stabsearch.search.study import StudyResult


def add_to(app: typer.Typer) -> None:
    """Mount the commands of this module."""
    app.command(epilog=_RUN_EXAMPLES)(run)
    app.command(epilog=_VALIDATE_EXAMPLES)(validate)
    app.command(epilog=_INIT_EXAMPLES)(init)
    app.command(epilog=_SCHEMA_EXAMPLES)(schema)


_RUN_EXAMPLES = examples(
    "stabsearch run search_spaces/digits_lr_clip.yaml",
    "stabsearch run my_study.yaml --dry-run",
    "stabsearch run my_study.yaml --trials 64 --seeds 3",
    "stabsearch run my_study.yaml --storage /shared/results",
)
_VALIDATE_EXAMPLES = examples("stabsearch validate search_spaces/*.yaml")
_INIT_EXAMPLES = examples("stabsearch init my_study.yaml")
_SCHEMA_EXAMPLES = examples("stabsearch schema > study.schema.json") + (
    "\n\nThen write as a study file's first line: "
    "# yaml-language-server: $schema=study.schema.json"
)

MORE_TRIALS = 1.5
"""Where the trials did not suffice, as many times their number are proposed."""

_INSTALL_DASHBOARD = ("-m", "pip", "install", "optuna-dashboard")

StudyFile = Annotated[Path, typer.Argument(metavar="FILE", help="Study file (YAML).")]


def run(
    file: StudyFile,
    storage: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder for results, instead of the file's storage."),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Settings to try, instead of the file's. More than before extend the study.",
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Trials per setting, each with its own seed, instead of the file's. More than "
            "before extend the study.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", help="Trials at the same time, instead of the file's."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDR",
            help="Ray cluster to join: auto, or host:6379. Default: a Ray of its "
            "own on this machine.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print the resolved study and three settings; train nothing."
        ),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the answer as JSON; progress goes to stderr."),
    ] = False,
    no_plot: Annotated[
        bool, typer.Option("--no-plot", help="Do not draw the stability map at the end.")
    ] = False,
) -> None:
    """Search for stable settings. The same command resumes an interrupted search.

    With more --trials or --seeds it extends the study; finished trials are kept.

    Exit code 0: a stable setting was found. 3: none. 4: one was found, but the edge is not known
    as precisely as stop_when asks, the setting did not hold in its confirmation, is likely to fail
    within margin_octaves and no stress test says otherwise, or combinations of words were not
    compared. 130: interrupted, by Ctrl-C or SIGTERM.
    """
    overrides = {
        "storage": storage,
        "trials": trials,
        "seeds": seeds,
        "resources.workers": workers,
    }
    spec = load_study(file, {name: v for name, v in overrides.items() if v is not None})
    with _answer_alone_on_stdout(as_json):
        check_references(spec, str(file))
    _caution(spec, file)
    if dry_run:
        typer.echo(_dry_run(spec, as_json=as_json), nl=False)
        return

    from stabsearch.search.study import run_study

    again = command(*_arguments())
    console = Console(stderr=as_json)
    try:
        with (
            _terminated_as_by_ctrl_c(),
            _answer_alone_on_stdout(as_json),
            progress_for(console) as progress,
        ):
            result = run_study(spec, address=address, observer=progress)
    except KeyboardInterrupt:
        _say_interrupted(spec.path, again)
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except (EnvironmentProblem, ResultsError, SpecError) as error:  # asked for, and cannot be had
        raise type(error)(f"{file}: {error}") from error
    _say_answer(result, as_json=as_json)
    if result.interrupted:
        _say_interrupted(result.path, again)
        raise typer.Exit(ExitCode.INTERRUPTED)
    figures = [] if no_plot else _draw_map(result)
    if not as_json:
        _say_next(result.path, figures, _with_more_trials(spec, result))
    if code := exit_code_of(result.recommendation):
        raise typer.Exit(code)


def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Study files (YAML).")],
) -> None:
    """Check study files: fields, values, and that references can be imported."""
    complaints = []
    for file in files:
        try:
            spec = load_study(file)
            check_references(spec, str(file))
        except SpecError as error:
            complaints.append(str(error))
            continue
        typer.echo(f"{file}: valid. {_summary(spec)}")
        _caution(spec, file)
    if complaints:
        raise SpecError("\n".join(complaints))


def init(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="File to write.")] = Path(
        "study.yaml"
    ),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a study file to start from, with comments."""
    if file.is_dir():
        raise SpecError(f"{file}: is a folder. Name the file to write, such as {file}/study.yaml.")
    if file.exists() and not force:
        raise SpecError(
            f"{file}: is there already. Name another file, or overwrite it with --force."
        )
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", file.stem).lstrip(".-")[:100] or "my_study"
    try:
        file.write_text(starter_file(name), encoding="utf-8")
    except OSError as error:
        raise SpecError(
            f"{file}: cannot be written: {error.strerror}. Name a file in a folder that exists "
            "and is yours."
        ) from error
    typer.echo(f"Wrote {file}. Next:")
    typer.echo(f"  {command('run', file, '--dry-run')}")
    typer.echo(f"  {command('run', file)}")


def schema() -> None:
    """Print the JSON schema of study files, for editors."""
    typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


def _caution(spec: StudySpec, file: Path) -> None:
    for caution in spec.cautions():
        typer.echo(f"note: {file}: {caution}", err=True)


def _dry_run(spec: StudySpec, *, as_json: bool) -> str:
    generator = random.Random(spec.searcher.seed)
    settings = [spec.sample(generator) for _ in range(3)]
    if as_json:
        fields = {
            "study": spec.model_dump(mode="json"),
            "settings": settings,
            "num_trials": spec.num_trials,
            "step_budget": spec.step_budget(),
        }
        return json.dumps(fields, indent=2) + "\n"
    lines = [
        dump_study(spec).rstrip(),
        "",
        "# Three settings from this space (the searcher draws its own):",
        *(f"#   {params_text(params)}" for params in settings),
        f"# {_summary(spec)}",
        f"# Results would go to {spec.path}",
    ]
    return "\n".join(lines) + "\n"


def _summary(spec: StudySpec) -> str:
    seeds = f" x {spec.seeds} seeds" if spec.seeds > 1 else ""
    names = ", ".join(spec.searched())
    text = (
        f"{spec.trials} settings{seeds} of {names}; at most {spec.step_budget():,} training steps"
    )
    if spec.confirm is not None:
        text += f", and {_confirmation_budget(spec, spec.confirm):,} to confirm the answer"
    return f"{text}."


def _confirmation_budget(spec: StudySpec, confirm: ConfirmSpec) -> int:
    """Steps of all rounds, if no setting holds before the last."""
    from stabsearch.recommend.rounds import MAX_ROUNDS

    stress = confirm.seeds if confirm.stress_octaves > 0 else 0
    own = max(0, confirm.seeds - spec.seeds)
    return MAX_ROUNDS * (own + stress) * spec.longest_trial


def _say_answer(result: StudyResult, *, as_json: bool) -> None:
    """The recommendation; of an interrupted study, only if there is one already."""
    from stabsearch.recommend.describe import describe, to_json

    if as_json:
        fields = to_json(result.recommendation)
        fields |= {"path": str(result.path), "interrupted": result.interrupted}
        typer.echo(json.dumps(fields, indent=2))
    elif result.recommendation.params is not None or not result.interrupted:
        typer.echo("\nSo far:" if result.interrupted else "")
        typer.echo(describe(result.recommendation, result.results.trials, text_width()))


@contextmanager
def _answer_alone_on_stdout(is_json: bool) -> Iterator[None]:
    """What a user's own code prints goes to stderr, beside the progress, where stdout is JSON."""
    if not is_json:
        yield
        return
    with redirect_stdout(sys.stderr):
        yield


@contextmanager
def _terminated_as_by_ctrl_c() -> Iterator[None]:
    """SIGTERM, by which slurm and Kubernetes end a job, does what Ctrl-C does at that moment."""

    def interrupt(_signum: int, frame: FrameType | None) -> None:
        # Not raise_signal: a shell's background job ignores SIGINT.
        on_ctrl_c = signal.getsignal(signal.SIGINT)
        (on_ctrl_c if callable(on_ctrl_c) else signal.default_int_handler)(signal.SIGINT, frame)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _with_more_trials(spec: StudySpec, result: StudyResult) -> str | None:
    """The command that searches on, where all trials did not make the answer precise enough."""
    if result.recommendation.params is None or result.recommendation.is_precise is not False:
        return None
    from stabsearch.search.strategies import make_strategy
    from stabsearch.search.strategy import is_complete

    ended = [r for r in result.results.records() if r.has_result]
    if len({r.setting for r in ended if r.purpose.is_search}) < spec.trials:
        return None
    more = spec.model_copy(update={"trials": math.ceil(MORE_TRIALS * spec.trials)})
    if is_complete(more, make_strategy(more), ended):
        return None  # the search has nothing left to ask
    options = _without_option("--trials", _arguments())
    return command(*options, "--trials", str(more.trials))


def _without_option(name: str, arguments: list[str]) -> list[str]:
    """Command-line arguments without ``name VALUE`` and ``name=VALUE``."""
    kept = []
    rest = iter(arguments)
    for argument in rest:
        if argument == name:
            next(rest, None)
        elif not argument.startswith(f"{name}="):
            kept.append(argument)
    return kept


def _say_next(folder: Path, figures: list[Path], more_trials: str | None) -> None:
    """Where everything is, and what to type next."""
    path = short(folder)
    typer.echo(f"\nResults   {path}")
    for figure in figures:
        typer.echo(f"Map       {short(figure)}")
    typer.echo("Next")
    if more_trials is not None:
        typer.echo(f"  {more_trials}")
    if not figures:
        typer.echo(f"  {command('plot', path, 'map')}")
    typer.echo(f"  {command('recommend', path)}")
    dashboard = beside_python("optuna-dashboard")
    typer.echo("Every trial in a browser (optional)")
    if not dashboard.exists():
        typer.echo(f"  {other_command(Path(sys.executable), *_INSTALL_DASHBOARD)}")
    typer.echo(f"  {other_command(dashboard, path / 'optuna.journal')}")


def _draw_map(result: StudyResult) -> list[Path]:
    """The stability map; a study whose map cannot be drawn still has its answer."""
    from stabsearch.report.figures import write_map

    try:
        return write_map(result.results, result.recommendation, result.path / "figures")
    except Exception as error:
        typer.echo(f"note: the map was not drawn: {error}", err=True)
        return []


def _say_interrupted(path: Path, again: str) -> None:
    if path.exists():
        told = f"finished trials are in {short(path)}. To go on"
    else:
        told = "before the first trial began; nothing was written. To begin"
    typer.echo(f"interrupted: {told}, run the same command:\n  {again}", err=True)


def _arguments() -> list[str]:
    """What was typed after ``stabsearch``."""
    return sys.argv[1:]
