"""What travels to a cluster: this very stabsearch, the user's code and the study, in one zip.

Ray would pack a folder itself, but follows ``.gitignore`` (which may name the study file) and says
after the upload that a package is too large. The same content gives the same bytes, so that Ray,
which names a package by its content, uploads it once.
"""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from stabsearch.errors import ClusterError

MAX_PACKAGE_BYTES = 100 * 2**20
"""Ray's dashboard refuses a larger upload (ray issues 38566, 55877), whatever its settings say."""

EXCLUDED_FOLDERS = frozenset(
    (
        *(".git", ".hg", ".svn", ".venv", "venv", "node_modules", "__pycache__"),
        *(".mypy_cache", ".ruff_cache", ".pytest_cache", ".ipynb_checkpoints"),
    )
)
"""Left out wherever they lie."""
EXCLUDED_AT_THE_TOP = frozenset(("results", "wandb", "mlruns"))
_PACKAGE = "stabsearch"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first date a zip can say: times would change the bytes


def write_code_package(
    destination: Path,
    *,
    working_dir: Path | None = None,
    texts: Mapping[str, str] | None = None,
    max_bytes: int = MAX_PACKAGE_BYTES,
) -> None:
    """Write a zip of this package, the files of ``working_dir``, and ``texts`` (name -> content).

    Of a git work tree those files are taken that git does not ignore; environments, caches and
    results are left out of any. Raises ``ClusterError`` naming the largest files if it gets too
    large.
    """
    files: dict[str, Path] = {}
    if working_dir is not None:
        if not working_dir.is_dir():
            raise ClusterError(f"--working-dir {working_dir} is not a folder.")
        files |= {
            name: path
            for name, path in _files_of(working_dir)
            # Ours comes below: client and cluster run one version.
            if Path(name).parts[0] not in EXCLUDED_AT_THE_TOP | {_PACKAGE}
        }
    source = Path(__file__).parents[1]
    files |= {f"{_PACKAGE}/{name}": path for name, path in _walk(source)}

    with zipfile.ZipFile(destination, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as package:
        for name in sorted(files.keys() | (texts or {}).keys()):
            text = (texts or {}).get(name)
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            is_program = text is None and files[name].stat().st_mode & 0o100
            entry.external_attr = (0o755 if is_program else 0o644) << 16
            package.writestr(entry, files[name].read_bytes() if text is None else text)
            if package.fp is not None and package.fp.tell() > max_bytes:
                raise ClusterError(_too_large(working_dir, files, max_bytes))


def _files_of(folder: Path) -> Iterator[tuple[str, Path]]:
    """Relative name and path of every file that is worth sending."""
    listed = _git_files(folder)
    if listed is None:
        yield from _walk(folder)
        return
    for name in listed:
        path = folder / name
        if path.is_file() and not EXCLUDED_FOLDERS.intersection(Path(name).parts[:-1]):
            yield name, path


def _git_files(folder: Path) -> list[str] | None:
    """Files that git knows or would add; None outside of a work tree or without git."""
    command = ["git", "-C", str(folder), "ls-files", "-z", "--cached", "--others"]
    try:
        answer = subprocess.run(
            [*command, "--exclude-standard"], capture_output=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return [name for name in answer.stdout.decode(errors="surrogateescape").split("\0") if name]


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.name not in EXCLUDED_FOLDERS and not path.is_symlink():
                for name, file in _walk(path):
                    yield f"{path.name}/{name}", file
        elif path.is_file() and path.suffix != ".pyc":
            yield path.name, path


def _too_large(working_dir: Path | None, files: Mapping[str, Path], max_bytes: int) -> str:
    largest = sorted(files.items(), key=lambda item: -item[1].stat().st_size)[:3]
    shown = ", ".join(f"{name} ({path.stat().st_size / 2**20:.1f} MiB)" for name, path in largest)
    return (
        f"--working-dir {working_dir} packs to more than {max_bytes / 2**20:.0f} MiB, the most "
        f"that Ray takes with a job. Largest files: {shown}. Leave data out (git-ignored files "
        "are not sent) and let the code read it from storage that the cluster reaches."
    )
