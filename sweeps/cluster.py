"""The Ray cluster of a driver run: a local one in this process's name, or one that is there.

`connect` returns with Ray ready, `disconnect` leaves nothing behind, `node_resources` says what the
nodes have in all. `watched` notices when the cluster is gone: Ray itself would wait for it, and
then end the process without a word to the user.
"""

import contextlib
import logging
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import psutil
import ray
from ray._common.constants import HEAD_NODE_RESOURCE_NAME
from ray._private import ray_constants, services, worker
from ray._private.state import state
from ray.core.generated import gcs_pb2
from ray.util.placement_group import PlacementGroup, remove_placement_group

from sweeps.resources import worker_environment
from w2s.errors import UserError

log = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 8.0
"""Time a cluster has to answer."""
LOOPBACK_ENVIRONMENT = {ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}
"""Makes the processes of Ray listen on 127.0.0.1 alone, not on the address of the machine."""
HTTP2_SETTINGS = b"\x04"
"""Type of the first frame either side sends, after three bytes of its length."""
HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + HTTP2_SETTINGS + bytes(5)
START_ATTEMPTS = 2
"""Ray gives its processes 30 s to start; the second time, their files are in memory."""
OBJECT_STORE_BYTES = 500 * 2**20
"""Size of the object store of a local cluster: artifacts travel through the artifact store."""
HEAD_SHARE = 0.001
"""Share of the head, which is one, that an actor asks for to be put there."""

NOISE = (
    "worker processes have been started",  # light trials and actors are many on purpose
    "A worker died or was killed while executing a task",  # `w2s run` says what became of it
)
"""In messages of Ray's that are not shown."""
LOOK_S = 1.0
"""Time between two looks at whether the cluster is there."""
LOST_S = 20.0
"""Time without an answer after which a cluster counts as gone; Ray itself gives up after 60 s."""


@dataclass(frozen=True, slots=True)
class Connection:
    """How this process is connected."""

    address: str | None
    """Address of the cluster that was joined; None: a local one was started."""
    temp_dir: str | None
    """Folder of the local cluster's own files."""


def connect(
    address: str | None = None,
    *,
    num_cpus: int | None = None,
    temp_dir: str | None = None,
) -> Connection:
    """Start a local cluster, or join one.

    Args:
        address: `HOST:PORT`, or `auto`; None: `RAY_ADDRESS` where it is set, else a local cluster.
        num_cpus: CPUs of a local cluster; None: those of the machine.
        temp_dir: folder of a local cluster's own files, a short path; None: a new one, removed at
            the end.

    Raises:
        UserError: the cluster does not answer, or Ray does not start here.
    """
    _quiet()
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address is not None:
        _join(address)
        return Connection(address, None)
    for attempt in range(START_ATTEMPTS):
        folder = temp_dir or tempfile.mkdtemp(prefix="ray-w2s-", dir="/tmp")
        try:
            _start(folder, num_cpus)
            return Connection(None, folder if temp_dir is None else None)
        except Exception as error:  # Ray raises plain exceptions when its processes are slow
            ray.shutdown()
            _end_leftovers(folder)
            if temp_dir is None:
                shutil.rmtree(folder, ignore_errors=True)
            if attempt + 1 == START_ATTEMPTS:
                raise UserError(
                    f"Ray does not start on this machine: {error}; is it out of memory, or busy?"
                ) from error
            log.warning("Ray did not start: %s; once more", error)
    raise AssertionError("unreachable")


def disconnect(connection: Connection) -> None:
    """Leave the cluster; a local one ends with all its processes."""
    ray.shutdown()
    if connection.temp_dir is not None:
        shutil.rmtree(connection.temp_dir, ignore_errors=True)


@contextlib.contextmanager
def connected(address: str | None = None) -> Iterator[Connection]:
    """`connect` and `disconnect` around a block."""
    connection = connect(address)
    try:
        yield connection
    finally:
        disconnect(connection)


@contextlib.contextmanager
def watched(connection: Connection, on_lost: Callable[[str], None]) -> Iterator[None]:
    """Look after the cluster beside a block.

    Args:
        connection: how this process is connected.
        on_lost: called once, in another thread, when the cluster is gone, with what is gone; it
            should end the process, because calls to Ray may hang.
    """
    done = threading.Event()
    watch = _Local() if connection.address is None else _Remote()
    noticed = threading.Lock()

    def look() -> None:
        loss = watch.loss()
        if loss and not done.is_set() and noticed.acquire(blocking=False):
            on_lost(loss)

    def keep_looking() -> None:
        while not done.wait(LOOK_S):
            look()

    thread = threading.Thread(target=keep_looking, name="w2s-watch", daemon=True)
    thread.start()
    try:
        yield
    except Exception:
        # It may be that of a cluster that is about to be noticed as gone.
        look()
        while watch.is_in_doubt:
            time.sleep(LOOK_S)
            look()
        raise
    finally:
        done.set()
        thread.join(timeout=2 * LOOK_S)


def abandon(connection: Connection) -> None:
    """End the processes of a local cluster of which a part is gone; leave a joined one alone."""
    node: Any = worker._global_node
    if connection.address is not None or node is None:
        return
    # Workers end with their raylet, but those that are only just starting look for the head first.
    family = psutil.Process().children(recursive=True)
    node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    if connection.temp_dir is not None:
        shutil.rmtree(connection.temp_dir, ignore_errors=True)


class _Local:
    """Looks at the processes of the local cluster."""

    is_in_doubt = False

    def loss(self) -> str:
        """What has died; empty: nothing that matters."""
        node: Any = worker._global_node
        dead = [name for name, _ in node.dead_processes()] if node is not None else []
        needed = (ray_constants.PROCESS_TYPE_GCS_SERVER, ray_constants.PROCESS_TYPE_RAYLET)
        return ", ".join(f"its {name} has died" for name in dead if name in needed)


class _Remote:
    """Asks a cluster that was joined whether it is there."""

    def __init__(self) -> None:
        context = ray.get_runtime_context()
        host, _, port = context.gcs_address.rpartition(":")
        self._host, self._port = host, int(port)
        self._node = context.get_node_id()
        self._heard = time.monotonic()
        self.is_in_doubt = False
        """It does not answer, not yet for so long that it counts as gone."""

    def loss(self) -> str:
        """What is gone; empty: nothing, as far as is known."""
        try:
            _check_answers(self._host, self._port)
        except OSError as error:
            silent_s = time.monotonic() - self._heard
            self.is_in_doubt = silent_s <= LOST_S
            head = f"{self._host}:{self._port}"
            return "" if self.is_in_doubt else f"its head {head} does not answer ({error})"
        self._heard, self.is_in_doubt = time.monotonic(), False
        mine = (node["Alive"] for node in ray.nodes() if node["NodeID"] == self._node)
        return "" if any(mine) else "the node of this process is dead"


def node_resources() -> list[dict[str, float]]:
    """Total resources of each living node."""
    return [
        {name: float(amount) for name, amount in node["Resources"].items()}
        for node in ray.nodes()
        if node["Alive"]
    ]


def on_head() -> dict[str, float]:
    """Resources to ask for so that an actor runs on the head, which outlives what computes.

    An actor that asks for nothing goes to any node at random, with a soft node affinity too. Empty
    where the cluster has no head that could be asked for.
    """
    has_head = any(HEAD_NODE_RESOURCE_NAME in resources for resources in node_resources())
    return {HEAD_NODE_RESOURCE_NAME: HEAD_SHARE} if has_head else {}


def free_gangs(living: bool = False) -> int:
    """Free what the cluster still reserves for gangs whose controller died; how many there were.

    Ray Train has a helper for that, which asks the dashboard; a cluster without one keeps the
    reservation until its job ends. Only gangs of this process's own job are looked at.

    Args:
        living: free what is reserved for the others too, whose workers are killed by that.
    """
    job = ray.get_runtime_context().get_job_id()
    accessor: Any = state._connect_and_get_accessor()
    table: Any = getattr(gcs_pb2, "PlacementGroupTableData")  # noqa: B009  made when it is imported
    freed = 0
    for entry in accessor.get_placement_group_table():
        group = table.FromString(entry)
        removed = group.state == table.REMOVED
        # Those of Tune's trials are the driver's, not an actor's.
        of_actor = not ray.ActorID(group.creator_actor_id).is_nil()
        ours = group.creator_job_id.hex() == job and of_actor and not group.is_detached
        if ours and (living or group.creator_actor_dead) and not removed:
            id_ = ray.PlacementGroupID(group.placement_group_id)
            remove_placement_group(PlacementGroup(id_))
            freed += 1
    return freed


def _start(folder: str, num_cpus: int | None) -> None:
    # Every process of the cluster inherits this; OpenMP reads it when torch is imported.
    environment = {**worker_environment(1), **LOOPBACK_ENVIRONMENT, "RAY_USAGE_STATS_ENABLED": "0"}
    with _environment(environment), _loopback():
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=folder,
            _node_ip_address="127.0.0.1",
        )


def _end_leftovers(folder: str) -> None:
    """End what a failed start has started, of which Ray itself knows nothing any more."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(folder in word for word in process.cmdline()):
                process.kill()


@cache
def _quiet() -> None:
    """Keep some messages of Ray's off the terminal."""
    print_message = worker.print_to_stdstream

    def filtered(data: dict[str, Any], ignore_prefix: bool) -> None:
        if not any(noise in line for line in data["lines"] for noise in NOISE):
            print_message(data, ignore_prefix)

    worker.print_to_stdstream = filtered


def _join(address: str) -> None:
    if address.startswith(("ray://", "http://", "https://")):
        raise UserError(
            f"cannot join {address!r} from outside the cluster; submit the sweep to it: "
            "ray job submit --address http://HOST:8265 -- w2s run FILE"
        )
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise UserError(f"Ray address {address!r} is not HOST:PORT or auto")
        try:
            # Ray goes to the machine's own address where it is told localhost.
            _check_answers(services.resolve_ip_for_localhost(host), int(port))
        except OSError as error:
            raise UserError(
                f"no Ray cluster answers at {address!r} ({error}); check `ray status` there, or "
                "leave the address out to start a local cluster"
            ) from error
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises a different type for each way of not being there
        raise UserError(
            f"cannot join the Ray cluster at {address!r}: {type(error).__name__}: {error}"
        ) from error


def _check_answers(host: str, port: int) -> None:
    """Whether a gRPC server listens there; Ray itself would wait for 40 s for one.

    Raises:
        OSError: nobody answers in time, or not in HTTP/2.
    """
    with socket.create_connection((host, port), timeout=ANSWER_TIMEOUT_S) as connection:
        if os.environ.get("RAY_USE_TLS", "0") != "0":
            return
        connection.sendall(HTTP2_GREETING)
        if connection.recv(4)[3:] != HTTP2_SETTINGS:
            raise OSError("something else listens on that port")


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """This process's half of `LOOPBACK_ENVIRONMENT`, which Ray read when it was imported."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Environment variables for processes started inside the block; what the user set stays."""
    new = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            del os.environ[name]
