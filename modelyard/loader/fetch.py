"""Fetch many files at once into the staging directory, retrying each by itself.

The source's threads write and hash; this thread starts transfers, finishes files, makes them durable in groups and keeps
the journal. A broken connection goes on where it broke; wrong bytes are fetched again from the first.
"""

import queue
import random
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from modelyard.errors import ContentMismatch, ModelyardError, SourceUnavailable
from modelyard.loader.journal import Journal
from modelyard.loader.killpoints import kill_point
from modelyard.loader.layout import make_directories, sync_file_system, volume_error
from modelyard.loader.progress import ProgressLog, say
from modelyard.loader.staged_file import StagedFile
from modelyard.loader.tuning import Tuning
from modelyard.models import FileRecord, SourceFile
from modelyard.sources.base import Source, Transfer

_TICK_SECONDS = 0.25
_LONGEST_RETRY_SECONDS = 20.0
_STOP_SECONDS = 10.0


@dataclass(slots=True)
class _Running:
    staged: StagedFile
    failures: int = 0  # in a row, without a byte more
    mismatches: int = 0  # in all: a file may be fetched again from the first byte only so often
    begun_at: int = 0
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
    tuning: Tuning
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
        except BaseException as error:
            self._stop()
            if isinstance(error, OSError):
                raise volume_error(error, self.files_root) from error
            raise

    # Starting -------------------------------------------------------------------------------------------------------

    def _start_more(self, todo: deque[SourceFile]) -> None:
        now = time.monotonic()
        while self._waiting and self._waiting[0].not_before <= now:
            self._start(self._waiting.popleft())
        while todo and (file := self._next(todo)):
            self._start(_Running(self._open(file)))

    def _next(self, todo: deque[SourceFile]) -> SourceFile | None:
        """The largest file left if another large one may run, else the smallest; None if no more may run now."""
        if len(self._by_id) + len(self._waiting) >= self.tuning.transfers:
            return None
        large = self.tuning.large_bytes
        if todo[0].size <= large or self._large() < self.tuning.large_transfers:
            return todo.popleft()
        return todo.pop() if todo[-1].size <= large else None

    def _large(self) -> int:
        return sum(running.staged.file.size > self.tuning.large_bytes for running in (*self._by_id.values(), *self._waiting))

    def _open(self, file: SourceFile) -> StagedFile:
        path = self.files_root / file.path
        self._make_parents(path.parent)
        mark = self.journal.checkpoint(file)
        expected = self.source.stat(file) if mark else None
        staged = StagedFile(
            file, path, keep=mark is not None, checkpoint_every=self.tuning.checkpoint_bytes, direct=self.tuning.direct_writes
        )
        if mark and not staged.resume(mark, expected):
            staged.restart()
        return staged

    def _make_parents(self, directory: Path) -> None:
        if directory not in self._directories:
            make_directories(directory, self.files_root)
            self._directories.add(directory)

    def _start(self, running: _Running) -> None:
        staged = running.staged
        self._by_id[id(running)] = running
        staged.last_progress, running.begun_at = time.monotonic(), staged.position
        if staged.position == staged.file.size:  # nothing left to ask for, and a range of nothing is an error to servers
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
        # Its callback holds this: a circle of 3 KiB a file until the collector comes, which it does late among many objects.
        ended.running.transfer = None
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
            error = SourceUnavailable(f"{ended.running.staged.file.path}: no byte came for {self.tuning.stall_seconds:.0f} s")
        self._retry(ended.running, error)

    def _keep(self, staged: StagedFile, record: FileRecord) -> None:
        staged.close()
        self._undurable.append(record)
        self.done_bytes += record.size
        self.done_files += 1
        self._undurable_bytes += record.size
        self.fetched_bytes += record.size - staged.kept
        self.resumed_bytes += staged.kept
        if self._undurable_bytes >= self.tuning.sync_bytes:
            self._make_durable()

    def _retry(self, running: _Running, error: ModelyardError) -> None:
        staged = running.staged
        if isinstance(error, ContentMismatch):
            running.mismatches += 1
            staged.restart()
        else:  # that it got further forgives what was before: a large file outlives many connections
            running.failures = 1 if staged.position > running.begun_at else running.failures + 1
        running.stalled = False
        self._waiting.append(running)
        tries = max(running.failures, running.mismatches)
        if not error.retryable or tries >= self.tuning.attempts:
            raise error
        delay = min(_LONGEST_RETRY_SECONDS, self.tuning.retry_seconds * 2 ** (tries - 1)) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        running.not_before = time.monotonic() + delay
        if isinstance(error, ContentMismatch):
            say("retry", message=f"{error}; fetched again from its first byte in {delay:.1f} s")
        elif tries > 1:  # a single broken connection is nothing to look at
            say("retry", message=f"{error}; tried again in {delay:.1f} s")

    # While running --------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        now = time.monotonic()
        for running in self._by_id.values():
            if mark := running.staged.take_checkpoint():
                self.journal.add_checkpoint(running.staged.file, mark)
            if now - running.staged.last_progress > self.tuning.stall_seconds and running.transfer:
                running.staged.last_progress, running.stalled = now, True
                running.transfer.cancel()
        if self._undurable and now - self._last_sync > self.tuning.sync_seconds:
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
        """Break off what still runs, wait until no thread writes any more, and keep what arrived for the next life."""
        for running in self._by_id.values():
            if running.transfer:
                running.transfer.cancel()
        deadline = time.monotonic() + _STOP_SECONDS
        while any(running.transfer for running in self._by_id.values()) and time.monotonic() < deadline:
            with suppress(queue.Empty):
                self._waiting.append(self._by_id.pop(id(self._ended.get(timeout=1).running)))
        for running in self._waiting:
            running.staged.abandon()
        with suppress(OSError):  # a full volume, above all: then the next life fetches these again
            self._make_durable()
