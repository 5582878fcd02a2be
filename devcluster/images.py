"""Images without Docker: build with buildah as root, push into the cluster's registry.

The base is Debian with Python, made by mmdebstrap from the machine's own apt sources: no registry of the world is asked.
buildah's storage and settings are in the cache, so that the machine's own containers are never touched. Isolation is
chroot, for crun and runc refuse to run where cgroups are hybrid. Nothing of the host's settings or network secrets
reaches the build: the caller puts wheels into the context.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from functools import cache
from pathlib import Path

from devcluster.commands import progress, run
from devcluster.errors import CommandError, DevclusterError
from devcluster.network import locked
from devcluster.packages import IMAGES, install_packages
from devcluster.paths import cache_root, write_atomically
from devcluster.registry import Registry

SUITE = "bookworm"
BASE = f"localhost/modelyard-base:{SUITE}"
# libstdc++6: what compiled Python packages are linked with, as every image of Debian with apt has it.
BASE_PACKAGES = ("python3", "python3-venv", "ca-certificates", "libstdc++6")
APT = Path("/etc/apt")


def build_image(registry: str, label: str, context: Path, file: Path | None, tag: str) -> tuple[str, str]:
    """Build and push; return the reference for pods and the digest.

    The Dockerfile begins with `ARG BASE` and `FROM ${BASE}`. The same inputs give the same image: times are zero.
    """
    dockerfile = (file or context / "Dockerfile").resolve()
    if not dockerfile.is_file():
        raise DevclusterError(f"{label}: there is no Dockerfile {dockerfile}; name it with --file")
    install_packages(IMAGES)
    ensure_base()
    progress(f"building {label} as {tag}")
    _buildah(
        "build", "--isolation", "chroot", "--pull-never", "--layers", "--timestamp", "0", "--build-arg", f"BASE={BASE}",
        "--file", dockerfile, "--tag", f"localhost/{tag}", context.resolve(),
    )  # fmt: skip
    return load_image(registry, tag)


def load_image(registry: str, image: str) -> tuple[str, str]:
    """Push an image of the build storage; return the reference for pods and the digest."""
    install_packages(IMAGES)
    repository, tag = split_reference(image)
    target = f"{registry}/{repository}:{tag}"
    with tempfile.NamedTemporaryFile("r", prefix="devcluster-digest-") as digest:
        _buildah("push", "--tls-verify=false", "--digestfile", digest.name, _local_name(image), f"docker://{target}")
        pushed = digest.read().strip()
    if Registry(registry).digest(repository, tag) != pushed:
        raise DevclusterError(f"{image}: {target} is not the digest {pushed} that was pushed; something else pushed too, push again")
    return target, pushed


def split_reference(image: str) -> tuple[str, str]:
    """`localhost/a/b:1` -> (`a/b`, `1`): the registry's name goes, because the cluster asks its own for every one."""
    path, _, tag = image.rpartition(":")
    if not path or "/" in tag:
        path, tag = image, "latest"
    first, _, rest = path.partition("/")
    if rest and ("." in first or ":" in first or first == "localhost"):
        path = rest
    return path, tag


def _local_name(image: str) -> str:
    """How the storage calls it: what is built without a registry's name is localhost's."""
    repository, tag = split_reference(image)
    plain = f"{repository}:{tag}"
    return f"localhost/{plain}" if image in {plain, repository} else image


def ensure_base() -> None:
    """Make the base image unless the storage has the one of this package list."""
    key = hashlib.sha256(" ".join((SUITE, *BASE_PACKAGES)).encode()).hexdigest()[:12]
    keyed = f"{BASE}-{key}"
    with locked(cache_root() / ".base.lock"):
        try:
            _buildah("inspect", "--type", "image", keyed)
        except CommandError:
            _make_base(keyed)
        _buildah("tag", keyed, BASE)


def _make_base(name: str) -> None:
    progress(f"making the base image once: Debian {SUITE} with {', '.join(BASE_PACKAGES)}")
    with tempfile.TemporaryDirectory(dir=cache_root(), prefix=".base.") as scratch:
        archive = Path(scratch) / "base.tar"
        include = f"--include={','.join(BASE_PACKAGES)}"
        run(["mmdebstrap", "--quiet", "--variant=essential", include, SUITE, archive, *apt_sources()])
        container = _buildah("from", "scratch").strip()
        try:
            _buildah("add", container, archive, "/")
            _buildah("commit", "--timestamp", "0", container, name)
        finally:
            _buildah("rm", container)


def apt_sources() -> list[Path]:
    """The machine's own sources of the base's suite; third-party ones would need their keys in the base."""
    files = [APT / "sources.list", *sorted((APT / "sources.list.d").glob("debian*.sources"))]
    of_suite = [file for file in files if file.exists() and SUITE in file.read_text()]
    if not of_suite:
        raise DevclusterError(f"the base image is Debian {SUITE}; no apt source below {APT} has that suite, so add one")
    return of_suite


def _buildah(*arguments: str | Path) -> str:
    return run(["buildah", *_storage(), *arguments], env=_environment())


@cache
def _storage() -> tuple[str | Path, ...]:
    """A storage of our own; overlay where it works, else vfs, which copies every layer but works anywhere."""
    storages = [
        ("--root", cache_root() / "images" / driver, "--runroot", f"/run/devcluster-images/{driver}", "--storage-driver", driver)
        for driver in ("overlay", "vfs")
    ]
    try:
        run(["buildah", *storages[0], "images"], env=_environment())
    except CommandError:
        return storages[1]
    return storages[0]


@cache
def _environment() -> dict[str, str]:
    """Settings of our own: else buildah makes /etc/cni, and takes the user's storage settings."""
    settings = cache_root() / "images" / "settings"
    write_atomically(settings / "containers.conf", f'[network]\nnetwork_config_dir = "{settings}/networks"\n')
    write_atomically(settings / "storage.conf", "[storage]\n")
    own = {"CONTAINERS_CONF": str(settings / "containers.conf"), "CONTAINERS_STORAGE_CONF": str(settings / "storage.conf")}
    return {**os.environ, **own}
