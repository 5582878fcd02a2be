"""Reading a layer from the registry: what it holds below the model's directory, and that it is the blob of its digest."""

import hashlib
import io
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from modelyard.errors import ContentMismatch, RegistryRefused
from modelyard.images.descriptors import LAYER, Descriptor
from modelyard.oci.registry import Repository

MODEL_DIRECTORY = "models"
_READ_SIZE = 1024 * 1024
#: Docker's names are kept where an image has them.
_PLAIN = {LAYER, "application/vnd.docker.image.rootfs.diff.tar"}
_GZIP = {f"{LAYER}+gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip"}


@dataclass(frozen=True, slots=True)
class Entry:
    """Something below the model's directory. ``sha256`` is empty for what is no regular file."""

    path: str
    size: int
    sha256: str


def read_layer(repository: Repository, layer: Descriptor) -> list[Entry]:
    """All that a layer has below the model's directory but directories themselves.

    Raises:
        ContentMismatch: what arrived is not the blob of this digest; another try may get it.
        RegistryRefused: it is no tar, or one in a form that is not read here.
        RegistryUnavailable: the connection broke.
    """
    if layer.media_type not in _PLAIN | _GZIP:
        raise RegistryRefused(f"{layer.media_type} is not read here; use a base whose layers are tar or gzip")
    with closing(repository.stream_blob(layer)) as chunks:
        stream = _Hashed(chunks)
        try:
            entries = _entries(stream, gzipped=layer.media_type in _GZIP)
        except (tarfile.TarError, zlib.error, EOFError) as error:
            stream.drain()
            _compare(stream, layer)  # bytes that changed on their way are told first: those may be other at the next try
            raise RegistryRefused(f"is no tar: {error}") from error
        stream.drain()
    _compare(stream, layer)
    return entries


def _compare(stream: "_Hashed", layer: Descriptor) -> None:
    if stream.digest != layer.digest:
        raise ContentMismatch(f"{layer.digest}: what arrived has the digest {stream.digest}")


def _entries(stream: "_Hashed", *, gzipped: bool) -> list[Entry]:
    found = []
    with tarfile.open(fileobj=stream, mode="r|gz" if gzipped else "r|", bufsize=_READ_SIZE, errorlevel=2) as archive:
        for member in archive:
            archive.members = []  # type: ignore[attr-defined] # else it keeps them all
            path = "/".join(part for part in member.name.split("/") if part not in {"", "."})
            if ".." in path.split("/"):
                raise tarfile.ReadError(f"a name leads out of the layer: {member.name!r}")
            if path.split("/")[0] == MODEL_DIRECTORY and not member.isdir():
                found.append(Entry(path, member.size, _sha256(archive, member)))
    return found


def _sha256(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    if not member.isreg():
        return ""
    digest, content = hashlib.sha256(), archive.extractfile(member)
    while content and (chunk := content.read(_READ_SIZE)):
        digest.update(chunk)
    return digest.hexdigest()


class _Hashed(io.RawIOBase):
    """Chunks as a file whose digest is worked out on the way."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._left, self._digest = chunks, b"", hashlib.sha256()

    @property
    def digest(self) -> str:
        return f"sha256:{self._digest.hexdigest()}"

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._left) < size:
            chunk = next(self._chunks, b"")
            if not chunk:
                break
            self._digest.update(chunk)
            self._left += chunk
        if size < 0:
            size = len(self._left)
        part, self._left = self._left[:size], self._left[size:]
        return part

    def drain(self) -> None:
        """To the end: the digest is that of the whole."""
        while self.read(_READ_SIZE):
            pass
