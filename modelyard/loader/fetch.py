"""Fetch many files at once into the staging directory, retrying each by itself.

The source's threads write and hash; this thread starts transfers, finishes files, makes them durable in groups and keeps
the journal. A broken connection goes on where it broke; wrong bytes are fetched again from the first.
"""

import queue
import random
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from modelyard.errors import ContentMismatch, ModelyardError, SourceUnavailable
from modelyard.loader.journal import Journal
from modelyard.loader.killpoints import kill_point
from modelyard.loader.layout import make_directories, refuse_link, sync_file_system, volume_error
from modelyard.loader.progress import ProgressLog
from modelyard.loader.staged_file import StagedFile
from modelyard.models import FileRecord, SourceFile
from modelyard.sources.base import Source, Transfer

#: Transfers at a time, and how many of them may be of large files: those hold buffers of the engine (benchmarks/).
MAX_TRANSFERS = 24
MAX_LARGE = 3
LARGE = 64 * 1024 * 1024
MAX_ATTEMPTS = 6
#: A transfer that brings no byte for so long is broken off and tried again.
STALL_SECONDS = 60.0
#: Files are made durable and journalled in groups: when so many bytes are waiting, or so many seconds have passed.
SYNC_BYTES = 512 * 1024 * 1024
SYNC_SECONDS = 20.0
_TICK_SECONDS = 0.25


@dataclass(slots=True)
class _Running:
    staged: StagedFile
    attempt: int = 1
    transfer: Transfer | None = None
    not_before: float = 0.0
    stalled: bool = False


@dataclass(slots=True)
class _Ended:
    running: _Running
    error: ModelyardError | None


@dataclass(slots=True)
class Fetch:
    """One load's transfers. ``done_bytes`` and ``done_files`` are what was there before, for the progress."""

    source: Source
    files_root: Path
    journal: Journal
    progress: ProgressLog
    done_bytes: int = 0
    done_files: int = 0
    fetched_bytes: int = 0
    resumed_bytes: int = 0
    _directories: set[Path] = field(default_factory=set)
    _by_id: dict[int, _Running] = field(default_factory=dict)
    _waiting: deque[_Running] = field(default_factory=deque)
    _ended: "queue.SimpleQueue[_Ended]" = field(default_factory=queue.SimpleQueue)
    _undurable: list[FileRecord] = field(default_factory=list)
    _undurable_bytes: int = 0
    _last_sync: float = field(default_factory=time.monotonic)

    def run(self, files: Iterable[SourceFile]) -> None:
        """Fetch all of ``files``; when it returns, each is durable and in the journal.

        Raises:
            ModelyardError: the first failure that no retry cured; what arrived whole before is in the journal.
        """
        todo = deque(sorted(files, key=lambda file: file.size, reverse=True))
        try:
            while todo or self._by_id or self._waiting:
                self._start_more(todo)
                self._take_ended()
                self._tick()
            self._make_durable()
        except OSError as error:
            raise volume_error(error, self.files_root) from error
        finally:
            self._stop()

    # Starting -------------------------------------------------------------------------------------------------------

    def _start_more(self, todo: deque[SourceFile]) -> None:
        now = time.monotonic()
        while self._waiting and self._waiting[0].not_before <= now:
            self._start(self._waiting.popleft())
        while todo and (file := self._next(todo)):
            self._start(_Running(self._open(file)))

    def _next(self, todo: deque[SourceFile]) -> SourceFile | None:
        """The largest file left if another large one may run, else the smallest; None if no more may run now."""
        if len(self._by_id) + len(self._waiting) >= MAX_TRANSFERS:
            return None
        if todo[0].size <= LARGE or self._large() < MAX_LARGE:
            return todo.popleft()
        return todo.pop() if todo[-1].size <= LARGE else None

    def _large(self) -> int:
        return sum(running.staged.file.size > LARGE for running in (*self._by_id.values(), *self._waiting))

    def _open(self, file: SourceFile) -> StagedFile:
        path = self.files_root / file.path
        self._make_parents(path.parent)
        mark = self.journal.checkpoint(file)
        staged = StagedFile(file, path, keep=mark is not None)
        if not mark or not staged.resume(mark, self.source.stat(file)):
            staged.restart()
        return staged

    def _make_parents(self, directory: Path) -> None:
        """Make and check a directory and all above it, once each."""
        if directory in self._directories:
            return
        if directory != self.files_root:
            self._make_parents(directory.parent)
        refuse_link(directory)
        make_directories(directory)
        self._directories.add(directory)

    def _start(self, running: _Running) -> None:
        staged = running.staged
        self._by_id[id(running)] = running
        staged.last_progress = time.monotonic()
        if not staged.file.size:  # nothing to ask for, and a range of nothing is an error to some servers
            self._ended.put(_Ended(running, None))
            return
        running.transfer = self.source.fetch(staged.file, staged, staged.position, lambda error: self._ended.put(_Ended(running, error)))

    # Ending ---------------------------------------------------------------------------------------------------------

    def _take_ended(self) -> None:
        try:
            ended = self._ended.get(timeout=_TICK_SECONDS)
            while True:
                self._end(ended)
                ended = self._ended.get_nowait()
        except queue.Empty:
            return

    def _end(self, ended: _Ended) -> None:
        del self._by_id[id(ended.running)]
        error = ended.error
        if error is None:
            try:
                record = ended.running.staged.finish()
            except ContentMismatch as mismatch:
                error = mismatch
            else:
                self._keep(ended.running.staged, record)
                return
        if ended.running.stalled:
            error = SourceUnavailable(f"{ended.running.staged.file.path}: no byte came for {STALL_SECONDS:.0f} s")
        self._retry(ended.running, error)

    def _keep(self, staged: StagedFile, record: FileRecord) -> None:
        staged.close()
        self._undurable.append(record)
        self.done_bytes += record.size
        self.done_files += 1
        self._undurable_bytes += record.size
        self.fetched_bytes += record.size - staged.kept
        self.resumed_bytes += staged.kept
        if self._undurable_bytes >= SYNC_BYTES:
            self._make_durable()

    def _retry(self, running: _Running, error: ModelyardError) -> None:
        staged = running.staged
        if not error.retryable or running.attempt >= MAX_ATTEMPTS:
            staged.close()
            raise error
        if isinstance(error, ContentMismatch):
            staged.restart()
        running.attempt, running.transfer, running.stalled = running.attempt + 1, None, False
        running.not_before = time.monotonic() + min(20.0, 0.5 * 2**running.attempt) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        self._waiting.append(running)

    # While running --------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        now = time.monotonic()
        for running in self._by_id.values():
            if mark := running.staged.take_checkpoint():
                self.journal.add_checkpoint(running.staged.file, mark)
            if now - running.staged.last_progress > STALL_SECONDS and running.transfer:
                running.staged.last_progress, running.stalled = now, True
                running.transfer.cancel()
        if self._undurable and now - self._last_sync > SYNC_SECONDS:
            self._make_durable()
        under_way = sum(running.staged.position for running in (*self._by_id.values(), *self._waiting))
        self.progress.update(self.done_bytes + under_way, self.done_files)

    def _make_durable(self) -> None:
        kill_point("before-fsync")
        sync_file_system(self.files_root)
        self.journal.add_files(self._undurable)
        self._undurable, self._undurable_bytes = [], 0
        self._last_sync = time.monotonic()

    def _stop(self) -> None:
        """Break off what still runs and wait for it, so that no thread writes after this returns."""
        for running in self._by_id.values():
            if running.transfer:
                running.transfer.cancel()
        deadline = time.monotonic() + 10
        while self._by_id and time.monotonic() < deadline:
            try:
                ended = self._ended.get(timeout=1)
            except queue.Empty:
                continue
            del self._by_id[id(ended.running)]
            ended.running.staged.close()
