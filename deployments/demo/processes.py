"""The demo's own background processes: started once, found again, and ended by pid, never by name."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Background:
    """One process that outlives the demo's command. Its pid file holds the pid and the start time, so a reused pid is not ours."""

    name: str
    directory: Path

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.directory / f"{self.name}.log"

    @property
    def _pid_file(self) -> Path:
        return self.directory / f"{self.name}.pid"

    def pid(self) -> int | None:
        """Its pid while it runs."""
        try:
            pid, started = self._pid_file.read_text().split()
        except (OSError, ValueError):
            return None
        return int(pid) if _start_time(int(pid)) == started else None

    def start(self, argv: Sequence[str], environment: Mapping[str, str], directory: Path) -> None:
        """Start it, unless it runs."""
        if self.pid():
            return
        with self.log.open("w") as log:
            process = subprocess.Popen(
                argv, env=dict(environment), cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._pid_file.write_text(f"{process.pid} {_start_time(process.pid)}\n")

    def stop(self, patience: float = 10.0) -> None:
        """End it and what it started: SIGTERM to its session, then SIGKILL. Not running is fine."""
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):  # a Prefect worker ends at the second SIGTERM
            if not (pid := self.pid()):
                break
            os.killpg(pid, number)
            _wait_gone(self, patience / 3)
        self._pid_file.unlink(missing_ok=True)


def _wait_gone(process: Background, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while process.pid() and time.monotonic() < deadline:
        time.sleep(0.1)


def _start_time(pid: int) -> str | None:
    """The start time in the kernel's ticks (proc(5), field 22): with the pid it names a process for ever. None: gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]
