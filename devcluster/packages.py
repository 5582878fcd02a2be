"""What comes from Debian, through apt-get and the machine's own sources."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from devcluster.commands import progress, run
from devcluster.errors import CommandError
from devcluster.paths import cache_root

CLUSTER = ("runc", "containernetworking-plugins", "nftables", "conntrack", "iproute2", "e2fsprogs", "openssl", "mount")
IMAGES = ("buildah", "mmdebstrap")


def install_packages(packages: tuple[str, ...]) -> None:
    """Install those that are missing."""
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
    if target.is_dir():
        return target
    progress(f"downloading Debian package {package}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{package}.") as scratch:
        _apt_get("download", package, cwd=Path(scratch))
        (archive,) = Path(scratch).glob("*.deb")
        run(["dpkg-deb", "--extract", archive, f"{scratch}/root"])
        Path(scratch, "root").rename(target)
    return target


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
