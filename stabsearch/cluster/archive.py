"""A study's folder as lines of text, and back: results come home through a job's log.

Ray's HTTP interface hands out the logs of jobs and nothing else, and it is all that a client is
sure to reach. So a small job on the head node prints the folder (tar, gzip, base64), and the
client reads its log::

    python -m stabsearch.cluster.archive ~/stabsearch/my_study <nonce>

    stabsearch-archive <nonce> begin
    |H4sIAAAA...
    stabsearch-archive <nonce> end <sha256 of the decoded bytes>

Works while the study runs: its tables appear whole or not at all.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import io
import os
import shutil
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

from stabsearch.errors import ClusterError

MARK = "stabsearch-archive"
JOB_PREFIX = "stabsearch-fetch-"
"""Submission ids of the jobs that print archives."""

LEFT_OUT = frozenset(("checkpoints",))
"""Folders at the top that only the cluster needs: large, and worth nothing without its workers."""

_LINE_BYTES = 3 * 4096  # a multiple of 3: no base64 padding inside
_OLD_LOG_SECONDS = 3600.0


def send(folder: Path, nonce: str, out: IO[str]) -> None:
    """Print the folder to ``out``; a folder that is not there is said in the last line."""
    if not folder.is_dir():
        out.write(f"{MARK} {nonce} missing {folder}\n")
        return
    out.write(f"{MARK} {nonce} begin\n")
    lines = _Base64Lines(out)
    with (
        gzip.GzipFile(fileobj=cast("IO[bytes]", lines), mode="wb", compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w|") as tar,
    ):
        for name, path in _files_of(folder):
            try:
                content = path.read_bytes()
                modified = path.stat().st_mtime
            except FileNotFoundError:
                continue  # the study runs: a file was replaced since it was listed
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode = len(content), int(modified), 0o644
            tar.addfile(entry, io.BytesIO(content))
    lines.finish()
    out.write(f"{MARK} {nonce} end {lines.sha256.hexdigest()}\n")


def receive(lines: Iterable[str], nonce: str, archive: IO[bytes]) -> None:
    """Decode what ``send`` printed into ``archive``. Raises ``ClusterError`` if it is not whole.

    Lines of anybody else in between are passed over.
    """
    digest = hashlib.sha256()
    begun = False
    for line in lines:
        if line.startswith("|") and begun:
            try:
                content = base64.b64decode(line[1:].strip(), validate=True)
            except ValueError:
                continue  # the checksum will tell
            digest.update(content)
            archive.write(content)
        elif line.startswith(f"{MARK} {nonce} "):
            word, _, rest = line[len(MARK) + len(nonce) + 2 :].strip().partition(" ")
            if word == "missing":
                raise ClusterError(
                    f"There is no {rest} on the cluster's head node: the study has not begun to "
                    "write, or its folder was moved or removed."
                )
            if word == "begin":
                begun = True
            if word == "end":
                if rest != digest.hexdigest():
                    raise ClusterError("The results arrived damaged: fetch them once more.")
                return
    raise ClusterError("The results arrived incomplete: fetch them once more.")


def unpack(archive: IO[bytes], folder: Path) -> None:
    """Extract into ``folder``: plain files below it, nothing else.

    Written out by hand, because Python before 3.11.4 has no ``filter`` that refuses the rest.
    ``folder`` must hold no links; none is made here.
    """
    try:
        with tarfile.open(fileobj=archive, mode="r|gz") as tar:
            for entry in tar:
                content = tar.extractfile(entry) if entry.isfile() else None
                if content is None:
                    raise ClusterError(f"The archive holds {entry.name!r}, which is no file.")
                target = folder.joinpath(*_parts_below(entry.name))
                target.parent.mkdir(parents=True, exist_ok=True)
                with content, target.open("wb") as file:
                    shutil.copyfileobj(content, file)
                os.utime(target, (entry.mtime, entry.mtime))
    except tarfile.TarError as error:
        raise ClusterError(f"The results cannot be unpacked: {error}. Fetch once more.") from error


def _parts_below(name: str) -> tuple[str, ...]:
    """The parts of a name that leads to a place below where it starts."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ClusterError(
            f"The archive holds {name!r}, which lies outside of the study's folder."
        )
    return path.parts


class _Base64Lines:
    """The writing end of a file whose bytes come out as lines of base64."""

    def __init__(self, out: IO[str]) -> None:
        self.sha256 = hashlib.sha256()
        self._out = out
        self._rest = b""

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        content = self._rest + content
        whole = len(content) - len(content) % _LINE_BYTES
        for start in range(0, whole, _LINE_BYTES):
            self._print(content[start : start + _LINE_BYTES])
        self._rest = content[whole:]
        return len(content)

    def flush(self) -> None:
        """Part of being a file; a line is printed when it is full."""

    def finish(self) -> None:
        if self._rest:
            self._print(self._rest)

    def _print(self, content: bytes) -> None:
        self._out.write(f"|{base64.b64encode(content).decode()}\n")


def _files_of(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name and path of every file of a study, without drafts (a leading dot or ``.tmp``)."""
    for parent, folders, names in os.walk(folder):
        place = Path(parent)
        if place == folder:
            folders[:] = [name for name in folders if name not in LEFT_OUT]
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for name in sorted(names):
            path = place / name
            if name[0] != "." and path.suffix != ".tmp" and path.is_file():
                yield path.relative_to(folder).as_posix(), path


def _remove_old_logs() -> None:
    """Delete what earlier fetches printed: Ray keeps the logs of jobs for ever."""
    log = Path(os.readlink("/proc/self/fd/1"))
    if JOB_PREFIX not in log.name:
        return
    for old in log.parent.glob(f"job-driver-{JOB_PREFIX}*.log"):
        if old != log and time.time() - old.stat().st_mtime > _OLD_LOG_SECONDS:
            old.unlink()


def main() -> None:
    folder, nonce = sys.argv[1:]
    with contextlib.suppress(OSError):
        _remove_old_logs()
    send(Path(folder).expanduser(), nonce, sys.stdout)


if __name__ == "__main__":
    main()
