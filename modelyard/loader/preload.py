"""Preload one version onto the volume: list, recover, link, fetch, publish. Safe to run again after any end."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG

from modelyard.errors import LoaderInterrupted, NotEnoughSpace, SourceChanged, VolumeUnusable
from modelyard.loader.fetch import Fetch
from modelyard.loader.journal import Journal, same_bytes
from modelyard.loader.killpoints import kill_point
from modelyard.loader.layout import Layout, make_directories, read_manifest, volume_error, walk_files
from modelyard.loader.progress import ProgressLog, say
from modelyard.loader.publish import State, finish, publish, published, read_state
from modelyard.models import FileRecord, LoadResult, LoadSpec, Manifest, SourceFile, summarise
from modelyard.quantities import format_bytes
from modelyard.sources.base import Source


def preload(spec: LoadSpec, root: Path, source: Source) -> LoadResult:
    """Bring ``spec.model`` onto the volume at ``root``; returns when it is there, whole and durable.

    Raises:
        SourceChanged: the source does not list what the plan saw.
        VersionConflict, VolumeUnusable, NotEnoughSpace: the volume cannot take it.
        SourceUnavailable, ContentMismatch: no retry in here helped.
    """
    began = time.monotonic()
    layout = Layout(root, spec.model)
    try:
        with _alone(layout):
            state = read_state(layout)
            if state is State.RENAMED:
                finish(layout)
                state = State.PUBLISHED
            if state is State.PUBLISHED:
                return _result(published(layout, spec), began)
            files = _list(spec, source)
            return _load(spec, layout, source, files, began)
    except OSError as error:
        raise volume_error(error, root) from error


@contextmanager
def _alone(layout: Layout) -> Iterator[None]:
    """Hold the version's lock: two pods of one Job may meet when a node comes back from the dead."""
    make_directories(layout.root / ".modelyard" / "locks")
    path = layout.root / ".modelyard" / "locks" / f"{layout.model}.lock"
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LoaderInterrupted(f"{layout.model}: another loader is writing this version; it is tried again", delay=15) from error
        yield


def _list(spec: LoadSpec, source: Source) -> list[SourceFile]:
    files = list(source.list())
    kill_point("listing")
    if (listing := summarise(files)) != spec.listing:
        raise SourceChanged(
            f"{spec.source.uri}: lists {listing.files} files of {format_bytes(listing.bytes)} ({listing.digest}), the plan saw"
            f" {spec.listing.files} of {format_bytes(spec.listing.bytes)} ({spec.listing.digest}); nothing was written: plan again"
        )
    return files


def _load(spec: LoadSpec, layout: Layout, source: Source, files: list[SourceFile], began: float) -> LoadResult:
    make_directories(layout.files)
    journal = Journal.open(layout.journal)
    _tidy(layout, journal, files)
    linked = _link_unchanged(layout, journal, files)
    todo = [file for file in files if not journal.record(file)]
    there = sum(file.size for file in files) - sum(file.size for file in todo)
    _require_space(layout, spec, sum(file.size for file in todo))
    progress = ProgressLog(spec.listing.bytes, spec.listing.files)
    fetch = Fetch(source, layout.files, journal, progress, done_bytes=there, done_files=len(files) - len(todo))
    fetch.run(todo)
    progress.update(spec.listing.bytes, spec.listing.files, final=True)
    manifest = publish(layout, spec, _records(journal, files))
    return _result(manifest, began, fetch.fetched_bytes, linked, there - linked + fetch.resumed_bytes)


def _records(journal: Journal, files: list[SourceFile]) -> list[FileRecord]:
    records = [record for file in files if (record := journal.record(file))]
    if len(records) != len(files):  # cannot be; a version with a file missing would be worse than this error
        raise VolumeUnusable(f"{journal.path}: knows {len(records)} of {len(files)} files; run the preload again")
    return records


def _tidy(layout: Layout, journal: Journal, files: list[SourceFile]) -> None:
    """Drop from the staging what this listing does not have, and from the journal what the volume does not have."""
    wanted = {file.path: file for file in files}
    there: set[str] = set()
    for path, stat in walk_files(layout.files):
        file = wanted.get(path)
        if file is None or not S_ISREG(stat.st_mode):
            (layout.files / path).unlink()
            continue
        if stat.st_size == file.size and journal.record(file):
            there.add(path)
    journal.keep(there)


def _require_space(layout: Layout, spec: LoadSpec, needed: int) -> None:
    """Refuse before the first byte what the volume cannot hold, as a pod on it sees its free space."""
    stat = os.statvfs(layout.root)
    free = stat.f_bavail * stat.f_frsize
    staged = sum(stat.st_blocks * 512 for _, stat in walk_files(layout.files))
    if needed + spec.headroom > free + staged:
        raise NotEnoughSpace(
            f"{spec.model}: needs {format_bytes(needed)} and {format_bytes(spec.headroom)} headroom, {format_bytes(free)} are free on"
            " the volume; nothing was written. Remove models from it, or use a larger claim (a new pvcNameSuffix)"
        )


def _link_unchanged(layout: Layout, journal: Journal, files: list[SourceFile]) -> int:
    """Hard-link files that another version of this model on the volume has from the very same bytes of the source."""
    known = {}
    for manifest in _other_versions(layout):
        known.update({record.path: (manifest, record) for record in manifest.files})
    linked = []
    for file in files:
        if journal.record(file) or file.path not in known:
            continue
        manifest, record = known[file.path]
        if same_bytes(record, file) and _link(layout, manifest, file):
            linked.append(record)
    journal.add_files(linked)
    return sum(record.size for record in linked)


def _other_versions(layout: Layout) -> Iterator[Manifest]:
    for path in sorted(layout.manifest.parent.glob("*.json")):
        if path != layout.manifest and (manifest := read_manifest(path)):
            yield manifest


def _link(layout: Layout, manifest: Manifest, file: SourceFile) -> bool:
    origin = layout.root / manifest.model / manifest.version / file.path
    target = layout.files / file.path
    try:
        if origin.is_symlink() or origin.stat().st_size != file.size:
            return False
        make_directories(target.parent)
        target.unlink(missing_ok=True)
        target.hardlink_to(origin)
    except OSError as error:  # not every file system links; then the file is fetched
        say("note", message=f"{file.path}: not linked ({error.strerror}), fetched instead")
        return False
    return True


def _result(manifest: Manifest, began: float, fetched: int = 0, linked: int = 0, resumed: int = 0) -> LoadResult:
    return LoadResult(
        digest=manifest.digest,
        files=len(manifest.files),
        bytes=manifest.bytes,
        fetched_bytes=fetched,
        linked_bytes=linked,
        resumed_bytes=resumed,
        seconds=round(time.monotonic() - began, 3),
        unverified_files=sum(record.checksum is None and record.size > 0 for record in manifest.files),
    )
