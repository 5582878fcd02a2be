"""The programs of the cluster: built from pinned Go modules and taken from two Debian packages, once, into the cache.

Each module below go/ has its own place in the cache, named by a key of everything its binaries depend on; a change of
our provisioner rebuilds the Kubernetes binary and nothing else. The checksums in go.sum make the builds repeatable.
Set DEVCLUSTER_ASSETS to a directory with the programs to build nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from devcluster.commands import progress, run
from devcluster.errors import CommandError, DevclusterError
from devcluster.network import locked
from devcluster.paths import cache_root

SOURCES = Path(__file__).resolve().parent / "go"
KUBERNETES_VERSION = "v1.36.3"
LDFLAGS = f"-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES_VERSION}"
REPORT_EVERY = 10.0
PARALLEL = 2


@dataclass(frozen=True)
class Module:
    """A Go module below go/, and what is built of it: program name -> package."""

    name: str
    programs: dict[str, str]


# The longest first, so that the short ones fill the time of its single-threaded linking.
MODULES = (
    Module("kubernetes", {"kubernetes": "."}),
    Module("containerd", {
        name: f"github.com/containerd/containerd/v2/cmd/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")
    }),
    Module("versitygw", {"versitygw": "github.com/versity/versitygw/cmd/versitygw"}),
    Module("registry", {"registry": "github.com/distribution/distribution/v3/cmd/registry"}),
    Module("coredns", {"coredns": "."}),
)  # fmt: skip

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
    """Every program by name, built or taken from the cache."""
    found = _from_assets() or {}
    wanted = [module for module in MODULES if not set(module.programs) <= set(found)]
    if wanted and assets():
        lacking = ", ".join(name for module in wanted for name in module.programs if name not in found)
        raise DevclusterError(f"DEVCLUSTER_ASSETS={assets()} lacks {lacking}; add them, or unset it to build them")
    for module, directory in zip(wanted, build_all(wanted), strict=True):
        found.update({name: directory / name for name in module.programs})
    for name, (package, path) in DEBIAN_PROGRAMS.items():
        found[name] = found.get(name) or _unpack(package) / path
    found.update({name: found["kubernetes"] for name in KUBERNETES_PROGRAMS})
    return found


def _from_assets() -> dict[str, Path] | None:
    directory = assets()
    if directory is None:
        return None
    if not directory.is_dir():
        raise DevclusterError(f"DEVCLUSTER_ASSETS={directory} is not a directory")
    names = [name for module in MODULES for name in module.programs] + list(DEBIAN_PROGRAMS)
    return {name: directory / name for name in names if (directory / name).exists()}


def built(module: Module) -> bool:
    return all((_directory(module) / program).exists() for program in module.programs)


def _directory(module: Module) -> Path:
    return cache_root() / "bin" / f"{module.name}-{_key(module.name)}"


@cache
def _key(name: str) -> str:
    digest = hashlib.sha256()
    for file in sorted((SOURCES / name).iterdir()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    digest.update(LDFLAGS.encode() + run(["go", "env", "GOVERSION", "GOOS", "GOARCH"]).encode())
    return digest.hexdigest()[:12]


def required_go() -> tuple[int, int, int]:
    """The newest Go that any module asks for."""
    versions = []
    for file in SOURCES.glob("*/go.mod"):
        match = re.search(r"^go (\d+)\.(\d+)(?:\.(\d+))?", file.read_text(), re.MULTILINE)
        if match:
            major, minor, patch = (int(part or 0) for part in match.groups())
            versions.append((major, minor, patch))
    return max(versions)


def build_all(modules: list[Module]) -> list[Path]:
    """Build what is not in the cache; return where each module's programs are."""
    missing = [module for module in modules if not built(module)]
    if missing:
        cache_root().mkdir(parents=True, exist_ok=True)
        with locked(cache_root() / ".build.lock"):
            # Another process may have built them while this one waited.
            missing = [module for module in missing if not built(module)]
            _build_missing(missing)
    return [_directory(module) for module in modules]


def _build_missing(missing: list[Module]) -> None:
    if not missing:
        return
    running: dict[str, float] = {}
    progress(f"building {len(missing)} Go modules once ({', '.join(module.name for module in missing)}); minutes, not seconds")
    with _reports(running, len(missing)), ThreadPoolExecutor(PARALLEL) as pool:
        list(pool.map(lambda module: _build(module, running), missing))


@contextmanager
def _reports(running: dict[str, float], total: int) -> Iterator[None]:
    """Say every few seconds what is being built."""
    stop = threading.Event()
    begun = time.monotonic()

    def report() -> None:
        while not stop.wait(REPORT_EVERY):
            now = time.monotonic()
            names = ", ".join(f"{name} ({now - since:.0f} s)" for name, since in list(running.items()) if since > 0)
            done = sum(1 for since in list(running.values()) if since < 0)
            progress(f"building {names or '...'}; {done} of {total} done after {now - begun:.0f} s")

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _build(module: Module, running: dict[str, float]) -> None:
    """Build into a directory beside the final one, renamed when complete."""
    begun = running[module.name] = time.monotonic()
    target = _directory(module)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{module.name}."))
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false", "GOWORK": "off"}
    packages = list(module.programs.values())
    try:
        # With a directory as output each binary is named after its package; "." is named after the module.
        run(["go", "build", "-trimpath", "-ldflags", LDFLAGS, "-o", f"{partial}/", *packages],
            cwd=SOURCES / module.name, env=environment)  # fmt: skip
        partial.chmod(0o755)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    except CommandError as error:
        raise DevclusterError(f"building {module.name} in {SOURCES / module.name} failed: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    running[module.name] = -1
    progress(f"built {module.name} in {time.monotonic() - begun:.0f} s")


def _unpack(package: str) -> Path:
    """The unpacked Debian package, from the cache or the machine's apt sources."""
    target = cache_root() / "debian" / package
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    from devcluster.host import with_lists_renewed

    progress(f"downloading Debian package {package}")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{package}.") as scratch:
        # apt drops to a user of its own for downloads, who must be able to write here.
        os.chmod(scratch, 0o777)
        with_lists_renewed(["download", package], cwd=Path(scratch))
        (archive,) = Path(scratch).glob("*.deb")
        subprocess.run(["dpkg-deb", "--extract", archive, f"{scratch}/root"], check=True)
        os.rename(f"{scratch}/root", target)
    return target
