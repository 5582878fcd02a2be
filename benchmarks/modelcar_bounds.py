"""What no builder can be faster than on this machine: one SHA-256 of the bytes, and the registry taking them from a sender's memory."""

import hashlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from benchmarks.registry import Registry
from modelyard.oci.registry import Repository

_MIB = 1024 * 1024
#: Uploads on their way at a time, as the builder's.
_UPLOADS = 4


def sha256_seconds(size: int) -> float:
    """One SHA-256 of so many bytes from memory, on all cores at once."""
    cores, block = os.cpu_count() or 1, os.urandom(_MIB)

    def digest(_: int) -> None:
        sha256 = hashlib.sha256()
        for _ in range(size // cores // _MIB):
            sha256.update(block)

    begun = time.perf_counter()
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(digest, range(cores)))
    return round(time.perf_counter() - begun, 3)


def registry_seconds(registry: Registry, sizes: list[int]) -> float:
    """The registry taking blobs of these sizes whose digests are known beforehand: the sender does nothing but send."""
    block = os.urandom(_MIB)
    with Repository(registry.access, "bound") as repository:

        def push(blob: tuple[int, str]) -> None:
            size, digest = blob
            upload = repository.begin_upload(digest)
            upload.send(_blob(block, size), 0, size)
            upload.commit(digest)

        blobs = [(size - number, _digest(block, size - number)) for number, size in enumerate(sizes)]  # no two are the same
        begun = time.perf_counter()
        with ThreadPoolExecutor(_UPLOADS) as pool:
            list(pool.map(push, blobs))
        return round(time.perf_counter() - begun, 3)


def _blob(block: bytes, size: int) -> Iterator[bytes]:
    for _ in range(size // _MIB):
        yield block
    if rest := size % _MIB:
        yield block[:rest]


def _digest(block: bytes, size: int) -> str:
    sha256 = hashlib.sha256()
    for part in _blob(block, size):
        sha256.update(part)
    return f"sha256:{sha256.hexdigest()}"
