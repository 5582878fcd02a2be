"""Every program the cluster runs: from DEVCLUSTER_ASSETS, else built from Go modules and taken from Debian packages."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from devcluster.build import MODULES, Module, build_all
from devcluster.errors import DevclusterError
from devcluster.packages import unpack_package

# The Kubernetes binary takes its part by the name it is called by.
KUBERNETES_PROGRAMS = (
    "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet", "provisioner",
)  # fmt: skip

# Unpacked, not installed: installing etcd-server starts a service, and busybox-static replaces the machine's busybox.
DEBIAN_PROGRAMS = {"etcd": ("etcd-server", "usr/bin/etcd"), "busybox": ("busybox-static", "bin/busybox")}


def assets() -> Path | None:
    """The directory of prebuilt programs, if the user gave one."""
    given = os.environ.get("DEVCLUSTER_ASSETS")
    return Path(given).resolve() if given else None


def provide_programs() -> dict[str, Path]:
    """Every program that each cluster runs, by name."""
    found = _from_assets(DEBIAN_PROGRAMS) | provide_modules(MODULES)
    for name, (package, path) in DEBIAN_PROGRAMS.items():
        found[name] = found.get(name) or unpack_package(package) / path
    return found | dict.fromkeys(KUBERNETES_PROGRAMS, found["kubernetes"])


def provide_modules(modules: Sequence[Module]) -> dict[str, Path]:
    """What the modules give, by name.

    Raises:
        DevclusterError: a build failed, or the directory of prebuilt programs lacks some.
    """
    found = _from_assets([name for module in modules for name in module.names])
    wanted = [module for module in modules if not set(module.names) <= set(found)]
    if wanted and assets():
        lacking = ", ".join(name for module in wanted for name in module.names if name not in found)
        message = f"DEVCLUSTER_ASSETS={assets()} lacks {lacking}; add them, or unset it to build them"
        raise DevclusterError(message)
    for module, directory in zip(wanted, build_all(wanted), strict=True):
        found.update({name: directory / name for name in module.names})
    return found


def _from_assets(names: Iterable[str]) -> dict[str, Path]:
    directory = assets()
    return {name: directory / name for name in names if (directory / name).exists()} if directory else {}
