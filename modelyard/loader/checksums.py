"""SHA-256 of what lies on the volume."""

import hashlib
from collections.abc import Callable
from pathlib import Path

#: How much of a file is read at a time when it is hashed from the volume.
READ_SIZE = 4 * 1024 * 1024


def sha256_of(path: Path, on_read: Callable[[int], None]) -> str:
    """SHA-256 of a file on the volume, in hex; ``on_read`` is told each count of bytes read."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(READ_SIZE):
            digest.update(chunk)
            on_read(len(chunk))
    return digest.hexdigest()
