"""See what is on the volume, without a lock and without a write: it is mounted only to read, and others work on it meanwhile.

A version is judged by its markers and directories as the loader would (publish.py, remove.py). If these changed while its files were
counted, it is looked at once more: what is being published or removed just now must not be taken for damaged or foreign.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR, S_ISLNK, S_ISREG

from modelyard.errors import VolumeUnusable
from modelyard.loader.layout import (
    SILLY_RENAMED,
    SYSTEM_DIRECTORIES,
    Layout,
    first_problem,
    refuse_links,
    require_volume,
    space_of,
    tampering,
    walk_files,
)
from modelyard.loader.progress import EntryLog
from modelyard.loader.publish import size_problem, summary
from modelyard.models import Manifest, ModelRef
from modelyard.names import OWN_DIRECTORY, name_problem
from modelyard.orders import InspectResult, InspectSpec, VersionEntry, VersionState

#: A volume may be full of another's files; after so many they are only counted.
MAX_FOREIGN = 2000
_MARKERS = (".json", ".json.pending", ".json.removing")
#: How often a version that changes is looked at again.
_LOOKS = 5


def inspect(spec: InspectSpec, root: Path) -> InspectResult:
    """Print an entry for every version on the volume at ``root``, and for what is there and not ours; give its space.

    Raises:
        VolumeUnusable: the volume itself cannot be read. What is wrong with one version is in its entry.
    """
    require_volume(root)
    log, own = EntryLog(), root / OWN_DIRECTORY
    try:
        space = space_of(root)
        names = _Names.on(root, lambda model: not spec.models or model in spec.models)
        foreign = _Foreign(log, names.more_strays)
        for model, version in sorted(names.versions):
            for entry in look(Layout(root, ModelRef(name=model, version=version))):
                foreign.add(entry) if entry.state is VersionState.FOREIGN else _print(log, entry)
        for stray in filter(None, (_foreign(root, path) for path in sorted(names.strays))):
            foreign.add(stray)
        foreign.tell_more()
        staged, trash = _allocated(own / "staging"), _allocated(own / "trash")
    except OSError as error:
        raise VolumeUnusable(
            f"{error.filename or root}: {error.strerror or error}; check that the volume is healthy and that uid {os.getuid()} may read it"
        ) from error
    return InspectResult(space=space, staged_bytes=staged, trash_bytes=trash, entries=log.entries)


@dataclass(slots=True)
class _Names:
    """What names on the volume may be versions of, and what are no names of ours (the first of them; ``more_strays`` is the rest)."""

    wanted: Callable[[str], bool]
    versions: set[tuple[str, str]] = field(default_factory=set)
    strays: list[str] = field(default_factory=list)
    more_strays: int = 0

    @classmethod
    def on(cls, root: Path, wanted: Callable[[str], bool]) -> "_Names":
        names = cls(wanted)
        names._take(root, "", lambda name: name)
        own = root / OWN_DIRECTORY
        if own.is_dir() and not own.is_symlink():
            names._take(own / "manifests", f"{OWN_DIRECTORY}/manifests/", _version_of)
            names._take(own / "staging", f"{OWN_DIRECTORY}/staging/", lambda name: name)
        elif _lstat(own):
            names._stray(OWN_DIRECTORY)
        return names

    def _take(self, base: Path, prefix: str, version_of: Callable[[str], str | None]) -> None:
        for model in _entries(base):
            if not prefix and (model.name in {OWN_DIRECTORY, *SYSTEM_DIRECTORIES} or SILLY_RENAMED.fullmatch(model.name)):
                continue
            if name_problem(model.name) or not model.is_dir(follow_symlinks=False):
                self._stray(prefix + model.name)
            elif self.wanted(model.name):
                self._take_versions(model, f"{prefix}{model.name}", version_of)

    def _take_versions(self, model: "os.DirEntry[str]", path: str, version_of: Callable[[str], str | None]) -> None:
        try:
            for entry in _entries(Path(model.path)):
                if (version := version_of(entry.name)) is None:
                    continue
                if name_problem(version):
                    self._stray(f"{path}/{entry.name}")
                else:
                    self.versions.add((model.name, version))
        except PermissionError:
            self._stray(path)

    def _stray(self, path: str) -> None:
        if len(self.strays) < MAX_FOREIGN:
            self.strays.append(path)
        else:
            self.more_strays += 1


def _version_of(marker: str) -> str | None:
    """The version whose marker has this file name; None for one that is still being written."""
    if marker.endswith(".tmp"):
        return None
    ends = [end for end in _MARKERS if marker.endswith(end)]
    return marker.removesuffix(ends[0]) if ends else ""  # no version's name: a stray


def _entries(directory: Path) -> Iterator["os.DirEntry[str]"]:
    """What a directory holds; nothing if there is none, or a link in its place."""
    if directory.is_symlink():
        return
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(directory) as entries:
        yield from entries


@dataclass(slots=True)
class _Foreign:
    """Prints what is not ours, up to a limit, and then how much more there is."""

    log: EntryLog
    more: int
    printed: int = 0

    def add(self, entry: VersionEntry) -> None:
        if self.printed < MAX_FOREIGN:
            self.printed += 1
            _print(self.log, entry)
        else:
            self.more += 1

    def tell_more(self) -> None:
        if self.more:
            _print(self.log, VersionEntry(state=VersionState.FOREIGN, path=".", problem=f"{self.more} more that are not listed"))


def _print(log: EntryLog, entry: VersionEntry) -> None:
    log.add(**entry.model_dump(mode="json", exclude_none=True))


def look(layout: Layout) -> list[VersionEntry]:
    """How the version stands: mostly one entry, none if there is nothing of it, two where foreign files lie beside our staging."""
    found: list[VersionEntry] = []
    try:
        for path in (layout.target, layout.manifest, layout.files):
            refuse_links(path, layout.root)
    except VolumeUnusable as error:
        damaged = _entry(layout, VersionState.DAMAGED, _Files(), "")
        return [damaged.model_copy(update={"problem": str(error)})]
    for _ in range(_LOOKS):
        before = _identities(layout)
        found = _judge(layout)
        if _identities(layout) == before:
            break
    return found


def _identities(layout: Layout) -> list[tuple[int, int] | None]:
    """What changes when the version is published or removed: each path's inode, and of a marker its time as well."""
    markers = [_lstat(path) for path in (layout.manifest, layout.pending, layout.removing)]
    directories = [_lstat(path) for path in (layout.target, layout.files, *layout.trashed())]
    return [stat and (stat.st_ino, stat.st_mtime_ns) for stat in markers] + [stat and (stat.st_ino, 0) for stat in directories]


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _judge(layout: Layout) -> list[VersionEntry]:
    if _lstat(layout.manifest):
        return [_published(layout)]
    theirs = _foreign(layout.root, f"{layout.model.name}/{layout.model.version}", layout.model)
    if _lstat(layout.removing):
        trashed = layout.trashed()
        entry = _entry(layout, VersionState.REMOVING, _Files.below(*trashed or [layout.target]), _marker(layout.removing))
        return [entry, theirs] if trashed and theirs else [entry]
    if theirs and _lstat(layout.pending) and not _lstat(layout.files):
        return [_entry(layout, VersionState.PUBLISHING, _Files.below(layout.target), _marker(layout.pending))]
    found = [theirs] if theirs else []
    if _lstat(layout.staging) or _lstat(layout.pending):
        staged = _entry(layout, VersionState.STAGING, _Files.below(layout.files), _marker(layout.pending))
        found.append(staged.model_copy(update={"path": str(layout.staging.relative_to(layout.root))}))
    return found


def _published(layout: Layout) -> VersionEntry:
    files = _Files.below(layout.target)
    manifest = _marker(layout.manifest)
    problem = manifest if isinstance(manifest, str) else tampering(manifest, layout.model) or files.problem or _sizes(manifest, files)
    entry = _entry(layout, VersionState.DAMAGED if problem else VersionState.READY, files, manifest)
    return entry.model_copy(update={"problem": problem})


def _sizes(manifest: Manifest, files: "_Files") -> str | None:
    wrong = [problem for record in manifest.files if (problem := size_problem(record, files.sizes.get(record.path)))]
    return summary(wrong, manifest) if wrong else None


def _marker(path: Path) -> Manifest | str:
    """The manifest at ``path``, or why there is none; a pipe there is not waited for, a link not followed."""
    stat = _lstat(path)
    if not stat:
        return "its manifest is not there"
    if not S_ISREG(stat.st_mode):
        return "its manifest is no file"
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValueError as error:
        return f"its manifest cannot be read ({first_problem(error)})"
    except OSError as error:
        return f"its manifest cannot be read ({error.strerror})"


@dataclass(slots=True)
class _Files:
    """The regular files of a directory with their sizes, and why it could not be read to its end."""

    sizes: dict[str, int] = field(default_factory=dict)
    problem: str | None = None

    @classmethod
    def below(cls, *directories: Path) -> "_Files":
        files = cls()
        for directory in directories:
            stat = _lstat(directory)
            if stat and not S_ISDIR(stat.st_mode):
                files.problem = "is a symbolic link" if S_ISLNK(stat.st_mode) else "is no directory"
            elif stat:
                files._take(directory)
        return files

    def _take(self, directory: Path) -> None:
        try:
            self.sizes.update({path: stat.st_size for path, stat in walk_files(directory) if S_ISREG(stat.st_mode)})
        except OSError as error:
            self.problem = f"cannot be read to its end ({error.strerror})"


def _entry(layout: Layout, state: VersionState, files: _Files, manifest: Manifest | str) -> VersionEntry:
    entry = VersionEntry(
        state=state,
        path=f"{layout.model.name}/{layout.model.version}",
        model=layout.model.name,
        version=layout.model.version,
        files=len(files.sizes),
        bytes=sum(files.sizes.values()),
    )
    if isinstance(manifest, str):
        return entry
    told = {"digest": manifest.digest, "listing_digest": manifest.listing_digest, "source": manifest.source.uri}
    return entry.model_copy(update={**told, "created": manifest.created.isoformat()})


def _foreign(root: Path, path: str, model: ModelRef | None = None) -> VersionEntry | None:
    """What lies at ``path`` as someone else's; None for nothing, and for an empty directory: a kubelet makes those for a subPath."""
    there = root / path
    stat = _lstat(there)
    if not stat or (S_ISDIR(stat.st_mode) and _is_empty(there)):
        return None
    files = _Files({"": stat.st_size}) if S_ISREG(stat.st_mode) else _Files.below(there)
    return VersionEntry(
        state=VersionState.FOREIGN,
        path=os.fsencode(path).decode(errors="backslashreplace"),
        model=model.name if model else None,
        version=model.version if model else None,
        files=len(files.sizes),
        bytes=sum(files.sizes.values()),
        problem=files.problem,
    )


def _is_empty(directory: Path) -> bool:
    try:
        return not any(True for _ in _entries(directory))
    except PermissionError:
        return False  # who forbids to look has something there


def _allocated(directory: Path) -> int:
    """The bytes that would become free with ``directory``: blocks, for a half-written file is not what its size says; no linked files."""
    if directory.is_symlink():
        return 0
    return sum(stat.st_blocks * 512 for _, stat in walk_files(directory) if stat.st_nlink == 1)
