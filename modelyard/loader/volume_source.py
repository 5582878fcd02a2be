"""A version on the volume as a source: what a modelcar is built from beside it, without a second download.

Its files have the identities that they had where they came from, so the image is the one that their first source would have given;
and each is held against the SHA-256 that it was published with, so that no rot gets into an image.
"""

import hashlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from modelyard.errors import ModelyardError, SourceMissing, SourceUnavailable, VolumeUnusable
from modelyard.loader.layout import Layout, read_manifest, refuse_links, require_volume, tampering
from modelyard.models import Checksum, Manifest, ModelRef, SourceFile
from modelyard.sources.base import Done, Sink

_READ_SIZE = 4 * 1024 * 1024
_REPAIR = "repair the version (deployment verify-cache), or remove it and preload it again"


class VolumeSource:
    """The files of one version below ``root``; ``manifest`` is what was published."""

    def __init__(self, root: Path, model: ModelRef) -> None:
        require_volume(root)
        self._layout = Layout(root, model)
        self.manifest = _published(self._layout)
        self._records = {record.path: record for record in self.manifest.files}
        self._given: set[str] = set()  # paths of files that were read to their ends

    def list(self) -> Iterator[SourceFile]:
        """What was published."""
        for record in sorted(self.manifest.files, key=lambda record: record.path.encode()):
            yield SourceFile(record.path, record.size, record.etag, record.version_id, sha256=record.sha256)

    def stat(self, file: SourceFile) -> Checksum | None:
        """The checksum that the file's first source had of it."""
        return self._records[file.path].checksum

    def fetch(self, file: SourceFile, sink: Sink, start: int, done: Done) -> "VolumeTransfer":
        """Push the file's bytes from ``start`` on into ``sink``, from a thread of its own."""
        transfer = VolumeTransfer(self, file, sink, start, done)
        threading.Thread(target=transfer.run, daemon=True, name=f"read-{file.path}").start()
        return transfer

    def given(self, file: SourceFile) -> None:
        """Note that a file was read to its end."""
        self._given.add(file.path)

    def require_sound(self, file: SourceFile) -> None:
        """Of a file that is asked for once more: it was not what it should be, or the registry lost it. Another try helps in one case.

        Raises:
            VolumeUnusable: its bytes are not those that were published.
        """
        if file.path not in self._given:
            return
        with os.fdopen(self.open(file), "rb", buffering=0) as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if found != file.sha256:
            raise VolumeUnusable(f"{file.path}: has SHA-256 {found}, which is not what was published ({file.sha256}); {_REPAIR}")

    def read(self, file: SourceFile, start: int, count: int) -> bytes:
        """The ``count`` bytes of ``file`` at ``start``, or fewer."""
        descriptor = self.open(file)
        try:
            return os.pread(descriptor, count, start)
        except OSError as error:
            raise unreadable(file, error) from error
        finally:
            os.close(descriptor)

    def open(self, file: SourceFile) -> int:
        """A descriptor of the file, which is a file and no link.

        Raises:
            VolumeUnusable: it is not there, or cannot be read.
        """
        path = self._layout.target / file.path
        refuse_links(path, self._layout.root)
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise unreadable(file, error) from error


def _published(layout: Layout) -> Manifest:
    layout.refuse_links()
    manifest = read_manifest(layout.manifest)
    if manifest is None:
        raise SourceMissing(f"{layout.model}: is not on the volume; preload it first, or name a version that is")
    if problem := tampering(manifest, layout.model):
        raise VolumeUnusable(f"{layout.manifest}: {problem}; {_REPAIR}")
    return manifest


def unreadable(file: SourceFile, error: OSError) -> VolumeUnusable:
    """A file that should be there cannot be read."""
    return VolumeUnusable(f"{file.path}: {error.strerror or error}; {_REPAIR}")


@dataclass(slots=True)
class VolumeTransfer:
    """One file that is being read."""

    source: VolumeSource
    file: SourceFile
    sink: Sink
    start: int
    done: Done
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        self._cancelled.set()

    def run(self) -> None:
        """Read it to its end."""
        error: ModelyardError | None = None
        try:
            self._push()
        except ModelyardError as failure:
            error = failure
        except OSError as failure:
            error = unreadable(self.file, failure)
        except Exception as failure:  # noqa: BLE001 - whoever waits must hear of it
            error = SourceUnavailable(f"{self.file.path}: {failure}")
        self.done(error)

    def _push(self) -> None:
        self.source.require_sound(self.file)
        self.sink.expect(self.source.stat(self.file))
        descriptor, offset = self.source.open(self.file), self.start
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            while chunk := os.pread(descriptor, _READ_SIZE, offset):
                if self._cancelled.is_set():
                    raise SourceUnavailable(f"{self.file.path}: cancelled")
                self.sink.write(chunk, offset)
                offset += len(chunk)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)  # the memory belongs to those who serve
            self.source.given(self.file)
        finally:
            os.close(descriptor)
