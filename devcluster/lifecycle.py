"""Start, stop and find a cluster: the verbs of the command line and of the Python interface.

State a killed run leaves is never repaired in place: `up` ends what is half alive, keeps the data, and starts anew.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from devcluster.build import KSERVE, MODULES, Module
from devcluster.cgroups import left_cgroups, remove_cgroups
from devcluster.cluster import Cluster, describe
from devcluster.commands import progress, run
from devcluster.configs import storage_classes, write_configs
from devcluster.errors import DevclusterError, NotRunningError, StartError
from devcluster.health import check, wait_ready
from devcluster.host import check_requirements
from devcluster.kserve import install_kserve
from devcluster.network import Block, claim_block, connect_host, disconnect_host, host_end, locked, read_slot
from devcluster.packages import CLUSTER, install_packages
from devcluster.paths import REPOSITORY, Layout, layout
from devcluster.pki import make_pki, write_kubeconfigs
from devcluster.processes import find_supervisor, stop_supervisor
from devcluster.programs import provide_modules, provide_programs
from devcluster.s3_keys import make_s3_keys

# Of a machine that is busy with other clusters, too; what crashes again and again is told within half a minute.
START_TIMEOUT = 300.0
HEAL_TIMEOUT = 120.0
LEAVE_TIMEOUT = 120.0
LAUNCH_TIMEOUT = 60.0


@dataclass(frozen=True)
class Extra:
    """What a cluster has on request only."""

    module: Module
    install: Callable[[Layout, Cluster], None]


EXTRAS = {"kserve": Extra(KSERVE, install_kserve)}


def build(*, extras: Collection[str] = ()) -> None:
    """Build what a cluster with `extras` needs, unless the cache has it; start nothing."""
    modules = _modules(extras)
    check_requirements(modules)
    provide_modules(modules)


def _modules(extras: Collection[str]) -> list[Module]:
    return [*MODULES, *(EXTRAS[extra].module for extra in extras)]


def up(name: str | None = None, *, extras: Collection[str] = (), fresh: bool = False) -> Cluster:
    """Start the cluster, or find it up and healthy. A second call meanwhile waits for the first.

    `fresh`: if it is not up, forget its data first. One that another call has just started is up.
    `extras` (names of EXTRAS) are installed into it, or found there; they stay in its data, so a later start needs no mention.
    """
    here = layout(name)
    if unknown := sorted(set(extras) - set(EXTRAS)):
        raise DevclusterError(f"there is no extra {', '.join(unknown)}; there is {', '.join(EXTRAS)}")
    with _locked(here):
        if fresh and find_supervisor(here) is None:
            _stop_and_purge(here)
        cluster = connect(here.name) if _is_healthy(here) else _start(here, extras)
        for extra in extras:
            EXTRAS[extra].install(here, cluster)
        return cluster


def _start(here: Layout, extras: Collection[str]) -> Cluster:
    modules = _modules(extras)
    check_requirements(modules)
    install_packages(CLUSTER)
    provide_modules(modules)
    programs = provide_programs()
    started = time.monotonic()
    _stop(here)
    block = claim_block(here)
    _write_state(here, block, programs)
    pid = _launch(here)
    connect_host(here, block, pid)
    wait_ready(here, block, START_TIMEOUT)
    _apply_storage_classes(here)
    progress(f"cluster {here.name!r} is up after {time.monotonic() - started:.1f} s")
    return describe(here, block)


def connect(name: str | None = None) -> Cluster:
    """The cluster that is up; NotRunningError otherwise. Does not check its health."""
    here = layout(name)
    slot = read_slot(here)
    if slot is None or find_supervisor(here) is None:
        raise NotRunningError(here.name)
    return describe(here, Block(slot))


def down(name: str | None = None, *, purge: bool = False) -> None:
    """Stop the cluster and leave nothing of it in the system; `purge` removes its state directory too."""
    here = layout(name)
    with _locked(here):
        if purge:
            _stop_and_purge(here)
        elif here.directory.exists():
            _stop(here)


def _stop_and_purge(here: Layout) -> None:
    if here.directory.exists():
        _stop(here)
        # Renamed first: half a state directory must never be taken for a whole one.
        here.directory.rename(here.directory.with_name(f".purged-{here.name}-{os.getpid()}"))
    for purged in here.directory.parent.glob(f".purged-{here.name}-*"):
        shutil.rmtree(purged)


@contextmanager
def _locked(here: Layout) -> Iterator[None]:
    """One `up` or `down` of a name at a time. The lock is beside the directory, which a purge removes."""
    here.directory.parent.mkdir(parents=True, exist_ok=True)
    with locked(here.directory.parent / f".{here.name}.lock"):
        yield


def _is_healthy(here: Layout) -> bool:
    """Whether it is up; waits a little for one that is about to be, for the supervisor restarts what failed."""
    slot = read_slot(here)
    pid = find_supervisor(here)
    if slot is None or pid is None:
        return False
    block = Block(slot)
    if check(here, block) is None:
        return True
    try:
        connect_host(here, block, pid)
        wait_ready(here, block, HEAL_TIMEOUT)
        _apply_storage_classes(here)
    except DevclusterError as error:
        progress(f"starting anew: {error}")
        return False
    return True


def _write_state(here: Layout, block: Block, programs: dict[str, Path]) -> None:
    directories = (here.logs, here.data, here.data / "s3", here.data / "s3-versions", here.volumes, here.binaries)
    for directory in directories:
        directory.mkdir(parents=True, exist_ok=True)
    for log in here.logs.glob("*.log"):
        # The logs of one run, so that they are bounded and tell of this run.
        log.unlink()
    here.status_file.unlink(missing_ok=True)
    _link_programs(here, programs)
    make_pki(here, block)
    make_s3_keys(here.s3_credentials)
    write_kubeconfigs(here, block)
    write_configs(here, block)


def _link_programs(here: Layout, programs: dict[str, Path]) -> None:
    for name, target in programs.items():
        partial = here.binaries / f".{name}"
        partial.unlink(missing_ok=True)
        partial.symlink_to(target)
        partial.replace(here.binaries / name)


def _launch(here: Layout) -> int:
    """Start the supervisor; return its pid when it exists."""
    log = here.log("supervisor")
    with log.open("wb") as output:
        subprocess.run(
            [sys.executable, "-m", "devcluster.launch", str(here.directory)],
            cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False,
            env={"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
    deadline = time.monotonic() + LAUNCH_TIMEOUT
    while time.monotonic() < deadline:
        if pid := find_supervisor(here):
            return pid
        time.sleep(0.02)
    raise StartError(f"cluster {here.name!r}: its namespaces were not made; {log} says:\n{log.read_text(errors='replace')}")


def _apply_storage_classes(here: Layout) -> None:
    run([here.binaries / "kubectl", "--kubeconfig", here.kubeconfig, "apply", "--server-side", "--force-conflicts", "-f", "-"],
        stdin=json.dumps(storage_classes()))  # fmt: skip


def _stop(here: Layout) -> None:
    """End the cluster from whatever state it is in, and wait until the kernel has taken down the rest."""
    stop_supervisor(here)
    slot = read_slot(here)
    if slot is None:
        return
    block = Block(slot)
    deadline = time.monotonic() + LEAVE_TIMEOUT
    while left := _left_over(here, block):
        if time.monotonic() > deadline:
            raise DevclusterError(f"cluster {here.name!r}: {LEAVE_TIMEOUT:.0f} s after its end there is still {left}")
        disconnect_host(here, block)
        remove_cgroups(block)
        time.sleep(0.05)


def _left_over(here: Layout, block: Block) -> str | None:
    if interface := host_end(here, block):
        return f"interface {interface}"
    if Path("/sys/class/net", block.interface).exists():
        # Another root's cluster has taken the slot meanwhile; what is left by slot is its own.
        return None
    if cgroups := left_cgroups(block):
        return f"cgroup {cgroups[0]}"
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            backing = file.read_text().strip()
        except OSError:
            continue
        if backing.startswith(f"{here.volumes}/"):
            return f"loop device {file.parts[3]} on {backing}"
    return None
