"""A manifest that someone wrote to, and a version that was renamed into its place under weaker rules, are not called ready."""

import json
import os
import pickle
import signal
from pathlib import Path

import pytest

from modelyard.models import ModelRef, WeightPolicy
from modelyard.orders import LoadSpec, RemoveSpec, VerifySpec
from tests.services.s3_fixtures import Bucket, Loader, assert_published

FILES = {"a": b"abc", "dir/b": b"bcd"}


class Evil:
    """Runs a program when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


@pytest.fixture
def spec(bucket: Bucket) -> LoadSpec:
    bucket.put(FILES)
    return bucket.spec()


def marker(loader: Loader, name: str = "v1.json") -> Path:
    return loader.root / ".modelyard/manifests/m" / name


def drop_a_record(path: Path) -> None:
    told = json.loads(path.read_text())
    del told["files"][0]
    path.write_text(json.dumps(told))


def test_a_record_that_was_dropped_with_its_file(spec: LoadSpec, loader: Loader) -> None:
    loader.run(spec).succeeded()
    drop_a_record(marker(loader))
    (loader.root / "m/v1/a").unlink()
    loader.run(spec).failed("VolumeUnusable", str(marker(loader)), "its digest is not that of its files", "verify-cache", "remove it")


def test_a_record_that_was_dropped_before_the_version_was_ready(spec: LoadSpec, loader: Loader) -> None:
    assert loader.run(spec, MODELYARD_KILL_AT="renamed").code == -signal.SIGKILL
    drop_a_record(marker(loader, "v1.json.pending"))
    loader.run(spec).failed("VolumeUnusable", "its digest is not that of its files")
    assert not marker(loader).exists()


def test_what_a_killed_run_renamed_under_weaker_rules(bucket: Bucket, loader: Loader) -> None:
    files = {"model.bin": pickle.dumps(Evil(), 2)}
    bucket.put(files)
    weaker = bucket.spec(weights=WeightPolicy.ANY)
    assert loader.run(weaker, MODELYARD_KILL_AT="renamed").code == -signal.SIGKILL
    for _ in range(2):
        loader.run(bucket.spec()).failed("Refused", "model.bin", "posix.system")
        assert not marker(loader).exists()  # a version is ready once it has one
    fetched = len(bucket.requests("GetObject"))
    loader.run(weaker).succeeded()
    assert assert_published(loader.root, files).weights is WeightPolicy.ANY
    assert len(bucket.requests("GetObject")) == fetched


def test_the_stricter_rules_are_noted_on_what_was_renamed(spec: LoadSpec, loader: Loader) -> None:
    weaker = spec.model_copy(update={"weights": WeightPolicy.ANY})
    assert loader.run(weaker, MODELYARD_KILL_AT="renamed").code == -signal.SIGKILL
    loader.run(spec).succeeded()
    assert assert_published(loader.root, FILES).weights is WeightPolicy.SCAN


@pytest.mark.parametrize("kind", ["pipe", "directory", "far too big"])
def test_what_is_no_file_is_no_manifest(kind: str, spec: LoadSpec, loader: Loader) -> None:
    """Nobody waits for a pipe, and nobody reads a file that would not fit into the pod."""
    loader.run(spec).succeeded()
    path = marker(loader)
    path.unlink()
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case _:
            path.touch()
            os.truncate(path, 1 << 40)
    loader.run(spec).failed("VolumeUnusable", str(path), "is no manifest")
    assert loader.run(VerifySpec()).succeeded()["damaged"] == 1
    expecting = RemoveSpec(model=ModelRef(name="m", version="v1"), digest="sha256:0")
    loader.run(expecting).failed("VersionConflict", "cannot be read")
    assert (loader.root / "m/v1/a").read_bytes() == b"abc"
