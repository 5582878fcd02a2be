"""What a verification has to do with: every version's manifest and files as they stand on the volume, and what is none of ours.

Changes nothing and follows no link. Files that share an inode are one ``Content``: it is read once, and its damage is that of all its
names.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISFIFO, S_ISLNK, S_ISREG

from modelyard.errors import ModelyardError, VolumeUnusable
from modelyard.loader.layout import SILLY_RENAMED, SYSTEM_DIRECTORIES, Layout, read_manifest, tampering, walk_files
from modelyard.models import Manifest, ModelRef
from modelyard.names import OWN_DIRECTORY, name_problem, path_problem
from modelyard.quantities import format_bytes

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(slots=True)
class Finding:
    """One damaged, missing or foreign thing; ``layout`` and ``file``, its path in the version, where it could be fetched again."""

    path: str
    problem: str
    layout: Layout | None = None
    file: str | None = None
    foreign: bool = False
    repaired: bool = False


@dataclass(frozen=True, slots=True)
class Name:
    """A file of a version, and what it should be. Hundreds of thousands of these are kept, the manifests' own records are not."""

    layout: Layout
    file: str
    sha256: bytes

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.layout.target / self.file

    def finding(self, problem: str) -> Finding:
        """What is wrong with it."""
        return Finding(str(self.path.relative_to(self.layout.root)), problem, self.layout, self.file)


@dataclass(slots=True)
class Content:
    """One inode that is of the right kind and size, and all its names that were seen."""

    size: int
    links: int
    names: list[Name] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Believed:
    """What a manifest that can be believed sums up to."""

    digest: str
    files: int
    bytes: int


@dataclass(slots=True)
class Survey:
    """What was seen. ``versions`` are those whose manifests can be believed."""

    root: Path
    versions: dict[ModelRef, Believed] = field(default_factory=dict)
    contents: dict[tuple[int, int], Content] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def survey(root: Path, models: Iterable[ModelRef]) -> Survey:
    """Look at these versions; at all of them, and at what no manifest knows, where none is named."""
    seen, named = Survey(root), tuple(models)
    for ref in named or _versions(seen):
        _look(seen, Layout(root, ref), required=bool(named))
    if not named:
        seen.findings += _foreign_at_root(root)
    return seen


def _versions(seen: Survey) -> Iterator[ModelRef]:
    """Every version that has a manifest; a manifest of a name that no version can have is a finding."""
    for path in sorted((seen.root / OWN_DIRECTORY / "manifests").glob("*/*.json")):
        model, version = path.parent.name, path.name.removesuffix(".json")
        if problem := name_problem(model) or name_problem(version):
            seen.findings.append(Finding(_printable(path.relative_to(seen.root)), f"is no manifest of ours: {problem}"))
        else:
            yield ModelRef(name=model, version=version)


def _look(seen: Survey, layout: Layout, *, required: bool) -> None:
    where = str(layout.manifest.relative_to(layout.root))
    try:
        layout.refuse_links()
        manifest = read_manifest(layout.manifest)
        if manifest is None:
            if required:
                seen.findings.append(Finding(where, f"is not there: {layout.model} is not on the volume", layout))
            return
        if problem := _untrue(manifest, layout.model):
            seen.findings.append(Finding(where, f"{problem}; remove the version and preload it again", layout))
            return
        _compare(seen, layout, manifest)
        seen.versions[layout.model] = Believed(manifest.digest, len(manifest.files), manifest.bytes)
    except VolumeUnusable as error:
        seen.findings.append(Finding(where, str(error), layout))
    except OSError as error:
        seen.findings.append(Finding(str(layout.target.relative_to(layout.root)), f"cannot be read: {error.strerror or error}", layout))


def _untrue(manifest: Manifest, ref: ModelRef) -> str | None:
    """How the manifest contradicts itself or its place."""
    if problem := tampering(manifest, ref):
        return problem
    if len({record.path for record in manifest.files}) != len(manifest.files):
        return "it names a file twice"
    if any(not _SHA256.fullmatch(record.sha256) for record in manifest.files):
        return "it holds what is no SHA-256"
    return next((f"{record.path!r} {problem}" for record in manifest.files if (problem := path_problem(record.path))), None)


def _compare(seen: Survey, layout: Layout, manifest: Manifest) -> None:
    """Sort the version's files: of the right kind and size, damaged, foreign."""
    there = dict(walk_files(layout.target)) if layout.target.is_dir() else {}
    for record in manifest.files:
        name, stat = Name(layout, record.path, bytes.fromhex(record.sha256)), there.pop(record.path, None)
        if problem := _shape_problem(name.path, record.size, stat):
            seen.findings.append(name.finding(problem))
        elif stat:
            content = seen.contents.setdefault((stat.st_dev, stat.st_ino), Content(stat.st_size, stat.st_nlink))
            content.names.append(name)
    for path, stat in there.items():
        if not SILLY_RENAMED.fullmatch(path.rpartition("/")[2]):
            found = _printable((layout.target / path).relative_to(layout.root))
            seen.findings.append(Finding(found, f"no manifest knows it ({format_bytes(stat.st_size)})", layout, foreign=True))


def _shape_problem(path: Path, size: int, stat: os.stat_result | None) -> str | None:
    if stat is None:
        return "is a directory, not a file" if path.is_dir() else "is missing"
    if not S_ISREG(stat.st_mode):
        kind = "a symbolic link" if S_ISLNK(stat.st_mode) else "a pipe" if S_ISFIFO(stat.st_mode) else "a special file"
        return f"is {kind}, not a file"
    if stat.st_size != size:
        return f"has {stat.st_size} bytes, not {size}"
    return None


def _foreign_at_root(root: Path) -> Iterator[Finding]:
    for entry in _entries(root):
        if entry.name == OWN_DIRECTORY or entry.name in SYSTEM_DIRECTORIES or SILLY_RENAMED.fullmatch(entry.name):
            continue
        if not entry.is_dir(follow_symlinks=False):
            yield Finding(_printable(Path(entry.name)), "no manifest knows it", foreign=True)
            continue
        markers = [each.name for each in _entries(root / OWN_DIRECTORY / "manifests" / entry.name)]
        for child in _entries(Path(entry.path)):
            if not any(name.startswith(f"{child.name}.json") for name in markers):  # also one that is being published or removed
                yield from _foreign(root, child)


def _foreign(root: Path, entry: "os.DirEntry[str]") -> Iterator[Finding]:
    """An empty directory is no finding: the kubelet makes one for a subPath."""
    path = _printable(Path(entry.path).relative_to(root))
    if not entry.is_dir(follow_symlinks=False):
        yield Finding(path, "no manifest knows it", foreign=True)
        return
    try:
        sizes = [stat.st_size for _, stat in walk_files(Path(entry.path))]
    except OSError as error:
        yield Finding(path, f"no manifest knows it, and it cannot be read: {error.strerror or error}", foreign=True)
        return
    if sizes:
        yield Finding(path, f"no manifest knows it ({len(sizes)} files, {format_bytes(sum(sizes))})", foreign=True)


def _entries(directory: Path) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def still_there(layout: Layout, seen: Believed) -> bool:
    """Whether the version is still the one that was looked at: it may have been removed meanwhile."""
    try:
        now = read_manifest(layout.manifest)
    except (ModelyardError, OSError):
        return True  # damaged meanwhile, which is no reason to be silent
    return now is not None and now.digest == seen.digest


def _printable(path: Path) -> str:
    """The path as JSON can hold it: names on a volume need not be UTF-8."""
    return str(path).encode(errors="surrogateescape").decode(errors="backslashreplace")
