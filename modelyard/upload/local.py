"""The author's directory: which files it has, what cannot be uploaded, and each file read once, with all that is hashed on the way."""

import base64
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG

from modelyard.checksums import new_hash
from modelyard.errors import Problem, SourceChanged
from modelyard.models import FileRecord, SourceFile
from modelyard.plans.digests import MARKER_NAME, SUMS_NAME
from modelyard.plans.paths import path_problems, shown


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file as it was when the directory was read."""

    path: str
    place: Path
    size: int
    identity: tuple[int, int, int]  # device, inode, time of the last change in ns


@dataclass(slots=True)
class LocalTree:
    """What an upload of ``root`` would consist of, and why it cannot be."""

    root: Path
    files: list[LocalFile] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def read_tree(root: Path) -> LocalTree:
    """Read the directory's names. Links to files inside of it are taken as those files."""
    tree = LocalTree(root)
    if not root.is_dir():
        tree.problems.append(Problem(str(root), "is no directory", "name the directory that holds the model's files"))
        return tree
    for directory, directories, names in os.walk(root, onerror=lambda error: tree.problems.append(_unreadable(error))):
        links = [name for name in directories if (Path(directory) / name).is_symlink()]
        tree.problems += [_problem(tree, Path(directory) / name, "is a link to a directory") for name in links]
        for name in names:
            _take(tree, Path(directory) / name)
    tree.files.sort(key=lambda file: file.path.encode(errors="surrogateescape"))
    # What the upload itself adds comes first: a file that it would meet on some file system can never be preloaded.
    added = {SUMS_NAME, MARKER_NAME} - {file.path for file in tree.files}
    tree.problems += path_problems(
        [SourceFile(name, 0) for name in sorted(added)] + [SourceFile(file.path, file.size) for file in tree.files]
    )
    if not tree.files and not tree.problems:
        tree.problems.append(Problem(str(root), "holds no file", "name the directory that holds the model's files"))
    return tree


def _take(tree: LocalTree, place: Path) -> None:
    try:
        if not place.resolve(strict=True).is_relative_to(tree.root.resolve()):
            tree.problems.append(_problem(tree, place, "is a link that leads out of the directory"))
            return
        stat = place.stat()
    except (OSError, RuntimeError) as error:  # dangling, or a ring of links
        what = error.strerror if isinstance(error, OSError) else "its links lead back to itself"
        tree.problems.append(Problem(shown(place.relative_to(tree.root).as_posix()), f"cannot be read ({what})", "repair or remove it"))
        return
    path = place.relative_to(tree.root).as_posix()
    if path == MARKER_NAME:
        tree.problems.append(Problem(shown(path), "has the name of an upload's marker", "remove it"))
    elif not S_ISREG(stat.st_mode):
        tree.problems.append(Problem(shown(path), "is no file that can be read whole", "remove it"))
    elif not os.access(place, os.R_OK):
        tree.problems.append(Problem(shown(path), "may not be read", "let yourself read it"))
    else:
        tree.files.append(LocalFile(path, place, stat.st_size, _identity(stat)))


def _problem(tree: LocalTree, place: Path, what: str) -> Problem:
    return Problem(shown(place.relative_to(tree.root).as_posix()), what, "upload a copy with the files themselves (`cp -rL`)")


def _unreadable(error: OSError) -> Problem:
    return Problem(shown(str(error.filename)), f"cannot be read ({error.strerror})", "repair or remove it")


def _identity(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns


@dataclass(slots=True)
class Reading:
    """One file, read once in parts and hashed on the way. ``record`` and ``crc64nvme`` are right when all parts were taken."""

    file: LocalFile
    record: FileRecord | None = None
    crc64nvme: str = ""

    def parts(self, size: int) -> Iterator[bytes]:
        """The file's bytes, ``size`` at a time, an empty file as one empty part.

        Raises:
            SourceChanged: the file is not the one any more that it was when the directory was read.
        """
        sha256, crc, count = hashlib.sha256(), new_hash("CRC64NVME"), 0
        with self.file.place.open("rb", buffering=0) as source:
            while (part := _read_full(source.fileno(), size)) or not count:
                self._require_same(source.fileno())
                sha256.update(part)
                crc.update(part)
                count += len(part)
                if count == self.file.size:  # told before the last part is used: what is sent is known to be whole
                    self._require_end(source.fileno())
                    self.crc64nvme = base64.b64encode(crc.digest()).decode()
                    self.record = FileRecord(path=self.file.path, size=count, sha256=sha256.hexdigest())
                yield part
                if count >= self.file.size:
                    break
        if self.record is None:
            raise _changed(self.file)

    def whole(self, size: int = 4 * 1024 * 1024) -> FileRecord:
        """Read the file to its end, only to hash it."""
        for _ in self.parts(size):
            pass
        return self.hashed

    @property
    def hashed(self) -> FileRecord:
        """The file's record, once it was read."""
        if self.record is None:
            raise _changed(self.file)
        return self.record

    def _require_same(self, descriptor: int) -> None:
        stat = os.fstat(descriptor)
        if (stat.st_size, _identity(stat)) != (self.file.size, self.file.identity):
            raise _changed(self.file)

    def _require_end(self, descriptor: int) -> None:
        if os.read(descriptor, 1):
            raise _changed(self.file)
        self._require_same(descriptor)


def _read_full(descriptor: int, size: int) -> bytes:
    """``size`` bytes, fewer only at the file's end."""
    found = os.read(descriptor, size)
    if not found or len(found) == size:
        return found
    pieces = [found]
    while size := size - len(pieces[-1]):
        if not (piece := os.read(descriptor, size)):
            break
        pieces.append(piece)
    return b"".join(pieces)


def _changed(file: LocalFile) -> SourceChanged:
    return SourceChanged(
        f"{file.place}: changed while it was uploaded; nothing was marked as uploaded: run it again when nobody writes to it"
    )
