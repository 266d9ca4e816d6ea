"""Ray's token: where it comes from, and one that only its owner can read.

Ray listens on every interface of a machine, on a laptop too, and whoever reaches it can run code
there. The token is what stands in between. Ray looks for it in ``RAY_AUTH_TOKEN``, then in the
file named by ``RAY_AUTH_TOKEN_PATH``, then in ``~/.ray/auth_token``; so do we. It is one shared
secret and Ray sends it in clear: between machines, put TLS or a tunnel in front.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from stabsearch.errors import ClusterError

MODE_VARIABLE = "RAY_AUTH_MODE"
TOKEN_VARIABLE = "RAY_AUTH_TOKEN"
PATH_VARIABLE = "RAY_AUTH_TOKEN_PATH"


@dataclass(frozen=True, slots=True)
class Token:
    """A secret and where it was found. Its text never shows the secret."""

    value: str = field(repr=False)
    source: str
    """For people: ``RAY_AUTH_TOKEN`` or the path of a file."""

    def __str__(self) -> str:
        return f"token from {self.source}"

    @property
    def headers(self) -> dict[str, str]:
        """What an HTTP request to the cluster carries."""
        return {"Authorization": f"Bearer {self.value}"}


def default_token_path() -> Path:
    return Path.home() / ".ray" / "auth_token"


def find_token() -> Token | None:
    """The token Ray itself would use, or None if there is none.

    Raises ``ClusterError`` if a place is named and holds nothing usable.
    """
    if value := os.environ.get(TOKEN_VARIABLE, "").strip():
        return Token(value, TOKEN_VARIABLE)
    if named := os.environ.get(PATH_VARIABLE, "").strip():
        path = Path(named).expanduser()
        value = _read(path)
        if not value:
            raise ClusterError(
                f"{PATH_VARIABLE} names {path}, which is missing, empty or not readable. "
                f"Write the cluster's token there, or unset {PATH_VARIABLE}."
            )
        return Token(value, str(path))
    path = default_token_path()
    value = _read(path)
    return Token(value, str(path)) if value else None


def ensure_token() -> Token:
    """The token Ray would use; makes ``~/.ray/auth_token`` (mode 0600) if there is none.

    Ray would make the same file readable for everybody: an existing one is closed here.
    """
    path = default_token_path()
    with contextlib.suppress(OSError):
        _close(path)
    if token := find_token():
        return token
    try:
        _create(path, secrets.token_hex(32))
    except OSError:
        # Nowhere to keep it (a read-only home): good for this process and what it starts.
        return Token(secrets.token_hex(32), "this process")
    return Token(_read(path), str(path))


def is_token_mode() -> bool:
    """Whether Ray, in this process, is told to use the token."""
    return os.environ.get(MODE_VARIABLE, "").lower() == "token"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _close(path: Path) -> None:
    """Take the file away from group and others, if it is ours."""
    info = path.stat()
    if info.st_uid == os.getuid() and info.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        path.chmod(0o600)


def _create(path: Path, value: str) -> None:
    """Write the token whole or not at all; a process that was faster wins."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and not _read(path):
        path.unlink()  # empty: Ray would refuse to start on it
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(value)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
