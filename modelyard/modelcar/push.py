"""One layer into the registry: streamed once; after a break begun anew, or gone on with where the registry's user says that it can.

The source is the spool that other builders need a disk for: pinned objects give the same bytes again from any offset.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field

from modelyard.errors import ContentMismatch, ModelyardError, Temporary
from modelyard.images.build import ModelLayer
from modelyard.images.descriptors import Descriptor
from modelyard.images.limits import limits_of
from modelyard.modelcar.layer_reader import LayerReader
from modelyard.oci.http import Failures
from modelyard.oci.registry import Repository
from modelyard.oci.uploads import Upload

#: Told of bytes that were handed to the registry's connection: how many, and where in the layer they end.
OnSent = Callable[[int, int], None]
OnNote = Callable[[str], None]


@dataclass(slots=True)
class LayerPush:
    """Pushes one layer; ``run`` once."""

    repository: Repository
    reader: LayerReader
    name: str
    on_sent: OnSent
    on_note: OnNote
    _upload: Upload | None = None
    _sent: int = 0  # of the upload under way
    _furthest: int = 0  # that any upload came
    _mismatches: int = 0
    _resume: bool = field(init=False)
    _failures: Failures = field(init=False)  # in a row, without getting further

    def __post_init__(self) -> None:
        self._resume = self.repository.http.access.resume_uploads
        self._failures = Failures(self.repository.patience)

    def run(self) -> ModelLayer:
        """The layer as the registry has it, each file compared with its source's checksum before the layer was committed.

        Raises:
            ModelyardError: the first failure that no retry cured. The upload is abandoned.
        """
        try:
            while True:
                try:
                    return self._attempt()
                except Temporary as error:
                    self._after(error)
        except BaseException:
            self._abandon()
            raise

    def _attempt(self) -> ModelLayer:
        upload, start = self._begin()
        chunked = limits_of(self.repository.http.access.host).chunked
        with closing(self.reader.chunks(start)) as chunks:
            if start < self.reader.size:
                upload.send(self._counted(chunks), start, self.reader.size, chunked=chunked)
        if not self.reader.is_whole:  # all bytes were sent in an earlier life of the upload, or none needed to be
            raise ContentMismatch(f"{self.name}: the layer was not read to its end")
        digest = self.reader.digest
        try:
            upload.commit(digest)
        except ContentMismatch:
            self._resume = False  # what the registry kept was not what was sent
            raise
        except Temporary:
            if not self.repository.has(digest, self.reader.size):  # else only the answer was lost
                raise
            self._abandon()  # or the blob was there before, and the upload still waits
        self._upload = None
        return ModelLayer(digest=digest, size=self.reader.size, files=self.reader.records, scan=self.reader.scan)

    def _begin(self) -> tuple[Upload, int]:
        """Where the next request begins: behind what the registry kept of the broken upload, or at the first byte of a new one."""
        if self._upload and self._resume and (kept := self._upload.offset(self._sent)):
            self.on_note(f"{self.name}: goes on at byte {kept} of {self.reader.size}")
            self._sent = kept
            return self._upload, kept
        self._abandon()
        self._upload, self._sent = self.repository.begin_upload(self.name), 0
        return self._upload, 0

    def _counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            # Counted before it is sent: of a chunk that broke, the registry may have kept a part.
            self._sent += len(chunk)
            yield chunk
            self.on_sent(len(chunk), self._sent)

    def _after(self, error: Temporary) -> None:
        """Wait for the next try, or give up."""
        if isinstance(error, ContentMismatch):
            self._mismatches += 1
            self.reader.forget()
            self._abandon()
            self._furthest = 0
        if self._sent > self._furthest:
            self._failures.clear()
            self._furthest = self._sent
        self._failures.add(error, least=self._mismatches)
        self.on_note(f"{error}; {self._failures.next_try}")
        self._failures.wait(error)

    def _abandon(self) -> None:
        if self._upload:
            self._upload.abandon()
            self._upload = None


def copy_blob(origin: Repository, target: Repository, blob: Descriptor) -> int:
    """Have a base's blob in the target too: mounted where both are in one registry, else streamed through; bytes that were sent."""
    if target.has(blob.digest, blob.size):
        return 0
    if origin.http.access.host == target.http.access.host and target.mount(blob.digest, origin.name):
        return 0

    def copy() -> int:
        upload = target.begin_upload(blob.digest)
        try:
            with closing(origin.stream_blob(blob)) as chunks:
                upload.send(chunks, 0, blob.size, chunked=limits_of(target.http.access.host).chunked)
            upload.commit(blob.digest)  # the registry compares the digest
        except ModelyardError:
            upload.abandon()
            raise
        return blob.size

    return target.patience.through(copy)
