"""Remove one version so that it is usable or gone, never half there; and finish what a killed removal left.

The order is the protocol, each step durable before the next:

    manifest ``<version>.json`` -> ``<version>.json.removing``     from here on nobody may use the version
    the version's directory     -> ``trash/<time>-<model>@<version>``
    what is staged, and what the directory in the trash holds, are deleted
    ``<version>.json.removing`` is deleted, then the empty directory in the trash

The directory in the trash outlives the marker: a marker with one says that what is now in the version's place came later, and is
not ours. Open files are read to their end, as POSIX has it; on NFS only those of this node are, others get ESTALE.
"""

import errno
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from typing import Any

from modelyard.errors import VersionConflict, VolumeUnusable
from modelyard.loader.killpoints import kill_point
from modelyard.loader.layout import (
    SILLY_RENAMED,
    Layout,
    make_directories,
    read_manifest,
    remove_tree,
    require_volume,
    sync_directory,
    walk_files,
)
from modelyard.loader.lock import alone, model_unused
from modelyard.loader.progress import say
from modelyard.orders import RemoveResult, RemoveSpec

#: How the name of a directory in the trash ends that is of no version any more, and holds files that are still open.
_OPEN = ".open"


def remove(spec: RemoveSpec, root: Path) -> RemoveResult:
    """Remove ``spec.model`` from the volume at ``root``: published, damaged, half loaded or half removed; returns when it is durably gone.

    Raises:
        VersionConflict: the version has another digest than ``spec.digest``, or its files are not Modelyard's; nothing was changed.
        LoaderInterrupted: another loader is at work on the version.
        VolumeUnusable: the volume does not let it; another removal goes on.
    """
    began = time.monotonic()
    layout = Layout(root, spec.model)
    require_volume(root)
    try:
        layout.refuse_links()
        with alone(layout):
            removed = _remove(layout, spec.digest)
            _sweep(layout)
        _leave_no_empty_directories(layout)
    except OSError as error:
        raise VolumeUnusable(
            f"{error.filename or root}: {error.strerror or error}; check that the volume is mounted read-write and healthy, and remove"
            f" {spec.model} again: it goes on where it stopped"
        ) from error
    return removed.model_copy(update={"seconds": round(time.monotonic() - began, 3)})


def is_half_removed(layout: Layout) -> bool:
    """Whether a removal was killed before its end."""
    return not _is_there(layout.manifest) and (_is_there(layout.removing) or bool(layout.trashed()))


def _remove(layout: Layout, digest: str | None) -> RemoveResult:
    marker, trashed = _marker(layout), layout.trashed()
    _require(layout, marker, digest)
    staged = _is_there(layout.staging) or _is_there(layout.pending)
    if marker is None and not trashed and (digest or not staged):
        return RemoveResult(found=False)  # what is staged has no digest yet
    in_place = marker and not (marker == layout.removing and trashed)
    removed = _measured(*([layout.target] if in_place else []), *trashed, layout.files)
    if marker and marker != layout.removing:
        _begin(layout, marker)
        return removed
    finish_removal(layout)
    if digest is None:
        _drop_staged(layout)
    return removed


def _marker(layout: Layout) -> Path | None:
    """The marker that says that what is in the version's place is ours; None if none does."""
    if _is_there(layout.manifest):
        return layout.manifest
    if _is_there(layout.removing):
        return layout.removing
    return layout.pending if _is_there(layout.pending) and _holds_anything(layout.target) and not _is_there(layout.files) else None


def _require(layout: Layout, marker: Path | None, digest: str | None) -> None:
    if marker is None and _holds_anything(layout.target):
        raise VersionConflict(
            f"{layout.target}: holds files that Modelyard did not put there (no {layout.manifest.name}); only who put them there may"
            " remove them: nothing was changed"
        )
    if marker is None or digest is None:
        return
    try:
        manifest = read_manifest(marker)
    except VolumeUnusable as error:
        raise VersionConflict(
            f"{layout.model}: was to be removed if its digest is {digest}, and its manifest cannot be read; remove it without a digest"
        ) from error
    if manifest and manifest.digest != digest:
        raise VersionConflict(
            f"{layout.model}: was to be removed if its digest is {digest}, and it is {manifest.digest}: nothing was changed;"
            " remove it by this digest, or without one"
        )


def _begin(layout: Layout, marker: Path) -> None:
    _delete_trash(layout)  # of an older life of the version: from here on what is in the trash is of this one
    if not _is_there(layout.target):  # a marker would make later files in its place ours
        _drop_staged(layout)
        _unlink_durably(marker)
        return
    marker.replace(layout.removing)
    sync_directory(layout.removing.parent)
    kill_point("marked")
    finish_removal(layout)


def finish_removal(layout: Layout) -> None:
    """Bring a removal to its end from wherever it got to; nothing to finish is fine. The version's lock is held."""
    if _is_there(layout.removing):
        if not layout.trashed() and _is_there(layout.target):
            _move_away(layout)
        _drop_staged(layout)
        kill_point("unstaged")
    for trashed in layout.trashed():
        _empty(trashed)
    kill_point("deleted")
    _unlink_durably(layout.removing)
    kill_point("unmarked")
    _delete_trash(layout)


def _move_away(layout: Layout) -> None:
    make_directories(layout.trash, layout.root)
    layout.target.rename(layout.trash / f"{time.time_ns()}-{layout.model}")
    sync_directory(layout.trash)
    sync_directory(layout.target.parent)
    kill_point("moved")


def _drop_staged(layout: Layout) -> None:
    """The marker first: without the staged files it would take what comes into the version's place for ours."""
    for path in (layout.pending, layout.pending.with_name(f"{layout.pending.name}.tmp")):
        _unlink_durably(path)
    if _is_there(layout.staging):
        remove_tree(layout.staging)
        sync_directory(layout.staging.parent)


def _delete_trash(layout: Layout) -> None:
    for trashed in layout.trashed():
        _empty(trashed)
        if not trashed.is_dir():
            trashed.unlink()
        elif any(trashed.iterdir()):
            say(
                "note",
                message=f"{layout.model}: some of its files are still open on this node; their bytes become free when they are closed",
            )
            trashed.rename(trashed.with_name(f"{trashed.name.partition('-')[0]}{_OPEN}"))  # of no version: the next one may come
        else:
            trashed.rmdir()
        sync_directory(layout.trash)


def _sweep(layout: Layout) -> None:
    """Delete what earlier removals had to leave because it was open."""
    for left in layout.trash.glob(f"*{_OPEN}"):
        with suppress(OSError):
            _empty(left)
            left.rmdir()


def _empty(trashed: Path) -> None:
    """Delete what it holds but files that are open on NFS, and keep itself; a file that stood for the version's directory stays as well."""
    if not trashed.is_dir():
        return
    for path in list(trashed.iterdir()):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, onerror=_unless_open)
        else:
            _unlink(path)
        kill_point("deleting")
    if stuck := next((path for path, _ in walk_files(trashed) if not SILLY_RENAMED.fullmatch(path.rpartition("/")[2])), None):
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(trashed / stuck))
    sync_directory(trashed)


def _unlink(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        _unless_open(None, str(path), (None, error))


def _unless_open(_function: object, path: str, failure: Any) -> None:  # noqa: ANN401 - shutil's exc_info
    """An NFS client does not delete what one of its own processes has open, and keeps its directory: no failure of ours."""
    error = failure[1]
    open_file = error.errno == errno.EBUSY and SILLY_RENAMED.fullmatch(Path(path).name)
    if not (open_file or error.errno in {errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST}):
        raise error


def _unlink_durably(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
        sync_directory(path.parent)


def _leave_no_empty_directories(layout: Layout) -> None:
    """Remove the model's directories that hold nothing any more, unless a loader of another version is about to use them."""
    with model_unused(layout) as unused:
        if not unused:
            return
        for directory in (layout.staging.parent, layout.manifest.parent, layout.target.parent):
            try:
                directory.rmdir()
                sync_directory(directory.parent)
            except FileNotFoundError:
                continue
            except OSError:  # not empty, or not ours to remove: nobody is harmed by it
                return


def _measured(*directories: Path) -> RemoveResult:
    """What is about to go. A file is freed if all of its links go."""
    files = size = 0
    links: dict[tuple[int, int], tuple[int, int, int]] = {}  # inode: links in all, links that go, bytes
    for directory in directories:
        for _, stat in walk_files(directory):
            if S_ISREG(stat.st_mode):
                files, size = files + 1, size + stat.st_size
                _, going, _ = links.get((stat.st_dev, stat.st_ino), (0, 0, 0))
                links[stat.st_dev, stat.st_ino] = stat.st_nlink, going + 1, stat.st_size
    freed = sum(each for there, going, each in links.values() if going >= there)
    return RemoveResult(found=True, files=files, bytes=size, freed_bytes=freed)


def _is_there(path: Path) -> bool:
    return os.path.lexists(path)


def _holds_anything(target: Path) -> bool:
    """Also a file in the directory's place is something; an empty directory is a kubelet's."""
    return _is_there(target) and not (target.is_dir() and not any(target.iterdir()))
