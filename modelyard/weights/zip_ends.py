"""Whether a zip has one directory for all readers: some go by where its end says that it begins, others by what lies before the end.

https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3.14 to 4.3.16
"""

import os
import struct
from typing import IO
from zipfile import BadZipFile

_END, _END_64, _LOCATOR = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_END_BYTES, _LOCATOR_BYTES, _END_64_BYTES = 22, 20, 56
_LONGEST_COMMENT = 65_535
_IN_64_BITS = 0xFFFFFFFF


def refuse_two_readings(file: IO[bytes]) -> None:
    """Raise unless the directory lies right before the end, where the end says that it does.

    Raises:
        BadZipFile: readers may see different members.
    """
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - _END_BYTES - _LONGEST_COMMENT)
    file.seek(start)
    tail = file.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_BYTES:
        raise BadZipFile("has no end")
    length, offset = struct.unpack("<LL", tail[at + 12 : at + 20])
    position = start + at
    file.seek(max(0, position - _LOCATOR_BYTES))
    locator = file.read(_LOCATOR_BYTES)
    if locator.startswith(_LOCATOR):
        position, length, offset = _end_64(file, position - _LOCATOR_BYTES, locator)
    elif _IN_64_BITS in {length, offset}:
        raise BadZipFile("lacks the end that it speaks of")
    if offset + length != position:
        raise BadZipFile("has its directory elsewhere than it says, so that readers may see different members")


def _end_64(file: IO[bytes], locator_at: int, locator: bytes) -> tuple[int, int, int]:
    (position,) = struct.unpack("<Q", locator[8:16])
    if position + _END_64_BYTES != locator_at:
        raise BadZipFile("has its 64-bit end elsewhere than it says, so that readers may see different members")
    file.seek(position)
    record = file.read(_END_64_BYTES)
    if not record.startswith(_END_64):
        raise BadZipFile("has no 64-bit end where it says")
    length, offset = struct.unpack("<QQ", record[40:56])
    return position, length, offset
