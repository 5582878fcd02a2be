"""Where things lie on a cache's volume, and the few file operations that must be durable or must not follow a link.

<root>/<model>/<version>/...                         the files as in the source, nothing of ours among them
<root>/.modelyard/manifests/<model>/<version>.json   the completeness marker; .json.pending and .json.removing while it comes and goes
<root>/.modelyard/staging/<model>/<version>/         half-done work: journal.jsonl and files/...
<root>/.modelyard/trash/<time>-<model>@<version>/    what is being removed
<root>/.modelyard/locks/<model>@<version>.lock       held by whoever works on the version; outlives the staging
<root>/.modelyard/locks/<model>.lock                 shared by whoever works on any version of the model
"""

import ctypes
import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any

from pydantic import ValidationError

from modelyard.errors import ModelyardError, NotEnoughSpace, VolumeUnusable
from modelyard.models import Manifest, ModelRef, content_digest
from modelyard.names import OWN_DIRECTORY
from modelyard.orders import VolumeSpace

#: What file systems and filers keep at a volume's root: ext4's, and NetApp's and ZFS's snapshots.
SYSTEM_DIRECTORIES = frozenset({"lost+found", ".snapshot", ".zfs"})
#: An NFS client's name for a file that was removed while it was open there; it goes with the last reader.
SILLY_RENAMED = re.compile(r"\.nfs[0-9a-f]{8,}")

#: A record has some 300 bytes: a million files. More is none of ours, and would not fit into the pod.
_MAX_MANIFEST_BYTES = 512 * 1024 * 1024

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one version on the volume mounted at ``root``."""

    root: Path
    model: ModelRef

    @property
    def target(self) -> Path:
        """Where the version's files are when it is usable."""
        return self.root / self.model.name / self.model.version

    @property
    def manifest(self) -> Path:
        """The completeness marker."""
        return self.root / OWN_DIRECTORY / "manifests" / self.model.name / f"{self.model.version}.json"

    @property
    def pending(self) -> Path:
        """The marker's name while the version is being published."""
        return self.manifest.with_name(f"{self.manifest.name}.pending")

    @property
    def removing(self) -> Path:
        """The marker's name while the version is being removed."""
        return self.manifest.with_name(f"{self.manifest.name}.removing")

    @property
    def trash(self) -> Path:
        """Where every version's files go before they are deleted."""
        return self.root / OWN_DIRECTORY / "trash"

    def trashed(self) -> list[Path]:
        """What is in the trash of this version. Neither a model nor a version holds an '@', so none is taken for another's."""
        try:
            return sorted(path for path in self.trash.iterdir() if path.name.partition("-")[2] == str(self.model))
        except (FileNotFoundError, NotADirectoryError):
            return []

    @property
    def staging(self) -> Path:
        """Half-done work, on the same file system as the target, so that publishing is one rename."""
        return self.root / OWN_DIRECTORY / "staging" / self.model.name / self.model.version

    @property
    def lock(self) -> Path:
        """Held by whoever works on this version."""
        return self.root / OWN_DIRECTORY / "locks" / f"{self.model}.lock"

    @property
    def model_lock(self) -> Path:
        """Shared by whoever works on any version of the model."""
        return self.lock.with_name(f"{self.model.name}.lock")

    @property
    def files(self) -> Path:
        """The staged files: what becomes the target."""
        return self.staging / "files"

    @property
    def journal(self) -> Path:
        """What is known to be durable in the staged files."""
        return self.staging / "journal.jsonl"

    def refuse_links(self) -> None:
        """Raise if any of these paths leads through a symbolic link."""
        locks, markers = (self.lock, self.model_lock), (self.manifest, self.pending, self.removing)
        for path in (self.target, *markers, *locks, self.journal, self.files, self.trash):
            refuse_links(path, self.root)


def read_manifest(path: Path) -> Manifest | None:
    """The manifest at ``path``; None if there is none.

    Raises:
        VolumeUnusable: the file is there and is no manifest: someone wrote to it, or the volume lost bytes.
    """
    try:
        return Manifest.model_validate_json(_read_regular(path))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise VolumeUnusable(
            f"{path}: is not a readable manifest ({first_problem(error)}); remove it and the version's directory to have it loaded again"
        ) from error


def _read_regular(path: Path) -> bytes:
    """The bytes of a file that is one: a pipe in its place would be waited for, a link followed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise VolumeUnusable(f"{path}: is a symbolic link; Modelyard makes none and follows none: remove it") from error
        raise
    try:
        stat = os.fstat(descriptor)
        if not S_ISREG(stat.st_mode) or stat.st_size > _MAX_MANIFEST_BYTES:
            raise VolumeUnusable(
                f"{path}: is no manifest (no file, or far too big); remove it and the version's directory to have it loaded again"
            )
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def tampering(manifest: Manifest, model: ModelRef) -> str | None:
    """What shows that a manifest which lies in ``model``'s place was not written for it, or was changed since; None if nothing does."""
    if (manifest.model, manifest.version) != (model.name, model.version):
        return f"its manifest is that of {manifest.model}@{manifest.version}"
    if manifest.digest != content_digest(manifest.files):
        return "its manifest was changed: its digest is not that of its files"
    return None


def first_problem(error: ValueError) -> str:
    """What is wrong, without the pages that pydantic adds for each field."""
    return (
        f"{len(found)} problems, first: {found[0]['msg']}"
        if isinstance(error, ValidationError) and (found := error.errors())
        else str(error)
    )


def write_durably(path: Path, text: str) -> None:
    """Write ``path`` so that after a crash it holds either all of ``text`` or what it held before."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.unlink(missing_ok=True)  # a link that was put there would be followed
    with temporary.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


def make_directories(path: Path, root: Path) -> None:
    """Make ``path`` below ``root`` with its parents, group-writable where the umask lets it, so that another uid can go on.

    Raises:
        VolumeUnusable: a part of the path is a link or a file: writing there would leave the volume.
    """
    refuse_links(path, root)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise VolumeUnusable(f"{path}: a file stands where a directory must be; move it away") from error
    except PermissionError as error:
        raise VolumeUnusable(
            f"{path}: uid {os.getuid()} may not write here; let the cache's uid/gid match the volume, or its StorageClass set the mode"
        ) from error


def refuse_links(path: Path, root: Path) -> None:
    """Raise if ``path``, or a directory between it and ``root``, is a symbolic link, or ``path`` is not below ``root``."""
    if ".." in path.parts or not path.is_relative_to(root):
        raise VolumeUnusable(f"{path}: leads out of {root}")
    while path != root:
        if path.is_symlink():
            raise VolumeUnusable(f"{path}: is a symbolic link; Modelyard makes none and follows none: remove it")
        path = path.parent


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(path: Path) -> None:
    """Make everything written to ``path``'s file system durable, by one syncfs(2): thousands of fsyncs cost seconds.

    Raises:
        OSError: bytes could not be written back (Linux 5.8 and later report it here).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(descriptor):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(descriptor)


def walk_files(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every file below ``root`` as (relative path, its own stat); links are told as themselves and never followed.

    What vanishes meanwhile is left out: whoever holds no lock may look as well.
    """
    pending = [""]
    while pending:
        below = pending.pop()
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(root / below) as entries:
            for entry in entries:
                path = f"{below}/{entry.name}" if below else entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append(path)
                    continue
                with suppress(FileNotFoundError):
                    yield path, entry.stat(follow_symlinks=False)


def remove_other_directories(root: Path, wanted: set[str]) -> None:
    """Remove the directories below ``root`` whose relative paths are not ``wanted``, with all below them."""
    for directory, _, _ in os.walk(root, topdown=False):
        relative = os.path.relpath(directory, root)
        if relative != "." and relative not in wanted:
            remove_tree(Path(directory))


def remove_tree(path: Path) -> None:
    """Remove a directory of ours with all below it; nothing there is fine."""
    shutil.rmtree(path, ignore_errors=False, onerror=_ignore_missing)


def _ignore_missing(_function: object, _path: str, failure: Any) -> None:  # noqa: ANN401 - shutil's exc_info
    if not isinstance(failure[1], FileNotFoundError):
        raise failure[1]


def require_volume(root: Path) -> None:
    """Raise if the volume is not mounted: made by us, its directory would lie on the node's disk and go with the pod."""
    if not root.is_dir():
        raise VolumeUnusable(f"{root}: is not there; mount the volume, or name its directory by MODELYARD_ROOT")


def space_of(root: Path) -> VolumeSpace:
    """What a pod sees of the volume's size; free is what an unprivileged user may take."""
    stat = os.statvfs(root)
    return VolumeSpace(
        total_bytes=stat.f_blocks * stat.f_frsize,
        free_bytes=stat.f_bavail * stat.f_frsize,
        total_inodes=stat.f_files,
        free_inodes=stat.f_favail,
    )


def volume_error(error: OSError, path: Path) -> ModelyardError:
    """What a failed file operation on the volume means."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return NotEnoughSpace(
            f"{path}: the volume became full ({error.strerror}); nothing was published. Free or add space and run the preload"
            " again: it goes on with what has arrived"
        )
    return VolumeUnusable(f"{path}: {error.strerror or error}; check that the volume is mounted read-write and healthy")
