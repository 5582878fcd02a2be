"""A file as a possible carrier of pickles: raw, in a zip (PyTorch, numpy) or in a tar (NeMo), found by content as well as by name.

Nothing is unpacked and no file is held in memory: archives are read in place, and of each member no more than its pickle. What
cannot be read is refused where its name or its beginning says that pickle loads it. Keras' own formats (.h5, .keras), whose
Lambda layers hold code, are no pickles and are not judged here.
"""

import ast
import lzma
import os
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from modelyard.plans.weight_formats import is_pickle_name, may_be_pickle_name
from modelyard.weights.pickles import PickleStream, Unscannable, read_pickle
from modelyard.weights.unpickling import position_after
from modelyard.weights.zip_ends import refuse_two_readings

#: So much of a file's beginning tells whether it has to be looked into.
HEAD_BYTES = 512
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
#: zlib, gzip, bzip2, xz: what joblib compresses a pickle as a whole with.
_COMPRESSED = re.compile(rb"\x78[\x01\x5e\x9c\xda]|\x1f\x8b\x08|BZh[1-9]1AY&SY|\xfd7zXZ\0")
_NUMPY = b"\x93NUMPY"
_PROTOCOL = re.compile(rb"\x80[\x00-\x05]")
#: A pickle of protocol 0 or 1 has no mark of its own; one that does harm mostly begins with an import.
_OLD_IMPORT = re.compile(rb"[\(\}\]l d]*[ci][A-Za-z_][\w.]*\n[A-Za-z_][\w.]*\n")
#: torch.save before 1.6: five pickles, the first of them this number, then the tensors' bytes.
_TORCH_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_TORCH_LEGACY_PICKLES = 5
_PLAIN_DTYPE = re.compile(r"[<>|=]?[biufcSUVMm?]\d*(\[[\w/]+\])?")
#: What an archive's reader raises on one that is broken.
_UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, tarfile.TarError, struct.error),
    *(EOFError, RuntimeError, NotImplementedError, ValueError),
)
_DEEPEST = 2
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a file turned out to be: whether pickle loads anything of it, and what speaks against that."""

    pickled: bool = False
    dangers: tuple[str, ...] = ()

    def __add__(self, other: "Verdict") -> "Verdict":
        return Verdict(self.pickled or other.pickled, self.dangers + other.dangers)


def scan_file(path: Path) -> Verdict:
    """Look into one file. What is neither named nor begins like a carrier of pickles costs one small read."""
    with path.open("rb") as file:
        return scan(file, path.name, os.fstat(file.fileno()).st_size)


def scan(file: IO[bytes], name: str, size: int) -> Verdict:
    """Look into one file of ``size`` bytes that can be read anywhere."""
    return _contained(file, name, size, depth=0)


def may_carry(name: str, head: bytes) -> bool:
    """Whether a file of this name that begins with ``head`` (its first ``HEAD_BYTES``) has to be looked into."""
    named = is_pickle_name(name) or may_be_pickle_name(name)
    begins = head.startswith((*_ZIP, _NUMPY)) or _PROTOCOL.match(head) or _OLD_IMPORT.match(head)
    return named or _is_tar(head) or bool(begins)


def _is_tar(head: bytes) -> bool:
    return head[257:262] == b"ustar"


def _contained(file: IO[bytes], name: str, size: int, depth: int) -> Verdict:
    """The verdict on one file or member; what its container cannot give whole is refused."""
    try:
        return _scan(file, name, size, depth)
    except _UNREADABLE as error:
        return Verdict(pickled=True, dangers=(f"cannot be read ({error})",))
    except OSError as error:
        if error.errno is not None:  # the volume's, not the decoder's
            raise
        return Verdict(pickled=True, dangers=(f"cannot be read ({error})",))


def _scan(file: IO[bytes], name: str, size: int, depth: int) -> Verdict:
    head = file.read(HEAD_BYTES)
    if not may_carry(name, head):
        return Verdict()
    named = is_pickle_name(name)
    suspected = named or may_be_pickle_name(name)
    verdict = Verdict()
    is_tar = _is_tar(head)
    if head.startswith(_ZIP) or (suspected and not depth and zipfile.is_zipfile(file)):
        verdict += _archive(_zip_members(file, alone=not is_tar), depth)
        if head.startswith(_ZIP):  # it would be no pickle's beginning
            return verdict
    if is_tar:
        verdict += _archive(_tar_members(file), depth)
        named = False  # it need be no pickle, but may be one as well, which reads on behind what a tar takes for its end
    if suspected and not named and not is_tar and _COMPRESSED.match(head):
        return verdict + Verdict(pickled=True, dangers=("is compressed as a whole, and what is in it is not looked into",))
    if head.startswith(_NUMPY):
        return verdict + _array(file, size, head)
    if size and (suspected or _PROTOCOL.match(head) or _OLD_IMPORT.match(head)):
        verdict += _pickles(PickleStream(file, size), 0, named=named, legacy=head.startswith(_TORCH_LEGACY))
    return verdict


def _archive(members: Iterator[tuple[str, IO[bytes], int]], depth: int) -> Verdict:
    verdict = Verdict()
    for name, file, size in members:
        if depth == _DEEPEST:
            return Verdict(pickled=True, dangers=("holds archives in archives, too deep to look into",))
        with file:
            found = _contained(file, name, size, depth + 1)
        verdict += Verdict(found.pickled, tuple(f"{name!r} in it {danger}" for danger in found.dangers))
    return verdict


def _zip_members(file: IO[bytes], *, alone: bool) -> Iterator[tuple[str, IO[bytes], int]]:
    """The zip's members by its directory; one whose own header says otherwise cannot be read, as it may be read otherwise elsewhere."""
    if alone:  # in a tar it lies behind others' bytes
        refuse_two_readings(file)
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.file_size:
                yield info.filename, archive.open(info), info.file_size


def _tar_members(file: IO[bytes]) -> Iterator[tuple[str, IO[bytes], int]]:
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for info in archive:
            if info.isreg() and (member := archive.extractfile(info)):
                yield info.name, member, info.size


def _array(file: IO[bytes], size: int, head: bytes) -> Verdict:
    """A numpy file: a pickle follows the header if the array is one of objects.

    https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
    """
    short = head[6:7] == b"\x01"
    start = 10 if short else 12
    end = start + int.from_bytes(head[8:start], "little")
    file.seek(start)
    try:
        header = ast.literal_eval(file.read(min(end - start, 1024 * 1024)).decode("latin-1").strip())
        plain = _is_plain(header["descr"])
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError) as error:
        return Verdict(pickled=True, dangers=(f"has no readable numpy header ({error})"[:200],))
    return Verdict() if plain else _pickles(PickleStream(file, size), end, named=True, legacy=False)


def _is_plain(description: object) -> bool:
    """Whether an array's dtype is made of numbers, text and bytes only."""
    if isinstance(description, list):
        return all(isinstance(field, tuple) and _is_plain(field[1]) for field in description)
    if isinstance(description, tuple):
        return _is_plain(description[0])
    return isinstance(description, str) and bool(_PLAIN_DTYPE.fullmatch(description))


def _pickles(stream: PickleStream, start: int, *, named: bool, legacy: bool) -> Verdict:
    """One pickle after the other to the file's end. Bytes that import nothing and are no pickles are none, unless their name says so."""
    dangers: dict[str, None] = {}
    position, count, imports = start, 0, False
    while position < stream.size and not (legacy and count == _TORCH_LEGACY_PICKLES):
        try:
            suspects, imported = read_pickle(stream, position)
        except Unscannable as unscannable:
            if not (named or legacy or imports):
                end = position_after(stream, position)
                if end is None:
                    return Verdict()
                if end > position:
                    position, count = end, count + 1
                    continue
            dangers[str(unscannable)] = None
            break
        dangers.update(dict.fromkeys(map(str, suspects)))
        position, count, imports = stream.tell(), count + 1, imports or imported
    told = list(dangers)
    if len(told) > _SHOWN:
        told[_SHOWN:] = [f"and {len(told) - _SHOWN} more"]
    return Verdict(pickled=True, dangers=tuple(told))
