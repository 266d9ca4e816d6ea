"""``check-sampler``: is it the sampler? Tried on a model that is known exactly; trains nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from stabsearch.cli.conventions import command, examples
from stabsearch.errors import ExitCode, SpecError
from stabsearch.recommend.sampler_words import badness, is_right, sampler_sentence
from stabsearch.recommend.words import number, params_text
from stabsearch.records import Params
from stabsearch.spec import StudySpec
from stabsearch.spec_file import load_study, parse_study, parse_value
from stabsearch.thresholds import Preset, resolve

if TYPE_CHECKING:
    from stabsearch.diffusion.sampler_check import SamplerMeasurement

NUM_COMPONENTS = 8
"""Components that are shown; the mean z^2 is over all."""


def add_to(app: typer.Typer) -> None:
    """Mount the command of this module."""
    app.command("check-sampler", epilog=_EXAMPLES)(check_sampler)


_EXAMPLES = examples(
    "stabsearch check-sampler ddim",
    "stabsearch check-sampler my_samplers:heun --set num_inference_steps=20",
    "stabsearch check-sampler my_samplers:heun --study my_study.yaml",
    "stabsearch check-sampler --study my_study.yaml --json",
) + (
    "\n\nExit code 0: right; 5: wrong; 2: it raised, or returned no samples. "
    "What is measured: docs/samplers.md"
)


def check_sampler(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="SAMPLER",
            help="ddim, ddpm, or your own as module:function. Default: the one that the study "
            "file names.",
        ),
    ] = None,
    study: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Study whose data, noise schedule and prediction type the model has. Default: "
            "digits, linear, epsilon.",
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="OPTION=VALUE", help="Option of the sampler; repeat it."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Run a sampler on a model that cannot be wrong, and compare its samples with the data.

    Finds a sampler with another noise schedule, prediction type or timestep offset than training,
    or with too few steps: what a good loss with bad samples comes from. Takes seconds.
    """
    spec = _with_sampler(study, name, _options(changes or []))
    limits = resolve(Preset(spec.analyzer.preset), spec.analyzer.thresholds)
    answers, num_left_out = _measure(spec, limits)
    if as_json:
        typer.echo(json.dumps([_as_json(*answer, limits) for answer in answers], indent=2))
    else:
        for answer in answers:
            _say(*answer, limits)
        if num_left_out:
            typer.echo(
                f"note: the study searches {num_left_out} more combinations of prediction type "
                "and noise schedule, which were not checked.",
                err=True,
            )
    if not all(is_right(measured.check, limits) for _, measured, _ in answers):
        raise typer.Exit(ExitCode.SAMPLER_WRONG)


def _options(changes: list[str]) -> dict[str, Any]:
    """``a=1`` -> ``{"a": 1}``, values as YAML."""
    options = {}
    for change in changes:
        option, equals, text = change.partition("=")
        if not (option and equals):
            raise SpecError(
                f"--set {change}: must be OPTION=VALUE, such as --set num_inference_steps=100."
            )
        options[option] = parse_value(text)
    return options


def _with_sampler(file: Path | None, name: str | None, options: Mapping[str, Any]) -> StudySpec:
    """The study, or one of all defaults, with this sampler in place of its own."""
    spec = load_study(file) if file is not None else None
    own = spec.sampler if spec is not None else None
    if name is None and own is None:
        begin = "names no sampler." if file is not None else "Which sampler?"
        raise SpecError(
            f"{f'{file}: ' if file else ''}{begin} Name one, such as "
            f"{command('check-sampler', 'ddim')}{', or add a sampler section' if file else ''}."
        )
    sampler: dict[str, Any] = {"name": name} if name is not None else {}
    if own is not None and name in (None, own.name):
        sampler = own.model_dump()
    sampler |= options
    if spec is None:
        fields: dict[str, Any] = {
            "name": "digits",
            "space": {"learning_rate": {"log_uniform": [1e-4, 0.1]}},
        }
    else:
        fields = spec.model_dump()
    return parse_study(fields | {"sampler": sampler}, str(file or "check-sampler"))


Answer = tuple[Params, "SamplerMeasurement", str]
"""Combination, what was measured, and what explains a failure."""


def _measure(spec: StudySpec, limits: Mapping[str, float]) -> tuple[list[Answer], int]:
    # Here, and not above: torch takes a second that --help must not wait for.
    from stabsearch.diffusion.noise_schedule import make_noise_schedule
    from stabsearch.diffusion.sampler_check import measure_sampler
    from stabsearch.diffusion.sampler_diagnosis import diagnose
    from stabsearch.search.sampler_checks import combinations, find_sampler
    from stabsearch.search.study import prepare_study_data

    assert spec.sampler is not None
    sampler = find_sampler(spec.sampler.name)
    examples_ = prepare_study_data(spec).dataset.train
    answers: list[Answer] = []
    chosen, num_left_out = combinations(spec)
    for params in chosen:
        trainer = spec.trainer_for(params)
        schedule = make_noise_schedule(**trainer.noise_schedule.model_dump())
        options = spec.sampler.options
        measured = measure_sampler(
            sampler,
            examples_,
            schedule,
            trainer.prediction_type,
            name=spec.sampler.name,
            options=options,
        )
        why = ""
        if not is_right(measured.check, limits):
            why = diagnose(
                sampler,
                examples_,
                schedule,
                trainer.prediction_type,
                options=options,
                measured=measured,
                badness=lambda check: badness(check, limits),
            )
        shown = {"prediction_type": trainer.prediction_type} | params
        answers.append((shown, measured, why))
    return answers, num_left_out


def _say(
    params: Params, measured: SamplerMeasurement, why: str, limits: Mapping[str, float]
) -> None:
    check = measured.check
    table = Table(box=None, pad_edge=False)
    for heading in ("component", "z^2 of the mean", "variance / data's"):
        table.add_column(heading, justify="right")
    shown = list(zip(measured.z2, measured.variance_ratio, strict=True))[:NUM_COMPONENTS]
    for index, (z2, ratio) in enumerate(shown, start=1):
        table.add_row(str(index), number(float(z2)), number(float(ratio)))
    table.add_row(
        f"all {len(measured.z2)}" if len(measured.z2) > len(shown) else "all",
        number(check.mean_z2),
        f"{number(math.exp(check.log_variance))} (first {len(shown)})",
    )
    typer.echo(
        f"{check.name}, model of {params_text(params)}: {measured.num_samples} samples, "
        f"{measured.num_model_calls} calls of the model\n"
    )
    Console().print(table)
    typer.echo(f"\n{sampler_sentence(check, limits)}")
    if why:
        typer.echo(why)
    typer.echo()


def _as_json(
    params: Params, measured: SamplerMeasurement, why: str, limits: Mapping[str, float]
) -> dict[str, Any]:
    check = measured.check
    return {
        "sampler": check.name,
        "params": params,
        "is_right": is_right(check, limits),
        "mean_z2": _finite(check.mean_z2),
        "log_variance": _finite(check.log_variance),
        "z2": [_finite(value) for value in measured.z2.tolist()],
        "variance_ratio": [_finite(value) for value in measured.variance_ratio.tolist()],
        "num_samples": measured.num_samples,
        "num_model_calls": measured.num_model_calls,
        "verdict": sampler_sentence(check, limits),
        "explanation": why,
    }


def _finite(value: float) -> float | None:
    """JSON has no Inf and no NaN."""
    return value if math.isfinite(value) else None
