"""The archive in a layer, read from front to end, plain or through gzip; and where in a gzip layer one can begin again.

A decompressor can be copied in the middle of its stream, which zlib offers for exactly this: a copy every few MiB makes any file of a
compressed layer as near as one of an uncompressed layer.
"""

import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

#: Longer headers are no names, but an attack on the memory.
_LONGEST_READ = 1024 * 1024
_GZIP = 16 + zlib.MAX_WBITS
_OUTPUT = 1024 * 1024
_FIRST_SPACING = 1024 * 1024
#: Each is about 45 KiB.
_MOST_MARKS = 256
#: Beyond this, asking the registry for a later byte is cheaper than reading on.
_WORTH_A_REQUEST = 1024 * 1024


class BadArchive(ValueError):
    """What is wrong with a layer's bytes, to be said after its name."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a gzip stream: ``inflater`` has taken ``consumed`` bytes and given ``produced``."""

    produced: int
    consumed: int
    inflater: Any


@dataclass(slots=True)
class Gunzip:
    """Decompresses a stream; ``marks`` are where it can be begun again."""

    produced: int = 0
    consumed: int = 0
    marks: list[Mark] = field(default_factory=list)
    _inflater: Any = field(default_factory=lambda: zlib.decompressobj(_GZIP))
    _spacing: int = _FIRST_SPACING

    @classmethod
    def at(cls, mark: Mark) -> "Gunzip":
        """One that goes on from ``mark``, with the compressed bytes from ``mark.consumed`` on."""
        return cls(mark.produced, mark.consumed, [], mark.inflater.copy())

    def through(self, chunks: Iterable[bytes]) -> Generator[bytes]:
        """The decompressed bytes.

        Raises:
            BadArchive: it is no gzip stream, or ends early.
        """
        begun = False
        for chunk in chunks:
            rest = chunk
            while rest:
                if self._inflater.eof:  # another member of the stream
                    self._inflater = zlib.decompressobj(_GZIP)
                try:
                    body = self._inflater.decompress(rest, _OUTPUT)
                except zlib.error as error:
                    raise BadArchive(f"is no gzip stream ({error})") from error
                left = self._inflater.unused_data if self._inflater.eof else self._inflater.unconsumed_tail
                self.consumed += len(rest) - len(left)
                self.produced += len(body)
                rest, begun = left, True
                self._mark()
                if body:
                    yield body
        while begun and not self._inflater.eof and (body := self._inflater.decompress(b"", _OUTPUT)):
            self.produced += len(body)
            yield body
        if begun and not self._inflater.eof:
            raise BadArchive("is a gzip stream without an end")

    def _mark(self) -> None:
        if self._inflater.eof or self.produced < (self.marks[-1].produced if self.marks else 0) + self._spacing:
            return
        self.marks.append(Mark(self.produced, self.consumed, self._inflater.copy()))
        if len(self.marks) > _MOST_MARKS:
            self.marks = self.marks[1::2]
            self._spacing *= 2


class Forward:
    """Bytes with a position, for ``tarfile``: what was read is gone. ``jump`` gives the bytes from a later position, where that can be."""

    def __init__(self, chunks: Iterator[bytes], jump: Callable[[int], Iterator[bytes]] | None = None) -> None:
        self._chunks, self._jump = chunks, jump
        self._buffer = memoryview(b"")
        self._position = 0
        self.last = self.before = b""

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        """``size`` bytes, fewer only at the end; kept as ``last``, and what was read so before them as ``before``."""
        if size > _LONGEST_READ:
            raise BadArchive(f"has a header of {size} bytes")
        self.before = self.last
        self.last = b"".join(bytes(part) for part in self.parts(size))
        return self.last

    def seek(self, position: int) -> None:
        """Go on at ``position``, which is not behind."""
        if position < self._position:
            raise BadArchive("is an archive that points back into itself")
        if self._jump and position - self._position - len(self._buffer) > _WORTH_A_REQUEST:
            self._chunks, self._buffer, self._position = self._jump(position), memoryview(b""), position
            return
        for _ in self.parts(position - self._position):
            pass

    def parts(self, size: int) -> Iterator[memoryview]:
        """The next ``size`` bytes in pieces; fewer only at the end."""
        while size > 0:
            if not self._buffer and not self._fill():
                return
            part = self._buffer[:size]
            self._buffer = self._buffer[len(part) :]
            self._position += len(part)
            size -= len(part)
            yield part

    def rest(self) -> Iterator[memoryview]:
        """All that is left."""
        while self._buffer or self._fill():
            part, self._buffer = self._buffer, memoryview(b"")
            self._position += len(part)
            yield part

    def close(self) -> None:
        """Let go of where the bytes come from: a connection, which must not wait for the garbage collector."""
        self._chunks, self._jump, self._buffer = iter(()), None, memoryview(b"")

    def _fill(self) -> bool:
        chunk = next(self._chunks, None)
        self._buffer = memoryview(chunk or b"")
        return bool(chunk)
