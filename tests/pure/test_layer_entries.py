"""Layers' entries and archives: what is a model's file, what is passed over, and how a compressed archive is begun in its middle."""

import gzip
import io
import os
import random
import tarfile
import zlib

import pytest

from flows.modelcar_sites import claim_location
from modelyard.errors import Refused
from modelyard.images.descriptors import LAYER, Descriptor
from modelyard.images.entries import Links, entry_problem, global_problem, model_path
from modelyard.models import ClaimLocation, ModelRef
from modelyard.sources.layer_index import _Walk
from modelyard.sources.layer_stream import BadArchive, Forward, Gunzip

MIB = 1024 * 1024


def entry(name: str, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type = kind
    return found


@pytest.mark.parametrize(
    ("name", "kind", "path"),
    [
        ("models/a/b.txt", tarfile.REGTYPE, "a/b.txt"),
        ("./models/a", tarfile.REGTYPE, "a"),
        ("././/./models/a", tarfile.REGTYPE, "a"),
        ("models/a", tarfile.AREGTYPE, "a"),
        ("models", tarfile.DIRTYPE, None),
        ("models/a", tarfile.DIRTYPE, None),
        ("bin/sh", tarfile.REGTYPE, None),
        ("bin/ln", tarfile.SYMTYPE, None),
        ("usr/.wh.share", tarfile.REGTYPE, None),
        ("data/models/x", tarfile.REGTYPE, None),
        ("models.txt", tarfile.REGTYPE, None),
        (".", tarfile.DIRTYPE, None),
    ],
)
def test_entries_that_may_be(name: str, kind: bytes, path: str | None) -> None:
    assert entry_problem(entry(name, kind)) is None
    assert model_path(entry(name, kind)) == path


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "../models/x",
        "models/..",
        "/models",
        "models/a/.wh.b",
        ".wh..wh..opq",
        "models/.wh.x/y",
        "./././models/.wh.a",
        ".//.wh.models",
    ],
)
def test_entries_that_must_not_be(name: str) -> None:
    assert entry_problem(entry(name))


LINK, DIRECTORY = tarfile.SYMTYPE, tarfile.DIRTYPE


@pytest.mark.parametrize("entries", [[("././models/l", LINK)], [("./././models", LINK)], [("bin/" + "a/" * 3000, tarfile.REGTYPE)]])
def test_names_that_begin_here_twice_and_longer_ones_than_any(entries: list[tuple[str, bytes]]) -> None:
    assert [entry_problem(entry(*each)) for each in entries] != [None]


def test_names_below_a_link_that_was_seen() -> None:
    links = Links()
    seen = [links.problem(entry(name, kind)) for name, kind in (("x", LINK), ("opt/y", LINK), ("xx/a", b"0"), ("opt/z", b"0"), ("x", b"0"))]
    assert seen == [None] * 5
    for name in ("x/weights.bin", "./x//weights.bin", "/x/a/b", "opt/y/a"):
        assert links.problem(entry(name)) == "lies below a symbolic link, which leads elsewhere"
    above = links.copy()
    assert not above.problem(entry("x", DIRECTORY))
    assert not above.problem(entry("x/a")), "a directory took the link's place"
    assert (len(above), len(links)) == (1, 2)
    assert links.problem(entry("x/a"))


@pytest.mark.parametrize("told", [{"path": "models/x"}, {"size": "9"}, {"linkpath": "a", "comment": "c"}, {"GNU.sparse.name": "models/x"}])
def test_global_headers_that_change_entries(told: dict[str, str]) -> None:
    assert "has a header for all entries" in str(global_problem(told))
    assert global_problem({"comment": "a commit", "mtime": "1"}) is None


def header(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **patched: tuple[int, bytes]) -> bytes:
    """A header with these bytes at these places, and its content."""
    found = entry(name, kind)
    found.size = len(content)
    block = bytearray(found.tobuf(tarfile.USTAR_FORMAT))
    for at, value in patched.values():
        block[at : at + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + content + bytes(-len(content) % 512)


def records(kind: bytes = tarfile.XHDTYPE, **told: str) -> bytes:
    lines = [f" {key.replace('_', '.')}={value}\n" for key, value in told.items()]
    return header("pax", "".join(f"{len(line) + 2}{line}" for line in lines).encode(), kind)


EVIL = header("models/evil.bin", b"evil")
LONG = header("././@LongLink", b"bin/sh\0", tarfile.GNUTYPE_LONGNAME)
TWO_READINGS = {
    "two extended": records(path="models/x") + records(path="bin/sh") + EVIL,
    "two long": LONG + LONG + EVIL,
    "extended and long": records(path="bin/sh") + LONG + EVIL,
    "extended and global": records(path="bin/sh") + records(tarfile.XGLTYPE, comment="x") + EVIL,
    "globals without end": records(tarfile.XGLTYPE, comment="x") * 3000 + EVIL,
    "Solaris's": records(tarfile.SOLARIS_XHDTYPE, path="bin/sh") + EVIL,
    "GNU's times": header("models/evil.bin", magic=(257, b"ustar  \0"), time=(345, b"14000000000")),
    "star's times": header("models/evil.bin", prefix=(345, b"bin"), star=(508, b"tar\0")),
    "a size behind a zero": header("bin/sh", EVIL, size=(124, b"\0" + b"%010o\0" % len(EVIL))),
    "a size with a sign": header("bin/sh", size=(124, b"+0000000000\0")),
    "a directory with content": header("bin/", EVIL, tarfile.AREGTYPE),
    "another name of a sparse one": records(path="models/x", GNU_sparse_name="bin/sh") + EVIL,
    "an empty name": records(path="") + EVIL,
    "a length with a sign": header("pax", b"+24 path=models/evil.bin\n", tarfile.XHDTYPE) + header("bin/sh"),
    "no text": header("pax", b"21 hdrcharset=\xff\xff\xff\xff\xff\n", tarfile.XHDTYPE) + b"?",
}


def files_of(archive: bytes) -> list[str]:
    layer = Descriptor.of(LAYER, archive)
    walk = _Walk(Forward(iter(chunks(archive))), layer, Links(), hash_files=True)
    walk.run()
    return [found.path for found, _ in walk.found]


@pytest.mark.parametrize("name", TWO_READINGS)
def test_headers_of_which_readers_make_different_files(name: str) -> None:
    # Newer patches of Python refuse some of them by themselves.
    with pytest.raises((ValueError, tarfile.TarError), match=r"readers take differently|codec can't decode|invalid header"):
        files_of(TWO_READINGS[name] + bytes(1024))


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_headers_as_builders_write_them(form: int) -> None:
    """Long names and links, a global comment, owners with names, large sizes' form, times with fractions."""
    buffer = io.BytesIO()
    names = ["a", "d" * 90 + "/" + "e" * 60, *([] if form == tarfile.USTAR_FORMAT else ["f" * 200, "é" * 90])]
    with tarfile.open(fileobj=buffer, mode="w", format=form, pax_headers={"comment": "x"}) as packed:
        packed.addfile(entry("models", tarfile.DIRTYPE))
        for name in names:
            found = entry(f"models/{name}")
            found.size, found.uname, found.mtime, found.uid = 3, "röot", 1.5 if form == tarfile.PAX_FORMAT else 1, 70_000
            packed.addfile(found, io.BytesIO(b"abc"))
        link = entry("bin/" + "l" * 90, tarfile.SYMTYPE)
        link.linkname = "t" * (90 if form == tarfile.USTAR_FORMAT else 150)
        packed.addfile(link)
    assert files_of(buffer.getvalue()) == names


def chunks(content: bytes, size: int = 70_001) -> list[bytes]:
    return [content[start : start + size] for start in range(0, len(content), size)]


@pytest.mark.parametrize("members", [1, 3])
def test_a_compressed_archive_is_begun_at_any_mark(members: int) -> None:
    parts = [os.urandom(2 * MIB) + bytes(3 * MIB) + random.Random(number).randbytes(MIB) for number in range(members)]  # noqa: S311
    content, packed = b"".join(parts), b"".join(gzip.compress(part, 1) for part in parts)
    whole = Gunzip()
    assert b"".join(whole.through(chunks(packed))) == content
    assert len(whole.marks) >= 3 * members
    for mark in whole.marks:
        again = b"".join(Gunzip.at(mark).through(chunks(packed[mark.consumed :], 333_333)))
        assert again == content[mark.produced :]


def test_marks_are_few_however_long_the_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelyard.sources.layer_stream._MOST_MARKS", 8)
    content = os.urandom(40 * MIB)
    whole = Gunzip()
    assert sum(map(len, whole.through(chunks(zlib.compress(content, 1, wbits=31), MIB)))) == len(content)
    assert 4 <= len(whole.marks) <= 8


@pytest.mark.parametrize("packed", [b"no gzip at all", gzip.compress(b"x" * 1000, mtime=0)[:-9], gzip.compress(b"x", mtime=0) + b"garbage"])
def test_streams_that_are_refused(packed: bytes) -> None:
    with pytest.raises(BadArchive, match="gzip"):
        b"".join(Gunzip().through([packed]))


def test_a_stream_goes_forward_only_and_jumps_where_that_is_cheaper() -> None:
    content = os.urandom(5 * MIB)
    jumps: list[int] = []

    def jump(position: int) -> "list[bytes]":
        jumps.append(position)
        return chunks(content[position:])

    stream = Forward(iter(chunks(content)), lambda position: iter(jump(position)))
    assert stream.read(10) == content[:10]
    stream.seek(1000)
    assert (stream.read(5), jumps) == (content[1000:1005], [])
    stream.seek(4 * MIB)
    assert (stream.read(5), jumps) == (content[4 * MIB : 4 * MIB + 5], [4 * MIB])
    with pytest.raises(BadArchive, match="points back"):
        stream.seek(0)
    with pytest.raises(BadArchive, match="a header of"):
        stream.read(2 * MIB)
    assert b"".join(bytes(part) for part in stream.rest()) == content[4 * MIB + 5 :]


def test_a_version_on_a_claim() -> None:
    assert claim_location("pvc://cache/m/v1", "cache") == ClaimLocation(claim="cache", model=ModelRef(name="m", version="v1"))
    assert claim_location("pvc://cache/m/v1/", "cache").uri == "pvc://cache/m/v1"
    for path in ("pvc://cache", "pvc://cache/m", "pvc://cache/m/v1/x", "pvc://cache/../v1"):
        with pytest.raises(Refused, match="write pvc://cache/<model>/<version>"):
            claim_location(path, "cache")
    with pytest.raises(Refused, match=r"is on claim other; the cache's is cache"):
        claim_location("pvc://other/m/v1", "cache")
