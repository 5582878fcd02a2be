"""The machine fails under a load: its node, its API server, or all of it at once."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

import devcluster
from devcluster.errors import DevclusterError
from devcluster.paths import Layout
from devcluster.processes import find_supervisor, read_status
from tests.cluster.faults.support import MIB, Audit, finish, path_of, preload, wait_until
from tests.cluster.preload.conftest import FrozenLoader, Stack

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
STAGED = ".modelyard/staging/m/v1/files"
AWAY_SECONDS = 30
#: Run inside the cluster's pid namespace: everything of the node at once, and every process that lives in a container.
_CRASH = """
import os, signal
from pathlib import Path
doomed = []
for entry in Path("/proc").iterdir():
    if entry.name.isdigit() and entry.name != "1":
        try:
            name = (entry / "comm").read_text().strip()
            levels = [line for line in (entry / "status").read_text().splitlines() if line.startswith("NSpid:")][0].split()[1:]
        except (OSError, IndexError):
            continue
        if name in {"kubelet", "containerd"} or name.startswith("containerd-shim") or len(levels) > 1:
            doomed.append((int(entry.name), name))
for pid, name in doomed:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
print(*sorted({name for _, name in doomed}))
"""


def half_loaded(stack: Stack, frozen: FrozenLoader, before: Audit, size: int) -> None:
    """Let the loader come to the middle of its work, and stand still."""
    root = path_of(stack, before.volumes["cache"])
    frozen.step_until(lambda: sum(path.lstat().st_blocks * 512 for path in (root / STAGED).rglob("*") if path.is_file()) >= size // 2)


def model(stack: Stack) -> dict[str, bytes]:
    return stack.put(config__json=b"{}", **{f"part-{number}": os.urandom(8 * MIB) for number in range(20)})


def size_of(files: dict[str, bytes]) -> int:
    return sum(map(len, files.values()))


def test_the_node_crashes_in_the_middle_of_a_load(stack: Stack, audit: Callable[[], Audit], frozen: FrozenLoader) -> None:
    """Kubelet, containerd and every container at once, by SIGKILL; they come back, and a new pod goes on."""
    files, before = model(stack), audit()
    running = preload(stack)
    half_loaded(stack, frozen, before, size_of(files))
    crashed = stack.cluster.enter(["python3", "-c", _CRASH]).stdout.split()
    assert {"kubelet", "containerd"} < set(crashed), crashed
    finish(running, seconds=600)
    before.ends_ready({"m/v1": files})


@pytest.mark.faults
def test_the_power_fails_in_the_middle_of_a_load(stack: Stack, audit: Callable[[], Audit], frozen: FrozenLoader) -> None:
    """All of it: API server, node and S3 server. The flow is elsewhere; it waits, or the next run goes on."""
    files, before = model(stack), audit()
    running = preload(stack)
    half_loaded(stack, frozen, before, size_of(files))
    os.kill(find_supervisor(Layout(stack.cluster.state_dir)) or 0, signal.SIGKILL)
    assert devcluster.up(stack.cluster.name) == stack.cluster
    output, _ = running.communicate(timeout=600)
    if running.returncode:
        assert "modelyard.errors." in output, output
        finish(preload(stack), seconds=600)
    before.ends_ready({"m/v1": files})


@contextmanager
def silent(cluster: devcluster.Cluster) -> Iterator[None]:
    """The API server holds its connections and says nothing."""
    pid = cluster.pid_of("kube-apiserver")
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def dead(cluster: devcluster.Cluster) -> Iterator[None]:
    """The API server is killed as often as it comes back: connections are refused."""
    over = threading.Event()

    def keep_killing() -> None:
        while not over.wait(0.1):
            try:
                os.kill(cluster.pid_of("kube-apiserver"), signal.SIGKILL)
            except (DevclusterError, OSError):
                continue

    thread = threading.Thread(target=keep_killing)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.faults
@pytest.mark.parametrize("away", [silent, dead])
def test_the_api_server_is_away_for_thirty_seconds(
    away: Callable[[devcluster.Cluster], AbstractContextManager[None]], stack: Stack, audit: Callable[[], Audit], frozen: FrozenLoader
) -> None:
    files, before = model(stack), audit()
    running = preload(stack)
    half_loaded(stack, frozen, before, size_of(files))
    with away(stack.cluster):
        frozen.thaw()  # the load itself needs no API server
        time.sleep(AWAY_SECONDS)
    wait_until(lambda: ready(stack.cluster))
    finish(running, seconds=600)
    before.ends_ready({"m/v1": files})


def ready(cluster: devcluster.Cluster) -> bool:
    return bool(read_status(Layout(cluster.state_dir))["kube-apiserver"]["ready"])
