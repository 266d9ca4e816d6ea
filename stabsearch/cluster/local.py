"""A Ray to run on: one of our own on this machine, or a cluster that already runs.

    with ray_runtime(None) as runtime:             # starts Ray here, ends it on leaving
    with ray_runtime("auto") as runtime:           # inside a Ray job, or on a node of a cluster
    with ray_runtime("10.0.0.5:6379") as runtime:  # joins the cluster whose head is there

Ray that this process has started already (a notebook, a test) is used as it is and left running.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from stabsearch.cluster import auth
from stabsearch.errors import ClusterError

RAY_FLAGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the newer output engine prints at verbose=0 too
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent home
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # `uv run` would rebuild the environment in every worker
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # the user's own relative paths keep their meaning
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # silences a FutureWarning per start
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # CSV, JSON, TensorBoard: 3 ms a report, unused
    "TUNE_WARN_THRESHOLD_S": "60",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "86400",  # sic; a busy cluster is no fault
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
"""Environment of the process that drives a study; set here only where the user has not."""

OBJECT_STORE_BYTES = 512 * 2**20
"""Ray's default is 30% of the memory. Reports and weights of a study are far smaller."""

PROBE_SECONDS = 2.0
"""How long an address may take to answer. ``ray.init`` alone would try for 20 seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeResources:
    """What one machine of the cluster offers; a trial must fit one."""

    cpus: float
    gpus: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RayRuntime:
    """The Ray that a study runs on."""

    cpus: float
    """Of the whole cluster."""
    gpus: float
    """Of the whole cluster."""
    nodes: tuple[NodeResources, ...]
    """The machines that are alive, those without CPUs or GPUs included."""
    is_local: bool
    """Started by this process and for this process alone."""
    address: str
    """``host:port`` of the cluster's head."""


@contextlib.contextmanager
def ray_runtime(address: str | None, *, cpus: int | None = None) -> Iterator[RayRuntime]:
    """Start Ray here (``address=None``) or join the cluster at ``address``.

    ``cpus`` limits a Ray started here; a cluster says itself how many it has.
    Leaving ends what was started and nothing else. Raises ``ClusterError`` with the reason and
    the remedy.
    """
    with contextlib.ExitStack() as leave:
        leave.enter_context(environment(RAY_FLAGS))
        import ray

        if ray.is_initialized():
            yield _describe(is_local=False)
            return
        if address is None:
            mode, token = _local_token()
        else:
            address = _resolve(address)
            mode, token = _cluster_token(address)
        leave.enter_context(environment(mode | token, override=True))
        _refresh_ray_config()
        leave.callback(_shut_down)
        with _interrupt_deferred(), _terminate_handler_kept():
            _start(cpus) if address is None else _join(address)
        yield _describe(is_local=address is None)


def _describe(*, is_local: bool) -> RayRuntime:
    import ray

    api: Any = ray  # not annotated
    nodes = _nodes_of(api.nodes())
    return RayRuntime(
        cpus=sum(node.cpus for node in nodes),
        gpus=sum(node.gpus for node in nodes),
        nodes=nodes,
        is_local=is_local,
        address=ray.get_runtime_context().gcs_address,
    )


def _nodes_of(table: list[dict[str, Any]]) -> tuple[NodeResources, ...]:
    """The nodes in Ray's table that are alive: it lists the dead ones too."""
    return tuple(
        NodeResources(
            cpus=float(node["Resources"].get("CPU", 0.0)),
            gpus=float(node["Resources"].get("GPU", 0.0)),
        )
        for node in table
        if node["Alive"]
    )


def _start(cpus: int | None) -> None:
    import ray

    try:
        ray.init(
            address="local",  # None would join whatever runs on this machine
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
        )
    except (RuntimeError, OSError, ValueError, ray.exceptions.RayError) as error:
        raise ClusterError(
            f"Ray could not be started on this machine: {_first_line(error)} "
            "Its own files are under /tmp/ray/session_latest/logs; a full disk, too little "
            "memory or a firewall between local ports are the usual causes."
        ) from error


def _join(address: str) -> None:
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (RuntimeError, OSError, ValueError, ray.exceptions.RayError) as error:
        if "ersion mismatch" in str(error):
            raise ClusterError(
                f"The Ray cluster at {address} runs other versions than this environment: "
                f"{' '.join(str(error).split())} Install the cluster's versions here, or send "
                "the study with `stabsearch submit`, which only needs HTTP."
            ) from error
        raise ClusterError(
            f"The Ray cluster at {address} could not be joined: {_first_line(error)} "
            "Only a machine that is a node of the cluster can join it; from anywhere else use "
            "`stabsearch submit`."
        ) from error


def _shut_down() -> None:
    import ray

    with _interrupt_deferred():
        ray.shutdown()


# --- which cluster, and with which token ---------------------------------------------------


def _resolve(address: str) -> str:
    """``host:port`` of a cluster's head that answers, from what the user typed."""
    if address.startswith(("http://", "https://")):
        raise ClusterError(
            f"{address} is the address of a dashboard, which takes jobs: "
            f"`stabsearch submit FILE --address {address}`. To join a cluster from one of its "
            'nodes give "auto" or the head\'s host:port (6379 by default).'
        )
    if "://" in address:
        raise ClusterError(
            f"{address}: a study cannot be driven through Ray Client. Use `stabsearch submit "
            'FILE --address http://HEAD:8265`, or on a node of the cluster "auto".'
        )
    found = _address_of_this_node() if address == "auto" else address
    host, _, port = found.rpartition(":")
    if not host or not port.isdecimal():
        raise ClusterError(
            f'{found!r} is not the address of a Ray cluster: expected "auto" or host:port.'
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), PROBE_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"Nothing answers at {found} ({error}). Is the Ray cluster running, and is this the "
            "port of its head (`ray start --head --port=6379`)?"
        ) from error
    return found


def _address_of_this_node() -> str:
    """Where Ray's own "auto" would go: a job's cluster, or the one this machine belongs to."""
    if named := os.environ.get("RAY_ADDRESS", ""):
        if named != "auto" and "://" not in named:
            return named
        if named not in ("", "auto"):
            raise ClusterError(
                f"RAY_ADDRESS is {named}, which is no host:port of a Ray head. Unset it, or give "
                "the address with --address."
            )
    # `ray start` notes here which cluster this machine belongs to.
    parent = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    note = Path(parent) / "ray" / "ray_current_cluster"
    try:
        return note.read_text(encoding="utf-8").strip()
    except OSError:
        raise ClusterError(
            "No Ray cluster was found on this machine. Leave the address away to run on a Ray "
            "started here, or give host:port of the cluster's head."
        ) from None


def _local_token() -> tuple[dict[str, str], dict[str, str]]:
    """Environment with which a Ray of our own asks for a token, unless the user said no."""
    if auth.MODE_VARIABLE in os.environ and not auth.is_token_mode():
        return {}, {}
    token = auth.ensure_token()
    keep = {} if token.source != "this process" else {auth.TOKEN_VARIABLE: token.value}
    return {auth.MODE_VARIABLE: "token"}, keep


def _cluster_token(address: str) -> tuple[dict[str, str], dict[str, str]]:
    """Environment for joining a cluster: the token if it asks for one, checked beforehand.

    ``ray.init`` would try for 20 seconds and then not say that the token was the reason.
    """
    refused = _ask_gcs(address, None)
    if refused is None:
        return {auth.MODE_VARIABLE: "disabled"}, {}
    token = auth.find_token()
    if token is None:
        raise ClusterError(
            f"The Ray cluster at {address} asks for a token and there is none here. Put it "
            f"into {auth.TOKEN_VARIABLE} or {auth.default_token_path()} (mode 0600)."
        )
    if _ask_gcs(address, token) is not None:
        raise ClusterError(
            f"The Ray cluster at {address} refused the {token}: it is not this cluster's. Copy "
            "the token that the head node was started with."
        )
    return {auth.MODE_VARIABLE: "token"}, {}


def _ask_gcs(address: str, token: auth.Token | None) -> str | None:
    """Ask the head for its cluster's name; the reason if it refuses the token, else None."""
    grpc: Any = importlib.import_module("grpc")  # comes with ray[default]
    messages: Any = importlib.import_module("ray.core.generated.gcs_service_pb2")
    services: Any = importlib.import_module("ray.core.generated.gcs_service_pb2_grpc")
    metadata = [] if token is None else [("authorization", f"Bearer {token.value}")]
    # A proxy of the environment has no business between the nodes of a cluster.
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = services.NodeInfoGcsServiceStub(channel)
        request = messages.GetClusterIdRequest()
        try:
            stub.GetClusterId(request, timeout=PROBE_SECONDS, metadata=metadata)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                return str(error.details())
            raise ClusterError(
                f"What listens at {address} is not the head of a Ray cluster of this version "
                f"({error.code().name.lower()}: {error.details()}). The head's port is the one "
                "given to `ray start --head --port`, 6379 by default; the dashboard's (8265) and "
                "Ray Client's (10001) are others."
            ) from error
    return None


def _refresh_ray_config() -> None:
    """Make Ray read the token settings again: it keeps what it saw when it was imported."""
    raylet: Any = importlib.import_module("ray._raylet")
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


# --- the process around it -----------------------------------------------------------------


@contextlib.contextmanager
def environment(values: dict[str, str], *, override: bool = False) -> Iterator[None]:
    """Set environment variables, and put back on leaving what was there before."""
    before = {name: os.environ.get(name) for name in values}
    for name, value in values.items():
        if override or before[name] is None:
            os.environ[name] = value
    try:
        yield
    finally:
        for name, old in before.items():
            if old is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = old


@contextlib.contextmanager
def _interrupt_deferred() -> Iterator[None]:
    """Hold a Ctrl-C back until the block is done, lest half a Ray is left; a second one ends it.

    Starting and ending Ray takes seconds, in which processes exist that nobody knows yet.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed = False

    def note(_signum: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    before: Any = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _terminate_handler_kept() -> Iterator[None]:
    """Keep the program's own handler of SIGTERM, if it has one.

    Ray puts two in its place when it starts: one in Python, and one in C++ that prints its stack
    and ends the process.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _first_line(error: BaseException) -> str:
    line = str(error).strip().partition("\n")[0] or type(error).__name__
    return line if line.endswith(".") else f"{line}."
