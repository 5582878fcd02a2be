"""Find the processes of a cluster from outside, and end them.

No pid files for the supervisor: a pid in a file may be another's by now. It is found by what it is - pid 1 of a
namespace, with our command line and our state directory's identity - and killed through a pidfd, which cannot change hands.
"""

from __future__ import annotations

import json
import os
import select
import signal
from pathlib import Path

from devcluster.errors import DevclusterError
from devcluster.paths import Layout

SUPERVISOR = "devcluster.supervisor"


def find_supervisor(layout: Layout) -> int | None:
    """The pid, on this side, of the cluster's pid 1; None when the cluster is down."""
    return next((pid for pid in _pids() if _is_supervisor(pid, layout)), None)


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _is_supervisor(pid: int, layout: Layout) -> bool:
    process = Path("/proc", str(pid))
    try:
        words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        ours = words[1:4] == ["-m", SUPERVISOR, str(layout.directory)] and words[4] == layout.identity()
        return ours and _inner_pids(process)[-1] == 1
    except OSError:
        return False


def _inner_pids(process: Path) -> list[int]:
    """The process's pid in each namespace from ours inwards."""
    for line in (process / "status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return [int(word) for word in line.split()[1:]]
    return [0]


def pid_of(layout: Layout, component: str) -> int:
    """The pid, on this side, of a running component."""
    supervisor = find_supervisor(layout)
    inner = read_status(layout).get(component, {}).get("pid")
    if supervisor is not None and inner:
        namespace = Path(f"/proc/{supervisor}/ns/pid").stat().st_ino
        for pid in _pids():
            try:
                if Path(f"/proc/{pid}/ns/pid").stat().st_ino == namespace and _inner_pids(Path("/proc", str(pid)))[-1] == inner:
                    return pid
            except OSError:
                continue
    known = ", ".join(sorted(read_status(layout)))
    raise DevclusterError(f"cluster {layout.name!r}: component {component!r} is not running; known are: {known or 'none'}")


def read_status(layout: Layout) -> dict[str, dict[str, int]]:
    """What the supervisor last wrote: component -> pid (inside), ready, restarts."""
    try:
        status: dict[str, dict[str, int]] = json.loads(layout.status_file.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return status


def stop_supervisor(layout: Layout, timeout: float = 120.0) -> None:
    """Kill the cluster's pid 1; return when it and with it the whole namespace has ended."""
    while (pid := find_supervisor(layout)) is not None:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            # Asked again: the pid might have become another's before the handle held it.
            if _is_supervisor(pid, layout):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                if not select.select([handle], [], [], timeout)[0]:
                    raise DevclusterError(f"process {pid} did not end within {timeout:.0f} s of SIGKILL; see /proc/{pid}/stack")
        except ProcessLookupError:
            continue
        finally:
            os.close(handle)
