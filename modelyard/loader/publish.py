"""Publishing a staged version so that it is usable or absent, never half there; and reading back where a killed run stopped.

The order is the protocol: marker ``<version>.json.pending`` (durable), rename of the staged directory into place, rename of
the marker to ``<version>.json``. What a later run finds tells it what to do:

    marker                      directory in place      meaning
    final                       yes                     published
    pending                     yes, staging without    killed between the renames: check the sizes, finish
    pending or none             no                      killed before: resume the staging
    pending or none             yes, with files         not ours: refuse, touch nothing
    none                        yes, empty              made by a kubelet for a subPath: goes when the rename replaces it
"""

import os
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from stat import S_ISREG

from modelyard.errors import VersionConflict, VolumeUnusable
from modelyard.loader.checksums import sha256_of
from modelyard.loader.gates import Passed, uphold
from modelyard.loader.killpoints import kill_point
from modelyard.loader.layout import (
    Layout,
    make_directories,
    read_manifest,
    remove_tree,
    sync_directory,
    tampering,
    walk_files,
    write_durably,
)
from modelyard.loader.progress import Reread
from modelyard.models import FileRecord, Manifest
from modelyard.orders import LoadSpec, VerifyLevel

_SHOWN = 5


class State(Enum):
    """Where an earlier run got to."""

    PUBLISHED = "published"
    RENAMED = "renamed"
    STAGING = "staging"


def read_state(layout: Layout) -> State:
    """Where the version stands on the volume.

    Raises:
        VersionConflict: files that Modelyard did not put there are in the version's place.
    """
    directory = _holds_files(layout)
    if layout.manifest.exists():
        return State.PUBLISHED
    if directory and layout.pending.exists() and not layout.files.exists():  # still staged: these files are someone else's
        return State.RENAMED
    if directory:
        raise VersionConflict(
            f"{layout.target}: holds files that Modelyard did not put there (no {layout.manifest.name});"
            " move the directory away, or preload under another version"
        )
    return State.STAGING


def _holds_files(layout: Layout) -> bool:
    try:
        with os.scandir(layout.target) as entries:
            return any(True for _ in entries)
    except FileNotFoundError:
        return False
    except NotADirectoryError as error:
        raise VersionConflict(f"{layout.target}: is a file; move it away") from error


def published(layout: Layout, spec: LoadSpec) -> Manifest:
    """The manifest of the version that is there, after a check of its identity and of the files at the level asked for.

    Raises:
        VersionConflict: it was made from another listing; nothing replaces a version in place.
        VolumeUnusable: files are missing, or are not what the manifest says.
    """
    manifest = read_manifest(layout.manifest)
    if manifest is None:
        raise VolumeUnusable(f"{layout.manifest}: vanished while it was read; run the preload again")
    # Of another source, it is the same version if the files are known to be.
    if manifest.listing_digest != spec.listing.digest and manifest.digest != spec.digest:
        raise VersionConflict(
            f"{spec.model}: is on the volume already, made from {manifest.source.uri} when its listing was {manifest.listing_digest};"
            f" now {spec.source.uri} lists {spec.listing.digest}. A version never changes in place: preload it under a new version"
        )
    _believe(layout, layout.manifest, manifest)
    check_files(layout, manifest, spec.verify)
    remove_tree(layout.staging)  # a run that was killed right after it published left its journal
    return manifest


def finish(layout: Layout, spec: LoadSpec) -> None:
    """Finish what a killed run left between the two renames, if it passes this order's gates: that run's may have been weaker."""
    manifest = read_manifest(layout.pending)
    if manifest is not None:
        _believe(layout, layout.pending, manifest)
        check_files(layout, manifest, VerifyLevel.SIZES)
        uphold(layout, spec, manifest, layout.pending)
        sync_directory(layout.target.parent)  # the killed run may not have come to it
        _mark_final(layout)


def _believe(layout: Layout, path: Path, manifest: Manifest) -> None:
    if problem := tampering(manifest, layout.model):
        raise VolumeUnusable(f"{path}: {problem}; repair the version (deployment verify-cache), or remove it and preload it again")


def make_places(layout: Layout) -> None:
    """Make the directories that publishing, and some day the removal, rename into.

    Before the fetch, so that its last sync makes their own names durable; a removal may find no room for a directory.
    """
    make_directories(layout.pending.parent, layout.root)
    make_directories(layout.target.parent, layout.root)
    make_directories(layout.trash, layout.root)


def publish(layout: Layout, spec: LoadSpec, records: list[FileRecord], passed: Passed) -> Manifest:
    """Make the staged files the version's. They must be durable already, and have passed the gates."""
    rules = {"weights": passed.weights, "digests_from": passed.digests_from}
    manifest = Manifest.of(spec.model, spec.source, spec.listing.digest, records, datetime.now(UTC)).model_copy(update=rules)
    make_places(layout)
    write_durably(layout.pending, manifest.model_dump_json(by_alias=True))
    kill_point("pending-written")
    layout.files.rename(layout.target)  # replaces an empty directory, fails on any other
    sync_directory(layout.target.parent)
    sync_directory(layout.staging)
    kill_point("renamed")
    _mark_final(layout)
    return manifest


def _mark_final(layout: Layout) -> None:
    layout.pending.replace(layout.manifest)
    sync_directory(layout.manifest.parent)
    kill_point("published")
    remove_tree(layout.staging)


def check_files(layout: Layout, manifest: Manifest, level: VerifyLevel) -> None:
    """Compare the version's files with its manifest.

    Raises:
        VolumeUnusable: with the first few files that are missing, of another size, or of another content.
    """
    found = walk_files(layout.target) if layout.target.is_dir() else ()
    there = {path: stat.st_size for path, stat in found if S_ISREG(stat.st_mode)}  # a link or a pipe is no file of ours
    reread = Reread(f"{layout.model}: its check", manifest.bytes)
    if wrong := [problem for record in manifest.files if (problem := _problem(layout, record, there.get(record.path), level, reread))]:
        raise VolumeUnusable(
            f"{layout.model}: {summary(wrong, manifest)}; repair the version (deployment verify-cache), or remove it and preload it again"
        )


def summary(wrong: list[str], manifest: Manifest) -> str:
    """How many of a version's files are wrong, and the first few of them."""
    more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return f"{len(wrong)} of {len(manifest.files)} files on the volume are not what was published: {', '.join(wrong[:_SHOWN])}{more}"


def _problem(layout: Layout, record: FileRecord, size: int | None, level: VerifyLevel, reread: Reread) -> str | None:
    if problem := size_problem(record, size):
        return problem
    if level is VerifyLevel.DIGESTS and sha256_of(layout.target / record.path, reread) != record.sha256:
        return f"{record.path} has another SHA-256"
    return None


def size_problem(record: FileRecord, size: int | None) -> str | None:
    """What a file's size on the volume (None: no such file) says against it."""
    if size is None:
        return f"{record.path} is missing"
    return f"{record.path} has {size} bytes, not {record.size}" if size != record.size else None
