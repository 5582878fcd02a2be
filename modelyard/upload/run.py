"""Upload a directory as one version of a model: checked whole before the first byte, sent, its digests, and last of all the marker.

Until the marker is there, the upload is not done: who waits for models waits for it. A run that was killed leaves objects that
the next one finds by size and checksum, and does not send again.
"""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import BoundedSemaphore

from modelyard import __version__
from modelyard.errors import DigestMismatch, Problem, Refused, SourceChanged
from modelyard.models import FileRecord, Value, WeightPolicy, content_digest, sha256sums
from modelyard.plans.digests import MARKER_NAME, MAX_SUMS_BYTES, SUMS_NAME, compare_sums, parse_sums
from modelyard.plans.upload import content_problems, destination_problems, sums_problem
from modelyard.upload.destination import PART_SIZE, Destination, Sending, crc64nvme_of
from modelyard.upload.local import LocalFile, LocalTree, Reading, read_tree
from modelyard.upload.progress import Meter
from modelyard.upload.workers import Batch
from modelyard.weights.policy import refused_files

_THREADS = 8
#: Parts and small files in memory at once: 8 of 16 MiB.
_SLOTS = 8


class Marker(Value):
    """What the marker object says: ``digest`` as in the version's manifest on every volume, ``digests_from`` that of its SHA256SUMS."""

    digest: str
    digests_from: str
    files: int
    bytes: int
    tool: str
    uploaded: datetime


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What an upload came to, or would."""

    marker: Marker | None  # None: a dry run
    files: int
    bytes: int
    sent_files: int
    sent_bytes: int


@dataclass(slots=True)
class Upload:
    """One upload of ``root`` to ``destination``. ``tags`` are put on the marker only."""

    root: Path
    destination: Destination
    weights: WeightPolicy = WeightPolicy.SCAN
    tags: Mapping[str, str] = field(default_factory=dict)
    _records: dict[str, FileRecord] = field(default_factory=dict)
    _own_text: bytes | None = None  # the author's own SHA256SUMS
    _own_sums: dict[str, str] = field(default_factory=dict)

    def run(self, *, dry_run: bool = False) -> Uploaded:
        """Do it, or only say what there is to do; safe to run again after any end.

        Raises:
            Refused: with all that speaks against it; nothing was sent.
            SourceChanged, DigestMismatch: a file changed meanwhile, or is not what its author's SHA256SUMS says.
            SourceChanged: another upload wrote other content to the same prefix meanwhile.
            SourceDenied, SourceMissing, SourceUnavailable: the bucket.
        """
        tree = read_tree(self.root)
        there = self._check(tree)
        files = [file for file in tree.files if file.path != SUMS_NAME]
        with ThreadPoolExecutor(_THREADS) as pool:
            self._compare([file for file in files if file.path in there], pool)
            todo = [file for file in files if file.path not in self._records]
            sent = (len(todo), sum(file.size for file in todo))
            size = sum(file.size for file in files)
            if dry_run:
                return Uploaded(None, len(files), size, *sent)
            self._send(files, todo, pool)
        return Uploaded(self._finish(there), len(files), size, *sent)

    def _check(self, tree: LocalTree) -> dict[str, int]:
        """What is at the destination, if nothing that can be known beforehand speaks against the upload."""
        paths = [file.path for file in tree.files]
        problems = list(tree.problems)
        problems += refused_files(tree.root, paths, self.weights)[0]
        problems += self._read_author_sums(tree)
        there = self.destination.objects()
        uri = self.destination.location.uri
        problems += destination_problems(uri, {file.path: file.size for file in tree.files}, there)
        if SUMS_NAME in there and (listed := _listed(self.destination.read(SUMS_NAME))) is not None:
            problems += sums_problem(uri + SUMS_NAME, listed, paths)
        if problems:
            raise Refused(problems)
        return there

    def _read_author_sums(self, tree: LocalTree) -> list[Problem]:
        if not (own := [file for file in tree.files if file.path == SUMS_NAME]):
            return []
        place = str(own[0].place)
        if own[0].size > MAX_SUMS_BYTES:
            return [Problem(place, f"is larger than {MAX_SUMS_BYTES} bytes", "remove it: the upload writes one")]
        try:
            self._own_text = own[0].place.read_bytes()
            self._own_sums = parse_sums(self._own_text)
        except DigestMismatch as error:
            return [Problem(place, str(error), "remove it: the upload writes one")]
        return sums_problem(place, self._own_sums, [file.path for file in tree.files])

    def _compare(self, files: list[LocalFile], pool: ThreadPoolExecutor) -> None:
        """Read the files whose objects are there already, and refuse if any of these is another's."""
        meter = Meter(sum(file.size for file in files), len(files)) if files else None

        def same(file: LocalFile) -> bool:
            reading = Reading(file)
            record = reading.whole()
            if meter:
                meter.add(file.size, 1)
            if reading.crc64nvme != self.destination.crc64nvme(file.path):
                return False
            self._take(record)
            return True

        differing = [file.path for file, is_same in zip(files, pool.map(same, files), strict=True) if not is_same]
        if meter:
            meter.end()
        if differing:
            raise Refused(content_problems(self.destination.location.uri, differing))

    def _take(self, record: FileRecord) -> None:
        """Keep a file's record, if it is what its author's own SHA256SUMS says."""
        if self._own_text is not None:
            compare_sums({record.path: self._own_sums[record.path]}, {record.path: record.sha256}, all_listed=True)
        self._records[record.path] = record

    def _send(self, files: list[LocalFile], todo: list[LocalFile], pool: ThreadPoolExecutor) -> None:
        self.destination.forget_unfinished({file.path for file in todo})
        meter = Meter(sum(file.size for file in files), len(files))
        meter.add(sum(file.size for file in files) - sum(file.size for file in todo), len(files) - len(todo))
        slots = BoundedSemaphore(_SLOTS)
        small: Batch[None] = Batch(pool, slots)
        try:
            for file in todo:
                if file.size <= PART_SIZE:
                    small.submit(self._send_small, file, meter)
                else:
                    reading = Reading(file)
                    if not self.destination.send_large(reading, Sending(pool, slots, meter.add, self._take)):
                        self._require_ours(reading)
                    meter.add(files=1)
            small.results()
        except BaseException:
            small.stop()
            raise
        meter.end()

    def _send_small(self, file: LocalFile, meter: Meter) -> None:
        reading = Reading(file)
        body = b"".join(reading.parts(PART_SIZE))
        self._take(reading.hashed)
        if not self.destination.put(file.path, body, reading.crc64nvme):
            self._require_ours(reading)
        meter.add(file.size, 1)

    def _require_ours(self, reading: Reading) -> None:
        """Take an object that came there meanwhile for ours if it is the same: a retry of a write whose answer was lost meets its own."""
        if self.destination.crc64nvme(reading.file.path) != reading.crc64nvme:
            raise self._meanwhile(reading.file.path)

    def _meanwhile(self, path: str) -> SourceChanged:
        return SourceChanged(
            f"{self.destination.location.uri}{path}: another upload wrote other content to this prefix meanwhile;"
            " upload under another prefix, or remove what is there and run it again"
        )

    def _finish(self, there: Mapping[str, int]) -> Marker:
        """Write SHA256SUMS, then the marker, unless they are there; what is there must say the same."""
        text = self._own_text if self._own_text is not None else "".join(sha256sums(self._records.values())).encode()
        own = {SUMS_NAME: FileRecord(path=SUMS_NAME, size=len(text), sha256=hashlib.sha256(text).hexdigest())}
        every = (self._records | own).values()
        if SUMS_NAME not in there:
            self.destination.put(SUMS_NAME, text, crc64nvme_of(text))
        elif self.destination.read(SUMS_NAME) != text:
            raise Refused(content_problems(self.destination.location.uri, [SUMS_NAME]))
        self._require_sums(text)
        marker = Marker(
            digest=content_digest(every),
            digests_from=f"sha256:{own[SUMS_NAME].sha256}",
            files=len(every),
            bytes=sum(record.size for record in every),
            tool=f"modelyard {__version__}",
            uploaded=datetime.now(UTC),
        )
        self._mark(marker, there)
        self._require_sums(text)  # again: a store that replaces what is there lets both of two uploads come this far
        if _digest_of(self.destination.read(MARKER_NAME)) != marker.digest:
            raise self._meanwhile(MARKER_NAME)
        return marker

    def _require_sums(self, text: bytes) -> None:
        if self.destination.read(SUMS_NAME) != text:
            raise self._meanwhile(SUMS_NAME)

    def _mark(self, marker: Marker, there: Mapping[str, int]) -> None:
        body = f"{marker.model_dump_json()}\n".encode()
        if MARKER_NAME not in there and self.destination.put(MARKER_NAME, body, crc64nvme_of(body), self.tags):
            return
        if _digest_of(self.destination.read(MARKER_NAME)) != marker.digest:
            raise Refused(content_problems(self.destination.location.uri, [MARKER_NAME]))
        if self.tags:
            self.destination.tag(MARKER_NAME, self.tags)


def _listed(data: bytes | None) -> list[str] | None:
    """The names in a SHA256SUMS; None if it is none: then it is another one than ours, which is told when ours is known."""
    try:
        return list(parse_sums(data or b""))
    except DigestMismatch:
        return None


def _digest_of(text: bytes | None) -> str | None:
    try:
        return str(json.loads(text or b"").get("digest"))
    except (ValueError, AttributeError):
        return None
