"""Writes a study's folder, and reads back what a resumed study needs.

    <path>/study.json              the resolved study, its fingerprint
    <path>/trials.parquet          one row per trial, the running ones included
    <path>/reports/<trial>.parquet, timesteps/..., verdicts/...
    <path>/journal/<trial>.jsonl   reports of a trial that has not ended, or is to go on once more;
                                   one JSON object per line
    <path>/checkpoints/            the workers' own

Every Parquet file appears whole or not at all: it is written beside its place under a name that
readers skip, then renamed. The journal is handed to the operating system line by line, so it
outlives a killed process (not a machine that loses power). One process writes a study.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from stabsearch.errors import EnvironmentProblem, ResultsError
from stabsearch.records import (
    Evaluation,
    JudgedReport,
    Outcome,
    Report,
    Severity,
    StoppedBy,
    Symptom,
    TrialFacts,
    TrialRecord,
    Verdict,
)
from stabsearch.results import schema

STUDY_FILE = "study.json"
TRIALS_FILE = "trials.parquet"
JOURNAL, CHECKPOINTS = "journal", "checkpoints"
TRIAL_TABLES = ("reports", "timesteps", "verdicts")
FOLDERS = (*TRIAL_TABLES, JOURNAL, CHECKPOINTS)
TEMPORARY_SUFFIX = ".tmp"

FETCH_AGAIN = "Fetch the folder again, or run the study again under another name."
"""The remedy for files that were lost or damaged."""


class Remedies(NamedTuple):
    """What to do where a folder does not take the study, by what is wrong with it."""

    unwritable: str
    other_study: str
    foreign: str


NAMED_BY_A_STUDY = Remedies(
    "Choose a folder that you may write to, with `storage:` in the study file or --storage DIR.",
    "Give the new study another `name:`, another folder with --storage DIR, or delete the old "
    "results.",
    "Give the study another `name:`, or another folder with --storage DIR.",
)
SAVED_TO_A_PATH = Remedies(
    "Save to a folder that you may write to.",
    "Save to another folder, or delete the old results.",
    "Save to another folder.",
)
"""Where there is no study file, and no command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournaledTrial:
    """What the journal knows of a trial that has not ended."""

    started: dict[str, Any]
    """As given to the latest ``begin_trial``."""
    reports: tuple[Report, ...]
    """By step, without duplicates: what a later attempt reported replaces what came before."""
    verdicts: tuple[Verdict, ...]
    """The verdicts that came with those reports."""


class StudyStore:
    """One study's folder. May be pickled; open files stay behind and are opened again."""

    def __init__(self, path: Path, remedies: Remedies = NAMED_BY_A_STUDY) -> None:
        self.path = Path(path)
        self._remedies = remedies
        self._name: str | None = None
        self._records: dict[str, TrialRecord] | None = None
        self._journals: dict[str, FileIO] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_journals": {}}

    # --- the study ------------------------------------------------------------------------

    def holds(self, study: dict[str, Any], fingerprint: str) -> bool:
        """Whether the folder has this study already. Changes nothing.

        Two specs with one fingerprint are the same study. Another study under the same path, or
        a folder that is none, raises ResultsError; a new study's path that cannot be written
        EnvironmentProblem, as far as that can be told without writing. (A finished study answers
        from a folder that is read-only.)
        """
        if (self.path / STUDY_FILE).is_file():
            self._check_same_study(study, fingerprint)
            return True
        self._refuse_foreign_folder()
        nearest = next(p for p in (self.path, *self.path.parents) if p.exists())
        if not nearest.is_dir():
            raise self._cannot_be_written(f"{nearest} is not a folder")
        self._check_writable(nearest)
        return False

    def create(self, study: dict[str, Any], fingerprint: str) -> bool:
        """Makes the study's folder. True if it was there: the study resumes (``take_over``).

        Raises what ``holds`` does, and EnvironmentProblem for a folder that is read-only.
        """
        if self.holds(study, fingerprint):
            self._check_writable(self.path, *(self.path / folder for folder in FOLDERS))
            return True
        first_missing = None
        try:
            first_missing = next(
                (p for p in reversed((self.path, *self.path.parents)) if not p.exists()), None
            )
            for folder in FOLDERS:
                (self.path / folder).mkdir(parents=True, exist_ok=True)
            self._name = str(study["name"])
            self._records = {}
            self.write_trials([])
            # Last: a folder with a study.json has everything else.
            self._write_study(study, fingerprint)
        except OSError as error:
            if first_missing is not None:
                shutil.rmtree(first_missing, ignore_errors=True)
            raise self._cannot_be_written(error.strerror or str(error)) from error
        return False

    def take_over(self, study: dict[str, Any], fingerprint: str) -> None:
        """Begins to write an existing study: only the one process that runs it may.

        Notes what is asked for now (an extended study has more trials), and removes what a killed
        writer left. Raises EnvironmentProblem if it cannot.
        """
        self._records = None  # another process may have written until now
        try:
            self._write_study(study, fingerprint)
            self._sweep()
        except OSError as error:
            raise self._cannot_be_written(error.strerror or str(error)) from error

    def _check_writable(self, *folders: Path) -> None:
        for folder in folders:
            if folder.exists() and not os.access(folder, os.W_OK):
                raise self._cannot_be_written(f"no permission to write in {folder}")

    def _cannot_be_written(self, reason: str) -> EnvironmentProblem:
        return EnvironmentProblem(
            f"The results cannot be written to {self.path}: {reason}. {self._remedies.unwritable}"
        )

    def _write_study(self, study: dict[str, Any], fingerprint: str) -> None:
        content = {
            schema.VERSION_KEY.decode(): schema.SCHEMA_VERSION,
            "fingerprint": fingerprint,
            "study": study,
        }
        text = json.dumps(content, indent=2) + "\n"
        _replace(self.path / STUDY_FILE, lambda temporary: temporary.write_text(text))

    def study(self) -> dict[str, Any]:
        """The dict that ``create`` was given."""
        study: dict[str, Any] = self._read_study_file()["study"]
        return study

    def _read_study_file(self) -> dict[str, Any]:
        path = self.path / STUDY_FILE
        try:
            content: dict[str, Any] = json.loads(path.read_text())
            content["study"]["name"], content["fingerprint"]
        except (FileNotFoundError, NotADirectoryError):
            raise _not_a_study(self.path) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ResultsError(
                f"{path}: cannot be read as a study ({error}). "
                "Delete the folder and run the study again, or run it under another name."
            ) from error
        found = content.get(schema.VERSION_KEY.decode())
        if found != schema.SCHEMA_VERSION:
            raise ResultsError(
                f"{path}: written with schema version {found}, and this stabsearch reads version "
                f"{schema.SCHEMA_VERSION}. Read it with the version of stabsearch that wrote it, "
                "or run the study again under another name."
            )
        return content

    def _check_same_study(self, study: dict[str, Any], fingerprint: str) -> None:
        there = self._read_study_file()
        if there["fingerprint"] == fingerprint:
            return
        changes = _differences(there["study"], study)
        shown = "; ".join(changes[:3]) + (f"; and {len(changes) - 3} more" * (len(changes) > 3))
        raise ResultsError(
            f"{self.path}: holds the study {there['study']['name']!r} with another specification "
            f"than the study {study['name']!r} that was to be written"
            + (f" ({shown})" if shown else "")
            + f". {self._remedies.other_study}"
        )

    def _refuse_foreign_folder(self) -> None:
        """A folder that we did not make is not written into."""
        if not self.path.is_dir():
            return
        ours = {*FOLDERS, TRIALS_FILE}  # what a run that was killed while it began leaves
        foreign = sorted(
            entry.name
            for entry in self.path.iterdir()
            if entry.name not in ours and not entry.name.endswith(TEMPORARY_SUFFIX)
        )
        if foreign:
            raise ResultsError(
                f"{self.path}: the folder exists and is not a study's (it holds {foreign[0]!r} "
                f"and no {STUDY_FILE}). {self._remedies.foreign}"
            )

    def _sweep(self) -> None:
        """Removes what a killed writer left: half-written files, journals of ended trials (but of
        those that are to go on once more)."""
        for folder in (self.path, *(self.path / name for name in FOLDERS)):
            folder.mkdir(exist_ok=True)
            for leftover in folder.glob(f".*{TEMPORARY_SUFFIX}"):
                leftover.unlink(missing_ok=True)
        kept = {record.trial_id for record in self.fallen_back()}
        for record in self.finished_records():
            if record.trial_id not in kept:
                self._journal_path(record.trial_id).unlink(missing_ok=True)

    # --- a running trial ------------------------------------------------------------------

    def begin_trial(
        self, trial_id: str, started: dict[str, Any], account: Iterable[JudgedReport] = ()
    ) -> None:
        """An attempt begins. ``started`` is any JSON-able dict, given back by read_journal; of a
        trial that had ended as a shorter one, its ``went_on_at`` is the step.

        ``account`` is what a trial that had ended and goes on has reported: its journal is gone.
        """
        self._append(trial_id, {"begin": started})
        for judged in account:
            self.append_report(trial_id, judged.report, judged.verdicts)

    def append_report(
        self, trial_id: str, report: Report, verdicts: tuple[Verdict, ...] = ()
    ) -> None:
        """Puts a report and its verdicts out of this process's hands before it returns."""
        line: dict[str, Any] = {"report": _report_to_json(report)}
        if verdicts:
            line["verdicts"] = [_verdict_to_json(verdict) for verdict in verdicts]
        self._append(trial_id, line)

    def _append(self, trial_id: str, line: dict[str, Any]) -> None:
        journal = self._journals.get(trial_id)
        if journal is None:
            journal = self._journals[trial_id] = _open_journal(self._journal_path(trial_id))
        # One unbuffered write: NaN and Infinity are Python's JSON words, floats are exact.
        journal.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def _journal_path(self, trial_id: str) -> Path:
        return self.path / JOURNAL / f"{trial_id}.jsonl"

    def write_trial_tables(
        self,
        trial_id: str,
        facts: TrialFacts,
        reports: Sequence[Report],
        verdicts: Sequence[Verdict],
    ) -> None:
        """Writes (again) the three Parquet files of a trial."""
        tables = {
            "timesteps": schema.timesteps_table(trial_id, facts, reports),
            "verdicts": schema.verdicts_table(trial_id, verdicts),
            "reports": schema.reports_table(trial_id, facts, reports),
        }
        for name, table in tables.items():
            _write_parquet(self._table_path(name, trial_id), table)

    def _table_path(self, table: str, trial_id: str) -> Path:
        return self.path / table / f"{trial_id}.parquet"

    def checkpoint_path(self, trial_id: str) -> Path:
        """Where a worker keeps the trial's latest checkpoint."""
        return self.path / CHECKPOINTS / f"{trial_id}.safetensors"

    def drop_checkpoints(self) -> None:
        """Of a study that needs them no more."""
        for path in (self.path / CHECKPOINTS).iterdir():
            path.unlink(missing_ok=True)

    def end_trial(
        self,
        record: TrialRecord,
        facts: TrialFacts | None,
        reports: Sequence[Report],
        verdicts: Sequence[Verdict],
        *,
        keep_journal: bool = False,
    ) -> None:
        """Writes a trial's final tables, then its row, then drops its journal.

        In this order a kill between any two steps loses nothing. ``facts`` is None for a trial
        that failed before its first report: it has a row and no tables. The journal is kept of a
        trial that is written as what it had been before it went on: see ``fallen_back``.
        """
        if facts is not None:
            self.write_trial_tables(record.trial_id, facts, reports, verdicts)
        self.write_trials([record])
        journal = self._journals.pop(record.trial_id, None)
        if journal is not None:
            journal.close()
        if not keep_journal:
            self._journal_path(record.trial_id).unlink(missing_ok=True)

    def write_trials(self, records: Iterable[TrialRecord]) -> None:
        """Writes trials.parquet with ``records`` added to, or in place of, the rows there."""
        known = self._known_records()
        known.update((record.trial_id, record) for record in records)
        if self._name is None:
            self._name = str(self.study()["name"])
        _write_parquet(self.path / TRIALS_FILE, schema.trials_table(self._name, known.values()))

    def close(self) -> None:
        """Closes open journals. The store can be used again."""
        for journal in self._journals.values():
            journal.close()
        self._journals.clear()

    # --- what a resumed study needs -------------------------------------------------------

    def finished_records(self) -> list[TrialRecord]:
        """Trials that ended, failed ones included, by trial_id."""
        records = sorted(self._known_records().values(), key=lambda record: record.trial_id)
        return [record for record in records if record.outcome is not Outcome.RUNNING]

    def unfinished_trial_ids(self) -> list[str]:
        """Trials that began and have not ended: those with a journal."""
        finished = {record.trial_id for record in self.finished_records()}
        journaled = {path.stem for path in (self.path / JOURNAL).glob("*.jsonl")}
        return sorted(journaled - finished)

    def fallen_back(self) -> list[TrialRecord]:
        """Short trials that began to go on, and are again what they had been: their journals say
        that they went on from where they had ended."""
        return [
            record
            for record in self.finished_records()
            if record.stopped_by is StoppedBy.PROBE
            and self.read_journal(record.trial_id).started.get("went_on_at") == record.steps
        ]

    def read_journal(self, trial_id: str) -> JournaledTrial:
        """What an unfinished trial has said so far; a torn last line is ignored."""
        started: dict[str, Any] = {}
        said: list[tuple[Report, tuple[Verdict, ...]]] = []
        path = self._journal_path(trial_id)
        for text in path.read_bytes().splitlines() if path.exists() else []:
            try:
                line = json.loads(text)
            except ValueError:
                continue  # the write that a kill tore
            if "begin" in line:
                started = line["begin"]
                continue
            report = _report_from_json(line["report"])
            verdicts = tuple(map(_verdict_from_json, line.get("verdicts", ())))
            # A trial's steps only grow: one that comes again begins a later attempt's account.
            while said and said[-1][0].step >= report.step:
                said.pop()
            said.append((report, verdicts))
        return JournaledTrial(
            started=started,
            reports=tuple(report for report, _ in said),
            verdicts=tuple(verdict for _, verdicts in said for verdict in verdicts),
        )

    def has_tables(self, trial_id: str) -> bool:
        """Whether the trial has Parquet files: one that failed before its first report has none,
        and one that began this moment not yet."""
        return self._table_path("reports", trial_id).exists()

    def trial_reports(self, trial_id: str) -> tuple[Report, ...]:
        """The reports of a trial from its Parquet files, exactly as they were written."""
        return schema.to_reports(
            self._read_table("reports", trial_id), self._read_table("timesteps", trial_id)
        )

    def trial_verdicts(self, trial_id: str) -> tuple[Verdict, ...]:
        """The verdicts of a trial from its Parquet file."""
        return schema.to_verdicts(self._read_table("verdicts", trial_id))

    def trial_facts(self, trial_id: str) -> TrialFacts:
        """The facts that the trial was judged by, from its Parquet file."""
        return schema.to_facts(self._read_table("reports", trial_id))

    def score_history(self, trial_id: str) -> list[tuple[int, float]]:
        """(step, score with EMA weights) of every evaluation: what fills a scheduler's rungs.

        Empty for a trial that ended without a report. A score may be NaN or infinite.
        """
        if not self.has_tables(trial_id):
            return []
        rows = self._read_table("reports", trial_id).select(["step", "score_ema"]).to_pylist()
        return [(row["step"], row["score_ema"]) for row in rows if row["score_ema"] is not None]

    def _read_table(self, table: str, trial_id: str) -> pa.Table:
        return read_parquet(self._table_path(table, trial_id))

    def _known_records(self) -> dict[str, TrialRecord]:
        if self._records is None:
            table = read_parquet(self.path / TRIALS_FILE)
            self._records = {record.trial_id: record for record in schema.to_records(table)}
        return self._records


# --- files ------------------------------------------------------------------------------------


def read_parquet(path: Path) -> pa.Table:
    """One of our Parquet files; raises ResultsError if it is missing or of another version."""
    try:
        # ParquetFile, not read_table: the latter takes folder names for columns.
        with pq.ParquetFile(path) as file:
            table = file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise _missing(path) from None
    except (OSError, pa.ArrowInvalid) as error:
        raise ResultsError(
            f"{path}: is not a readable Parquet file ({error}). {FETCH_AGAIN}"
        ) from error
    schema.check_version(table, path)
    return table


def _missing(path: Path) -> ResultsError:
    """What it means that one of our Parquet files is not there."""
    folder = path.parent
    if path.name != TRIALS_FILE:
        return ResultsError(
            f"{path}: there is no such file, though the trial has a row in {TRIALS_FILE}. "
            "Run the study again under another name, or fetch its folder again."
        )
    if not (folder / STUDY_FILE).exists():
        return _not_a_study(folder)
    return ResultsError(f"{folder}: this study's folder has lost its {TRIALS_FILE}. {FETCH_AGAIN}")


def _not_a_study(path: Path) -> ResultsError:
    if not path.exists():
        found = "there is no such folder"
    elif not path.is_dir():
        found = "is a file, not a study's folder"
    else:
        found = f"is not a study's folder: it has no {STUDY_FILE}"
    inside = sorted(p.parent.name for p in path.glob(f"*/{STUDY_FILE}")) if path.is_dir() else []
    remedy = (
        f"Studies inside it: {', '.join(inside[:5])}."
        if inside
        else "Give the folder that `stabsearch run` printed: <storage>/<name of the study>."
    )
    return ResultsError(f"{path}: {found}. {remedy}")


def _write_parquet(path: Path, table: pa.Table) -> None:
    _replace(path, lambda temporary: pq.write_table(table, temporary))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Puts a whole new file in the place of ``path``.

    Readers (pyarrow, pandas, ``*.parquet``) skip the temporary file: it begins with a dot.
    """
    temporary = path.with_name(f".{path.name}{TEMPORARY_SUFFIX}")
    try:
        write(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _open_journal(path: Path) -> FileIO:
    """Opens for appending; a line that a kill tore is closed first, so that it spoils no other."""
    before = path.read_bytes() if path.exists() else b""
    journal = path.open("ab", buffering=0)
    if before and not before.endswith(b"\n"):
        journal.write(b"\n")
    return journal


# --- records as JSON --------------------------------------------------------------------------
# dataclasses.asdict copies deeply and is five times slower; reports come hundreds a second.

_REPORT_NAMES = tuple(f.name for f in fields(Report))
_EVALUATION_NAMES = tuple(f.name for f in fields(Evaluation))
_VERDICT_NAMES = tuple(f.name for f in fields(Verdict))


def _report_to_json(report: Report) -> dict[str, Any]:
    line = {name: getattr(report, name) for name in _REPORT_NAMES}
    evaluation = report.evaluation
    if evaluation is not None:
        line["evaluation"] = {name: getattr(evaluation, name) for name in _EVALUATION_NAMES}
    return line


def _report_from_json(line: dict[str, Any]) -> Report:
    evaluation, cosine = line.pop("evaluation"), line.pop("bin_grad_cosine")
    return Report(
        **_lists_to_tuples(line),
        bin_grad_cosine=None if cosine is None else tuple(tuple(row) for row in cosine),
        evaluation=Evaluation(**_lists_to_tuples(evaluation)) if evaluation else None,
    )


def _verdict_to_json(verdict: Verdict) -> dict[str, Any]:
    return {name: getattr(verdict, name) for name in _VERDICT_NAMES}


def _verdict_from_json(line: dict[str, Any]) -> Verdict:
    line["symptom"] = Symptom(line["symptom"])
    line["severity"] = Severity(line["severity"])
    return Verdict(**line)


def _lists_to_tuples(line: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in line.items()}


def _differences(old: object, new: object, name: str = "") -> list[str]:
    """``field: old there, new here`` for every leaf in which two specs differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        prefix = f"{name}." if name else ""
        return [
            line
            for key in keys
            for line in _differences(old.get(key), new.get(key), f"{prefix}{key}")
        ]
    same = json.dumps(old, default=str) == json.dumps(new, default=str)  # a tuple is a list
    return (
        [] if same else [f"{name}: {json.dumps(old)} there, {json.dumps(new, default=str)} here"]
    )
