"""``modelyard upload`` against a real server: what arrives there, what is refused, and what a killed run leaves."""

import hashlib
import json
import os
import pickle
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import pytest

from modelyard.plans.digests import MARKER_NAME, SUMS_NAME
from tests.services.s3_fixtures import RUN_SECONDS, Loader, assert_published
from tests.services.upload.conftest import Uploader

MIB = 1024 * 1024
FILES = {"config.json": b"{}", "empty": b"", "deep/ünï code \\.txt": b"text"}
LARGE = 40 * MIB + 7


def write(uploader: Uploader, *, large: bool = True) -> dict[str, bytes]:
    files = {**FILES, **({"weights/model.safetensors": os.urandom(LARGE)} if large else {})}
    for path, body in files.items():
        place = uploader.directory / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(body)
    return files


def test_the_digests_go_from_the_authors_disk_to_the_volume(uploader: Uploader, loader: Loader) -> None:
    files = write(uploader)
    said = uploader.succeeded("--tag", "modelyard/preload=yes", "--tag", "team=a b")
    client, name = uploader.bucket.client, uploader.bucket.name
    assert uploader.keys() == {*files, SUMS_NAME, MARKER_NAME}
    sums = client.get_object(Bucket=name, Key=f"m/v1/{SUMS_NAME}")["Body"].read()
    checked = subprocess.run(["sha256sum", "--check", "--strict"], cwd=uploader.directory, input=sums, capture_output=True, check=True)
    assert checked.stdout.count(b": OK\n") == len(files)
    for path in {*files, SUMS_NAME, MARKER_NAME}:
        head = client.head_object(Bucket=name, Key=f"m/v1/{path}", ChecksumMode="ENABLED")
        assert (head["ChecksumType"], bool(head["ChecksumCRC64NVME"])) == ("FULL_OBJECT", True), path
        tagged = client.get_object_tagging(Bucket=name, Key=f"m/v1/{path}")["TagSet"] if path == MARKER_NAME else []
        assert {tag["Key"]: tag["Value"] for tag in tagged} == ({"modelyard/preload": "yes", "team": "a b"} if tagged else {})
    result = loader.run(uploader.bucket.spec(require_digests=True)).succeeded()
    manifest = assert_published(loader.root, {**files, SUMS_NAME: sums})
    marker = json.loads(client.get_object(Bucket=name, Key=f"m/v1/{MARKER_NAME}")["Body"].read())
    assert marker["digest"] == manifest.digest == result["digest"]
    assert marker["digests_from"] == manifest.digests_from == f"sha256:{hashlib.sha256(sums).hexdigest()}"
    assert (marker["files"], marker["bytes"]) == (result["files"], result["bytes"])
    assert manifest.digest in said
    assert result["unverified_files"] == 0


def test_a_second_run_writes_nothing(uploader: Uploader) -> None:
    write(uploader)
    uploader.succeeded()
    written = len(uploader.writes())
    assert "0 files, 0 B were sent now" in uploader.succeeded()
    assert len(uploader.writes()) == written


def test_a_tag_can_be_added_by_a_second_run(uploader: Uploader) -> None:
    write(uploader, large=False)
    uploader.succeeded()
    uploader.succeeded("--tag", "a=b")
    tagged = uploader.bucket.client.get_object_tagging(Bucket=uploader.bucket.name, Key=f"m/v1/{MARKER_NAME}")
    assert tagged["TagSet"] == [{"Key": "a", "Value": "b"}]


def test_a_dry_run_writes_nothing(uploader: Uploader) -> None:
    write(uploader)
    assert "would upload 4 files" in uploader.succeeded("--dry-run")
    assert not uploader.writes()


class Door:
    """A door before the server that takes no more than ``after`` bytes of large files; what is small passes, whenever it comes."""

    def __init__(self, url: str, after: int) -> None:
        self._parts, self._left = urlsplit(url), after
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self._sockets, self._threads = [self._server], list[threading.Thread]()
        self.url = f"{self._parts.scheme}://127.0.0.1:{self._server.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(RUN_SECONDS)
        for each in self._sockets:
            each.close()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near = self._server.accept()[0]
                far = socket.create_connection((str(self._parts.hostname), int(self._parts.port or 0)))
                self._sockets += [near, far]
                self._start(self._pump, near, far, 1)
                self._start(self._pump, far, near, 0)

    def _pump(self, source: socket.socket, target: socket.socket, counted: int) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(64 * 1024):
                passed += len(data) * counted
                with self._lock:
                    self._left -= len(data) if passed > MIB else 0
                if passed > MIB and self._left < 0:
                    self._closing.wait(RUN_SECONDS)
                    return
                target.sendall(data)


def test_killed_in_mid_upload(uploader: Uploader) -> None:
    files = write(uploader)
    client, name = uploader.bucket.client, uploader.bucket.name
    with Door(uploader.bucket.server.url, after=24 * MIB) as door, uploader.start(url=door.url) as process:
        deadline = time.monotonic() + RUN_SECONDS
        while not (uploader.keys() == set(FILES) and client.list_multipart_uploads(Bucket=name).get("Uploads")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert uploader.keys() == set(FILES)  # no marker, no digests: not uploaded
    said = uploader.succeeded()
    assert "1 files, 40.0 MiB were sent now" in said
    assert uploader.keys() == {*files, SUMS_NAME, MARKER_NAME}
    assert len([key for key in uploader.writes() if key.endswith("config.json")]) == 1
    assert not client.list_multipart_uploads(Bucket=name).get("Uploads")


def test_everything_that_is_wrong_is_told_at_once(uploader: Uploader, tmp_path: Path) -> None:
    write(uploader, large=False)
    (tmp_path / "outside").write_bytes(b"secret")
    (uploader.directory / "link").symlink_to(tmp_path / "outside")
    (uploader.directory / "dangling").symlink_to("nowhere")
    (uploader.directory / "new\nline").write_bytes(b"x")
    os.mkfifo(uploader.directory / "pipe")
    (uploader.directory / "evil.bin").write_bytes(pickle.dumps(Evil()))
    (uploader.directory / MARKER_NAME).write_bytes(b"{}")
    uploader.bucket.put({"other": b"of someone else", "config.json": b"longer"})
    uploader.refused("link", "leads out", "dangling", "control characters", "pipe", "posix.system", MARKER_NAME, "other", "6 bytes")


class Evil:
    """Runs a program when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


def test_other_bytes_of_the_same_size_are_refused(uploader: Uploader) -> None:
    write(uploader, large=False)
    uploader.bucket.put({"config.json": b"[]"})
    uploader.refused("config.json", "another checksum", "another prefix")


def test_a_link_inside_of_the_directory_is_the_file(uploader: Uploader) -> None:
    write(uploader, large=False)
    (uploader.directory / "again.json").symlink_to("config.json")
    uploader.succeeded()
    body = uploader.bucket.client.get_object(Bucket=uploader.bucket.name, Key="m/v1/again.json")["Body"].read()
    assert body == FILES["config.json"]


@pytest.mark.parametrize("there", [True, False], ids=["empty", "missing"])
def test_no_directory_to_upload(there: bool, uploader: Uploader) -> None:  # noqa: FBT001 - a parameter of pytest
    if not there:
        uploader.directory.rmdir()
    uploader.refused("name the directory that holds the model's files")


def test_pickles_by_policy(uploader: Uploader) -> None:
    write(uploader, large=False)
    (uploader.directory / "w.pkl").write_bytes(pickle.dumps({"a": [1.0]}))
    uploader.refused("w.pkl", "no-pickle", options=("--weights", "no-pickle"))
    uploader.succeeded()


def test_the_authors_own_sums_are_kept(uploader: Uploader) -> None:
    write(uploader, large=False)
    paths = [str(path.relative_to(uploader.directory)) for path in uploader.directory.rglob("*") if path.is_file()]
    own = subprocess.run(["sha256sum", "--binary", "--", *paths], cwd=uploader.directory, capture_output=True, check=True).stdout
    (uploader.directory / SUMS_NAME).write_bytes(own)
    uploader.succeeded()
    assert uploader.bucket.client.get_object(Bucket=uploader.bucket.name, Key=f"m/v1/{SUMS_NAME}")["Body"].read() == own


def test_the_authors_own_sums_must_be_right(uploader: Uploader) -> None:
    write(uploader, large=False)
    (uploader.directory / SUMS_NAME).write_text(f"{'0' * 64}  config.json\n")
    uploader.refused(SUMS_NAME, "does not list just the files")
    for path in ("empty", "deep/ünï code \\.txt"):
        (uploader.directory / path).unlink()
    code, _, errors = uploader.run()
    assert (code, "config.json" in errors, uploader.keys()) == (1, True, set())


def test_a_missing_bucket_and_wrong_keys(uploader: Uploader) -> None:
    write(uploader, large=False)
    uploader.bucket.client.delete_bucket(Bucket=uploader.bucket.name)
    code, _, errors = uploader.run()
    assert (code, "NoSuchBucket" in errors, "check the bucket" in errors) == (1, True, True)
