"""``submit``, ``status``, ``logs``, ``stop``, ``fetch``, ``list``: studies on a Ray cluster."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stabsearch.cli.conventions import command, examples, program, short
from stabsearch.errors import ClusterError, ExitCode

if TYPE_CHECKING:
    from stabsearch.cluster.jobs import Cluster, StudyJob

_ADDRESS_VARIABLES = ("STABSEARCH_ADDRESS", "RAY_API_SERVER_ADDRESS")


def add_to(app: typer.Typer) -> None:
    """Mount the commands of this module."""
    app.command(epilog=_SUBMIT_EXAMPLES)(submit)
    app.command(epilog=_STATUS_EXAMPLES)(status)
    app.command(epilog=_LOGS_EXAMPLES)(logs)
    app.command(epilog=_STOP_EXAMPLES)(stop)
    app.command(epilog=_FETCH_EXAMPLES)(fetch)
    app.command("list", epilog=_LIST_EXAMPLES)(list_studies)


_SUBMIT_EXAMPLES = examples(
    "stabsearch submit my_study.yaml --address http://head:8265 --follow",
    "stabsearch submit my_study.yaml --working-dir . --storage /shared/results",
)
_STATUS_EXAMPLES = examples("stabsearch status", "stabsearch status my_study-1a2b3c4d --json")
_LOGS_EXAMPLES = examples("stabsearch logs my_study-1a2b3c4d -f")
_STOP_EXAMPLES = examples("stabsearch stop my_study-1a2b3c4d")
_FETCH_EXAMPLES = examples(
    "stabsearch fetch my_study-1a2b3c4d", "stabsearch recommend results/my_study"
)
_LIST_EXAMPLES = examples("stabsearch list --address http://head:8265")

Address = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar=list(_ADDRESS_VARIABLES),
        help="The cluster's dashboard, http://HOST:8265.",
    ),
]
Id = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="What submit printed; or the study's name, if it names one alone."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def submit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Study file (YAML).")],
    address: Address = None,
    storage: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            help="Folder for results on the cluster: absolute, or below ~ of the user that Ray "
            "runs as.",
        ),
    ] = "~/stabsearch",
    working_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder with your own modules, sent along (at most 100 MiB packed).",
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option("--id", metavar="NAME", help="Name it STUDY-NAME, not STUDY-FINGERPRINT."),
    ] = None,
    python: Annotated[
        str, typer.Option(metavar="PATH", help="Python on the head node that has Ray.")
    ] = "python",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show what the study prints until it ends.")
    ] = False,
) -> None:
    """Run a study on a Ray cluster. The same command again resumes a study that was stopped.

    More trials or seeds in the file extend a study that has ended.
    """
    from stabsearch.spec_file import dump_study, load_study

    spec = load_study(file)
    for caution in spec.cautions():
        _note(f"note: {file}: {caution}")
    if spec.references() and working_dir is None:
        names = ", ".join(spec.references().values())
        _note(
            f"{names} must be importable on the cluster; your own modules go along with "
            "--working-dir."
        )
    cluster = _connect(address)
    _say_how_safe(cluster)
    submission = cluster.submit(
        dump_study(spec),
        spec.name,
        spec.fingerprint(),
        label=label,
        working_dir=working_dir,
        storage=storage,
        python=python,
    )
    if not submission.is_new:
        typer.echo(
            f"{submission.id} is running already, with the trials and seeds it was submitted "
            "with: nothing was submitted or changed. To extend it, submit again once it has "
            "ended, or stop it first; it goes on from its finished trials."
        )
    elif submission.resumes:
        typer.echo(f"Submitted {submission.id}, which goes on from {submission.resumes}.")
    else:
        typer.echo(f"Submitted {submission.id}.")
    if follow:
        _follow(cluster, submission.id)
        return
    for verb in ("logs -f", "fetch", "stop"):
        typer.echo(_command(verb, submission.id, cluster))


def status(
    study_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Default: the study submitted last.")
    ] = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Show the state of a study, and what it said last."""
    cluster = _connect(address)
    job = cluster.job(study_id) if study_id else _latest(cluster)
    progress = cluster.progress(job)
    if as_json:
        typer.echo(json.dumps(_fields(job) | {"progress": progress}, indent=2))
        return
    rows = {
        "id": job.id,
        "study": job.study,
        "state": f"{job.state}{_since(job)}",
        "why": job.message,
        "progress": progress,
        "results": f"{job.storage.rstrip('/')}/{job.study} on the head node",
        "version": f"stabsearch {job.version}, Ray {cluster.ray_version}",
        "auth": f"token ({cluster.token.source})" if cluster.token else "OFF",
    }
    for name, value in rows.items():
        if value:
            typer.echo(f"{name:9} {value}")


def logs(
    study_id: Id,
    address: Address = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the study ends.")
    ] = False,
) -> None:
    """Print what a study printed."""
    cluster = _connect(address)
    if follow:
        _follow(cluster, cluster.job(study_id).id)
        return
    for text in cluster.logs(study_id):
        typer.echo(text, nl=False)


def stop(study_id: Id, address: Address = None) -> None:
    """End a study; its finished trials are kept."""
    cluster = _connect(address)
    job = cluster.job(study_id)
    if job.state.is_final:
        typer.echo(f"{job.id} had ended: {job.state}.")
        return
    typer.echo(f"Stopping {job.id}; it gets up to 30 s to finish its files.")
    job = cluster.stop(job.id)
    if not job.state.is_final:
        raise ClusterError(f"{job.id} has not ended yet. Look again with `{program()} status`.")
    typer.echo(f"{job.id}: {job.state}{_colon(job.message)}.")


def fetch(
    study_id: Id,
    address: Address = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder that gets the study's folder.")
    ] = Path("results"),
) -> None:
    """Copy a study's results from the cluster, whether it has ended or not."""
    cluster = _connect(address)
    folder = cluster.fetch(study_id, out)
    typer.echo(f"Fetched to {short(folder)}. Next:")
    typer.echo(f"  {command('recommend', short(folder))}")


def list_studies(address: Address = None, as_json: AsJson = False) -> None:
    """List the cluster's studies, newest last."""
    jobs = _connect(address).jobs()
    if as_json:
        typer.echo(json.dumps([_fields(job) for job in jobs], indent=2))
        return
    if not jobs:
        typer.echo("No study was submitted to this cluster since it started.")
        return
    rows: list[tuple[str, ...]] = [("ID", "STATE", "STARTED", "TOOK", "")]
    rows += [
        (job.id, str(job.state), _clock(job.started_at), _took(job), job.message) for job in jobs
    ]
    for line in _columns(rows):
        typer.echo(line)


# ------------------------------------------------------------------------------------------------


def _connect(address: str | None) -> Cluster:
    """The cluster that was named, with a loud word if anybody may use it."""
    from stabsearch.cluster.jobs import Cluster

    named = address or os.environ.get("RAY_ADDRESS", "")
    if not address and not named.startswith(("http://", "https://")):
        raise ClusterError(
            "Which cluster? Give --address http://HOST:8265, or set "
            f"{_ADDRESS_VARIABLES[0]} to it once."
        )
    cluster = Cluster(named)
    if not cluster.is_auth_on:
        _note(
            f"WARNING: token authentication is OFF at {cluster.address}. Whoever reaches its "
            "ports can run code there and read its data. Start the head node with "
            "RAY_AUTH_MODE=token (docs/cluster.md)."
        )
    return cluster


def _say_how_safe(cluster: Cluster) -> None:
    if cluster.token is None:
        return
    _note(f"Token authentication is on ({cluster.token}).")
    if cluster.address.startswith("http://") and not cluster.is_loopback:
        _note(
            "The token and the results travel in clear over http: put TLS or an SSH tunnel in "
            "front unless you trust the network."
        )


def _follow(cluster: Cluster, job_id: str) -> None:
    """Print until the study ends, then leave with the exit code that `run` would have had."""
    try:
        for text in cluster.logs(job_id, follow=True):
            typer.echo(text, nl=False)
        job = cluster.wait(job_id, 30)
    except KeyboardInterrupt:
        stop_it = _command("stop", job_id, cluster)
        _note(f"\nNo longer following. {job_id} goes on; to end it:\n{stop_it}")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    typer.echo(f"{job.id}: {job.state}{_colon(job.message)}.")
    typer.echo(_command("fetch", job.id, cluster))
    raise typer.Exit(_exit_code(job))


def _command(verb: str, job_id: str, cluster: Cluster) -> str:
    """What to type next, as it would work in this shell."""
    is_known = cluster.address in [os.environ.get(name) for name in _ADDRESS_VARIABLES]
    where = () if is_known else ("--address", cluster.address)
    return f"  {command(*verb.split(), job_id, *where)}"


def _exit_code(job: StudyJob) -> int:
    if job.exit_code is not None:
        return job.exit_code
    codes = {"done": ExitCode.DONE, "stopped": ExitCode.INTERRUPTED}
    return codes.get(job.state.value, ExitCode.ABORTED)


def _latest(cluster: Cluster) -> StudyJob:
    jobs = cluster.jobs()
    if not jobs:
        raise ClusterError(
            f"No study was submitted to {cluster.address} since it started. Submit one with "
            f"`{program()} submit FILE`."
        )
    return jobs[-1]


def _fields(job: StudyJob) -> dict[str, Any]:
    return dataclasses.asdict(job)


def _since(job: StudyJob) -> str:
    if job.started_at is None:
        return ""
    return f" after {_took(job)}" if job.ended_at else f" for {_took(job)}"


def _took(job: StudyJob) -> str:
    if job.started_at is None:
        return ""
    minutes, seconds = divmod(int((job.ended_at or time.time()) - job.started_at), 60)
    hours, minutes = divmod(max(0, minutes), 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _clock(moment: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment)) if moment else ""


def _colon(text: str) -> str:
    return f": {text.rstrip('.')}" if text else ""


def _columns(rows: list[tuple[str, ...]]) -> Iterable[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()


def _note(text: str) -> None:
    """To stderr: stdout is for answers."""
    typer.echo(text, err=True)
