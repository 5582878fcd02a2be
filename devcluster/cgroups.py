"""Remove the cgroups the pods leave: a killed namespace takes its processes along, but not their cgroups."""

from __future__ import annotations

import os
from pathlib import Path

from devcluster.network import Block

ROOT = Path("/sys/fs/cgroup")


def cgroup_directories(block: Block) -> list[Path]:
    """The pods' parent in each hierarchy: one on cgroup v2, one per controller on v1 and hybrid."""
    name = block.cgroup.lstrip("/")
    return [path for path in (ROOT / name, *ROOT.glob(f"*/{name}")) if path.is_dir() and not path.parent.is_symlink()]


def remove_cgroups(block: Block) -> None:
    """Remove the empty ones, deepest first. One with processes stays: they are not the cluster's any more."""
    for top in cgroup_directories(block):
        for directory, _, _ in os.walk(top, topdown=False):
            try:
                os.rmdir(directory)
            except OSError:
                continue
