"""The cluster's own cgroup, which its namespaces see as the root.

Everything the cluster runs is below it, so a killed cluster's cgroups are known by their place and removed from there.
A cgroup namespace rather than a kubelet setting: without QoS cgroups the kubelet ignores its `cgroupRoot`, and
containerd then puts pods below `k8s.io` at the root, where clusters would meet.

On cgroup v1 (and hybrid) there is one tree per controller, on v2 one for all.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from devcluster.commands import run
from devcluster.errors import DevclusterError
from devcluster.network import Block

ROOT = Path("/sys/fs/cgroup")
LEAF = "init"
"""Where the supervisor lives on v2, which allows processes in leaves only."""
_CLEAR_SECONDS = 30.0


def _hierarchies() -> list[Path]:
    """The mounted trees; links such as cpu,cpuacct are left out."""
    if (ROOT / "cgroup.controllers").exists():
        return [ROOT]
    return [path for path in sorted(ROOT.iterdir()) if (path / "cgroup.procs").exists() and not path.is_symlink()]


def _is_v2(hierarchy: Path) -> bool:
    return (hierarchy / "cgroup.controllers").exists()


def join_cgroup(block: Block) -> None:
    """Make the cluster's cgroup and enter it with this process. Before the namespace is unshared: its root is where we are.

    What a killed run left goes first: a version 2 cgroup that hands controllers down takes no process (EBUSY).
    """
    deadline = time.monotonic() + _CLEAR_SECONDS
    while left := left_cgroups(block):
        remove_cgroups(block)
        if time.monotonic() < deadline:
            time.sleep(0.1)
            continue
        raise DevclusterError(f"{left[0]} is in use: a cluster with another state directory ($XDG_STATE_HOME) runs there; stop it first")
    for hierarchy in _hierarchies():
        own = hierarchy / block.cgroup
        own.mkdir(exist_ok=True)
        if _is_v2(hierarchy):
            _delegate(hierarchy)
        elif (own / "cpuset.cpus").exists():
            # A new v1 cpuset is empty and takes no process.
            for name in ("cpuset.cpus", "cpuset.mems"):
                (own / name).write_text((hierarchy / name).read_text())
        (own / "cgroup.procs").write_text(str(os.getpid()))


def mount_cgroups() -> None:
    """Inside the cgroup and mount namespaces: show the cluster's cgroup as the root, and leave it on v2 for a leaf."""
    mounts = [(hierarchy, _mount_type(hierarchy)) for hierarchy in _hierarchies()]
    links = {path: path.readlink() for path in ROOT.iterdir() if path.is_symlink()}
    # The kernel refuses the same file system again on the same mount point, so something else comes between.
    run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", ROOT])
    for hierarchy, options in mounts:
        hierarchy.mkdir(exist_ok=True)
        run(["mount", *options, "cgroup", hierarchy])
        if _is_v2(hierarchy):
            (hierarchy / LEAF).mkdir(exist_ok=True)
            (hierarchy / LEAF / "cgroup.procs").write_text(str(os.getpid()))
            _delegate(hierarchy)
    for path, target in links.items():
        path.symlink_to(target)


def _mount_type(hierarchy: Path) -> list[str]:
    return ["-t", "cgroup2"] if _is_v2(hierarchy) else ["-t", "cgroup", "-o", _v1_options(hierarchy)]


def _delegate(hierarchy: Path) -> None:
    """Let children use every controller; refused at the root of a container, whose pods then have no limits."""
    for controller in (hierarchy / "cgroup.controllers").read_text().split():
        try:
            (hierarchy / "cgroup.subtree_control").write_text(f"+{controller}")
        except OSError:
            continue


def _v1_options(hierarchy: Path) -> str:
    """The options that name the tree: its controllers, or its name."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[4] == str(hierarchy):
            options = [option for option in after.split()[2].split(",") if option not in {"rw", "ro"}]
            return ",".join(["none", *options] if options[0].startswith("name=") else options)
    return hierarchy.name


def left_cgroups(block: Block) -> list[Path]:
    """The cluster's cgroups that exist."""
    return [path for hierarchy in _hierarchies() if (path := hierarchy / block.cgroup).is_dir()]


def remove_cgroups(block: Block) -> None:
    """Remove them, deepest first. A killed namespace takes its processes along, but not its cgroups."""
    for top in left_cgroups(block):
        for directory, _, _ in os.walk(top, topdown=False):
            try:
                Path(directory).rmdir()
            except OSError:
                # Its last process is still ending; the caller tries again.
                continue
