"""One file on its way to the volume: written in place below the staging directory and hashed in the same pass."""

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from modelyard.checksums import FileHashes
from modelyard.errors import ContentMismatch
from modelyard.loader.checksums import READ_SIZE
from modelyard.loader.file_writer import FileWriter
from modelyard.loader.journal import Checkpoint
from modelyard.loader.killpoints import kill_point
from modelyard.loader.layout import volume_error
from modelyard.loader.progress import Reread
from modelyard.models import Checksum, FileRecord, SourceFile

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class StagedFile:
    """A sink for one file. ``write`` is called by one thread at a time, in order; the rest by the loader's thread."""

    def __init__(self, file: SourceFile, path: Path, *, keep: bool, checkpoint_every: int, direct: bool) -> None:
        self.file = file
        self.position = 0
        self.kept = 0  # bytes that an earlier life of the loader fetched
        self.last_progress = time.monotonic()
        self._path = path
        self._checkpoint_every = checkpoint_every
        self._durable = 0
        self._hashes = FileHashes()
        self._marks: list[Checkpoint] = []
        self._lock = threading.Lock()
        # What an earlier life left may be a hard link to another version's file: only a sole name is written to.
        self._descriptor = _reopen(path) if keep and _is_sole_name(path) else _create(path)
        self._writer = FileWriter(path, self._descriptor, direct=direct)

    def resume(self, mark: Checkpoint, expected: Checksum | None) -> bool:
        """Keep the first ``mark.offset`` bytes if they still have the checkpoint's digest; they are read again to know.

        Otherwise False, and ``restart`` is due.
        """
        self._hashes.expect(expected)
        reread = Reread(f"{self.file.path}: what an earlier run fetched", mark.offset)
        while self.position < mark.offset:
            chunk = os.pread(self._descriptor, min(READ_SIZE, mark.offset - self.position), self.position)
            if not chunk:
                break
            self._hashes.update(chunk)
            self.position += len(chunk)
            reread(len(chunk))
        if self.position == mark.offset and self._hashes.sha256 == mark.sha256:
            self.kept = self._durable = mark.offset
            os.ftruncate(self._descriptor, mark.offset)
            return True
        return False

    def restart(self) -> None:
        """Forget all bytes and begin again at the first."""
        self.position = self.kept = self._durable = 0
        self._hashes = FileHashes()
        self._marks.clear()
        os.ftruncate(self._descriptor, 0)

    def expect(self, checksum: Checksum | None) -> None:
        if not self.position:
            self._hashes.expect(checksum)

    def write(self, chunk: bytes, offset: int) -> None:
        if offset != self.position:
            raise ContentMismatch(f"{self.file.path}: bytes for offset {offset} arrived, {self.position} was awaited")
        if offset + len(chunk) > self.file.size:
            raise ContentMismatch(f"{self.file.path}: more than the {self.file.size} bytes that were listed arrived")
        try:
            self._writer.write(chunk, offset)
        except OSError as error:
            raise volume_error(error, self._path) from error
        self._hashes.update(chunk)
        self._advance(len(chunk))

    def _advance(self, count: int) -> None:
        before, self.position = self.position, self.position + count
        self.last_progress = time.monotonic()
        if before // self._checkpoint_every != self.position // self._checkpoint_every:
            with self._lock:
                self._marks.append(Checkpoint(self.position, self._hashes.sha256))
        kill_point("first-byte" if not before else "mid-file")

    def take_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint not taken yet, made durable first."""
        with self._lock:
            if not self._marks:
                return None
            mark = self._marks[-1]
            self._marks.clear()
        os.fdatasync(self._descriptor)
        self._durable = mark.offset
        return mark

    def finish(self) -> FileRecord:
        """The file's record, after its size and checksum agreed with the source's.

        Raises:
            ContentMismatch: they did not; the file is to be fetched again from the first byte.
        """
        return self._hashes.record(self.file, self.position)

    def abandon(self) -> None:
        """Close, and give back the room of what no checkpoint covers: on a full volume the journal needs some of it."""
        with suppress(OSError):
            os.ftruncate(self._descriptor, self._durable)
        self.close()

    def close(self) -> None:
        """Give the descriptor back; the bytes stay."""
        self._writer.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _reopen(path: Path) -> int:
    return os.open(path, _FLAGS, 0o664)


def _create(path: Path) -> int:
    """A new and empty file, whatever had the name: mostly nothing has."""
    try:
        return os.open(path, _FLAGS | os.O_EXCL, 0o664)
    except FileExistsError:
        path.unlink()
        return os.open(path, _FLAGS | os.O_EXCL, 0o664)


def _is_sole_name(path: Path) -> bool:
    try:
        return path.lstat().st_nlink == 1
    except FileNotFoundError:
        return True
