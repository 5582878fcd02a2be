"""Headers of archives that have one reading: what ``tarfile`` and the readers of runtimes (Go's archive/tar) take differently is refused.

Where two readers disagree on a name or on where the next header is, one of them sees a file that the other does not. No builder writes
such headers. https://github.com/golang/go/blob/master/src/archive/tar/reader.go, https://github.com/python/cpython/blob/3.11/Lib/tarfile.py
"""

import re
import tarfile
from collections.abc import Callable
from typing import Self

from modelyard.sources.layer_stream import BadArchive, Forward

_EXTENDED, _GLOBAL = tarfile.XHDTYPE, tarfile.XGLTYPE
_LONG = {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
_EXTENSIONS = {_EXTENDED, _GLOBAL, *_LONG}
#: Digits behind a zero byte are a size for Go, and none for tarfile; tarfile takes signs and underscores.
_SIZE = re.compile(rb" *[0-7]*[ \0]*|\x80.*", re.DOTALL)
_RECORD = re.compile(rb"([1-9][0-9]{0,9}) ([^=]+)=")
#: With no value Go keeps what the header itself says, tarfile takes the nothing.
_VALUED = {b"path", b"linkpath", b"size"}


def strict_headers(stream: Forward) -> "type[StrictHeader]":
    """For ``TarFile(tarinfo=...)`` over ``stream``: its headers, each looked at as it is read.

    Raises (while the archive is read):
        BadArchive: readers take a header differently.
    """
    before: list[tuple[bytes, int]] = []  # headers that tell of the next entry: kind, size

    def look(block: bytes, found: tarfile.TarInfo) -> None:
        if before and before[-1][0] in {_EXTENDED, _GLOBAL}:
            _require_records(stream.before[: before[-1][1]])
        if what := _block_problem(block, found) or _order_problem(found, [kind for kind, _ in before]):
            raise BadArchive(f"has a header that readers take differently: {what}")
        if found.type in _EXTENSIONS:
            before.append((found.type, found.size))
        else:
            before.clear()

    return type("Header", (StrictHeader,), {"look": staticmethod(look)})


class StrictHeader(tarfile.TarInfo):
    """A header that was looked at before anything was made of it; ``was_looked_at`` tells that this Python's tarfile came by here."""

    look: Callable[[bytes, tarfile.TarInfo], None]
    was_looked_at = False

    @classmethod
    def _looked_at(cls, block: bytes | bytearray, found: Self) -> Self:
        cls.look(bytes(block), found)
        found.was_looked_at = True
        return found

    # Where tarfile makes headers differs by the patches that a Python has: some call frombuf, newer ones _frombuf.
    if hasattr(tarfile.TarInfo, "_frombuf"):

        @classmethod
        def _frombuf(cls, buf: bytes, encoding: str, errors: str, *, dircheck: bool = True) -> Self:
            made = super()._frombuf(buf, encoding, errors, dircheck=dircheck)  # type: ignore[misc]  # not in every release
            return cls._looked_at(buf, made)
    else:

        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
            return cls._looked_at(buf, super().frombuf(buf, encoding, errors))


def _block_problem(block: bytes, found: tarfile.TarInfo) -> str | None:
    posix = block[257:263] == b"ustar\0"
    if not _SIZE.fullmatch(block[124:136]):
        return "its size is no octal number"
    if any(block[345:500]) and (not posix or block[508:512] == b"tar\0"):  # GNU's and star's times, which tarfile takes for a name
        return "it holds more than a name, in a form of GNU's or star's"
    if block[156:157] == tarfile.AREGTYPE and found.isdir() and found.size:  # a file, if another header tells its name
        return "it is a directory with content"
    if found.type in {tarfile.GNUTYPE_SPARSE, tarfile.SOLARIS_XHDTYPE}:
        return f"its kind is {found.type.decode()}"
    return None


def _order_problem(found: tarfile.TarInfo, before: list[bytes]) -> str | None:
    """At most a global one, then an extended one or GNU's for a long name and a long link: of more, each reader prefers another."""
    if found.type not in _EXTENSIONS:
        return None
    own = before[1:] if before[:1] == [_GLOBAL] else before
    if found.type == _GLOBAL:
        return "there are others before it" if before else None
    fits = not own or (len(own) == 1 and {own[0], found.type} == _LONG)
    return None if fits else "there are others before it"


def _require_records(text: bytes) -> None:
    position = 0
    while position < len(text):
        record = _RECORD.match(text, position)
        end = position + int(record[1]) if record else 0
        if record is None or not record.end() < end <= len(text) or text[end - 1 : end] != b"\n":
            raise BadArchive("has a header that readers take differently: its records have no proper lengths")
        if record[2].startswith(b"GNU.sparse.") or (record[2] in _VALUED and end - 1 == record.end()):
            raise BadArchive(f"has a header that readers take differently: its record of {record[2].decode(errors='replace')}")
        position = end
