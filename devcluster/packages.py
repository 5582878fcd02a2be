"""What comes from Debian, through apt-get and the machine's own sources."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devcluster.commands import progress, run
from devcluster.errors import CommandError
from devcluster.network import locked
from devcluster.paths import cache_root

CLUSTER = ("runc", "containernetworking-plugins", "nftables", "conntrack", "iproute2", "e2fsprogs", "openssl", "mount")
IMAGES = ("buildah", "mmdebstrap")


def install_packages(packages: tuple[str, ...]) -> None:
    """Install those that are missing."""
    if not missing_packages(packages):
        return
    with _alone():
        if missing := missing_packages(packages):
            progress(f"installing Debian packages: {' '.join(missing)}")
            _apt_get("install", "--yes", "--no-install-recommends", *missing)


def missing_packages(packages: tuple[str, ...]) -> list[str]:
    """Those of the packages that are not installed."""
    query = ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", *packages]
    # It fails when it knows one of them not at all, and tells about the others all the same.
    told = subprocess.run(query, capture_output=True, text=True, check=False).stdout.splitlines()
    return [package for package in packages if f"{package} installed" not in told]


def unpack_package(package: str) -> Path:
    """The package's files, unpacked in the cache: for what must not be installed."""
    target = cache_root() / "debian" / package
    with _alone():
        if not target.is_dir():
            _download(package, target)
    return target


def _download(package: str, target: Path) -> None:
    progress(f"downloading Debian package {package}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{package}.") as scratch:
        _apt_get("download", package, cwd=Path(scratch))
        (archive,) = Path(scratch).glob("*.deb")
        run(["dpkg-deb", "--extract", archive, f"{scratch}/root"])
        Path(scratch, "root").rename(target)


@contextmanager
def _alone() -> Iterator[None]:
    """One of ours at a time: apt-get waits for dpkg's lock, but not for those of its lists and archives."""
    cache_root().mkdir(parents=True, exist_ok=True)
    with locked(cache_root() / ".packages.lock"):
        yield


def _apt_get(*arguments: str, cwd: Path | None = None) -> None:
    """Run apt-get; on failure once more after `apt-get update`, for the lists may be too old or none."""
    # Another apt-get (unattended upgrades, a second cluster) is waited for; downloads need no user of their own.
    apt = ["apt-get", "--quiet", "-o", "DPkg::Lock::Timeout=300", "-o", "APT::Sandbox::User=root"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        run([*apt, *arguments], env=environment, cwd=cwd)
    except CommandError:
        run([*apt, "update"], env=environment)
        run([*apt, *arguments], env=environment, cwd=cwd)
