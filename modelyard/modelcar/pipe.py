"""Between a source that pushes and a registry that is pushed to: a bounded buffer, and the sinks that check what comes.

The source's threads hash the file (its SHA-256, and the checksum that the source keeps); the layer's thread hashes the layer and
sends. A byte that was hashed once is not hashed again when it is read again after a break: the hashes stay ahead.
"""

import hashlib
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from modelyard.checksums import FileHashes
from modelyard.errors import ContentMismatch, ModelyardError, SourceUnavailable
from modelyard.models import Checksum, FileRecord, SourceFile
from modelyard.sources.base import Source, Transfer
from modelyard.weights.scan import HEAD_BYTES

_STOP_SECONDS = 60.0


class RunningDigest:
    """A SHA-256 over bytes that may come twice: what lies before ``position`` is in it already."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self.position = 0

    def update(self, chunk: bytes, offset: int) -> None:
        """Take the bytes at ``offset``."""
        if (new := unseen(chunk, offset, self.position)) is not None:
            self._sha256.update(new)
            self.position = offset + len(chunk)

    @property
    def digest(self) -> str:
        return f"sha256:{self._sha256.hexdigest()}"


def unseen(chunk: bytes, offset: int, position: int) -> bytes | memoryview | None:
    """The part of ``chunk`` at ``offset`` that lies behind ``position``; None if there is none."""
    if offset + len(chunk) <= position:
        return None
    return memoryview(chunk)[position - offset :] if offset < position else chunk


@dataclass(slots=True)
class FileCheck:
    """What is known of a file's bytes so far, over all tries."""

    file: SourceFile
    position: int = 0
    head: bytes = b""
    hashes: FileHashes = field(default_factory=FileHashes)

    def take(self, chunk: bytes, offset: int) -> None:
        """Hash the bytes at ``offset``.

        Raises:
            ContentMismatch: they are more than were listed.
        """
        if offset + len(chunk) > self.file.size:
            raise ContentMismatch(f"{self.file.path}: more than the {self.file.size} bytes that were listed arrived")
        if (new := unseen(chunk, offset, self.position)) is not None:
            if len(self.head) < HEAD_BYTES:
                self.head += new[: HEAD_BYTES - len(self.head)]
            self.hashes.update(new if isinstance(new, bytes) else bytes(new))
            self.position = offset + len(chunk)

    def record(self) -> FileRecord:
        """The file's record, after its size and checksum agreed with the source's.

        Raises:
            ContentMismatch: they did not; the file has to be read again from the first byte.
        """
        return self.hashes.record(self.file, self.position)


class Pipe:
    """One fetch of a file, read as it comes. The source's thread waits as long as ``room`` bytes wait to be read."""

    def __init__(self, check: FileCheck, start: int, room: int) -> None:
        self._check, self._next, self._room = check, start, room
        self._chunks: deque[bytes] = deque()
        self._waiting = 0
        self._state = threading.Condition()
        self._ended = self._closed = False
        self._error: ModelyardError | None = None
        self._transfer: Transfer | None = None

    def begin(self, source: Source) -> None:
        """Start the fetch."""
        self._transfer = source.fetch(self._check.file, self, self._next, self._done)

    def expect(self, checksum: Checksum | None) -> None:
        if not self._check.position:
            self._check.hashes.expect(checksum)

    def write(self, chunk: bytes, offset: int) -> None:
        if offset != self._next:
            raise ContentMismatch(f"{self._check.file.path}: bytes for offset {offset} arrived, {self._next} was awaited")
        if self._closed:
            raise SourceUnavailable(f"{self._check.file.path}: nobody reads on")
        self._check.take(chunk, offset)
        self._next += len(chunk)
        with self._state:
            self._state.wait_for(lambda: self._closed or self._waiting < self._room)
            self._chunks.append(chunk)
            self._waiting += len(chunk)
            self._state.notify_all()

    def _done(self, error: ModelyardError | None) -> None:
        with self._state:
            self._ended, self._error = True, error
            self._state.notify_all()

    def chunks(self, stall_seconds: float) -> Iterator[bytes]:
        """The bytes as they come, to the end.

        Raises:
            ModelyardError: why the fetch ended early, after what came before; or that nothing came for so long.
        """
        while True:
            with self._state:
                if not self._state.wait_for(lambda: self._chunks or self._ended, timeout=stall_seconds):
                    raise SourceUnavailable(f"{self._check.file.path}: no byte came for {stall_seconds:.0f} s")
                if not self._chunks:
                    break
                chunk = self._chunks.popleft()
                self._waiting -= len(chunk)
                self._state.notify_all()
            yield chunk
        if self._error:
            raise self._error

    def close(self) -> None:
        """Stop the fetch, and wait until the source's threads have let go of the file's hashes."""
        with self._state:
            self._closed = True
            self._state.notify_all()
            ended = self._ended
        if ended or self._transfer is None:
            return
        self._transfer.cancel()
        with self._state:
            if not self._state.wait_for(lambda: self._ended, timeout=_STOP_SECONDS):
                raise SourceUnavailable(f"{self._check.file.path}: the source's engine does not stop")


class Collected:
    """A small file, gathered in memory: its sink never waits, so that any number may be on their way through few threads."""

    def __init__(self, file: SourceFile) -> None:
        self.check = FileCheck(file)
        self.body = bytearray()
        self.last_byte = 0.0  # when one came, by the monotonic clock
        self.error: ModelyardError | None = None
        self.ended = threading.Event()
        self.transfer: Transfer | None = None

    def begin(self, source: Source) -> None:
        """Start the fetch; an empty file has nothing to ask for."""
        if self.check.file.size:
            self.transfer = source.fetch(self.check.file, self, 0, self._done)
        else:
            self.ended.set()

    def expect(self, checksum: Checksum | None) -> None:
        self.check.hashes.expect(checksum)

    def write(self, chunk: bytes, offset: int) -> None:
        if offset != len(self.body):
            raise ContentMismatch(f"{self.check.file.path}: bytes for offset {offset} arrived, {len(self.body)} was awaited")
        self.check.take(chunk, offset)
        self.body += chunk
        self.last_byte = time.monotonic()

    def _done(self, error: ModelyardError | None) -> None:
        self.error = error
        self.ended.set()

    def close(self) -> None:
        """Stop the fetch if it runs."""
        if self.transfer and not self.ended.is_set():
            self.transfer.cancel()
            self.ended.wait(_STOP_SECONDS)

    def finish(self, stall_seconds: float) -> FileRecord:
        """The file's record when all of it is here. A stall begins with the last byte, but not before somebody waits for the file.

        Raises:
            ModelyardError: it did not arrive, or is not what the source says; or no byte came for so long.
        """
        begun = time.monotonic()
        while not self.ended.wait(min(stall_seconds, 1.0)):
            if time.monotonic() - max(begun, self.last_byte) > stall_seconds:
                self.close()
                raise SourceUnavailable(f"{self.check.file.path}: no byte came for {stall_seconds:.0f} s")
        if self.error:
            raise self.error
        return self.check.record()
