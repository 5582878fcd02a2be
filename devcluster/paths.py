"""Where things are kept: one state directory per cluster, one cache for what is built."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from devcluster.errors import DevclusterError

DEFAULT_NAME = "demo"
REPOSITORY = Path(__file__).resolve().parent.parent

# The name becomes a directory and a part of host names.
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?")


def _xdg(variable: str, default: str) -> Path:
    """The XDG base directory; the specification says to ignore a relative one."""
    given = Path(os.environ.get(variable, ""))
    base = given if given.is_absolute() else Path.home() / default
    return base / "modelyard" / "devcluster"


def state_root() -> Path:
    """Of all clusters."""
    return _xdg("XDG_STATE_HOME", ".local/state")


def cache_root() -> Path:
    """Of programs and images; removing it costs a build."""
    return _xdg("XDG_CACHE_HOME", ".cache")


@dataclass(frozen=True)
class Layout:
    """The state directory of one cluster. Everything the cluster keeps is below it."""

    directory: Path

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def binaries(self) -> Path:
        """Links to the programs, so that argv and process lists do not depend on the cache's keys."""
        return self.directory / "bin"

    @property
    def config(self) -> Path:
        return self.directory / "config"

    @property
    def pki(self) -> Path:
        return self.directory / "pki"

    @property
    def logs(self) -> Path:
        return self.directory / "logs"

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def volumes(self) -> Path:
        return self.directory / "volumes"

    @property
    def kubelet(self) -> Path:
        return self.directory / "kubelet"

    @property
    def slot_file(self) -> Path:
        return self.directory / "slot"

    @property
    def kubeconfig(self) -> Path:
        return self.directory / "kubeconfig"

    @property
    def s3_credentials(self) -> Path:
        return self.directory / "s3-credentials"

    @property
    def s3_access_log(self) -> Path:
        return self.logs / "s3-access.log"

    @property
    def status_file(self) -> Path:
        return self.directory / "status.json"

    def identity(self) -> str:
        """Tells this directory from one of the same path below another root (chroot); the two may share our kernel's tables."""
        status = self.directory.stat()
        return f"{status.st_dev}:{status.st_ino}"

    def log(self, component: str) -> Path:
        """The log of the component's last run."""
        return self.logs / f"{component}.log"


def layout(name: str | None = None) -> Layout:
    """The layout of the cluster `name`, or of $DEVCLUSTER_NAME, or of the default one."""
    chosen = name or os.environ.get("DEVCLUSTER_NAME") or DEFAULT_NAME
    if not _NAME.fullmatch(chosen):
        raise DevclusterError(f"cluster name {chosen!r}: use a-z, 0-9 and '-', at most 32 characters, a letter first")
    # Resolved once, because mounts and kubelet compare paths literally.
    return Layout(state_root().resolve() / chosen)


def write_atomically(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    """Replace the file as a whole: a killed run leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            os.fchmod(file.fileno(), mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
