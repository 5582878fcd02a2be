"""The cluster's pid 1: starts the components in order, keeps them running, reaps what nobody waits for.

    python -m devcluster.supervisor STATE-DIRECTORY IDENTITY     (by devcluster.launch, in new namespaces)

One thread and one loop: pid 1 must reap every orphan, and a second waiter would steal the exit codes of its helpers.
When it dies, the kernel ends everything in the namespace; that is how the cluster is stopped.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from devcluster.components import PATH, Component, components
from devcluster.namespace import prepare
from devcluster.network import block_of
from devcluster.paths import Layout, write_atomically
from devcluster.registry import seed_images

TICK = 0.05
FIRST_DELAY, LONGEST_DELAY = 0.2, 5.0
STEADY = 20.0
"""Seconds after which a component counts as running well, and its next failure as its first."""


@dataclass
class Process:
    """One component's state."""

    component: Component
    pid: int = 0
    ready: bool = False
    restarts: int = -1
    prepared: bool = False
    started: float = 0.0
    delay: float = FIRST_DELAY
    not_before: float = 0.0

    def start(self, log: Path) -> None:
        if not self.prepared and self.component.before:
            self.component.before()
        self.prepared = True
        environment = {"PATH": PATH, "HOME": "/root", "TMPDIR": "/run", "GOTRACEBACK": "single", **self.component.env}
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self.pid = os.posix_spawn(
            self.component.argv[0],
            self.component.argv,
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            # Python ignores SIGPIPE; its children should not.
            setsigdef=[signal.SIGPIPE],
        )
        self.started = time.monotonic()
        self.restarts += 1

    def ended(self) -> None:
        """Plan the next start: soon after a first failure, later after each further one."""
        now = time.monotonic()
        if now - self.started > STEADY:
            self.delay = FIRST_DELAY
        self.pid, self.ready = 0, False
        self.not_before = now + self.delay
        self.delay = min(self.delay * 2, LONGEST_DELAY)


class Supervisor:
    """Keeps the table of components running."""

    def __init__(self, layout: Layout, table: tuple[Component, ...]) -> None:
        self.layout = layout
        self.processes = {component.name: Process(component) for component in table}
        self.written = ""

    def run(self) -> None:
        while True:
            self.reap()
            for process in self.processes.values():
                try:
                    self.step(process)
                except Exception:  # noqa: BLE001 - pid 1 must not end because of one component
                    process.ended()
                    traceback.print_exc()
            self.write_status()
            time.sleep(TICK)

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for process in self.processes.values():
                if process.pid == pid:
                    say(f"{process.component.name} ended ({describe(status)})")
                    process.ended()

    def step(self, process: Process) -> None:
        component = process.component
        if process.pid:
            if not process.ready and component.ready():
                process.ready = True
                say(f"{component.name} ready after {time.monotonic() - process.started:.1f} s")
        elif time.monotonic() >= process.not_before and all(self.processes[name].ready for name in component.needs):
            process.start(self.layout.log(component.name))

    def write_status(self) -> None:
        status = {
            name: {"pid": process.pid, "ready": process.ready, "restarts": max(process.restarts, 0)}
            for name, process in self.processes.items()
        }
        text = json.dumps(status, indent=1)
        if text != self.written:
            write_atomically(self.layout.status_file, text)
            self.written = text


def describe(status: int) -> str:
    """How a process ended, of its wait status."""
    code = os.waitstatus_to_exitcode(status)
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit {code}"


def say(message: str) -> None:
    """Into the supervisor's log."""
    print(f"{time.strftime('%H:%M:%S')} {message}", flush=True)


def main() -> None:
    """Run the cluster of the state directory that is the argument, for ever."""
    layout = Layout(Path(sys.argv[1]))
    block = block_of(layout)
    os.chdir("/")
    prepare(layout, block)
    say("namespaces ready")
    table = components(layout, block, lambda: seed_images(f"{block.gateway}:5000", layout.binaries / "busybox"))
    Supervisor(layout, table).run()


if __name__ == "__main__":
    main()
