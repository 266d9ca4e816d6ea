"""One real head node for all tests of this folder, started as its own process on loopback."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

MARK = "STABSEARCH_TEST_NODE"
"""Environment variable that every process below the head node inherits."""


@dataclass(frozen=True)
class HeadNode:
    """A Ray cluster of one node that asks for a token."""

    address: str
    gcs: str
    token: str
    home: Path
    """HOME of whatever runs there."""


@pytest.fixture(scope="session")
def head_node():
    name = secrets.token_hex(8)
    # Unix sockets lie below: their paths are limited to 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="ss-", dir="/tmp"))
    home = folder / "home"
    home.mkdir()
    gcs, dashboard, agent, client = free_ports(4)
    node = HeadNode(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", name * 4, home)
    environment = plain_environment(home) | {
        MARK: name,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": node.token,
        "OMP_NUM_THREADS": "1",
    }
    command = [
        *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"),
        *("--num-cpus=2", f"--port={gcs}", f"--temp-dir={folder}", "--disable-usage-stats"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
        *(f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"),
    ]
    log = folder / "head.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            command, env=environment, stdout=out, stderr=out, start_new_session=True
        )
    try:
        wait_for_dashboard(node.address, process, log)
        yield node
    finally:
        end(process, name)
        shutil.rmtree(folder, ignore_errors=True)
    assert processes_of(name) == []


def plain_environment(home: Path) -> dict[str, str]:
    """This process's environment without what it says about Ray, and with our Python first."""
    ours = {
        key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "TUNE_"))
    }
    folders = [str(Path(sys.executable).parent), ours.get("PATH", "")]
    return ours | {"HOME": str(home), "PATH": os.pathsep.join(folders)}


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_for_dashboard(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{address}/api/authentication_mode", timeout=2).close()
            return
        time.sleep(0.1)
    pytest.fail(f"the head node did not start:\n{log.read_text()}")


def end(process: subprocess.Popen[bytes], name: str) -> None:
    """Kill what the fixture started and what came of it. Never `ray stop`: that ends every Ray."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 20
    while (left := processes_of(name)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def processes_of(name: str) -> list[int]:
    """Processes that inherited the mark, zombies aside."""
    wanted = f"{MARK}={name}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return found
