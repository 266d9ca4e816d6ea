"""Ray as a study uses it. In processes of their own: a Ray in this one belongs to other tests."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stabsearch.cluster.local import NodeResources, _nodes_of, ray_runtime
from stabsearch.errors import ClusterError
from tests.cluster.conftest import MARK, plain_environment, processes_of

OWN_RAY = """
import json, os, time
from stabsearch.cluster.local import ray_runtime
before = dict(os.environ)
with ray_runtime(None, cpus=1) as own:
    with ray_runtime(None) as found:
        pass
    import ray
    still_up = ray.is_initialized()
    mode = os.environ.get("RAY_AUTH_MODE")
changed = {k for k in before.keys() | os.environ.keys() if before.get(k) != os.environ.get(k)}
changed -= {"PYTHONBREAKPOINT", "RAY_CLIENT_MODE"}  # Ray's own doing
print(json.dumps({
    "cpus": [own.cpus, found.cpus], "local": [own.is_local, found.is_local],
    "nodes": [[node.cpus, node.gpus] for node in own.nodes],
    "same": own.address == found.address, "mode": mode,
    "still_up": still_up, "up_after": ray.is_initialized(), "changed": sorted(changed),
}))
"""

JOIN = """
import sys, time
from stabsearch.cluster.local import ray_runtime
from stabsearch.errors import StabsearchError
began = time.monotonic()
try:
    with ray_runtime(sys.argv[1]) as runtime:
        print(runtime.cpus, runtime.is_local)
except StabsearchError as error:
    print(error)
    assert time.monotonic() - began < 8
"""


def run(code, home, *arguments, **variables):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=plain_environment(home) | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )


def gpus_here():
    """What Ray finds on this machine."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def all_gone(name):
    deadline = time.monotonic() + 10
    while (left := processes_of(name)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left == []


@pytest.mark.ray
def test_own_ray_is_quiet_private_and_leaves_nothing(tmp_path):
    name = f"own-{os.getpid()}-{time.time_ns()}"

    done = run(OWN_RAY, tmp_path, **{MARK: name})

    assert done.stderr == ""
    assert json.loads(done.stdout) == {
        "cpus": [1.0, 1.0],
        "local": [True, False],
        "nodes": [[1.0, float(gpus_here())]],
        "same": True,
        "mode": "token",
        "still_up": True,
        "up_after": False,
        "changed": [],
    }
    assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
    assert all_gone(name)


@pytest.mark.ray
def test_interrupt_while_ray_starts_ends_all_of_it(tmp_path):
    name = f"interrupt-{os.getpid()}-{time.time_ns()}"
    code = "from stabsearch.cluster.local import ray_runtime\nwith ray_runtime(None): print('up')"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=plain_environment(tmp_path) | {MARK: name},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while len(processes_of(name)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)

    assert out == ""
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert all_gone(name)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("token", "answer"),
    [
        ("right", "2.0 False"),
        ("", "asks for a token and there is none here"),
        ("wrong", "refused the token from RAY_AUTH_TOKEN"),
    ],
)
def test_joining_a_cluster_takes_its_token(head_node, tmp_path, token, answer):
    token = head_node.token if token == "right" else token

    done = run(JOIN, tmp_path, head_node.gcs, RAY_AUTH_TOKEN=token)

    assert answer in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://127.0.0.1:8265", "stabsearch submit FILE --address http://127.0.0.1:8265"),
        ("ray://127.0.0.1:10001", "cannot be driven through Ray Client"),
        ("nonsense", "'nonsense' is not the address of a Ray cluster"),
    ],
)
def test_an_address_of_another_kind_is_explained(address, message):
    with pytest.raises(ClusterError, match=message):
        join(address)


def test_nothing_listening_is_said_at_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        began = time.monotonic()

        with pytest.raises(ClusterError, match="Nothing answers at"):
            join(f"127.0.0.1:{taken.getsockname()[1]}")

    assert time.monotonic() - began < 3


def test_no_cluster_on_this_machine_is_said(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))

    with pytest.raises(ClusterError, match="No Ray cluster was found on this machine"):
        join("auto")


def test_dead_nodes_and_those_without_cpus_are_told_apart():
    table = [
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0, "memory": 1e9}},
        {"Alive": False, "Resources": {"CPU": 64.0}},
        {"Alive": True, "Resources": {"memory": 1e9}},
    ]

    nodes = _nodes_of(table)

    assert nodes == (NodeResources(cpus=8, gpus=2), NodeResources(cpus=0, gpus=0))


def join(address):
    ray = pytest.importorskip("ray")
    if ray.is_initialized():
        pytest.skip("a Ray of other tests runs in this process")
    with ray_runtime(address):
        pass
