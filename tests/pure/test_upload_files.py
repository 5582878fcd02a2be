"""A file that changes while it is uploaded is an error, whatever the change."""

from collections.abc import Callable
from pathlib import Path

import pytest

from modelyard.errors import SourceChanged
from modelyard.upload.destination import PART_SIZE, part_size
from modelyard.upload.local import Reading, read_tree


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
