"""Which files are pickles, and which of them are refused: by table, with real pickles that would run a program."""

import bz2
import collections
import gzip
import io
import lzma
import os
import pickle
import pickletools
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from modelyard.models import SourceFile, WeightPolicy
from modelyard.plans.weight_formats import weight_problems
from modelyard.weights import pickles
from modelyard.weights.pickles import MOST_READS
from modelyard.weights.scan import Verdict, scan_file


class Calls:
    """Calls ``function`` when it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._reduced = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._reduced


EVIL = pickle.dumps(Calls(os.system, "true"), 2)
#: What torch.save writes of a small state dict: data.pkl as protocol 2, storages by persistent ids.
TORCH = (
    b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01X\x01\x00\x00\x00wq\x02ctorch._utils\n_rebuild_tensor_v2\nq\x03((X\x07\x00\x00\x00storage"
    b"q\x04ctorch\nFloatStorage\nq\x05X\x01\x00\x00\x000q\x06X\x03\x00\x00\x00cpuq\x07K\x02tq\x08QK\x00K\x02\x85q\tK\x01\x85q\n\x89h\x00)R"
    b"q\x0btq\x0cRq\rs."
)
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}q\x00X\r\x00\x00\x00little_endianq\x01\x88s."
RAW = bytes(range(256)) * 100


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return target.getvalue()


def tarred(name: str, body: bytes) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(body)
        archive.addfile(info, io.BytesIO(body))
    return target.getvalue()


def numpy(description: str, body: bytes) -> bytes:
    header = f"{{'descr': {description}, 'fortran_order': False, 'shape': (1,), }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def broken(method: int) -> bytes:
    """A zip whose one member cannot be decompressed."""
    body = bytearray(zipped({"a/data.pkl": pickle.dumps(RAW)}, method))
    start = 30 + len("a/data.pkl")
    body[start : start + 20] = b"\xff" * 20
    return bytes(body)


def polyglot() -> bytes:
    """A pickle whose first string holds what begins a tar: behind it, where a tar would end, it runs a program."""
    tar = bytearray(tarred("x", b"")[:512])
    begin = b"\x80\x03B" + struct.pack("<I", 512 - 7)
    tar[:7] = begin
    tar[148:156] = b" " * 8
    tar[148:156] = b"%06o\0 " % sum(tar)
    return bytes(tar) + b"0" + b"cos\nsystem\n(S'true'\ntR." + bytes(1024)


def two_directories() -> bytes:
    """A zip whose end names a directory of its own, before the one that lies right before the end."""
    bad, good = zipped({"a/data.pkl": EVIL}), zipped({"a/data.pkl": pickle.dumps([])})
    end = good.rindex(b"PK\x05\x06")
    offset = bad.index(b"PK\x01\x02")
    return bad[: bad.rindex(b"PK\x05\x06")] + good[:end] + good[end : end + 16] + struct.pack("<L", offset) + good[end + 20 :]


def zip_64(*, two: bool) -> bytes:
    """A zip with a 64-bit end; if ``two``, with another one before it, to which the locator points, and that one's own directory."""
    good, bad = zipped({"a/data.pkl": pickle.dumps([])}), zipped({"a/data.pkl": EVIL})
    body = bad[: bad.rindex(b"PK\x05\x06")] if two else b""
    located = len(body)
    if two:
        start = bad.index(b"PK\x01\x02")
        body += end_64(start, located - start)
    shift, start, end = len(body), good.index(b"PK\x01\x02"), good.rindex(b"PK\x05\x06")
    directory = bytearray(good[start:end])
    directory[42:46] = struct.pack("<L", shift)
    body += good[:start] + directory
    located = located if two else len(body)
    body += end_64(shift + start, end - start) + b"PK\x06\x07" + struct.pack("<LQL", 0, located, 1)
    return body + good[end : end + 16] + struct.pack("<LH", shift + start, 0)


def end_64(offset: int, length: int) -> bytes:
    return b"PK\x06\x06" + struct.pack("<QHHLLQQQQ", 44, 45, 45, 0, 0, 1, 1, length, offset)


def scan(directory: Path, name: str, body: bytes) -> Verdict:
    path = directory / name
    path.write_bytes(body)
    return scan_file(path)


@pytest.mark.parametrize(
    ("name", "body", "told"),
    [
        *(
            pytest.param(
                f"protocol{protocol}.pkl", pickle.dumps(Calls(os.system, "true"), protocol), "posix.system", id=f"protocol {protocol}"
            )
            for protocol in range(6)
        ),
        pytest.param(
            "pytorch_model.bin", zipped({"a/data.pkl": EVIL, "a/data/0": RAW}), "'a/data.pkl' in it imports posix.system", id="bin, zip"
        ),
        pytest.param("m.pth", zipped({"a/data.pkl": EVIL}, zipfile.ZIP_DEFLATED), "posix.system", id="compressed zip"),
        pytest.param("m.bin", b"leading bytes" + zipped({"data.pkl": EVIL}), "elsewhere than it says", id="zip behind other bytes"),
        *(
            pytest.param(
                "pytorch_model.bin",
                prefix + b"cos\nsystem\n(S'true'\ntR.",
                "no whole pickle|os.system",
                id=f"what only the unpickler reads, {kind}",
            )
            for kind, prefix in (
                ("base", b"I0x1\n0"),
                ("a NUL", b"I1\0x\n0"),
                ("a NUL in a float", b"F1\0x\n0"),
                ("a NUL in a memo's number", b"Np1\0x\n0"),
                ("long base", b"L0x1L\n0"),
                ("a long line", b"S'" + b"a" * 70_000 + b"'\n0"),
                ("text", b"S'\xc3\xa9'\n0"),
                ("a pickle before it", b"I0x1\n."),
            )
        ),
        pytest.param("m.bin", polyglot(), "os.system", id="a tar's beginning inside a pickle"),
        pytest.param("m.pt", zip_64(two=True), "elsewhere than it says", id="a zip of two 64-bit ends"),
        pytest.param("m.pt", two_directories(), "elsewhere than it says", id="a zip of two directories"),
        pytest.param(
            "m.bin", b"I0x1\n0X\2\0\0\0osX\6\0\0\0system\x93.", "no whole pickle", id="import from the stack, behind what only it reads"
        ),
        pytest.param("m.bin", b"I0x1\n0\x82\1)R.", "no whole pickle|copyreg", id="a number of copyreg behind it"),
        pytest.param("m.bin", zlib.compress(EVIL), "compressed as a whole", id="bin, zlib"),
        pytest.param("m.bin", gzip.compress(EVIL), "compressed as a whole", id="bin, gzip"),
        pytest.param("m.bin", bz2.compress(EVIL), "compressed as a whole", id="bin, bzip2"),
        pytest.param("m.bin", lzma.compress(EVIL), "compressed as a whole", id="bin, xz"),
        pytest.param("m.pt", broken(zipfile.ZIP_BZIP2), "cannot be read", id="broken bzip2 member"),
        pytest.param("m.pt", broken(zipfile.ZIP_LZMA), "cannot be read", id="broken lzma member"),
        pytest.param("m.bin", EVIL, "posix.system", id="bin, raw"),
        pytest.param("m.bin", EVIL[:-1] + RAW, "posix.system|no whole pickle", id="bin, broken after it runs"),
        pytest.param("m.pt", LEGACY + EVIL + pickle.dumps([]) + RAW, "posix.system", id="torch before 1.6"),
        pytest.param("config.json", EVIL, "posix.system", id="disguised as JSON"),
        pytest.param("config.json", pickle.dumps(Calls(os.system, "true"), 0), "posix.system", id="disguised as JSON, without a mark"),
        pytest.param("m.safetensors", zipped({"x": EVIL}), "posix.system", id="disguised as safetensors"),
        pytest.param("second.pkl", pickle.dumps([]) + EVIL, "posix.system", id="second pickle of a file"),
        pytest.param(
            "m.nemo", tarred("w.ckpt", zipped({"data.pkl": EVIL})), "'w.ckpt' in it 'data.pkl' in it imports posix", id="in a tar"
        ),
        pytest.param("a.npy", numpy("'|O'", EVIL), "posix.system", id="numpy objects"),
        pytest.param(
            "a.npz", zipped({"a.npy": numpy("[('x', '<f4'), ('y', '|O')]", EVIL)}), "posix.system", id="numpy objects in a record"
        ),
        pytest.param("a.npy", EVIL, "posix.system", id="no numpy array at all"),
        pytest.param(
            "m.pkl", b"cimportlib\nimport_module\n(S'os'\ntR.", "importlib.import_module, which is not known", id="no scanner's list"
        ),
        pytest.param("m.pkl", b"c_posixsubprocess\nfork_exec\n.", "not known to be harmless", id="nor this"),
        pytest.param("m.pkl", b"cbuiltins\n__import__\n.", "not known to be harmless", id="nor this one"),
        pytest.param("m.pkl", b"ctorch.storage\n_load_from_bytes\n.", "_load_from_bytes", id="another torch.load inside"),
        pytest.param("m.pkl", b"\x80\x04\x8c\x0bcollections\x8c\x1aOrderedDict.fromkeys.x.y.z\x93.", "OrderedDict.from", id="by attribute"),
        pytest.param("m.pkl", b"\x80\x04\x8c\x02os\x94\x8c\x06system\x940h\x00h\x01\x93.", "os.system|unknown", id="from the memo"),
        pytest.param("m.pkl", b"\x80\x02\x82\x01.", "copyreg", id="by a number of copyreg"),
        pytest.param("m.pkl", EVIL[:-1], "no whole pickle", id="cut off"),
        pytest.param("m.pkl", RAW, "no whole pickle", id="no pickle by its content"),
        pytest.param("m.joblib", b"x\x9c" + RAW, "no whole pickle", id="compressed as a whole"),
        pytest.param("m.pt", zipped({"data.pkl": EVIL})[:-30], "no whole pickle|cannot be read", id="cut off zip"),
        pytest.param("m.zip", zipped({"a.zip": zipped({"b.zip": zipped({"c.pkl": EVIL})})}), "too deep", id="too deep"),
    ],
)
def test_refused(name: str, body: bytes, told: str, tmp_path: Path) -> None:
    verdict = scan(tmp_path, name, body)
    assert verdict.pickled
    assert any(words in danger for words in told.split("|") for danger in verdict.dangers), verdict


@pytest.mark.parametrize(
    ("name", "body", "pickled"),
    [
        pytest.param("pytorch_model.bin", zipped({"a/data.pkl": TORCH, "a/version": b"3\n", "a/data/0": RAW}), True, id="torch"),
        pytest.param("m.pt", zip_64(two=False), True, id="a zip with a 64-bit end"),
        pytest.param("m.pt", LEGACY + TORCH + pickle.dumps(["0"], 2) + RAW, True, id="torch before 1.6"),
        pytest.param("m.pkl", pickle.dumps({"a": [1, 2.0, b"x", None, {"y"}], "b": collections.OrderedDict()}), True, id="plain data"),
        pytest.param("m.pkl", pickle.dumps(b"x" * 3_000_000), True, id="a long payload"),
        pytest.param("m.pkl", b"", False, id="empty"),
        pytest.param("a.npy", numpy("'<f4'", RAW), False, id="numpy array"),
        pytest.param("a.npz", zipped({"a.npy": numpy("[('x', '<f4'), ('y', '|S3')]", RAW)}), False, id="numpy arrays"),
        pytest.param("openvino.bin", RAW, False, id="raw weights"),
        pytest.param("model.bin", b"." + RAW, False, id="raw weights that begin like a pickle"),
        pytest.param("model.bin", b"\x80\x02" + RAW, False, id="raw weights that begin like another"),
        pytest.param("model.bin", b"c\xff\xfe\n\x00\nx" + RAW, False, id="raw weights that begin like an import"),
        pytest.param("m.safetensors", b"\x02\x00\x00\x00\x00\x00\x00\x00{}" + RAW, False, id="safetensors"),
        pytest.param("m.gguf", b"GGUF\x03\x00\x00\x00" + RAW, False, id="gguf"),
        pytest.param("vocab.json", b'{"os": "system"}', False, id="JSON"),
        pytest.param("notes.txt", b"c\nd\n", False, id="text"),
        pytest.param("m.keras", zipped({"config.json": b"{}"}), False, id="a zip without pickles"),
    ],
)
def test_taken(name: str, body: bytes, pickled: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter of pytest
    assert scan(tmp_path, name, body) == Verdict(pickled=pickled)


def test_a_member_whose_header_and_directory_differ_is_refused(tmp_path: Path) -> None:
    body = zipped({"data.pkl": EVIL, "good.txt": b"x"}).replace(b"data.pkl", b"data.txt", 1)
    assert "cannot be read" in scan(tmp_path, "m.pt", body).dangers[0]


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    body = bytearray(zipped({"data.pkl": EVIL}))
    body[6] |= 1
    body[body.index(b"PK\x01\x02") + 8] |= 1
    assert "encrypted" in scan(tmp_path, "m.pt", bytes(body)).dangers[0]


def test_very_long_pickles(tmp_path: Path) -> None:
    numbers = b"".join(b"J" + struct.pack("<i", number) for number in range(MOST_READS // 2 + 10))
    assert scan(tmp_path, "data.pkl", b"\x80\x02](" + numbers + b"e.") == Verdict(pickled=True)
    imports = b"\x80\x02](ccollections\nOrderedDict\n" + numbers + b"e."
    assert "too many to scan" in scan(tmp_path, "imports.pkl", imports).dangers[0]


def test_a_walk_over_plain_data_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MOST_PLAIN_READS", 1_000)
    assert scan(tmp_path, "long.pkl", b"\x80\x04" + b"N0" * 500 + b"N.").dangers == ("has more than 1000 instructions, too many to scan",)
    assert not scan(tmp_path, "short.pkl", b"\x80\x04" + b"N0" * 400 + b"N.").dangers


def test_the_torch_like_pickle_is_what_it_says() -> None:
    assert [op.name for op, _, _ in pickletools.genops(TORCH)].count("BINPERSID") == 1


@pytest.mark.parametrize(
    ("path", "refused"),
    [
        ("model.pt", True),
        ("a/b.PKL", True),
        ("a/scaler.pkl.gz", True),
        ("pytorch_model-00001-of-00002.bin", True),
        ("text_encoder/pytorch_model.bin", True),
        ("openvino_model.bin", False),
        ("array.npy", False),
        ("model.safetensors", False),
        ("pkl", False),
    ],
)
def test_no_pickle_refuses_names_before_a_byte_is_read(path: str, refused: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    problems = weight_problems([SourceFile(path, 1)], WeightPolicy.NO_PICKLE)
    assert [problem.subject for problem in problems] == ([repr(path)] if refused else [])
    assert not weight_problems([SourceFile(path, 1)], WeightPolicy.SCAN)


def test_policies_in_order() -> None:
    assert WeightPolicy.NO_PICKLE.covers(WeightPolicy.SCAN)
    assert WeightPolicy.SCAN.covers(WeightPolicy.SCAN)
    assert not WeightPolicy.ANY.covers(WeightPolicy.SCAN)
