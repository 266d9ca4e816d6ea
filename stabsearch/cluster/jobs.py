"""Studies on a Ray cluster, through Ray Jobs: submit, look, follow, stop, bring home.

    cluster = Cluster("http://head:8265")
    submission = cluster.submit(dump_study(spec), spec.name, spec.fingerprint())
    for text in cluster.logs(submission.id, follow=True): ...
    folder = cluster.fetch(submission.id, Path("results"))

A job runs ``python -m stabsearch run`` on the head node with the client's own copy of stabsearch.
All of it goes over the one HTTP port of the head's dashboard.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import secrets
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from stabsearch.cluster import archive, auth
from stabsearch.cluster.code_package import MAX_PACKAGE_BYTES, write_code_package
from stabsearch.cluster.local import RAY_FLAGS, environment
from stabsearch.errors import ClusterError, ExitCode, ResultsError
from stabsearch.spec import is_study_name

if TYPE_CHECKING:
    import requests
    from ray.job_submission import JobDetails, JobSubmissionClient

DEFAULT_STORAGE = "~/stabsearch"
"""On the head node, of the user that Ray runs as."""

STUDY_FILE = "stabsearch-study.yaml"
FETCHED_FILE = ".fetched.json"
"""Marks a folder that ``fetch`` wrote and may replace."""

STOP_SECONDS = 30
"""What a study gets between SIGINT and SIGKILL to finish its files."""

JOB_ENVIRONMENT = RAY_FLAGS | {
    "PYTHONUNBUFFERED": "1",  # or the log shows up at the end
    "STABSEARCH_DEBUG": "1",  # a traceback belongs in the job's log, not in a file of the node
    "RAY_JOB_STOP_SIGNAL": "SIGINT",  # Ray's own SIGTERM ends the study without its last files
    "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS),
}

_HTTP_SECONDS = 10.0
_PROGRESS_LINES = 50


class JobState(StrEnum):
    """What became of a submitted study."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    """All trials have an outcome, whether or not a setting was stable."""
    STOPPED = "stopped"
    """Ended on request: finished trials are kept, submitting again goes on."""
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        return self not in (JobState.PENDING, JobState.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyJob:
    """One attempt at a study, as the cluster remembers it."""

    id: str
    """Ray's submission id: ``<series>``, and ``<series>-2`` and so on for later attempts."""
    series: str
    """``<study>-<start of its fingerprint>``: shared by all attempts at one study."""
    attempt: int
    study: str
    state: JobState
    message: str
    """One line: why, where there is a why."""
    storage: str
    """Folder on the head node that holds the study's folder, as given at submission."""
    fingerprint: str
    version: str
    """Of stabsearch."""
    started_at: float | None
    """Unix time, seconds."""
    ended_at: float | None
    exit_code: int | None
    """Of ``stabsearch run``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """The answer to ``submit``."""

    id: str
    is_new: bool
    """False: the study was running already, nothing was submitted."""
    resumes: str | None = None
    """The earlier attempt that a new job goes on from."""


class Cluster:
    """A Ray cluster, spoken to over HTTP. Every method raises ``ClusterError`` with a remedy."""

    def __init__(self, address: str, *, token: str | None = None) -> None:
        """``address`` is the dashboard's, ``http://host:8265``; it must answer.

        ``token`` is used instead of the one that Ray's own places hold (see ``auth``).
        """
        self.address = _http_address(address)
        self.token: auth.Token | None = None  # a secret is not shown to whoever does not ask
        self.is_auth_on = self._asks_for_token()
        if self.is_auth_on:
            self.token = auth.Token(token, "the caller") if token else auth.find_token()
            if self.token is None:
                raise ClusterError(
                    f"{self.address} asks for a token and there is none here. Put the cluster's "
                    f"into {auth.TOKEN_VARIABLE} or {auth.default_token_path()} (mode 0600); "
                    "`ray get-auth-token` on the head node prints it."
                )
        self.ray_version = self._ray_version()

    @property
    def is_loopback(self) -> bool:
        """Whether requests stay on this machine; a tunnel's end looks the same."""
        return urlsplit(self.address).hostname in ("localhost", "127.0.0.1", "::1")

    # --- submitting -----------------------------------------------------------------------

    def submit(
        self,
        spec_yaml: str,
        study: str,
        fingerprint: str,
        *,
        label: str | None = None,
        working_dir: Path | None = None,
        storage: str = DEFAULT_STORAGE,
        python: str = "python",
        entrypoint: str | None = None,
    ) -> Submission:
        """Run a study on the cluster; if it runs already, say so; if it ended, go on with it.

        ``label`` stands for the start of the fingerprint in the id. ``working_dir`` is the folder
        of the user's own modules, if the study names any. ``storage`` is a folder on the head
        node. ``python`` is the interpreter there. ``entrypoint`` replaces the command, for tests.
        """
        _check_storage(storage)
        series = f"{study}-{label or fingerprint[:8]}"
        if not re.fullmatch(r"[A-Za-z0-9._-]+", series):
            raise ClusterError(f"--id {label!r} may hold letters, digits and . _ - only.")
        jobs = self.jobs()
        for job in jobs:
            if job.state.is_final or (job.study, job.storage) != (study, storage):
                continue
            if job.fingerprint == fingerprint:
                return Submission(id=job.id, is_new=False)
            raise ClusterError(
                f"{job.id} is running another version of study {study!r} in the same folder. "
                f"Stop it (`stabsearch stop {job.id}`), or give the new one another name "
                "or --storage."
            )
        attempts = [job for job in jobs if job.series == series]
        for job in attempts:
            if job.fingerprint != fingerprint:
                raise ClusterError(
                    f"{job.id} was submitted with other settings. Give this one another --id."
                )
        attempt = max((job.attempt for job in attempts), default=0) + 1
        resumed = [job for job in attempts if job.storage == storage]
        command = entrypoint or (
            f"exec {shlex.quote(python)} -m stabsearch run {STUDY_FILE} --address auto "
            f"--storage {_shell_path(storage)}"
        )
        job_id = series if attempt == 1 else f"{series}-{attempt}"
        metadata = {
            "stabsearch": _own_version(),
            "stabsearch_study": study,
            "stabsearch_series": series,
            "stabsearch_attempt": str(attempt),
            "stabsearch_storage": storage,
            "stabsearch_fingerprint": fingerprint,
            "stabsearch_python": python,
        }
        self._submit(command, job_id, metadata, {STUDY_FILE: spec_yaml}, working_dir)
        resumes = max(resumed, key=lambda job: job.attempt).id if resumed else None
        return Submission(id=job_id, is_new=True, resumes=resumes)

    def _submit(
        self,
        command: str,
        job_id: str,
        metadata: dict[str, str],
        texts: dict[str, str],
        working_dir: Path | None,
    ) -> None:
        with tempfile.TemporaryDirectory(prefix="stabsearch-") as scratch, self._explained():
            package = Path(scratch) / "code.zip"
            write_code_package(package, working_dir=working_dir, texts=texts)
            self._client.submit_job(
                entrypoint=command,
                submission_id=job_id,
                runtime_env={"working_dir": str(package), "env_vars": JOB_ENVIRONMENT},
                metadata=metadata,
            )

    # --- looking --------------------------------------------------------------------------

    def jobs(self) -> list[StudyJob]:
        """The cluster's studies, oldest first."""
        with self._explained():
            details = self._client.list_jobs()
        return sorted(
            (job for job in map(_study_job, details) if job is not None),
            key=lambda job: (job.started_at or float("inf"), job.id),
        )

    def job(self, job_id: str) -> StudyJob:
        """A study by its id. An id without the number of an attempt means the latest attempt;
        the name of a study does too, if it is one study's alone."""
        jobs = self.jobs()
        for key in ("series", "study", "id"):
            found = [job for job in jobs if getattr(job, key) == job_id]
            if len({job.series for job in found}) > 1:
                names = ", ".join(sorted({job.series for job in found}))
                raise ClusterError(f"{job_id} could be {names}: give one of these.")
            if found:
                return max(found, key=lambda job: job.attempt)
        known = ", ".join(dict.fromkeys(job.series for job in reversed(jobs))) or "none"
        raise ClusterError(f"{self.address} knows no study {job_id!r}. It knows: {known}.")

    def logs(self, job_id: str, *, follow: bool = False) -> Iterator[str]:
        """The text a study printed so far; with ``follow`` until it ends."""
        job = self.job(job_id)
        if follow:
            yield from self._follow(job.id)
        else:
            yield from (f"{line}\n" for line in self._log_lines(job.id))

    def progress(self, job: StudyJob) -> str:
        """The line of a study's log that says how far it is, or its answer; empty if none yet."""
        try:
            lines = [line.strip() for line in self._log_lines(job.id, last=_PROGRESS_LINES)]
        except ClusterError:
            return ""  # the node that the study ran on is gone, its log with it
        starts = ("RECOMMENDED",) if job.state is JobState.DONE else ("[",)
        telling = [line for line in lines if line.startswith(starts)]
        return telling[-1] if telling else ""

    def _follow(self, job_id: str) -> Iterator[str]:
        with self._explained(), asyncio.Runner() as runner:
            stream = self._client.tail_job_logs(job_id)

            async def advance() -> str | None:
                return await anext(stream, None)

            while (text := runner.run(advance())) is not None:
                yield text

    def _log_lines(self, job_id: str, last: int = -1) -> Iterator[str]:
        """Lines of a job's log, as they arrive: a log may be larger than memory."""
        node = self._details(job_id).driver_node_id
        if node is None:
            return  # not begun yet
        query = {"node_id": node, "submission_id": job_id, "lines": str(last)}
        with self._explained(), self._get("/api/v0/logs/file", query) as answer:
            answer.encoding = "utf-8"
            for line in answer.iter_lines(chunk_size=1 << 16, decode_unicode=True):
                yield str(line)

    # --- acting ---------------------------------------------------------------------------

    def stop(self, job_id: str, *, wait_seconds: float = STOP_SECONDS + 15) -> StudyJob:
        """End a study and wait for it: finished trials are kept. Ended already: nothing to do."""
        job = self.job(job_id)
        if not job.state.is_final:
            with self._explained():
                self._client.stop_job(job.id)
        return self.wait(job.id, wait_seconds)

    def wait(self, job_id: str, seconds: float, *, poll_seconds: float = 0.5) -> StudyJob:
        """The study's job once it has ended, or as it is after ``seconds``."""
        deadline = time.monotonic() + seconds
        while True:
            job = self._exactly(job_id)
            if job.state.is_final or time.monotonic() > deadline:
                return job
            time.sleep(poll_seconds)

    def _exactly(self, job_id: str) -> StudyJob:
        with self._explained():
            job = _study_job(self._client.get_job_info(job_id))
        if job is None:
            raise ClusterError(f"{job_id} on {self.address} is not a study of stabsearch.")
        return job

    def fetch(self, job_id: str, destination: Path, *, wait_seconds: float = 600) -> Path:
        """Copy a study's folder from the cluster to ``destination/<study>``; returns that.

        All but its checkpoints, at any time, through HTTP alone. What an earlier fetch brought is
        replaced as a whole; any other folder of that name is left alone and an error.
        """
        job = self.job(job_id)
        target = _folder_for(job, destination)
        _check_replaceable(target, job)
        with tempfile.TemporaryFile() as content:
            self._print_archive(job, content, wait_seconds)
            content.seek(0)
            draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
            try:
                draft.mkdir(parents=True)
                archive.unpack(content, draft)
                _mark_fetched(draft, job, self.address)
                _put_in_place(draft, target)
            except OSError as error:
                raise ResultsError(
                    f"The results could not be written to {target}: {error}. Give another folder "
                    "with --out."
                ) from error
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        return target

    def _print_archive(self, job: StudyJob, content: Any, wait_seconds: float) -> None:
        """Have the cluster print the study's folder, and read it from the log."""
        nonce = secrets.token_hex(8)
        helper = f"{archive.JOB_PREFIX}{nonce}"
        python = self._python_of(job)
        folder = f"{job.storage.rstrip('/')}/{job.study}"
        command = f"exec {shlex.quote(python)} -m stabsearch.cluster.archive"
        command += f" {_shell_path(folder)} {nonce}"
        self._submit(command, helper, {"stabsearch_helper": "fetch"}, {}, None)
        deadline = time.monotonic() + wait_seconds
        try:
            while not (details := self._details(helper)).status.is_terminal():
                if time.monotonic() > deadline:
                    raise ClusterError(
                        f"The cluster did not hand over {folder} within {wait_seconds:.0f} s."
                    )
                time.sleep(0.25)
            if details.status != "SUCCEEDED":
                raise ClusterError(
                    f"The cluster could not read {folder}: {_last_line(details.message)}"
                )
            archive.receive(self._log_lines(helper), nonce, content)
        finally:
            with contextlib.suppress(ClusterError):
                self._forget(helper)

    def _forget(self, helper: str) -> None:
        with self._explained():
            if not self._client.get_job_status(helper).is_terminal():
                self._client.stop_job(helper)
                return
            self._client.delete_job(helper)

    def _details(self, job_id: str) -> JobDetails:
        with self._explained():
            return self._client.get_job_info(job_id)

    def _python_of(self, job: StudyJob) -> str:
        metadata: dict[str, str] = self._details(job.id).metadata or {}
        return metadata.get("stabsearch_python", "python")

    # --- HTTP -----------------------------------------------------------------------------

    @cached_property
    def _client(self) -> JobSubmissionClient:
        from ray.job_submission import JobSubmissionClient

        for name in ("dashboard_sdk", "job.sdk"):  # both talk at level INFO
            logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
        headers = dict(self.token.headers) if self.token else {}
        # RAY_ADDRESS would win over the address that is given here; this one wins over both.
        ours = {"RAY_API_SERVER_ADDRESS": self.address}
        with environment(ours, override=True), self._explained():
            return JobSubmissionClient(self.address, headers=headers)

    def _asks_for_token(self) -> bool:
        answer = self._get("/api/authentication_mode", must_succeed=False)
        if answer.status_code == 404:
            return False  # a Ray from before 2.52 has no token
        return self._field(answer, "authentication_mode") == "token"

    def _ray_version(self) -> str:
        return self._field(self._get("/api/version", must_succeed=False), "ray_version")

    def _field(self, answer: requests.Response, name: str) -> str:
        """A field that every Ray dashboard answers with."""
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if answer.ok:
                return str(answer.json()[name])
        raise ClusterError(
            f"What answers at {self.address} is not the dashboard of a Ray cluster. Its port is "
            "8265 unless the head was started with --dashboard-port."
        )

    def _get(
        self, path: str, query: dict[str, str] | None = None, *, must_succeed: bool = True
    ) -> requests.Response:
        import requests

        with self._explained():
            answer = requests.get(
                f"{self.address}{path}",
                params=query,
                headers=self.token.headers if self.token else {},
                timeout=_HTTP_SECONDS,
                stream=True,
            )
            if answer.status_code in (401, 403):
                raise ClusterError(self._token_refused())
            if must_succeed and answer.status_code != 200:
                raise ClusterError(
                    f"{self.address} answered {path} with {answer.status_code}: "
                    f"{_last_line(answer.text)}"
                )
        return answer

    def _token_refused(self) -> str:
        return (
            f"{self.address} refused the {self.token or 'request: it asks for a token'}. Use the "
            "token that the head node was started with; `ray get-auth-token` prints it there."
        )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what Ray and requests raise into one message with a remedy."""
        try:
            yield
        except ClusterError:
            raise
        except Exception as error:
            if (message := self._explain(error)) is None:
                raise
            raise ClusterError(message) from error

    def _explain(self, error: Exception) -> str | None:
        import aiohttp
        import requests

        kind = type(error).__name__
        if kind == "AuthenticationError":
            return self._token_refused()
        if isinstance(error, requests.exceptions.SSLError):
            return (
                f"{self.address}: the TLS connection failed: {_last_line(str(error))} For a "
                "certificate of your own set REQUESTS_CA_BUNDLE to its authority's file."
            )
        if isinstance(error, requests.exceptions.Timeout):
            return f"{self.address} accepted the connection and did not answer in time. Try again."
        if isinstance(error, (ConnectionError, requests.exceptions.RequestException)):
            return (
                f"Nothing answers at {self.address}. Is the cluster running, is its dashboard "
                "reachable from here (`--dashboard-host 0.0.0.0`, or an SSH tunnel: "
                "`ssh -L 8265:localhost:8265 HEAD`), and is the port right?"
            )
        if isinstance(error, aiohttp.ClientError):
            return f"The connection to {self.address} was lost: {_last_line(str(error))}"
        if isinstance(error, RuntimeError) and "status code 413" in str(error):
            return f"The cluster refused the upload: more than {MAX_PACKAGE_BYTES >> 20} MiB."
        if isinstance(error, RuntimeError):
            return f"{self.address} could not do it: {_last_line(str(error))}"
        return None


def _study_job(details: JobDetails) -> StudyJob | None:
    """A job as we see it; None if it is not a study of ours."""
    metadata = details.metadata or {}
    if "stabsearch_study" not in metadata or details.submission_id is None:
        return None
    state, message = _state_of(str(details.status.value), details.driver_exit_code)
    if state in (JobState.FAILED, JobState.PENDING):
        message = _last_line(details.message)
    return StudyJob(
        id=details.submission_id,
        series=metadata.get("stabsearch_series", details.submission_id),
        attempt=_number(metadata.get("stabsearch_attempt", "")),
        study=metadata["stabsearch_study"],
        state=state,
        message=message,
        storage=metadata.get("stabsearch_storage", DEFAULT_STORAGE),
        fingerprint=metadata.get("stabsearch_fingerprint", ""),
        version=metadata.get("stabsearch", "unknown"),
        started_at=_seconds(details.start_time),
        ended_at=_seconds(details.end_time),
        exit_code=details.driver_exit_code,
    )


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 1


_FINDINGS: dict[int | None, str] = {
    ExitCode.NO_STABLE_SETTING: "no setting was stable",
    ExitCode.NOT_PRECISE: "a stable setting was found, but less surely than was asked",
}
"""Exit codes of studies that are complete."""


def _state_of(status: str, exit_code: int | None) -> tuple[JobState, str]:
    """Ray knows exit code 0 and failure; ours say more."""
    if status == "FAILED" and exit_code in _FINDINGS:
        return JobState.DONE, _FINDINGS[exit_code]
    if status == "STOPPED" or exit_code == ExitCode.INTERRUPTED:
        return JobState.STOPPED, "finished trials are kept; submit again to go on"
    states = {"SUCCEEDED": JobState.DONE, "FAILED": JobState.FAILED, "RUNNING": JobState.RUNNING}
    return states.get(status, JobState.PENDING), ""


def _seconds(milliseconds: int | None) -> float | None:
    return milliseconds / 1000 if milliseconds else None


def _http_address(address: str) -> str:
    address = address.strip().rstrip("/")
    parts = urlsplit(address if "://" in address else f"http://{address}")
    try:
        named = parts.port
    except ValueError:
        named = -1
    is_http = parts.scheme in ("http", "https") and parts.hostname not in (None, "auto", "local")
    if not is_http or named == -1:
        raise ClusterError(
            f"{address!r} is not the address of a Ray dashboard: expected http://HOST:8265."
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def _check_storage(storage: str) -> None:
    if not storage.startswith(("/", "~/")):
        raise ClusterError(
            f"--storage {storage} must be absolute or begin with ~/: it is a folder on the "
            "cluster's head node, where a job has no current directory of its own."
        )


def _shell_path(path: str) -> str:
    """Quoted for a shell that still expands ``~``: the home is the one on the cluster."""
    return f"~/{shlex.quote(path[2:])}" if path.startswith("~/") else shlex.quote(path)


def _folder_for(job: StudyJob, destination: Path) -> Path:
    """Where a study's folder goes. Whoever submits a job writes its metadata, and may write
    ``../..`` for a study's name."""
    if not is_study_name(job.study):
        raise ClusterError(
            f"{job.id} says that its study is named {job.study!r}, which is no name of a study: "
            "stabsearch did not submit it like that. Nothing was fetched."
        )
    try:
        return destination.expanduser().absolute() / job.study
    except RuntimeError as error:  # ~nobody
        raise ResultsError(f"{destination}: {error} Give another folder with --out.") from error


def _check_replaceable(target: Path, job: StudyJob) -> None:
    if not target.exists():
        return
    try:
        fetched = json.loads((target / FETCHED_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        fetched = {}
    if fetched.get("fingerprint") != job.fingerprint:
        raise ResultsError(
            f"{target} is there and was not fetched from this study; it is left as it is. "
            "Fetch to another folder with --out."
        )


def _mark_fetched(folder: Path, job: StudyJob, address: str) -> None:
    facts = {"id": job.id, "address": address, "fingerprint": job.fingerprint, "at": time.time()}
    (folder / FETCHED_FILE).write_text(json.dumps(facts), encoding="utf-8")


def _put_in_place(draft: Path, target: Path) -> None:
    if not target.exists():
        draft.rename(target)
        return
    old = draft.with_name(f"{draft.name}.old")
    target.rename(old)
    try:
        draft.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _own_version() -> str:
    try:
        return version("stabsearch")
    except PackageNotFoundError:
        return "unknown"


def _last_line(text: str | None) -> str:
    """The line of a log or traceback that says what happened."""
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    # Ray's own first line; it may come last, after those of a command that ends at once.
    lines = [line for line in lines if not line.startswith("Running entrypoint for job ")]
    return lines[-1] if lines else ""
