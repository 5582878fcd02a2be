"""The auditor sees each planted change: an oracle that sees nothing proves nothing."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.auditor import Expected, Snapshot, compare, files_below, stable


def volume(root: Path) -> Snapshot:
    return Snapshot({f"file:v/{path}": fact for path, fact in files_below(root).items()})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "a").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(b"b")
    (tmp_path / "link").symlink_to("b")
    return tmp_path


def relink(root: Path) -> None:
    (root / "link").unlink()
    (root / "link").symlink_to("dir")


CHANGES = [
    pytest.param(lambda root: (root / "dir" / "a").write_bytes(b"abd"), "file:v/dir/a changed: sha256", id="one byte, the same size"),
    pytest.param(lambda root: (root / "new").touch(), "file:v/new appeared", id="a file more"),
    pytest.param(lambda root: (root / "empty").mkdir(), "file:v/empty appeared", id="an empty directory"),
    pytest.param(lambda root: (root / "b").unlink(), "file:v/b vanished", id="a file less"),
    pytest.param(lambda root: (root / "b").chmod(0o600), "file:v/b changed: mode", id="another mode"),
    pytest.param(lambda root: os.link(root / "b", root.parent / f"{root.name}-link"), "file:v/b changed: links 1 -> 2", id="a hard link"),
    pytest.param(relink, "file:v/link changed: link 'b' -> 'dir'", id="a link with another end"),
]


@pytest.mark.parametrize(("change", "found"), CHANGES)
def test_a_planted_change_of_a_file_is_seen(change: Callable[[Path], object], found: str, root: Path) -> None:
    before = volume(root)
    assert not compare(before, volume(root))
    change(root)
    [unexpected] = compare(before, volume(root)).unexpected
    assert unexpected.startswith(found)


BEFORE = Snapshot({"Secret/n/a": {"data": {"k": "1"}}, "Job/n/b": {}, "Job/n/c": {"spec": {"suspend": True, "other": 1}}})
AFTER = Snapshot({"Secret/n/a": {"data": {"k": "2"}}, "Job/n/c": {"spec": {"suspend": False, "other": 1}}, "Pod/n/d": {}})


def test_objects_that_came_went_and_changed_are_told_with_their_fields() -> None:
    assert compare(BEFORE, AFTER).unexpected == [
        "Pod/n/d appeared",
        "Job/n/b vanished",
        "Secret/n/a changed: data.k '1' -> '2'",
        "Job/n/c changed: spec.suspend True -> False",
    ]


def test_what_is_expected_must_happen_and_nothing_else() -> None:
    whole = Expected(appeared=["Pod/n/*"], vanished=["Job/n/b"], changed=["Secret/*", "Job/n/c"])
    assert not compare(BEFORE, AFTER, whole)
    assert str(compare(BEFORE, AFTER, Expected(appeared=["Pod/*", "Node/*"], ignored=["Job/*", "Secret/*"]))) == (
        "expected in vain: Node/* appeared"
    )
    assert compare(BEFORE, BEFORE, whole).missing == ["Pod/n/* appeared", "Job/n/b vanished", "Secret/* changed", "Job/n/c changed"]


def test_volatile_fields_are_left_out_and_no_others() -> None:
    live: dict[str, Any] = {
        "metadata": {"name": "n", "resourceVersion": "7", "managedFields": [], "labels": {"a": "b"}},
        "status": {"x": 1},
    }
    assert stable("Node", live) == {"metadata": {"name": "n", "labels": {"a": "b"}}}
    assert stable("Pod", live) == {"metadata": {"name": "n", "labels": {"a": "b"}}, "status": {"x": 1}}
    assert stable("Secret", {"data": {"key": "cGFzcw=="}})["data"]["key"] == hashlib.sha256(b"cGFzcw==").hexdigest()
