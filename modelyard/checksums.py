"""Hashing what arrives: SHA-256 of every file, and beside it whatever checksum the source keeps of the whole object."""

import base64
import hashlib
from collections.abc import Callable
from typing import Protocol

from awscrt import checksums

from modelyard.errors import ContentMismatch
from modelyard.models import Checksum, FileRecord, SourceFile


class Hash(Protocol):
    """The part of hashlib's interface that is used here."""

    def update(self, chunk: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


class _Crc:
    """A CRC of the CRT in hashlib's shape; ``size`` is its length in bytes, sent big-endian as S3 does."""

    def __init__(self, step: Callable[[bytes, int], int], size: int) -> None:
        self._step, self._size, self._value = step, size, 0

    def update(self, chunk: bytes, /) -> None:
        self._value = self._step(chunk, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._size, "big")


def new_hash(algorithm: str) -> Hash:
    """An empty hash of one of S3's algorithms."""
    match algorithm:
        case "CRC64NVME":
            return _Crc(checksums.crc64nvme, 8)
        case "CRC32C":
            return _Crc(checksums.crc32c, 4)
        case "CRC32":
            return _Crc(checksums.crc32, 4)
        case _:
            return hashlib.new(algorithm.lower(), usedforsecurity=False)


class FileHashes:
    """The hashes of one file as its bytes come by, in order."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._expected: Checksum | None = None
        self._other: Hash | None = None

    def expect(self, expected: Checksum | None) -> None:
        """What the source says of the whole object; must be told before the first byte."""
        self._expected = expected
        if expected and expected.algorithm != "SHA256":  # SHA-256 runs anyway
            self._other = new_hash(expected.algorithm)

    def update(self, chunk: bytes) -> None:
        self._sha256.update(chunk)
        if self._other:
            self._other.update(chunk)

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes so far, in hex."""
        return self._sha256.hexdigest()

    @property
    def expected(self) -> Checksum | None:
        """The source's checksum, if it has one of the whole object."""
        return self._expected

    def mismatch(self) -> str | None:
        """How the bytes differ from what the source says of them, or None."""
        if not self._expected:
            return None
        digest = self._other.digest() if self._other else self._sha256.digest()
        actual = base64.b64encode(digest).decode()
        if actual == self._expected.value:
            return None
        return f"{self._expected.algorithm} is {actual}, the source says {self._expected.value}"

    def record(self, file: SourceFile, count: int) -> FileRecord:
        """The record of ``file``, of which ``count`` bytes came by, after its size, checksum and known SHA-256 agreed with the source's.

        Raises:
            ContentMismatch: they did not; the file has to be fetched again from the first byte.
        """
        if count != file.size:
            raise ContentMismatch(f"{file.path}: {count} bytes arrived, {file.size} were listed")
        if difference := self.mismatch():
            raise ContentMismatch(f"{file.path}: {difference}")
        if file.sha256 not in {None, self.sha256}:
            raise ContentMismatch(f"{file.path}: SHA-256 is {self.sha256}, {file.sha256} is what was written down of it")
        return FileRecord(
            path=file.path,
            size=file.size,
            sha256=self.sha256,
            etag=file.etag,
            version_id=file.version_id,
            checksum=self.expected,
        )
