"""Layers as uncompressed GNU tar archives: their bytes around the files', and their exact size before the first byte is read.

Weights do not compress, and an uncompressed layer's digest is its diffID: one hash, and a Content-Length from the start. GNU, not
PAX: one header block for a file beyond 8 GiB (base-256), and readers that overlook PAX's size exist. The headers are serialised by
tarfile, never computed by hand. Nothing of the machine or the day is in them, so the same files make the same layer anywhere.
"""

import tarfile
from collections.abc import Iterable
from dataclasses import dataclass

from modelyard.models import SourceFile

BLOCK = 512
#: Two blocks of zeros end an archive.
TRAILER = bytes(2 * BLOCK)
#: Where serving runtimes look; readers that match names want neither './' nor '/' before it.
ROOT = "models/"
#: Readable for any user and group: which uid a server runs under is not known here.
MODE = 0o644
#: Changes when the same files would make other layers: then layers made before are not taken for the same.
RECIPE = "1"


def header(path: str, size: int) -> bytes:
    """The archive's bytes before the body of the file at ``path`` (relative to the model)."""
    info = tarfile.TarInfo(ROOT + path)
    info.size, info.mode = size, MODE  # all else is zero or empty: mtime, uid, gid, names
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def padding(size: int) -> bytes:
    """The zeros after a body of ``size`` bytes."""
    return bytes(-size % BLOCK)


@dataclass(frozen=True, slots=True)
class Segment:
    """A file's place in a layer: its header begins at ``start``, its body at ``body``, the next file at ``end``."""

    file: SourceFile
    header: bytes
    start: int

    @property
    def body(self) -> int:
        return self.start + len(self.header)

    @property
    def end(self) -> int:
        return self.body + self.file.size + len(padding(self.file.size))


def segments(files: Iterable[SourceFile]) -> list[Segment]:
    """Where each file lies in the layer that holds ``files`` in this order."""
    found: list[Segment] = []
    start = 0
    for file in files:
        found.append(Segment(file, header(file.path, file.size), start))
        start = found[-1].end
    return found


def layer_size(files: Iterable[SourceFile]) -> int:
    """Bytes of the layer that holds ``files``."""
    return sum(len(header(file.path, file.size)) + file.size + len(padding(file.size)) for file in files) + len(TRAILER)
