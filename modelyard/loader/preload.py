"""Preload one version onto the volume: list, recover, link, fetch, publish. Safe to run again after any end."""

import os
import time
from pathlib import Path
from stat import S_ISREG

from modelyard.errors import DigestMismatch, NotEnoughSpace, Refused, SourceChanged, VolumeUnusable
from modelyard.loader.fetch import Fetch
from modelyard.loader.gates import pass_gates, uphold
from modelyard.loader.journal import Journal
from modelyard.loader.killpoints import kill_point
from modelyard.loader.layout import Layout, make_directories, remove_other_directories, require_volume, volume_error, walk_files
from modelyard.loader.link import link_unchanged
from modelyard.loader.lock import alone
from modelyard.loader.progress import ProgressLog, say
from modelyard.loader.publish import State, finish, make_places, publish, published, read_state
from modelyard.loader.remove import finish_removal, is_half_removed
from modelyard.loader.tuning import Tuning
from modelyard.models import FileRecord, Manifest, SourceFile, summarise
from modelyard.orders import LoadResult, LoadSpec
from modelyard.plans.paths import path_problems
from modelyard.plans.weight_formats import weight_problems
from modelyard.quantities import format_bytes
from modelyard.sources.base import Source


def preload(spec: LoadSpec, root: Path, source: Source, tuning: Tuning) -> LoadResult:
    """Bring ``spec.model`` onto the volume at ``root``; returns when it is there, whole and durable.

    Raises:
        SourceChanged: the source does not list what the plan saw.
        Refused: it lists what cannot be files on a volume, or the files did not pass the order's gates.
        DigestMismatch: the files are not those of the author's SHA256SUMS.
        VersionConflict, VolumeUnusable, NotEnoughSpace: the volume cannot take it.
        SourceUnavailable, ContentMismatch: no retry in here helped.
    """
    began = time.monotonic()
    layout = Layout(root, spec.model)
    require_volume(root)
    try:
        layout.refuse_links()
        with alone(layout):
            if is_half_removed(layout):
                say("note", message=f"{layout.model}: its removal was stopped half-way; it is finished, then the version is loaded again")
                finish_removal(layout)
            state = read_state(layout)
            if state is State.RENAMED:
                finish(layout, spec)
                state = State.PUBLISHED
            if state is State.PUBLISHED:
                return _result(uphold(layout, spec, published(layout, spec), layout.manifest), began)
            files = _list(spec, source)
            return _load(spec, layout, source, files, tuning, began)
    except OSError as error:
        raise volume_error(error, root) from error


def _list(spec: LoadSpec, source: Source) -> list[SourceFile]:
    files = list(source.list())
    kill_point("listing")
    if (listing := summarise(files)) != spec.listing:
        raise SourceChanged(
            f"{spec.source.uri}: lists {listing.files} files of {format_bytes(listing.bytes)} ({listing.digest}), the plan saw"
            f" {spec.listing.files} of {format_bytes(spec.listing.bytes)} ({spec.listing.digest}); nothing was written: plan again"
        )
    if problems := [*path_problems(files), *weight_problems(files, spec.weights)]:
        raise Refused(problems)
    return files


def _load(spec: LoadSpec, layout: Layout, source: Source, files: list[SourceFile], tuning: Tuning, began: float) -> LoadResult:
    make_directories(layout.files, layout.root)
    journal = Journal.open(layout.journal)
    _tidy(layout, journal, files)
    linked = link_unchanged(layout, journal, files, spec.source, source)
    todo = [file for file in files if not journal.record(file)]
    there = sum(file.size for file in files) - sum(file.size for file in todo)
    _require_space(layout, spec, todo)
    progress = ProgressLog(spec.listing.bytes, spec.listing.files)
    make_places(layout)
    fetch = Fetch(source, layout.files, journal, progress, tuning, done_bytes=there, done_files=len(files) - len(todo))
    fetch.run(todo)
    progress.update(spec.listing.bytes, spec.listing.files, final=True)
    records = _records(journal, files)
    try:
        passed = pass_gates(spec, layout.files, records)
    except DigestMismatch:
        _drop_unproven(layout, records)
        raise
    manifest = publish(layout, spec, records, passed)
    return _result(manifest, began, fetch.fetched_bytes, linked, there - linked + fetch.resumed_bytes)


def _drop_unproven(layout: Layout, records: list[FileRecord]) -> None:
    """Have the next run fetch anew what no checksum of the source proved: it may have been harmed on its way."""
    for record in records:
        if record.checksum is None:
            (layout.files / record.path).unlink(missing_ok=True)


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
        elif stat.st_size == file.size and journal.record(file):
            there.add(path)
    remove_other_directories(layout.files, _directories(files))
    journal.keep(there)


def _directories(files: list[SourceFile]) -> set[str]:
    found: set[str] = set()
    for file in files:
        directory = file.path.rpartition("/")[0]
        while directory and directory not in found:
            found.add(directory)
            directory = directory.rpartition("/")[0]
    return found


def _require_space(layout: Layout, spec: LoadSpec, todo: list[SourceFile]) -> None:
    """Refuse before the first byte what the volume cannot hold, as a pod on it sees its free space.

    What is staged of the files still to be fetched has its room already; what is finished or linked needs none.
    """
    needed, paths = sum(file.size for file in todo), {file.path for file in todo}
    staged = sum(stat.st_blocks * 512 for path, stat in walk_files(layout.files) if path in paths and stat.st_nlink == 1)
    stat = os.statvfs(layout.root)
    free = stat.f_bavail * stat.f_frsize
    advice = "nothing was written. Remove models from it, or use a larger claim (a new pvcNameSuffix)"
    if needed + spec.headroom > free + staged:
        raise NotEnoughSpace(
            f"{spec.model}: needs {format_bytes(max(0, needed - staged))} and {format_bytes(spec.headroom)} headroom, {format_bytes(free)}"
            f" are free on the volume; {advice}"
        )
    if stat.f_files and len(todo) > stat.f_favail:  # file systems without a table of inodes say 0
        raise NotEnoughSpace(f"{spec.model}: needs {len(todo)} inodes for its files, {stat.f_favail} are free on the volume; {advice}")


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
