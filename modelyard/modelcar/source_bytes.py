"""A few bytes of a source's file from anywhere in it, as a file: for readers of archives, which begin at the end."""

import io
import threading
from collections.abc import Callable

from modelyard.errors import ContentMismatch, ModelyardError, SourceChanged, SourceUnavailable
from modelyard.models import Checksum, SourceFile
from modelyard.oci.http import Patience
from modelyard.sources.base import RandomAccess, Source

#: The first bytes at a place; what is read on from there comes in requests of twice the size each time, up to the longest.
_FIRST = 64 * 1024
_LONGEST = 4 * 1024 * 1024
_SECONDS = 300.0


def open_at_source(source: Source, file: SourceFile, patience: Patience, on_read: Callable[[int], None]) -> io.BufferedReader:
    """``file`` to be read anywhere, pinned like a fetch of it. What fails for good is raised by the reads: ModelyardError."""
    return io.BufferedReader(_SourceBytes(source, file, patience, on_read), _FIRST)


class _SourceBytes(io.RawIOBase):
    def __init__(self, source: Source, file: SourceFile, patience: Patience, on_read: Callable[[int], None]) -> None:
        super().__init__()
        self._source, self._file, self._patience, self._on_read = source, file, patience, on_read
        self._position = self._start = 0
        self._block = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset}")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what BufferedReader gives
        if self._position >= self._file.size:
            return 0
        begin = self._position - self._start
        if not 0 <= begin < len(self._block):
            self._load(goes_on=bool(self._block) and begin == len(self._block))
            begin = 0
        taken = self._block[begin : begin + len(buffer)]
        buffer[: len(taken)] = taken
        self._position += len(taken)
        return len(taken)

    def _load(self, *, goes_on: bool) -> None:
        size = min(_LONGEST, 2 * len(self._block)) if goes_on else _FIRST
        start = self._position
        count = min(size, self._file.size - start)
        block = self._patience.through(lambda: read_range(self._source, self._file, start, count))
        self._on_read(len(block))
        if len(block) != count:
            raise SourceChanged(f"{self._file.path}: gave {len(block)} of the {count} bytes at {start}; it is shorter than it was listed")
        self._start, self._block = start, block


def read_range(source: Source, file: SourceFile, start: int, count: int) -> bytes:
    """``count`` bytes of ``file`` at ``start``, or fewer, where it ends before.

    Raises:
        ModelyardError: the source does not give them.
    """
    if not count:
        return b""
    if isinstance(source, RandomAccess):
        return source.read(file, start, count)
    taken = _Taken(start, count)
    transfer = source.fetch(file, taken, start, taken.done)
    if not taken.ended.wait(_SECONDS):
        transfer.cancel()
        raise SourceUnavailable(f"{file.path}: no byte came for {_SECONDS:.0f} s")
    transfer.cancel()
    if taken.error and len(taken.body) < count:
        raise taken.error
    return bytes(taken.body[:count])


class _Enough(Exception):
    """Ends a fetch."""


class _Taken:
    """The first bytes of a fetch."""

    def __init__(self, start: int, count: int) -> None:
        self._start, self._count = start, count
        self.body = bytearray()
        self.error: ModelyardError | None = None
        self.ended = threading.Event()

    def expect(self, checksum: Checksum | None) -> None:
        """Of the whole file, which does not come."""

    def write(self, chunk: bytes, offset: int) -> None:
        if offset != self._start + len(self.body):
            raise ContentMismatch(f"bytes for offset {offset} arrived, {self._start + len(self.body)} was awaited")
        self.body += chunk
        if len(self.body) >= self._count:
            self.ended.set()
            raise _Enough

    def done(self, error: ModelyardError | None) -> None:
        self.error = error
        self.ended.set()
