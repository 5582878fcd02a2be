"""What a machine must have: all problems are found and told at once, before anything is changed."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from devcluster.build import Module, built, required_go
from devcluster.commands import run, succeeds
from devcluster.errors import RequirementsError
from devcluster.paths import cache_root, state_root
from devcluster.programs import assets

STATE_GIB, BUILD_GIB, MEMORY_GIB = 3, 9, 4


def check_requirements(modules: Sequence[Module]) -> None:
    """RequirementsError with every problem of running a cluster of these modules, or None."""
    if problems := list(_problems(modules)):
        raise RequirementsError(problems)


def _problems(modules: Sequence[Module]) -> Iterator[str]:
    if platform.system() != "Linux" or sys.version_info < (3, 11):
        yield f"it is {platform.system()} with Python {platform.python_version()}; Linux and Python 3.11 or newer are needed"
        return
    if os.geteuid() != 0:
        yield "you are not root; namespaces, mounts and cgroups need it: sudo -E python -m devcluster ..."
    if shutil.which("apt-get") is None or shutil.which("dpkg-query") is None:
        yield "apt-get is missing; runc, etcd and the CNI plugins come from Debian or Ubuntu packages"
    if os.geteuid() == 0 and not _can_make_namespaces():
        yield "new mount, network and pid namespaces are refused; CAP_SYS_ADMIN and CAP_NET_ADMIN are needed"
    if not any(Path("/sys/fs/cgroup", name).exists() for name in ("cgroup.procs", "memory", "unified")):
        yield "no cgroups are mounted on /sys/fs/cgroup"
    if not Path("/dev/loop-control").exists():
        yield "/dev/loop-control is missing (modprobe loop); size-limited volumes are loop mounts"
    if (memory := _memory_gib()) < MEMORY_GIB:
        yield f"it has {memory:.1f} GiB of memory; {MEMORY_GIB} are needed"
    yield from _disk_problems(modules)
    yield from _go_problems()


def _can_make_namespaces() -> bool:
    return succeeds(["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "true"])


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _disk_problems(modules: Sequence[Module]) -> Iterator[str]:
    needs = [(state_root(), STATE_GIB, "the cluster's data")]
    if _to_build(modules):
        needs.append((cache_root(), BUILD_GIB, "building the programs"))
    for directory, gib, purpose in needs:
        existing = next(path for path in (directory, *directory.parents) if path.exists())
        free = shutil.disk_usage(existing).free / 2**30
        if free < gib:
            yield f"{existing} has {free:.1f} GiB free; {purpose} needs {gib}"


def _to_build(modules: Sequence[Module]) -> bool:
    return assets() is None and shutil.which("go") is not None and not all(built(module) for module in modules)


def _go_problems() -> Iterator[str]:
    if assets() is not None:
        return
    wanted = required_go()
    text = ".".join(map(str, wanted))
    if shutil.which("go") is None:
        yield f"go is not in PATH; Go {text} or newer builds the programs (or DEVCLUSTER_ASSETS names a directory that has them)"
        return
    version = run(["go", "env", "GOVERSION"]).strip()
    match = re.match(r"go(\d+)\.(\d+)(?:\.(\d+))?", version)
    if match is None or tuple(int(part or 0) for part in match.groups()) < wanted:
        yield f"go is {version}; {text} or newer is needed"
