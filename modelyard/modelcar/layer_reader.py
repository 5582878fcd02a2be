"""A layer's bytes, made while they are read: tar headers, the files' bodies from the source, padding, the end.

The same bytes from any offset, any number of times: that is what lets an upload go on, or begin anew, without a copy of the layer.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress

from modelyard.errors import ContentMismatch, ModelyardError, SourceUnavailable, Temporary
from modelyard.images.build import Scan
from modelyard.images.tar import TRAILER, Segment, layer_size, padding, segments
from modelyard.modelcar.gates import Gate
from modelyard.modelcar.pipe import Collected, FileCheck, Pipe, RunningDigest
from modelyard.modelcar.tuning import Tuning
from modelyard.models import FileRecord, SourceFile
from modelyard.plans.modelcar import SMALL
from modelyard.sources.base import Source
from modelyard.weights.scan import HEAD_BYTES, Verdict

#: Told of bytes that came from the source.
OnRead = Callable[[int], None]


class LayerReader:
    """Reads one layer. ``records`` and ``digest`` are whole when ``chunks`` came to its end once."""

    def __init__(self, files: Sequence[SourceFile], source: Source, gate: Gate, tuning: Tuning, on_read: OnRead) -> None:
        self.size = layer_size(files)
        self._segments = segments(files)
        self._source, self._gate, self._tuning, self._on_read = source, gate, tuning, on_read
        self._running = RunningDigest()
        self._checks: dict[str, FileCheck] = {}
        self._records: dict[str, FileRecord] = {}
        self._verdicts: dict[str, Verdict] = {}

    @property
    def digest(self) -> str:
        """Of the whole layer, once all of it was read."""
        return self._running.digest

    @property
    def is_whole(self) -> bool:
        """Whether all of it was read, and each file is what its source says, and passed the gates."""
        return self._running.position == self.size and len(self._records) == len(self._verdicts) == len(self._segments)

    @property
    def records(self) -> tuple[FileRecord, ...]:
        """Of the files, in the layer's order."""
        return tuple(self._records[segment.file.path] for segment in self._segments)

    @property
    def scan(self) -> Scan:
        """What was found in the files."""
        found = [(segment.file.path, self._verdicts[segment.file.path]) for segment in self._segments]
        pickled = tuple(path for path, verdict in found if verdict.pickled)
        return Scan(pickled=pickled, harmful=tuple(path for path, verdict in found if verdict.dangers))

    def forget(self) -> None:
        """What was read is not to be believed: hash everything anew."""
        self._running = RunningDigest()
        self._checks.clear()
        self._records.clear()
        self._verdicts.clear()

    def chunks(self, start: int) -> Generator[bytes]:
        """The layer's bytes from ``start`` on.

        Raises:
            ContentMismatch: a file is not what its source says; ``forget`` is due.
            Refused, DigestMismatch: a file does not pass the gates.
            ModelyardError: the source fails for good.
        """
        position = start
        for chunk in self._parts(start):
            self._running.update(chunk, position)
            position += len(chunk)
            yield chunk

    def _parts(self, start: int) -> Iterator[bytes]:
        wanted = [segment for segment in self._segments if segment.end > start]
        small = deque(segment for segment in wanted if segment.file.size < SMALL)
        ahead = _Ahead(self._source, self._tuning, small)
        try:
            for segment in wanted:
                yield from _from(segment.header, start - segment.start)
                yield from self._body(segment, max(0, start - segment.body), ahead)
                yield from _from(padding(segment.file.size), start - segment.body - segment.file.size)
        finally:
            ahead.close()
        yield from _from(TRAILER, start - (self.size - len(TRAILER)))

    def _body(self, segment: Segment, begin: int, ahead: "_Ahead") -> Iterator[bytes]:
        if segment.file.size < SMALL:
            body, record = ahead.take(segment.file)
            self._on_read(len(body))
            self._verdicts[record.path] = self._gate.look_into(segment.file, body)
            self._accept(record)
            yield from _from(body, begin)
            return
        if begin < segment.file.size:
            yield from self._stream(segment.file, begin)
        if segment.file.path not in self._records:
            self._accept(self._checks[segment.file.path].record())

    def _accept(self, record: FileRecord) -> None:
        self._gate.compare(record)
        self._records[record.path] = record

    def _stream(self, file: SourceFile, begin: int) -> Iterator[bytes]:
        """A weight file from ``begin`` on; a fetch that breaks is begun again where it broke."""
        check = self._checks.setdefault(file.path, FileCheck(file))
        position, failures = begin, 0
        while position < file.size:
            pipe = Pipe(check, position, self._tuning.buffer_bytes)
            try:
                pipe.begin(self._source)
                for chunk in pipe.chunks(self._tuning.stall_seconds):
                    position, failures = position + len(chunk), 0
                    self._on_read(len(chunk))
                    self._look_at(check)
                    yield chunk
                if position < file.size:
                    raise ContentMismatch(f"{file.path}: {position} bytes arrived, {file.size} were listed")
            except SourceUnavailable as error:
                failures += 1
                if failures >= self._tuning.attempts:
                    raise
                self._tuning.patience.wait(failures, error)
            finally:
                pipe.close()

    def _look_at(self, check: FileCheck) -> None:
        """Once a file's beginning is here, and before it is passed on."""
        path = check.file.path
        if path not in self._verdicts and len(check.head) == min(HEAD_BYTES, check.file.size):
            self._verdicts[path] = self._gate.look_at(check.file, check.head)


class _Ahead:
    """Fetches the small files that come next while one is being sent."""

    def __init__(self, source: Source, tuning: Tuning, coming: deque[Segment]) -> None:
        self._source, self._tuning, self._coming = source, tuning, coming
        self._running: deque[Collected] = deque()

    def take(self, file: SourceFile) -> tuple[bytes, FileRecord]:
        """The next file, whole and checked.

        Raises:
            ModelyardError: it is not to be had, or stays another than the source says.
        """
        self._start_more()
        first = self._running.popleft()
        try:
            for failures in range(1, self._tuning.attempts + 1):
                try:
                    return self._whole(first)
                except Temporary as error:
                    if failures == self._tuning.attempts:
                        raise
                    self._tuning.patience.wait(failures, error)
                first = Collected(file)
                first.begin(self._source)
        finally:
            first.close()
        raise AssertionError(file.path)  # the last attempt returns or raises

    def _whole(self, found: Collected) -> tuple[bytes, FileRecord]:
        record = found.finish(self._tuning.stall_seconds)
        return bytes(found.body), record

    def _start_more(self) -> None:
        while self._coming and (not self._running or self._has_room()):
            self._running.append(Collected(self._coming.popleft().file))
            self._running[-1].begin(self._source)

    def _has_room(self) -> bool:
        under_way = sum(each.check.file.size for each in self._running)
        return len(self._running) < self._tuning.ahead_files and under_way + self._coming[0].file.size <= self._tuning.ahead_bytes

    def close(self) -> None:
        """Stop what runs."""
        for each in self._running:
            with suppress(ModelyardError):
                each.close()


def _from(content: bytes, begin: int) -> Iterator[bytes]:
    """``content`` from ``begin`` on, if there is any; before its start is its start."""
    rest = content[max(0, begin) :]
    if rest:
        yield rest
