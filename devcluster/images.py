"""Images without Docker: build with buildah as root, push into the cluster's registry.

The base is Debian with Python, made by mmdebstrap from the machine's own apt sources: no registry of the world is asked.
buildah's storage is in the cache, so that the machine's own containers are never touched. Isolation is chroot, for
crun and runc refuse to run where cgroups are hybrid. Nothing of the host's settings or network secrets reaches the
build: the caller puts wheels into the context.
"""

from __future__ import annotations

import hashlib
import tempfile
from functools import cache
from pathlib import Path

from devcluster.commands import progress, run, succeeds
from devcluster.errors import DevclusterError
from devcluster.host import IMAGE_PACKAGES, install_packages
from devcluster.network import locked
from devcluster.paths import cache_root
from devcluster.registry import Registry

SUITE = "bookworm"
BASE = f"localhost/modelyard-base:{SUITE}"
BASE_PACKAGES = ("python3", "python3-venv", "ca-certificates")


def build_image(registry: str, label: str, context: Path, file: Path | None, tag: str) -> tuple[str, str]:
    """Build and push; return the reference for pods and the digest.

    The Dockerfile begins with `ARG BASE` and `FROM ${BASE}`. The same inputs give the same image: times are zero.
    """
    dockerfile = (file or context / "Dockerfile").resolve()
    if not dockerfile.is_file():
        raise DevclusterError(f"{label}: there is no Dockerfile {dockerfile}; name it with --file")
    install_packages(IMAGE_PACKAGES)
    ensure_base()
    progress(f"building {label} as {tag}")
    run([*_buildah(), "build", "--isolation", "chroot", "--pull-never", "--layers", "--timestamp", "0",
         "--build-arg", f"BASE={BASE}", "--file", dockerfile, "--tag", f"localhost/{tag}", context.resolve()])  # fmt: skip
    return load_image(registry, tag)


def load_image(registry: str, image: str) -> tuple[str, str]:
    """Push an image of the build storage; return the reference for pods and the digest."""
    repository, tag = split_reference(image)
    with tempfile.NamedTemporaryFile("r", prefix="devcluster-digest-") as digest:
        run([*_buildah(), "push", "--tls-verify=false", "--digestfile", digest.name,
             _local_name(image), f"docker://{registry}/{repository}:{tag}"])  # fmt: skip
        pushed = digest.read().strip()
    if Registry(registry).digest(repository, tag) != pushed:
        raise DevclusterError(f"{image}: the registry {registry} does not have the digest {pushed} that was pushed; push again")
    return f"{registry}/{repository}:{tag}", pushed


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
    repository, tag = split_reference(image)
    plain = f"{repository}:{tag}"
    return f"localhost/{plain}" if image in (plain, repository) else image


@cache
def _buildah() -> tuple[str | Path, ...]:
    """buildah with storage of its own; overlay where it works, else vfs, which copies every layer but works anywhere."""
    storage = cache_root() / "images"
    run_root = Path("/run/modelyard-devcluster-images")
    base: tuple[str | Path, ...] = ("buildah", "--root", storage / "overlay", "--runroot", run_root / "overlay")
    overlay = (*base, "--storage-driver", "overlay")
    if succeeds([*overlay, "images"]):
        return overlay
    return ("buildah", "--root", storage / "vfs", "--runroot", run_root / "vfs", "--storage-driver", "vfs")


def ensure_base() -> None:
    """Make the base image unless the storage has the one of this package list."""
    key = hashlib.sha256(" ".join((SUITE, *BASE_PACKAGES)).encode()).hexdigest()[:12]
    keyed = f"{BASE}-{key}"
    with locked(cache_root() / ".base.lock"):
        if not succeeds([*_buildah(), "inspect", "--type", "image", keyed]):
            _make_base(keyed)
        run([*_buildah(), "tag", keyed, BASE])


def _make_base(name: str) -> None:
    progress(f"making the base image: Debian {SUITE} with {', '.join(BASE_PACKAGES)}")
    with tempfile.TemporaryDirectory(dir=cache_root(), prefix=".base.") as scratch:
        archive = Path(scratch) / "base.tar"
        run(["mmdebstrap", "--quiet", "--variant=essential", f"--include={','.join(BASE_PACKAGES)}", SUITE, archive, "-"],
            stdin=apt_sources())  # fmt: skip
        container = run([*_buildah(), "from", "scratch"]).strip()
        try:
            run([*_buildah(), "add", container, archive, "/"])
            run([*_buildah(), "commit", "--timestamp", "0", container, name])
        finally:
            run([*_buildah(), "rm", container])


def apt_sources() -> str:
    """The machine's own Debian sources; third-party ones would need their keys in the base."""
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("debian*.sources"))]
    return "\n\n".join(file.read_text() for file in files if file.exists())
