"""A file that changes while it is uploaded is an error, whatever the change."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from modelyard.errors import SourceChanged
from modelyard.plans.digests import MARKER_NAME, SUMS_NAME
from modelyard.upload import command, run
from modelyard.upload.destination import PART_SIZE, part_size
from modelyard.upload.local import LocalTree, Reading, read_tree


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.rename(path)


def rewrite(path: Path) -> None:
    path.write_bytes(b"x" * path.stat().st_size)


@pytest.mark.parametrize("change", [grow, replace, rewrite, lambda path: path.write_bytes(b"1"), lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("read", [0, 1])
def test_a_changing_file(change: Callable[[Path], object], read: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    os.utime(tmp_path / "file", (0, 0))  # long ago: the clock of files' times may stand still for some milliseconds
    [file] = read_tree(tmp_path).files
    reading = Reading(file)
    parts = reading.parts(5)
    for _ in range(read):
        next(parts)
    change(tmp_path / "file")
    if change is replace and read:  # the open file is still the old one, whole
        assert b"".join(parts) == b"56789"
        return
    with pytest.raises(SourceChanged, match="changed while it was uploaded"):
        list(parts)


@pytest.mark.parametrize("size", [0, 1, 4, 5, 10, 11])
def test_a_file_is_read_whole(size: int, tmp_path: Path) -> None:
    body = bytes(range(size))
    (tmp_path / "file").write_bytes(body)
    [file] = read_tree(tmp_path).files
    reading = Reading(file)
    assert b"".join(reading.parts(5)) == body
    assert reading.hashed.size == size


def test_parts_stay_below_the_limit_of_s3() -> None:
    assert part_size(1) == PART_SIZE
    assert 5 * 2**40 / part_size(5 * 2**40) < 10_000


@pytest.mark.parametrize("path", ["sha256sums", f"{SUMS_NAME}/of-parts", f"{MARKER_NAME}/file", MARKER_NAME.upper()])
def test_a_file_that_meets_what_the_upload_adds(path: str, tmp_path: Path) -> None:
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_bytes(b"x")
    [problem] = read_tree(tmp_path).problems
    assert path in problem.subject
    assert any(name in problem.what for name in (SUMS_NAME, MARKER_NAME))


@pytest.mark.parametrize("path", [SUMS_NAME, f"deep/{SUMS_NAME}", f"deep/{MARKER_NAME}"])
def test_a_file_that_meets_nothing(path: str, tmp_path: Path) -> None:
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_bytes(b"x")
    assert not read_tree(tmp_path).problems


def test_a_file_that_goes_away_after_the_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.bin").write_bytes(b"x")

    def read_and_lose(root: Path) -> LocalTree:
        tree = read_tree(root)
        (tmp_path / "model.bin").unlink()
        return tree

    monkeypatch.setattr(run, "read_tree", read_and_lose)
    assert command.main(["upload", str(tmp_path), "s3://bucket/m/v1/", "--endpoint-url", "http://127.0.0.1:9"]) == 1
    told = capsys.readouterr().err
    assert [words for words in ("model.bin", "nothing was marked", "run it again") if words not in told] == []


def test_settings_of_the_aws_tools_that_are_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "that-nobody-wrote")
    assert command.main(["upload", str(tmp_path), "s3://bucket/m/v1/"]) == 1
    assert "that-nobody-wrote" in capsys.readouterr().err
