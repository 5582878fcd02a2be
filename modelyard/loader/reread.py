"""Reading files of the volume again, several at once, from the volume itself and not from the page cache."""

import hashlib
import os
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modelyard.loader.checksums import READ_SIZE
from modelyard.loader.progress import ProgressLog

#: Network file systems answer one reader at a time with the latency of each request; a disk is not served better by more.
_READERS = 4
_TICK_SECONDS = 0.5


@dataclass(slots=True)
class Rereader:
    """Hashes files, and tells how far it is."""

    progress: ProgressLog
    read_bytes: int = 0
    read_files: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)

    def hash_all(self, paths: Sequence[Path]) -> list[str | OSError]:
        """The SHA-256 in hex of each of ``paths``, or why it could not be read."""
        results: list[str | OSError] = [OSError("not read")] * len(paths)
        todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        for index in range(len(paths)):
            todo.put(index)

        def work() -> None:
            buffer = bytearray(READ_SIZE)
            while not self._stop.is_set():
                try:
                    index = todo.get_nowait()
                except queue.Empty:
                    return
                results[index] = self._hash(paths[index], buffer)

        self._run([threading.Thread(target=work) for _ in range(min(_READERS, len(paths)))])
        return results

    def _run(self, threads: list[threading.Thread]) -> None:
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(_TICK_SECONDS)
                    self.progress.update(self.read_bytes, self.read_files)
        finally:  # a loader that is told to stop does not read a hundred gigabytes to the end
            self._stop.set()
            for thread in threads:
                if thread.ident:
                    thread.join()
        self.progress.update(self.read_bytes, self.read_files, final=True)

    def _hash(self, path: Path, buffer: bytearray) -> str | OSError:
        try:
            digest = hash_uncached(path, buffer, self._count)
        except OSError as error:
            return error
        with self._lock:
            self.read_files += 1
        return digest

    def _count(self, count: int) -> bool:
        with self._lock:
            self.read_bytes += count
        return not self._stop.is_set()


def hash_uncached(path: Path, buffer: bytearray, go_on: Callable[[int], bool]) -> str:
    """SHA-256 of the file as the volume holds it: what the page cache had of it may be sound where the volume is not.

    ``go_on`` is told each count of bytes read, and ends the reading by False.
    """
    digest, view = hashlib.sha256(), memoryview(buffer)
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe that came in its place must not block
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while count := os.readv(descriptor, [buffer]):
            digest.update(view[:count])
            if not go_on(count):
                break
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)  # the memory belongs to those who serve
    finally:
        os.close(descriptor)
    return digest.hexdigest()
