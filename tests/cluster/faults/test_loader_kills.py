"""The loader killed in its pod, at each named point and at random times: its Job and its flow bring the model all the same."""

import os
import random
import secrets
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import pytest

from flows.preload import preload_model
from modelyard.kube import run_loader
from modelyard.kube.loader_job import loader_job
from modelyard.loader.killpoints import POINTS
from modelyard.orders import LoadSpec, Order
from tests.cluster.faults.support import MIB, Audit, finish, preload
from tests.cluster.preload.conftest import Stack

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(1200)]
KILLS, MODELS_AT_ONCE, MOST_ROUNDS = 20, 5, 6


@pytest.mark.parametrize("point", POINTS)
def test_killed_at(point: str, stack: Stack, audit: Callable[[], Audit], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first Job's only pod dies there; the task's next try makes another Job, which goes on."""
    files = stack.put(config__json=b"{}", model__safetensors=os.urandom(12 * MIB), empty=b"")
    before = audit()
    killed: list[str] = []

    def dying_once(order: Order, *args: Any, **options: Any) -> dict[str, Any]:
        job = loader_job(order, *args, **options)
        if isinstance(order, LoadSpec) and not killed:
            killed.append(order.command)
            job["spec"]["backoffLimit"] = 0
            job["spec"]["template"]["spec"]["containers"][0]["env"].append({"name": "MODELYARD_KILL_AT", "value": point})
        return job

    monkeypatch.setattr(run_loader, "loader_job", dying_once)
    preload_model(**stack.parameters())
    assert killed
    before.ends_ready({"m/v1": files})


class Killer:
    """Kills each loader that appears for a bucket, at a random time of its life, as often as it is told."""

    def __init__(self, bucket: str, kills: int, seed: int) -> None:
        self.killed = 0
        self._marks = (b"modelyard.loader\0preload", bucket.encode())
        self._wanted, self._random = kills, random.Random(seed)  # noqa: S311 - a test's dice, thrown again by its seed
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._hunt)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _hunt(self) -> None:
        due: dict[int, float] = {}
        while not self._over.wait(0.02):
            alive = {pid for pid in _processes(self._marks) if pid}
            for pid in alive - set(due):
                due[pid] = time.monotonic() + self._random.uniform(0, 3)
            for pid in alive:
                if time.monotonic() >= due[pid] and self.killed < self._wanted:
                    self._kill(pid)
                    due[pid] = float("inf")

    def _kill(self, pid: int) -> None:
        try:
            os.kill(pid, signal.SIGKILL)
            self.killed += 1
        except ProcessLookupError:
            return


def _processes(marks: tuple[bytes, ...]) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if all(mark in command for mark in marks):
            found.append(int(entry.name))
    return found


def test_killed_at_twenty_random_times(stack: Stack, audit: Callable[[], Audit], record_property: Callable[[str, object], None]) -> None:
    """Five models at once; a Job gives up at its fourth dead pod, and the task's next try goes on."""
    seed = secrets.randbits(32)
    record_property("seed", seed)
    expected: dict[str, dict[str, bytes]] = {}
    before, killed, rounds = audit(), 0, 0
    while killed < KILLS:
        rounds += 1
        assert rounds <= MOST_ROUNDS, f"only {killed} loaders were still at work when they were to be killed (seed {seed})"
        names = [f"r{rounds}m{number}" for number in range(MODELS_AT_ONCE)]
        expected |= {f"{name}/v1": upload(stack, name) for name in names}
        with Killer(stack.name, KILLS - killed, seed + rounds) as killer:
            runs = [preload(stack, model=name, path=f"{name}/v1") for name in names]
            with ThreadPoolExecutor(MODELS_AT_ONCE) as pool:
                list(pool.map(lambda run: finish(run, seconds=600), runs))
        killed += killer.killed
    before.ends_ready(expected)


def upload(stack: Stack, model: str) -> dict[str, bytes]:
    """A model with one large file and some small ones, enough for a load of a second or two."""
    files = {"large.safetensors": os.urandom(48 * MIB), **{f"part-{number}.safetensors": os.urandom(2 * MIB) for number in range(12)}}
    for name, body in files.items():
        stack.s3.put_object(Bucket=stack.name, Key=f"{model}/v1/{name}", Body=body, ChecksumAlgorithm="CRC64NVME")
    return files
