"""``SHA256SUMS`` as coreutils writes it, and what is told where it does not fit the files."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from modelyard.errors import DigestMismatch
from modelyard.models import FileRecord, sha256sums
from modelyard.plans.digests import SUMS_NAME, compare_sums, parse_sums

A, B = hashlib.sha256(b"a").hexdigest(), hashlib.sha256(b"b").hexdigest()


@pytest.mark.parametrize("option", ["--text", "--binary"])
def test_what_coreutils_writes_is_read(option: str, tmp_path: Path) -> None:
    names = ["a", "with  spaces *", "back\\slash", "\\nnew", "line\nfeed", "carriage\rreturn", "ü", " lead", "-rf", "./dot"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    output = subprocess.run(["sha256sum", option, "--", *names], cwd=tmp_path, check=True, capture_output=True).stdout
    assert parse_sums(output) == {name.removeprefix("./"): hashlib.sha256(name.encode()).hexdigest() for name in names}


def test_what_we_write_is_read_by_both(tmp_path: Path) -> None:
    bodies = {"a": b"a", "back\\slash": b"b", "ü": b"c"}
    for name, body in bodies.items():
        (tmp_path / name).write_bytes(body)
    digests = {name: hashlib.sha256(body).hexdigest() for name, body in bodies.items()}
    text = "".join(sha256sums(FileRecord(path=name, size=1, sha256=digest) for name, digest in digests.items())).encode()
    subprocess.run(["sha256sum", "--check", "--strict"], cwd=tmp_path, input=text, check=True, capture_output=True)
    assert parse_sums(text) == digests


@pytest.mark.parametrize(
    ("data", "told"),
    [
        pytest.param(f"{A}  a\nnonsense\n".encode(), "line 2 is none of sha256sum's ('nonsense')", id="nonsense"),
        pytest.param(f"SHA256 (a) = {A}\n".encode(), "line 1", id="BSD"),
        pytest.param(f"{A} a\n".encode(), "line 1", id="one space"),
        pytest.param(f"{A[:40]}  a\n".encode(), "line 1", id="another hash"),
        pytest.param(f"\n{A}  a\n".encode(), "line 1", id="an empty line"),
        pytest.param(f"{A}  a\n{B}  ./a\n".encode(), "line 2 gives 'a' a second digest", id="two digests"),
        pytest.param(b"\xff\xfe", "no UTF-8", id="no text"),
    ],
)
def test_a_bad_file_is_one_clear_error(data: bytes, told: str) -> None:
    with pytest.raises(DigestMismatch) as raised:
        parse_sums(data)
    assert told in str(raised.value)
    assert "upload the model again" in str(raised.value)


@pytest.mark.parametrize(
    ("sums", "found", "all_listed", "told"),
    [
        pytest.param({"a": A}, {"a": A, SUMS_NAME: B}, True, None, id="all listed"),
        pytest.param({"a": A}, {"a": A, "b": B, SUMS_NAME: B}, False, None, id="more files than listed"),
        pytest.param({"a": A}, {"a": A, "b": B, SUMS_NAME: B}, True, "'b' is not listed", id="more files than listed, all required"),
        pytest.param({"a": A, "b": B}, {"a": A}, False, "'b' is listed and not there", id="missing"),
        pytest.param({"a": A}, {"a": B}, False, f"'a' has the SHA-256 {B}, not {A}", id="another content"),
        pytest.param({SUMS_NAME: A, "a": A}, {"a": A, SUMS_NAME: B}, False, "has the SHA-256", id="it lists itself, wrongly"),
        pytest.param({}, {"a": A}, True, "'a' is not listed", id="nothing listed"),
    ],
)
def test_files_against_the_sums(sums: dict[str, str], found: dict[str, str], all_listed: bool, told: str | None) -> None:  # noqa: FBT001
    if told is None:
        compare_sums(sums, found, all_listed=all_listed)
        return
    with pytest.raises(DigestMismatch) as raised:
        compare_sums(sums, found, all_listed=all_listed)
    assert told in str(raised.value)


def test_only_the_first_are_told() -> None:
    with pytest.raises(DigestMismatch, match="and 980 more"):
        compare_sums({f"f{number}": A for number in range(1000)}, {}, all_listed=False)
