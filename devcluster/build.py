"""Build the programs from pinned Go modules, once, into the cache.

Each module below go/ has its own place in the cache, named by a key of everything its binaries depend on; a change of
our provisioner rebuilds the Kubernetes binary and nothing else. The checksums in go.sum make the builds repeatable.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from devcluster.commands import progress, run
from devcluster.errors import CommandError, DevclusterError
from devcluster.network import locked
from devcluster.paths import cache_root

SOURCES = Path(__file__).resolve().parent / "go"
REPORT_EVERY = 10.0
PARALLEL = 2


@dataclass(frozen=True)
class Module:
    """A Go module below go/, and what is taken of it.

    ``programs`` are built: name -> package. ``files`` are copied as they are: name -> (module, path in it).
    """

    name: str
    programs: dict[str, str]
    files: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Of all that it gives."""
        return [*self.programs, *self.files]


# The longest first, so that the short ones fill the time of its single-threaded linking.
MODULES = (
    Module("kubernetes", {"kubernetes": "."}),
    Module("containerd", {
        name: f"github.com/containerd/containerd/v2/cmd/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")
    }),
    Module("versitygw", {"versitygw": "github.com/versity/versitygw/cmd/versitygw"}),
    Module("registry", {"registry": "."}),
    Module("coredns", {"coredns": "."}),
)  # fmt: skip

# Built only when it is asked for: four minutes. The manifest is the release's own, so that it fits the program.
KSERVE = Module(
    "kserve",
    {"manager": "github.com/kserve/kserve/cmd/manager"},
    {"kserve.yaml": ("github.com/kserve/kserve", "install/v0.20.0/kserve.yaml")},
)


def built(module: Module) -> bool:
    """Whether the cache has all that the module gives."""
    return all((_directory(module) / name).exists() for name in module.names)


def _directory(module: Module) -> Path:
    return cache_root() / "bin" / f"{module.name}-{_key(module.name, tuple(module.files.items()))}"


@cache
def _key(name: str, files: tuple[tuple[str, tuple[str, str]], ...]) -> str:
    digest = hashlib.sha256(repr(files).encode() if files else b"")
    for file in sorted((SOURCES / name).iterdir()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    digest.update(_ldflags().encode() + run(["go", "env", "GOVERSION", "GOOS", "GOARCH"]).encode())
    return digest.hexdigest()[:12]


@cache
def _ldflags() -> str:
    """No symbols, and the version Kubernetes tells; it would be v0.0.0."""
    version = re.search(r"^\tk8s.io/kubernetes (v\S+)$", (SOURCES / "kubernetes/go.mod").read_text(), re.MULTILINE)
    return f"-s -w -X k8s.io/component-base/version.gitVersion={version[1] if version else ''}"


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
            _build_missing([module for module in missing if not built(module)])
    return [_directory(module) for module in modules]


def _build_missing(missing: list[Module]) -> None:
    if not missing:
        return
    for leftover in (cache_root() / "bin").glob(".*"):
        # Of a killed build: nobody else builds now.
        shutil.rmtree(leftover)
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
    try:
        # With a directory as output each binary is named after its package; "." is named after the module.
        run(["go", "build", "-trimpath", "-ldflags", _ldflags(), "-o", f"{partial}/", *module.programs.values()],
            cwd=SOURCES / module.name, env=environment)  # fmt: skip
        for name, (source, path) in module.files.items():
            where = run(["go", "list", "-m", "-f", "{{.Dir}}", source], cwd=SOURCES / module.name, env=environment).strip()
            shutil.copyfile(Path(where) / path, partial / name)
        partial.chmod(0o755)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    except CommandError as error:
        raise DevclusterError(f"building {module.name} in {SOURCES / module.name} failed: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    running[module.name] = -1
    progress(f"built {module.name} in {time.monotonic() - begun:.0f} s")
