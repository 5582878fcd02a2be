"""Writing a file's bytes, past the page cache (O_DIRECT) where the volume is a block device's file system.

The page cache took half of the CPU time of a large model's load (benchmarks/preload.py: 15 s with it, 8 s without, for 4.3 GB), it
evicts what the node's other pods read, and a pod's memory limit counts it. Network file systems have their own ways of batching
writes, and small files are better left to the kernel's: both are written as usual.
"""

import errno
import mmap
import os
from pathlib import Path

#: What O_DIRECT asks of offset, length and memory is at most a page.
_ALIGNMENT = 4096
#: Below this, waiting for the disk costs more than the copy.
_WORTHWHILE = 1024 * 1024


class FileWriter:
    """Writes to ``descriptor``, which is open for ``path``; ``write`` is called by one thread at a time."""

    def __init__(self, path: Path, descriptor: int, *, direct: bool) -> None:
        self._path = path
        self._descriptor = descriptor
        self._direct: int | None = None
        self._may_be_direct = direct and os.major(os.fstat(descriptor).st_dev) != 0  # 0: no block device of its own
        self._buffer: mmap.mmap | None = None

    def write(self, chunk: bytes, offset: int) -> None:
        """All of ``chunk``; a full volume and its like are raised as OSError."""
        view = memoryview(chunk)
        written = self._write_direct(view, offset)
        while written < len(chunk):  # after a short write the next one tells why: a full volume, a quota
            written += os.pwrite(self._descriptor, view[written:], offset + written)

    @property
    def is_direct(self) -> bool:
        """Whether bytes went past the page cache so far."""
        return self._direct is not None and self._may_be_direct

    def _write_direct(self, chunk: memoryview, offset: int) -> int:
        """The bytes that were written past the page cache: all but an odd end, or none."""
        length = len(chunk) - len(chunk) % _ALIGNMENT
        if length < _WORTHWHILE or offset % _ALIGNMENT or not self._may_be_direct:
            return 0
        try:
            return os.pwrite(self._open_direct(), self._aligned(chunk[:length]), offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._may_be_direct = False  # the file system has none, or asks for more
            return 0

    def _open_direct(self) -> int:
        if self._direct is None:
            self._direct = os.open(self._path, os.O_WRONLY | os.O_DIRECT | os.O_NOFOLLOW | os.O_CLOEXEC)
        return self._direct

    def _aligned(self, chunk: memoryview) -> memoryview:
        """The same bytes in memory that begins with a page."""
        if self._buffer is None or len(self._buffer) < len(chunk):
            self._buffer = mmap.mmap(-1, len(chunk), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        aligned = memoryview(self._buffer)[: len(chunk)]
        aligned[:] = chunk
        return aligned

    def close(self) -> None:
        """Give back what was opened here; ``descriptor`` stays open."""
        self._buffer = None
        if self._direct is not None:
            os.close(self._direct)
            self._direct = None
