"""Start the supervisor as pid 1 of new namespaces, detached from the caller.

    python -m devcluster.launch STATE-DIRECTORY     (by devcluster.lifecycle)

A program of its own, because unshare() and fork() in a caller with threads (a test run) would be unsafe.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

from devcluster.cgroups import join_cgroup, mount_cgroups
from devcluster.commands import run
from devcluster.network import block_of
from devcluster.paths import Layout
from devcluster.processes import SUPERVISOR

# From <linux/sched.h>; Python has os.unshare from 3.12 on.
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000


def unshare(flags: int) -> None:
    """Leave the namespaces that the flags name for new ones."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags):
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}; a devcluster needs root with CAP_SYS_ADMIN")


def main() -> None:
    """Start the supervisor of the state directory that is the argument, and return."""
    directory = sys.argv[1]
    layout = Layout(Path(directory))
    join_cgroup(block_of(layout))
    unshare(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET)
    os.setsid()
    if os.fork():
        # The new pid namespace begins with the child; the caller finds it by its command line.
        os._exit(0)
    run(["mount", "--make-rprivate", "/"])
    run(["mount", "-t", "proc", "proc", "/proc"])
    mount_cgroups()
    os.execv(sys.executable, [sys.executable, "-m", SUPERVISOR, directory, layout.identity()])  # noqa: S606 - no shell is the point


if __name__ == "__main__":
    main()
