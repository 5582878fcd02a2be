"""Ends that no server and no kill brings about: what one call answers, what was left half there, a signal at the last moment."""

import errno
import fcntl
import json
import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from modelyard.errors import LoaderInterrupted, VersionConflict, VolumeUnusable
from modelyard.loader import __main__ as command
from modelyard.loader import progress
from modelyard.loader.checksums import sha256_of
from modelyard.loader.layout import Layout
from modelyard.loader.lock import alone
from modelyard.loader.publish import State, check_files, read_state
from modelyard.models import FileRecord, Manifest, ModelRef, S3Location
from modelyard.orders import LoadResult, VerifyLevel

REF = ModelRef(name="m", version="v1")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path, REF)


def flock_says(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(_file: object, _operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK])
def test_a_volume_without_locks(code: int, layout: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    flock_says(code, monkeypatch)
    with alone(layout):
        told = json.loads(capsys.readouterr().out)
    assert told["event"] == "note"
    assert "has no locks" in told["message"]


@pytest.mark.parametrize(("code", "kind"), [(errno.EAGAIN, LoaderInterrupted), (errno.EIO, OSError)])
def test_a_lock_that_is_not_had(code: int, kind: type[Exception], layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    flock_says(code, monkeypatch)
    with pytest.raises(kind), alone(layout):
        raise AssertionError


@pytest.mark.parametrize("staged", [True, False])
def test_pending_and_files_in_place_are_a_rename_only_if_nothing_is_staged(staged: bool, layout: Layout) -> None:  # noqa: FBT001
    layout.target.mkdir(parents=True)
    (layout.target / "a").write_bytes(b"abc")
    layout.pending.parent.mkdir(parents=True)
    layout.pending.touch()
    layout.staging.mkdir(parents=True)
    if not staged:
        assert read_state(layout) is State.RENAMED
        return
    layout.files.mkdir()
    with pytest.raises(VersionConflict, match="Modelyard did not put there"):
        read_state(layout)


@pytest.mark.parametrize("kind", ["link", "pipe"])
@pytest.mark.timeout(10)
def test_only_a_regular_file_is_there(kind: str, layout: Layout, tmp_path: Path) -> None:
    layout.target.mkdir(parents=True)
    size = 0
    if kind == "pipe":
        os.mkfifo(layout.target / "a")
    else:
        (layout.target / "a").symlink_to(tmp_path / "elsewhere")
        size = (layout.target / "a").lstat().st_size
    record = FileRecord(path="a", size=size, sha256="0" * 64)
    manifest = Manifest.of(REF, S3Location(bucket="bucket"), "sha256:0", [record], datetime.now(UTC))
    with pytest.raises(VolumeUnusable, match="a is missing"):
        check_files(layout, manifest, VerifyLevel.DIGESTS)


def test_sigterm_while_the_result_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "termination-log"
    log.touch()

    def say(event: str, **_: Any) -> None:
        assert event == "result"
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(command, "say", say)
    monkeypatch.setattr(command, "preload", lambda *_: LoadResult(digest="d", files=0, bytes=0, fetched_bytes=0, seconds=0))
    before, mask = signal.getsignal(signal.SIGTERM), os.umask(0o022)
    try:
        spec = {"model": REF.model_dump(), "source": {"kind": "s3", "bucket": "bucket"}, "listing": {"digest": "d", "files": 0, "bytes": 0}}
        assert command.main(["preload", "--spec", json.dumps(spec), "--root", str(tmp_path), "--termination-log", str(log)]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
        os.umask(mask)
    assert json.loads(log.read_text())["event"] == "result"


def test_a_long_reread_is_not_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    monkeypatch.setattr(progress, "REREAD_SECONDS", 0)
    sha256_of(tmp_path / "file", progress.Reread("m@v1: its check", 6))
    assert json.loads(capsys.readouterr().out) == {"event": "note", "message": "m@v1: its check: 3 B of 6 B on the volume read again"}
