"""One run of a command with its counters taken from outside: by wait4, /proc and the server's log, never by the command.

The timed region is the command and, where a directory is what it fills, one sync of that file system. What the sync costs the
kernel's writeback threads is in the wall time and in nobody's CPU seconds.
"""

import ctypes
import os
import resource
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.s3_server import S3Server

_libc = ctypes.CDLL(None, use_errno=True)
_SAMPLE_SECONDS = 0.03
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Run:
    """The counters of one run.

    ``foreign_cpu_s``: what others (the kernel's threads among them) used of the machine. ``disk_bytes``: what the command and its
    children handed to file systems on disks, whether or not the disk had it by then; memory file systems do not count.
    """

    wall_s: float
    cpu_s: float
    user_s: float
    sys_s: float
    peak_rss_mib: float
    cgroup_peak_mib: float | None
    server_cpu_s: float
    foreign_cpu_s: float
    server_wrote_bytes: int
    disk_bytes: int
    requests: dict[str, int]


@dataclass(slots=True)
class _Memory:
    """Peak resident memory of a process and its children: each one's own peak, added up over those that run at a time."""

    root: int
    peak_kib: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        while not self._over.wait(_SAMPLE_SECONDS):
            self.peak_kib = max(self.peak_kib, sum(map(_peak_kib, _tree(self.root))))

    def stop(self) -> float:
        """End the watch; the peak in MiB."""
        self._over.set()
        return self.peak_kib / 1024


def run(
    command: Sequence[str], environment: dict[str, str], target: Path, server: S3Server, cgroup: Path | None, *, synced: bool = True
) -> Run:
    """Run ``command`` to its end and, where ``target`` is what it is for, sync its file system.

    Raises:
        SystemExit: the command failed; its output is shown.
    """
    mark, wrote, server_cpu = server.mark(), server.written_bytes(), server.cpu_seconds()
    busy, own, disk = _busy_seconds(), time.process_time(), _disk_bytes()
    began = time.perf_counter()
    usage, peak, cgroup_peak = _run(command, environment, target.parent / "output.log", cgroup)
    if synced:
        sync(target)
    wall = time.perf_counter() - began
    cpu = usage.ru_utime + usage.ru_stime
    server_cpu = server.cpu_seconds() - server_cpu
    foreign = _busy_seconds() - busy - cpu - server_cpu - (time.process_time() - own)
    return Run(
        wall_s=round(wall, 3),
        cpu_s=round(cpu, 3),
        user_s=round(usage.ru_utime, 3),
        sys_s=round(usage.ru_stime, 3),
        peak_rss_mib=round(peak, 1),
        cgroup_peak_mib=cgroup_peak,
        server_cpu_s=round(server_cpu, 2),
        foreign_cpu_s=round(foreign, 2),
        server_wrote_bytes=server.written_bytes() - wrote,
        disk_bytes=_disk_bytes() - disk,
        requests=dict(server.requests_since(mark)),
    )


def _run(
    command: Sequence[str], environment: dict[str, str], output: Path, cgroup: Path | None
) -> tuple[resource.struct_rusage, float, float | None]:
    group = _make_group(cgroup) if cgroup else None
    with output.open("wb") as log:
        process = subprocess.Popen(_in_group(command, group), env=environment, stdout=log, stderr=subprocess.STDOUT)
        memory = _Memory(process.pid)
        watcher = threading.Thread(target=memory.watch)
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)  # Popen must not wait for it again
        peak = memory.stop()
        watcher.join()
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}:\n{output.read_text(errors='replace')[-3000:]}")
    return usage, peak, _end_group(group) if group else None


def _tree(root: int) -> list[int]:
    """A process and all below it."""
    found, pending = [], [root]
    while pending:
        process = pending.pop()
        found.append(process)
        for children in Path(f"/proc/{process}/task").glob("*/children"):
            try:
                pending += [int(child) for child in children.read_text(encoding="ascii").split()]
            except OSError:
                continue
    return found


def _peak_kib(process: int) -> int:
    """VmHWM: unlike wait4's maxrss, it does not begin with the size of the process that forked this one."""
    try:
        for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def _busy_seconds() -> float:
    """CPU time of the whole machine that was not idle: user, nice, system, irq, softirq, steal."""
    fields = [int(value) for value in Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def sync(path: Path) -> None:
    """Write back everything that waits on ``path``'s file system."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(descriptor):
            raise OSError(ctypes.get_errno(), "syncfs", str(path))
    finally:
        os.close(descriptor)


def _disk_bytes() -> int:
    """What this process and the children that it has waited for handed to disks so far."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes:"))


# A cgroup, where the caller names one to make children in: its peak counts page cache too, so it stands beside the RSS -----


def _make_group(parent: Path) -> Path:
    group = parent / "run"
    group.mkdir()
    return group


def _in_group(command: Sequence[str], group: Path | None) -> list[str]:
    if group is None:
        return list(command)
    return ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs"), *command]


def _end_group(group: Path) -> float:
    peaks = [group / "memory.peak", group / "memory.max_usage_in_bytes"]
    peak = next(int(path.read_text(encoding="ascii")) for path in peaks if path.exists())
    group.rmdir()
    return round(peak / _MIB, 1)
