"""What the servers of the benchmarks share: their programs as the devcluster builds them, a port, and what their processes used."""

import hashlib
import os
import re
import socket
import subprocess
import time
from pathlib import Path

from devcluster.build import MODULES, SOURCES, build_all
from devcluster.programs import assets

START_SECONDS = 30


def program(name: str) -> Path:
    """A server's binary: the devcluster's, built now if it is not in its cache.

    Raises:
        SystemExit: DEVCLUSTER_ASSETS names a directory without it.
    """
    if given := assets():
        if (given / name).is_file():
            return given / name
        raise SystemExit(f"DEVCLUSTER_ASSETS={given} lacks {name}; add it, or unset it to have it built")
    module = next(module for module in MODULES if module.name == name)
    return build_all([module])[0] / name


def pinned_version(name: str, module: str) -> str:
    """The version of the Go ``module`` that the program is pinned to, and the digest of the binary that ran."""
    pin = re.search(rf"{re.escape(module)} (v\S+)", (SOURCES / name / "go.mod").read_text())
    return f"{pin[1] if pin else 'unknown'} sha256:{hashlib.sha256(program(name).read_bytes()).hexdigest()}"


def cpu_seconds(process: int) -> float:
    """The CPU time of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def io_bytes(process: int, counter: str) -> int:
    """What a process has read (``rchar``) or written (``wchar``) so far, sockets included."""
    lines = Path(f"/proc/{process}/io").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{counter}:"))


def free_port() -> int:
    """A port of loopback that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_listening(name: str, port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Until the server takes connections.

    Raises:
        SystemExit: it ended, or does not within START_SECONDS; with the end of its ``log``.
    """
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit(f"{name} did not listen on port {port} within {START_SECONDS} s: {log.read_text(errors='replace')[-1000:]}")
