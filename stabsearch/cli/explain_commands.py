"""``explain`` and ``replay``: stored reports to why, and what if. Need neither torch nor Ray."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from stabsearch.cli.conventions import command, examples, short
from stabsearch.errors import ResultsError, SpecError
from stabsearch.problems import nearest, show
from stabsearch.records import Severity, TrialRecord, Verdict
from stabsearch.thresholds import THRESHOLDS, Preset, of_same_rule, resolve

if TYPE_CHECKING:
    from stabsearch.cli.explain_text import Explanation, Page
    from stabsearch.cli.replay_text import StudyReplay
    from stabsearch.stability.replay import Fate, Replay


def add_to(app: typer.Typer) -> None:
    """Mount the commands of this module."""
    app.command(epilog=_EXPLAIN_EXAMPLES)(explain)
    app.command(epilog=_REPLAY_EXAMPLES)(replay)


_EXPLAIN_EXAMPLES = examples(
    "stabsearch explain results/digits_lr_clip",
    "stabsearch explain results/digits_lr_clip 0011-0",
    "stabsearch explain results/digits_lr_clip 11",
    "stabsearch explain results/digits_lr_clip 11 --json",
)
_REPLAY_EXAMPLES = examples(
    "stabsearch replay results/digits_lr_clip --set R1b.prune=0.7",
    "stabsearch replay results/digits_lr_clip --preset strict",
    "stabsearch replay results/digits_lr_clip --judge chapter --json",
)

StudyFolder = Annotated[
    Path, typer.Argument(metavar="PATH", help="A study's folder: <storage>/<name>.")
]
_CHANGE = "R1b.prune=0.4"
_LISTED_FIELDS = (
    "trial_id", "setting", "seed", "purpose", "params", "outcome", "is_stable", "is_unstable",
    "steps", "score", "rule", "symptom",
)  # fmt: skip
"""Of every trial in the list as JSON; the rest is in trials.parquet."""


def explain(
    path: StudyFolder,
    trial: Annotated[
        str | None,
        typer.Argument(
            metavar="TRIAL",
            help="0007-0, or 7 for every seed of that setting. Without it: the list of trials.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the explanation, or the list, as JSON.")
    ] = False,
) -> None:
    """Explain a trial: its loss, every verdict with its number, and what would have changed it.

    Works while the study runs, too: of a running trial it tells what is known so far.
    """
    # Here, and not above: pyarrow takes a moment that --help must not wait for.
    from stabsearch.cli import explain_text
    from stabsearch.cli.trial_choice import choose_trials, listing
    from stabsearch.recommend.neighbours import comparisons_of
    from stabsearch.results.stored_trial import read_records, read_study, read_trials

    records, study = read_records(path), read_study(path)
    try:
        chosen = choose_trials(path, records, trial)
    except ResultsError:
        for line in listing(records):
            typer.echo(line, err=True)
        raise
    if trial is None:
        _list_trials(path, chosen, as_json=as_json)
        return
    settings, gate = _analyzer_of(study), _gate_of(study)
    compared = {name: str(each) for name, each in comparisons_of(records, study).items()}
    explanations = [
        explain_text.explain_trial(
            stored, settings, gate=gate, comparison=compared.get(stored.record.trial_id, "")
        )
        for stored in read_trials(path, chosen)
    ]
    if as_json:
        fields = [_explanation_json(explanation) for explanation in explanations]
        _echo_json({"study": study["name"], "analyzer": settings, "gate": gate, "trials": fields})
        return
    console = Console(highlight=False)
    page = _page(console)
    if len(explanations) > 1:
        seeds = ", ".join(str(record.seed) for record in chosen)
        console.print(f"Setting {chosen[0].setting} has {len(chosen)} seeds: {seeds}.\n")
    for i, explanation in enumerate(explanations):
        if i:
            console.print()
        for text in explain_text.lines_of(explanation, page):
            console.print(text, soft_wrap=True)


def replay(
    path: StudyFolder,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help=f"Another threshold, such as {_CHANGE}; may be repeated. See docs/rules.md.",
        ),
    ] = None,
    preset: Annotated[
        Preset | None, typer.Option(help="Thresholds of the rules: speak earlier, or later.")
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Another judge: rules, chapter, lightning, olmo, ..."),
    ] = None,
    gate: Annotated[
        bool | None,
        typer.Option("--gate/--no-gate", help="As if the study had a gate, or none."),
    ] = None,
    trials: Annotated[
        list[str] | None,
        typer.Option(
            "--trial",
            metavar="TRIAL",
            help="Judge this trial only: 0007-0, or 7 for every seed; may be repeated.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Save the new verdicts as Parquet."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the replay as JSON.")] = False,
) -> None:
    """Judge a study's stored reports again, by other thresholds; tell which trials flip.

    Trains nothing and writes nothing to the study.
    """
    from stabsearch.cli import replay_text
    from stabsearch.cli.trial_choice import choose_trials
    from stabsearch.recommend.neighbours import comparisons_of
    from stabsearch.results.stored_trial import read_records, read_study, read_trials
    from stabsearch.stability.replay import replay_trial

    records, study = read_records(path), read_study(path)
    compared = comparisons_of(records, study)
    own, own_gate = _analyzer_of(study), _gate_of(study)
    wanted = _parse_changes(changes or [])
    settings = _settings(own, judge, preset, wanted)
    used_gate = own_gate if gate is None else gate
    if output is not None:
        _check_output(path, output)
    if trials:
        ids = {r.trial_id for name in trials for r in choose_trials(path, records, name)}
        records = [record for record in records if record.trial_id in ids]
    is_own = settings == own and used_gate == own_gate
    replays, num_otherwise = [], 0
    for stored in read_trials(path, records):
        arguments = (stored.record, stored.facts, stored.reports, stored.verdicts)
        again = replay_trial(*arguments, settings, gate=used_gate)
        by_own = again if is_own else replay_trial(*arguments, own, gate=own_gate)
        num_otherwise += bool(by_own.added or by_own.removed)
        replays.append(again)
    now = _limits(own)
    result = replay_text.StudyReplay(
        name=study["name"],
        asked=replay_text.asked_words(
            judge=judge,
            preset=preset,
            changes={name: (value, now[name]) for name, value in wanted.items()},
        ),
        gate=used_gate,
        settings=settings,
        trials=tuple(replays),
        num_judged_otherwise=num_otherwise,
        num_compared=sum(record.trial_id in compared for record in records),
    )
    if output is not None:
        _write_verdicts(output, replays)
    if as_json:
        _echo_json(_replay_json(result))
        return
    for line in replay_text.lines_of(result):
        typer.echo(line)
    if output is not None:
        typer.echo(f"\nVerdicts  {short(output)}")


def _list_trials(path: Path, records: Sequence[TrialRecord], *, as_json: bool) -> None:
    from stabsearch.cli.trial_choice import listing

    if as_json:
        _echo_json([_listed_json(record) for record in records])
        return
    for line in listing(records):
        typer.echo(line)
    # Beside the list, not in it: a pipe gets one line per trial.
    example = command("explain", short(path), records[0].trial_id)
    typer.echo(f"note: `{example}` explains one.", err=True)


# --- what is asked ----------------------------------------------------------------------------


def _analyzer_of(study: Mapping[str, Any]) -> dict[str, Any]:
    """The ``analyzer`` section of a study as it ran."""
    return {"name": "rules", "preset": "default", "thresholds": {}, **study.get("analyzer", {})}


def _gate_of(study: Mapping[str, Any]) -> bool:
    return bool(study.get("scheduler", {}).get("gate", True))


def _limits(settings: Mapping[str, Any]) -> dict[str, float]:
    return resolve(Preset(settings["preset"]), settings["thresholds"])


def _settings(
    own: Mapping[str, Any],
    judge: str | None,
    preset: Preset | None,
    changes: Mapping[str, float],
) -> dict[str, Any]:
    """The study's own settings with what is asked for in their place."""
    from stabsearch.stability.baselines import BASELINES
    from stabsearch.stability.judges import RULES_JUDGE

    judges = [RULES_JUDGE, *BASELINES]
    name = judge or own["name"]
    if name not in judges:
        found = nearest(name, judges)
        meant = f"Did you mean {found}? " if found else ""
        raise SpecError(
            f"--judge: there is no judge {name!r}. {meant}Judges: {', '.join(judges)}."
        )
    if name != RULES_JUDGE:
        if preset or changes:
            option = "--preset" if preset else "--set"
            raise SpecError(
                f"{option}: presets and thresholds are those of the rules, and the judge is "
                f"{name}. Leave it out, or add --judge {RULES_JUDGE}."
            )
        return {"name": name, "preset": Preset.DEFAULT.value, "thresholds": {}}
    merged = {
        "name": name,
        "preset": (preset or Preset(own["preset"])).value,
        "thresholds": {**own["thresholds"], **changes},
    }
    _check_thresholds(merged, preset, changes)
    return merged


def _check_thresholds(
    settings: Mapping[str, Any], preset: Preset | None, changes: Mapping[str, float]
) -> None:
    """Of what is asked for only: a study of an older version may have other thresholds."""
    from stabsearch.spec.analyzer import threshold_problems

    thresholds = settings["thresholds"]
    asked = [*changes, *(name for name in thresholds if preset and name not in changes)]
    lines = []
    for problem in threshold_problems(settings["preset"], thresholds, asked):
        name = str(problem.path[-1])
        written = f"{name}={show(problem.value)}"
        option = f"--set {written}" if name in changes else f"--preset {preset}: {written}"
        lines.append(f"{option}: {problem.rule}. {problem.remedy}")
    if lines:
        raise SpecError("\n".join(lines))


def _parse_changes(texts: Iterable[str]) -> dict[str, float]:
    changes = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise SpecError(f"--set {text}: must be NAME=VALUE, such as {_CHANGE}.")
        if name not in THRESHOLDS:
            raise SpecError(f"--set {text}: there is no threshold {name!r}. {_thresholds(name)}")
        try:
            changes[name] = float(value)
        except ValueError:
            changes[name] = math.nan
        if not math.isfinite(changes[name]):
            raise SpecError(
                f"--set {text}: must be a finite number. The default is "
                f"{name}={THRESHOLDS[name].default:g}: {THRESHOLDS[name].meaning}."
            )
    return changes


def _thresholds(name: str) -> str:
    """The nearest threshold, of the rule that is named if there is one; those of the same rule, or
    all."""
    found = nearest(name, of_same_rule(name) or THRESHOLDS)
    meant = f"Did you mean {found}? " if found else ""
    of_rule = of_same_rule(found or name)
    if of_rule:
        rule = of_rule[0].partition(".")[0]
        return f"{meant}Thresholds of {rule}: {', '.join(of_rule)}."
    return f"{meant}Thresholds: {', '.join(THRESHOLDS)}."


# --- what is written --------------------------------------------------------------------------


def _check_output(path: Path, output: Path) -> None:
    if output.resolve().is_relative_to(path.resolve()):
        raise ResultsError(
            f"{output}: lies in the study's folder, where readers would take it for the study's. "
            "Name a file elsewhere."
        )
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise ResultsError(f"{output}: cannot be written. Name a file in a folder that exists.")


def _write_verdicts(output: Path, replays: Sequence[Replay]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from stabsearch.results.schema import verdicts_table

    tables = [verdicts_table(trial.record.trial_id, trial.verdicts) for trial in replays]
    try:
        pq.write_table(pa.concat_tables([verdicts_table("", ()), *tables]), output)
    except OSError as error:
        raise ResultsError(
            f"{output}: cannot be written: {error.strerror or error}. Name a file in a folder "
            "that is yours."
        ) from error


def _page(console: Console) -> Page:
    """Colour and fine drawings on a terminal that shows them; plain characters elsewhere."""
    from stabsearch.cli.explain_text import MAX_WIDTH, Page

    is_plain = not console.is_terminal or console.no_color
    return Page(
        width=min(console.width, MAX_WIDTH) if console.is_terminal else MAX_WIDTH,
        wraps=console.is_terminal,
        ascii_only=is_plain or "utf" not in console.encoding.lower(),
    )


# --- JSON -------------------------------------------------------------------------------------


def _echo_json(fields: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    typer.echo(json.dumps(_plain(fields), indent=2))


def _explanation_json(explanation: Explanation) -> dict[str, Any]:
    from stabsearch.stability.words import describe_timesteps

    trial = explanation.trial
    verdicts = []
    for verdict, counterfactual in explanation.verdicts:
        where = None
        if trial.facts is not None and verdict.timestep_bin is not None:
            where = describe_timesteps(trial.facts, verdict.timestep_bin)
        fields = _verdict_json(verdict) | {"timesteps": where, "otherwise": str(counterfactual)}
        fields["changes"] = [asdict(change) for change in counterfactual.changes]
        fields["silent_presets"] = list(counterfactual.presets)
        verdicts.append(fields)
    presets = {preset.value: _fate_json(fate) for preset, fate in explanation.presets.items()}
    return {
        "trial": _record_json(trial.record),
        "verdicts": verdicts,
        "presets": presets,
        "survival": explanation.survival,
        "comparison": explanation.comparison,
    }


def _replay_json(replay: StudyReplay) -> dict[str, Any]:
    from stabsearch.cli.replay_text import verdict_counts

    return {
        "study": replay.name,
        "analyzer": replay.settings,
        "gate": replay.gate,
        "num_trials": len(replay.trials),
        "num_flips": len(replay.flips),
        "num_judged_otherwise": replay.num_judged_otherwise,
        "steps_taken": replay.steps_taken,
        "steps_saved": replay.steps_saved,
        "steps_added_at_most": replay.steps_added,
        "verdict_counts": [
            {"rule": rule, "symptom": symptom, "severity": severity, **row}
            for (rule, symptom, severity), row in verdict_counts(replay).items()
        ],
        "trials": [
            {
                "trial_id": trial.record.trial_id,
                "params": trial.record.params,
                "is_flipped": trial.is_flipped,
                "before": _fate_json(trial.before),
                "after": _fate_json(trial.after),
                "verdicts": [_verdict_json(verdict) for verdict in trial.verdicts],
            }
            for trial in replay.trials
        ],
    }


def _listed_json(record: TrialRecord) -> dict[str, Any]:
    """A trial of the list: how it ended, and which it was."""
    return {name: getattr(record, name) for name in _LISTED_FIELDS}


def _record_json(record: TrialRecord) -> dict[str, Any]:
    return asdict(record) | {"is_stable": record.is_stable, "is_unstable": record.is_unstable}


def _fate_json(fate: Fate) -> dict[str, Any]:
    verdict = fate.verdict
    return {
        "ending": fate.ending,
        "steps": fate.steps,
        "rule": verdict.rule if verdict else None,
        "symptom": verdict.symptom if verdict else None,
        "reason": verdict.reason if verdict else None,
    }


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    return asdict(verdict)


def _plain(value: Any) -> Any:
    """What JSON can say: names of severities, null for a number that is not finite."""
    if isinstance(value, Severity):
        return value.name.lower()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
