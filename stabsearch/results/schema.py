"""The four tables of a study: their columns, and the way from records to rows and back.

    trials      one row per trial                            TrialRecord
    reports     one row per report of a trial                Report, without its bins
    timesteps   one row per report and timestep bin          the bins of Report
    verdicts    one row per verdict                          Verdict

Nothing is lost on the way: ``to_records(trials_table(...))`` gives equal records, and likewise
``to_reports`` and ``to_verdicts``. docs/results.md lists the columns; a test compares.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

import pyarrow as pa

from stabsearch.errors import ResultsError
from stabsearch.records import (
    Evaluation,
    Look,
    Outcome,
    Params,
    ParamValue,
    Purpose,
    ReferenceLoss,
    Report,
    SamplerCheck,
    Severity,
    StoppedBy,
    Symptom,
    TrialFacts,
    TrialRecord,
    Verdict,
)

SCHEMA_VERSION = 4
"""Raised when a column changes its meaning, its type or its name, or disappears."""

VERSION_KEY = b"stabsearch_schema_version"
PARAM_PREFIX = "params_"
NEVER_NULL = PARAM_PREFIX + "learning_rate"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table. ``type`` is an Arrow type."""

    name: str
    type: pa.DataType
    description: str
    nullable: bool = False


_TEXT, _INT, _FLOAT, _BOOL = pa.string(), pa.int64(), pa.float64(), pa.bool_()

_TRIAL_ID = Column("trial_id", _TEXT, "`<setting>-<seed>`; sorts in the order of proposal.")

TRIALS: tuple[Column, ...] = (
    Column("study", _TEXT, "Name of the study."),
    _TRIAL_ID,
    Column(
        "setting",
        _INT,
        "Number of the proposed setting, from 0; trials that differ by seed share it.",
    ),
    Column("seed", _INT, "Seed of weights, data order and noise."),
    Column("outcome", _TEXT, "`running`, `completed`, `diverged`, `stopped` or `failed`."),
    Column(
        "is_stable",
        _BOOL,
        "Trained its whole budget, and nothing worse than a warning was said of it.",
    ),
    Column(
        "is_unstable",
        _BOOL,
        "Evidence by itself that the setting lies beyond the stability edge. The recommendation "
        "also counts a `not_learning` trial, or a short one that had learned nothing by its end, "
        "where trials below its learning rate had learned.",
    ),
    Column(
        "stopped_by",
        _TEXT,
        "Who ended the trial before its budget: `gate`, `rank`, `gauge`, `probe` (the strategy: a "
        "short trial that has answered its question), or empty for nobody.",
    ),
    Column(
        "severity",
        _TEXT,
        "Worst severity of any verdict: `none`, `steer`, `warn`, `penalise` or `prune`.",
    ),
    Column(
        "rule",
        _TEXT,
        "Rule of the verdict that decided; empty if none was worse than `steer`. See `verdicts`.",
    ),
    Column("symptom", _TEXT, "Symptom of that verdict; empty if none."),
    Column(
        "reason",
        _TEXT,
        "Why the trial ended early or is not called stable, or what failed; else empty.",
    ),
    Column("advice", _TEXT, "What to try next; empty without a reason."),
    Column("verdict_step", _INT, "Optimizer step at which the deciding symptom showed.", True),
    Column("timestep_low", _INT, "First timestep of the bin where it showed most.", True),
    Column("timestep_high", _INT, "Last timestep of that bin.", True),
    Column("steps", _INT, "Optimizer steps reported."),
    Column("max_train_steps", _INT, "Optimizer steps of the whole budget."),
    Column(
        "score",
        _FLOAT,
        "Last evaluated score if finite, with EMA weights where there are any: geometric mean "
        "over timestep bins of held-out loss / loss of the best linear denoiser. Lower is better.",
        True,
    ),
    Column("score_raw", _FLOAT, "The same with the raw weights.", True),
    Column("eval_loss", _FLOAT, "Last held-out loss, with the weights of `score`.", True),
    Column("kappa", _FLOAT, "Held-out loss with EMA weights / with raw weights.", True),
    Column(
        "lr_gauge_octaves",
        _FLOAT,
        "Octaves that the learning rate lies above (below: negative) the best one, by kappa; the "
        "last known.",
        True,
    ),
    Column(
        "constant_score",
        _FLOAT,
        "Score of the best constant prediction: what a dead network gets.",
        True,
    ),
    Column("clip_rate", _FLOAT, "Share of clipped steps over the whole trial, from 0 to 1.", True),
    Column(
        "grad_norm_median",
        _FLOAT,
        "Gradient norm before clipping: median over reports of the reports' medians.",
        True,
    ),
    Column("nonfinite_steps", _INT, "Steps whose loss or gradient norm was NaN or Inf."),
    Column("remarks", _TEXT, "What to know of how the trial was measured; empty if nothing."),
    Column("attempts", _INT, "Times the trial was started; more than 1 after a lost worker."),
    Column("train_seconds", _FLOAT, "Seconds in the training loop and evaluation."),
    Column("started_at", _FLOAT, "Unix time in seconds."),
    Column("ended_at", _FLOAT, "Unix time in seconds; null while the trial runs.", True),
    Column(
        "purpose",
        _TEXT,
        "Why it was started: `search`, `probe` (short), `confirm` (the recommended setting under "
        "another seed) or `stress` (the same at a higher learning rate).",
    ),
    Column(
        "clip_coef_mean",
        _FLOAT,
        "What clipping left of the gradient, mean over the trial's steps; 1 where it never acted.",
        True,
    ),
    Column(
        "constant_loss",
        _FLOAT,
        "C0, the loss of the best constant prediction, in the units of `eval_loss`.",
        True,
    ),
    Column("loss_unit", _FLOAT, "u = L_iso - L_lin, in the same units.", True),
    Column(
        "grad_norm_late",
        _FLOAT,
        "As `grad_norm_median`, over the last quarter of the reports.",
        True,
    ),
    Column(
        "looks",
        pa.list_(
            pa.struct(
                [
                    pa.field("step", _INT),
                    pa.field("score", _FLOAT),
                    pa.field("lr_gauge_octaves", _FLOAT),
                    pa.field("grad_norm_median", _FLOAT),
                    pa.field("grad_norm_late", _FLOAT),
                ]
            )
        ),
        "What it had shown (the columns of these names) by the steps where short trials end, as "
        "far as it came.",
    ),
)

REPORTS: tuple[Column, ...] = (
    _TRIAL_ID,
    Column(
        "step", _INT, "Optimizer steps taken so far; the row speaks of the window ending here."
    ),
    Column("learning_rate", _FLOAT, "At the window's last step, warm-up included."),
    Column(
        "loss",
        _FLOAT,
        "Training loss, unweighted: mean of the timestep bins' means over finite samples.",
    ),
    Column("max_batch_loss", _FLOAT, "Largest batch-mean loss among the window's finite steps."),
    Column("grad_norm_median", _FLOAT, "Total 2-norm before clipping, over finite steps."),
    Column("grad_norm_max", _FLOAT, "Largest total 2-norm before clipping, over finite steps."),
    Column("clip_rate", _FLOAT, "Share of finite steps on which clipping changed the gradient."),
    Column("clip_coef_mean", _FLOAT, "Mean of what clipping left of the gradient; 1 unclipped."),
    Column("clip_coef_cv", _FLOAT, "Standard deviation / mean of that coefficient."),
    Column(
        "outlier_norm_rate",
        _FLOAT,
        "Share of finite steps whose norm was above 3 times the median of the norms before it.",
    ),
    Column(
        "clamped_fraction",
        _FLOAT,
        "Share of the loss's elements without a gradient; 0 unless the loss is clamped_mse.",
    ),
    Column(
        "grad_effective_bins",
        _FLOAT,
        "N_eff: how many timestep bins the gradient effectively comes from; 1 / sum of squared "
        "shares. NaN if not measured.",
    ),
    Column(
        "nonfinite_steps",
        _INT,
        "Steps whose loss or gradient norm was NaN or Inf; no such gradient is applied.",
    ),
    Column(
        "scaler_skips",
        _INT,
        "Steps skipped by fp16 loss scaling, whose loss was finite; not in nonfinite_steps.",
    ),
    Column("first_nonfinite_step", _INT, "The first such step of the window.", True),
    Column(
        "first_nonfinite_bins",
        pa.list_(_INT),
        "Timestep bins with a non-finite sample at that step; empty if only the gradient was.",
    ),
    Column("train_seconds", _FLOAT, "Seconds of training and evaluation since the trial began."),
    Column(
        "batch_losses",
        pa.list_(_FLOAT),
        "Batch-mean loss of every step of the window; NaN or Inf as it was.",
    ),
    Column(
        "grad_norms",
        pa.list_(_FLOAT),
        "Total 2-norm before clipping of every step; NaN or Inf as it was.",
    ),
    Column(
        "frozen_parameters",
        pa.list_(_TEXT),
        "Weight matrices that have not changed since training began, where that was checked.",
    ),
    Column(
        "lr_gauge_octaves",
        _FLOAT,
        "Octaves that the learning rate lies above (below: negative) the best one, by kappa.",
        True,
    ),
    Column(
        "eval_loss_raw",
        _FLOAT,
        "Held-out loss on the study's fixed grid, raw weights; null if not evaluated here.",
        True,
    ),
    Column("eval_loss_ema", _FLOAT, "The same with EMA weights.", True),
    Column("score_raw", _FLOAT, "Score with raw weights; null if not evaluated here.", True),
    Column("score_ema", _FLOAT, "Score with EMA weights.", True),
    Column("kappa", _FLOAT, "eval_loss_ema / eval_loss_raw.", True),
    Column(
        "shuffled_loss",
        _FLOAT,
        "eval_loss_raw when every row is given another's timestep; null where not probed.",
        True,
    ),
)

TIMESTEPS: tuple[Column, ...] = (
    _TRIAL_ID,
    Column("step", _INT, "Optimizer steps taken so far, as in `reports`."),
    Column("timestep_bin", _INT, "Number of the bin; bin 0 holds the least noisy timesteps."),
    Column("timestep_low", _INT, "First timestep of the bin."),
    Column("timestep_high", _INT, "Last timestep of the bin."),
    Column("loss", _FLOAT, "Mean training loss of the window's finite samples; NaN if none."),
    Column("count", _INT, "Samples drawn in the window."),
    Column("nonfinite", _INT, "Samples whose loss was NaN or Inf."),
    Column(
        "grad_norm",
        _FLOAT,
        "Root mean square 2-norm of a single sample's gradient; NaN if none was measured.",
    ),
    Column("grad_count", _INT, "Samples behind it."),
    Column(
        "grad_share",
        _FLOAT,
        "The bin's share of the squared per-sample gradient norm; NaN if not measured.",
    ),
    Column(
        "grad_cosine",
        pa.list_(_FLOAT),
        "Cosine of the bin's mean gradient with that of every bin, where it was probed.",
        True,
    ),
    Column("eval_loss_raw", _FLOAT, "Held-out loss, raw weights; null if not evaluated.", True),
    Column("eval_loss_ema", _FLOAT, "Held-out loss, EMA weights; null if not evaluated.", True),
    Column(
        "eval_x0_error",
        _FLOAT,
        "Mean squared error of x0 as the prediction implies it / the data's variance; null if not "
        "evaluated.",
        True,
    ),
)

VERDICTS: tuple[Column, ...] = (
    _TRIAL_ID,
    Column("rule", _TEXT, "Identifier of the rule, as in docs/rules.md."),
    Column("symptom", _TEXT, "What went wrong, in one word."),
    Column("severity", _TEXT, "`steer`, `warn`, `penalise` or `prune`."),
    Column("value", _FLOAT, "The number that was judged."),
    Column("threshold", _FLOAT, "What it was judged against."),
    Column("limit", _TEXT, "Name of the threshold that decided, as in docs/rules.md."),
    Column("step", _INT, "Optimizer step at which the symptom showed."),
    Column("timestep_bin", _INT, "The bin where it shows most; null if not tied to one.", True),
    Column("timestep_low", _INT, "First timestep of that bin.", True),
    Column("timestep_high", _INT, "Last timestep of that bin.", True),
    Column("reason", _TEXT, "One sentence with the numbers in it."),
    Column("advice", _TEXT, "What to try next."),
)

TABLES: dict[str, tuple[Column, ...]] = {
    "trials": TRIALS,
    "reports": REPORTS,
    "timesteps": TIMESTEPS,
    "verdicts": VERDICTS,
}


def schema_of(table: str, params: Mapping[str, pa.DataType | None] | None = None) -> pa.Schema:
    """Arrow schema of a table; ``params`` adds one column for every searched parameter.

    A parameter of type None has values of different types, and is stored as JSON text.
    """
    arrow_fields = [
        pa.field(column.name, column.type, column.nullable, {"description": column.description})
        for column in TABLES[table]
    ]
    for name, arrow_type in sorted((params or {}).items()):
        metadata = {"description": f"Sampled value of {name}."}
        if arrow_type is None:
            arrow_type = _TEXT
            metadata = {
                "description": f"Sampled value of {name}, as JSON: its values differ in type.",
                "encoding": "json",
            }
        arrow_fields.append(pa.field(PARAM_PREFIX + name, arrow_type, True, metadata))
    return pa.schema(arrow_fields, {VERSION_KEY: str(SCHEMA_VERSION), "table": table})


def check_version(table: pa.Table, path: object) -> None:
    """Raises unless ``table``, read from ``path``, was written with this version's schema."""
    found = (table.schema.metadata or {}).get(VERSION_KEY)
    if found != str(SCHEMA_VERSION).encode():
        wrote = f"schema version {found.decode()}" if found else "no stabsearch schema version"
        raise ResultsError(
            f"{path}: the file has {wrote}, and this stabsearch reads version {SCHEMA_VERSION}. "
            "Read it with the version of stabsearch that wrote it, or run the study again."
        )


# --- trials -----------------------------------------------------------------------------------

_RECORD_FIELDS = tuple(f.name for f in fields(TrialRecord))
_ADDED_FIELDS = frozenset(f.name for f in fields(TrialRecord) if f.default is not MISSING)
"""A file that was written before a column was added leaves its field at the default."""


def trials_table(study: str, records: Iterable[TrialRecord]) -> pa.Table:
    """The trials table, sorted by trial_id."""
    ordered = sorted(records, key=lambda record: record.trial_id)
    names = {name for record in ordered for name in record.params}
    types = {name: _param_type([r.params.get(name) for r in ordered]) for name in names}
    rows = [_trial_row(study, record, types) for record in ordered]
    return pa.Table.from_pylist(rows, schema_of("trials", types))


def _trial_row(study: str, record: TrialRecord, types: Mapping[str, pa.DataType | None]) -> Row:
    row: Row = {name: getattr(record, name) for name in _RECORD_FIELDS if name != "params"}
    row |= {
        "study": study,
        "is_stable": record.is_stable,
        "is_unstable": record.is_unstable,
        "outcome": record.outcome.value,
        "stopped_by": record.stopped_by.value,
        "purpose": record.purpose.value,
        "severity": record.severity.name.lower(),
        "symptom": str(record.symptom),
        "looks": [asdict(look) for look in record.looks],
    }
    for name, value in record.params.items():
        row[PARAM_PREFIX + name] = json.dumps(value) if types[name] is None else value
    return row


def _param_type(values: Sequence[ParamValue]) -> pa.DataType | None:
    """The narrowest type that holds all values; None if there is none. Ints may become floats."""
    kinds = {_kind(value) for value in values if value is not None}
    if kinds <= {float}:  # also when all are None: max_grad_norm of a study without clipping
        return _FLOAT
    if kinds == {int}:
        return _INT
    if kinds == {int, float}:
        return _FLOAT
    if kinds == {bool}:
        return _BOOL
    if kinds == {str}:
        return _TEXT
    return None


def _kind(value: ParamValue) -> type:
    """bool before int: Python's bool is an int. A subclass (numpy.float64) counts as its base."""
    return next((kind for kind in (bool, int, float) if isinstance(value, kind)), str)


def to_records(table: pa.Table) -> list[TrialRecord]:
    """The records that a trials table was made of, in its order.

    A parameter that some trials lack becomes None; a learning rate, which never is null, stays
    out: where none is searched only the trials of a stress test have one.
    """
    param_fields = [f for f in table.schema if f.name.startswith(PARAM_PREFIX)]
    is_json = {f.name: (f.metadata or {}).get(b"encoding") == b"json" for f in param_fields}
    records = []
    for row in table.to_pylist():
        params: Params = {}
        for name, encoded in is_json.items():
            value = row[name]
            if encoded and value is not None:
                value = json.loads(value)
            if value is not None or name != NEVER_NULL:
                params[name.removeprefix(PARAM_PREFIX)] = value
        plain = {
            name: row[name]
            for name in _RECORD_FIELDS
            if name != "params" and (name in row or name not in _ADDED_FIELDS)
        }
        plain |= {
            "params": params,
            "outcome": Outcome(row["outcome"]),
            "stopped_by": StoppedBy(row["stopped_by"]),
            "purpose": Purpose(row["purpose"]),
            "severity": Severity[row["severity"].upper()],
            "looks": tuple(Look(**look) for look in row.get("looks") or ()),
        }
        records.append(TrialRecord(**plain))
    return records


# --- reports and timesteps --------------------------------------------------------------------

_REPORT_FIELDS = tuple(f.name for f in fields(Report) if not f.name.startswith("bin_"))
_LISTS = ("first_nonfinite_bins", "batch_losses", "grad_norms", "frozen_parameters")


def reports_table(trial_id: str, facts: TrialFacts, reports: Iterable[Report]) -> pa.Table:
    """One row per report. The trial's facts travel in the schema's metadata."""
    rows = []
    for report in reports:
        row: Row = {name: getattr(report, name) for name in _REPORT_FIELDS}
        evaluation = row.pop("evaluation")
        row |= {name: list(row[name]) for name in _LISTS}
        row["trial_id"] = trial_id
        row["grad_effective_bins"] = report.grad_effective_bins
        if evaluation is not None:
            row |= {
                "eval_loss_raw": evaluation.loss_raw,
                "eval_loss_ema": evaluation.loss_ema,
                "score_raw": evaluation.score_raw,
                "score_ema": evaluation.score_ema,
                "kappa": evaluation.kappa,
                "shuffled_loss": evaluation.shuffled_loss,
            }
        rows.append(row)
    schema = schema_of("reports")
    schema = schema.with_metadata({**schema.metadata, "facts": json.dumps(facts_to_json(facts))})
    return pa.Table.from_pylist(rows, schema)


def timesteps_table(trial_id: str, facts: TrialFacts, reports: Iterable[Report]) -> pa.Table:
    """One row per report and timestep bin."""
    columns: dict[str, list[Any]] = {column.name: [] for column in TIMESTEPS}
    lows, highs = facts.bin_edges[:-1], [edge - 1 for edge in facts.bin_edges[1:]]
    bins = len(lows)
    for report in reports:
        evaluation = report.evaluation
        columns["trial_id"] += [trial_id] * bins
        columns["step"] += [report.step] * bins
        columns["timestep_bin"] += range(bins)
        columns["timestep_low"] += lows
        columns["timestep_high"] += highs
        columns["loss"] += report.bin_loss
        columns["count"] += report.bin_count
        columns["nonfinite"] += report.bin_nonfinite
        columns["grad_norm"] += report.bin_grad_norm
        columns["grad_count"] += report.bin_grad_count
        columns["grad_share"] += report.bin_grad_share
        columns["grad_cosine"] += report.bin_grad_cosine or [None] * bins
        columns["eval_loss_raw"] += evaluation.bin_loss_raw if evaluation else [None] * bins
        columns["eval_loss_ema"] += evaluation.bin_loss_ema if evaluation else [None] * bins
        columns["eval_x0_error"] += evaluation.bin_x0_error if evaluation else [None] * bins
    return pa.Table.from_pydict(columns, schema_of("timesteps"))


def to_reports(reports: pa.Table, timesteps: pa.Table) -> tuple[Report, ...]:
    """The reports of one trial, as they were, from its rows of both tables."""
    by_step: dict[int, list[Row]] = {}
    for row in timesteps.to_pylist():
        by_step.setdefault(row["step"], []).append(row)
    result = []
    for row in reports.to_pylist():
        bins = sorted(by_step[row["step"]], key=lambda cell: int(cell["timestep_bin"]))
        evaluation = None
        if row["score_ema"] is not None:
            evaluation = Evaluation(
                bin_loss_raw=tuple(cell["eval_loss_raw"] for cell in bins),
                bin_loss_ema=tuple(cell["eval_loss_ema"] for cell in bins),
                score_raw=row["score_raw"],
                score_ema=row["score_ema"],
                bin_x0_error=tuple(cell["eval_x0_error"] for cell in bins),
                shuffled_loss=row["shuffled_loss"],
            )
        scalars = {name: row[name] for name in _REPORT_FIELDS if name != "evaluation"}
        scalars |= {name: tuple(row[name]) for name in _LISTS}
        result.append(
            Report(
                **scalars,
                bin_loss=tuple(cell["loss"] for cell in bins),
                bin_count=tuple(cell["count"] for cell in bins),
                bin_nonfinite=tuple(cell["nonfinite"] for cell in bins),
                bin_grad_norm=tuple(cell["grad_norm"] for cell in bins),
                bin_grad_count=tuple(cell["grad_count"] for cell in bins),
                bin_grad_cosine=_cosines(bins),
                evaluation=evaluation,
            )
        )
    return tuple(result)


def _cosines(bins: Sequence[Row]) -> tuple[tuple[float, ...], ...] | None:
    rows = [cell["grad_cosine"] for cell in bins]
    return None if None in rows else tuple(tuple(row) for row in rows)


def to_facts(reports: pa.Table) -> TrialFacts:
    """The trial's facts, from the metadata of its reports table."""
    return facts_from_json(json.loads(reports.schema.metadata[b"facts"]))


def facts_from_json(line: Row) -> TrialFacts:
    """The facts that ``facts_to_json`` made an object of."""
    plain: Row = _tuples(line)
    plain["reference"] = ReferenceLoss(**plain["reference"])
    if plain["sampler_check"] is not None:
        plain["sampler_check"] = SamplerCheck(**plain["sampler_check"])
    return TrialFacts(**plain)


def facts_to_json(facts: TrialFacts) -> Row:
    """An object of plain values."""
    return asdict(facts)


def _tuples(value: Any) -> Any:
    """Lists, however deep, as the tuples that they were before they became JSON."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return value


# --- verdicts ---------------------------------------------------------------------------------

_VERDICT_FIELDS = tuple(f.name for f in fields(Verdict))


def verdicts_table(trial_id: str, verdicts: Iterable[Verdict]) -> pa.Table:
    rows = []
    for verdict in verdicts:
        row: Row = {name: getattr(verdict, name) for name in _VERDICT_FIELDS}
        row |= {
            "trial_id": trial_id,
            "symptom": verdict.symptom.value,
            "severity": verdict.severity.name.lower(),
        }
        rows.append(row)
    return pa.Table.from_pylist(rows, schema_of("verdicts"))


def to_verdicts(table: pa.Table) -> tuple[Verdict, ...]:
    verdicts = []
    for row in table.to_pylist():
        plain = {name: row[name] for name in _VERDICT_FIELDS}
        plain["symptom"] = Symptom(row["symptom"])
        plain["severity"] = Severity[row["severity"].upper()]
        verdicts.append(Verdict(**plain))
    return tuple(verdicts)
