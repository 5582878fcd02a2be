"""A loader that is killed anywhere: the next one finishes, byte for byte, and fetches no more than it must."""

import hashlib
import json
import os
import signal
from pathlib import Path

import pytest

from modelyard.loader.killpoints import POINTS
from modelyard.orders import LoadSpec
from tests.services.fault_proxy import Fault, FaultProxy, Kind
from tests.services.loader.uploads import MIB
from tests.services.s3_fixtures import Bucket, Loader, assert_absent, assert_published

#: A checkpoint after each part of the engine.
CHECKPOINTS = {"MODELYARD_LOADER_CHECKPOINT_BYTES": str(8 * MIB)}


@pytest.mark.parametrize("point", POINTS)
def test_killed_at(point: str, bucket: Bucket, loader: Loader) -> None:
    files = {"config.json": b"{}", "weights/large.safetensors": os.urandom(12 * MIB), "empty": b""}
    bucket.put(files)
    spec = bucket.spec()
    assert loader.run(spec, MODELYARD_KILL_AT=point).code == -signal.SIGKILL
    if point == "renamed":
        assert not (loader.root / ".modelyard/manifests/m/v1.json").exists()
    elif point != "published":
        assert_absent(loader.root)
    fetched = len(bucket.requests("GetObject"))
    loader.run(spec).succeeded()
    assert_published(loader.root, files)
    if point in {"pending-written", "renamed", "published"}:
        assert len(bucket.requests("GetObject")) == fetched


def killed_inside(bucket: Bucket, proxy: FaultProxy, loader: Loader) -> LoadSpec:
    """A load of ``large`` that was killed after a checkpoint: nothing behind its first 16 MiB ever came."""
    spec = bucket.spec(url=proxy.url)
    proxy.faults = [Fault(Kind.STALL, from_byte=16 * MIB)]
    running = loader.start(spec, **CHECKPOINTS)
    running.wait_until(lambda: "checkpoint" in journal(loader).read_text() if journal(loader).exists() else False)
    running.process.kill()
    assert running.wait().code == -signal.SIGKILL
    proxy.begin_anew()
    return spec


def journal(loader: Loader) -> Path:
    return loader.root / ".modelyard/staging/m/v1/journal.jsonl"


def last_checkpoint(loader: Loader) -> int:
    return int(json.loads(journal(loader).read_text().splitlines()[-1])["checkpoint"]["offset"])


def test_resumes_inside_a_large_file(bucket: Bucket, fault_proxy: FaultProxy, loader: Loader) -> None:
    files = {"large": os.urandom(40 * MIB)}
    bucket.put(files)
    spec = killed_inside(bucket, fault_proxy, loader)
    kept = last_checkpoint(loader)
    result = loader.run(spec, **CHECKPOINTS).succeeded()
    [record] = assert_published(loader.root, files).files
    assert record.checksum  # of the whole, though not all came in one life
    assert (result["resumed_bytes"], result["fetched_bytes"]) == (kept, 40 * MIB - kept)
    assert fault_proxy.sent == 40 * MIB - kept


@pytest.mark.parametrize("harm", ["corrupted", *(pytest.param(harm, marks=pytest.mark.faults) for harm in ("shortened", "missing"))])
def test_a_kept_prefix_that_is_not_what_it_was(harm: str, bucket: Bucket, fault_proxy: FaultProxy, loader: Loader) -> None:
    files = {"large": os.urandom(40 * MIB)}
    bucket.put(files)
    spec = killed_inside(bucket, fault_proxy, loader)
    staged = loader.root / ".modelyard/staging/m/v1/files/large"
    match harm:
        case "corrupted":
            with staged.open("r+b") as file:
                file.seek(1000)
                file.write(b"not what it was")
        case "shortened":
            os.truncate(staged, 1000)
        case _:
            staged.unlink()
    result = loader.run(spec, **CHECKPOINTS).succeeded()
    assert_published(loader.root, files)
    assert (result["resumed_bytes"], fault_proxy.sent) == (0, 40 * MIB)


def test_a_checkpoint_at_the_very_end_asks_for_no_bytes(bucket: Bucket, loader: Loader) -> None:
    files = {"large": os.urandom(16 * MIB)}
    bucket.put(files)
    spec = bucket.spec()
    assert loader.run(spec, MODELYARD_KILL_AT="before-fsync").code == -signal.SIGKILL
    etag = bucket.client.head_object(Bucket=bucket.name, Key="m/v1/large")["ETag"]
    mark = {"path": "large", "identity": etag, "offset": 16 * MIB, "sha256": hashlib.sha256(files["large"]).hexdigest()}
    journal(loader).write_text(json.dumps({"checkpoint": mark}) + "\n")
    fetched = len(bucket.requests("GetObject"))
    assert loader.run(spec).succeeded()["resumed_bytes"] == 16 * MIB
    assert len(bucket.requests("GetObject")) == fetched
    assert_published(loader.root, files)


def test_an_eviction_keeps_what_arrived(bucket: Bucket, fault_proxy: FaultProxy, loader: Loader) -> None:
    files = {"small": b"small", "stalled": b"stalled"}
    bucket.put(files)
    spec = bucket.spec(url=fault_proxy.url)
    fault_proxy.faults = [Fault(Kind.STALL, target="/stalled")]
    running = loader.start(spec)
    running.wait_until(lambda: '"files": 1' in running.output.read_text())
    running.process.terminate()
    running.wait().failed("LoaderInterrupted", "SIGTERM", "the next run goes on", code=75)
    assert_absent(loader.root)
    fault_proxy.faults = []
    assert loader.run(spec).succeeded()["fetched_bytes"] == len(b"stalled")
    assert_published(loader.root, files)


@pytest.mark.parametrize(
    "tail",
    [
        pytest.param(b'{"file": {"path": "b", "size', id="torn"),
        pytest.param(b"\x00\x00\xff\xfe\n", id="no text", marks=pytest.mark.faults),
        pytest.param(b'{"file": {"path": "b", "size": -1}}\n', id="no record", marks=pytest.mark.faults),
        pytest.param(b'{"checkpoint": []}\n[]\n', id="no checkpoint", marks=pytest.mark.faults),
    ],
)
def test_a_journal_with_a_bad_end(tail: bytes, bucket: Bucket, loader: Loader) -> None:
    files = {"a": b"a" * 10, "b": b"b" * 20}
    bucket.put(files)
    spec = bucket.spec()
    loader.run(spec, MODELYARD_KILL_AT="pending-written")
    whole = journal(loader).read_bytes()
    journal(loader).write_bytes(whole.splitlines(keepends=True)[0] + tail)
    assert loader.run(spec, MODELYARD_KILL_AT="pending-written").code == -signal.SIGKILL
    assert len(journal(loader).read_text().splitlines()) == 2  # the tail is gone, and nothing is glued to it
    loader.run(spec).succeeded()
    assert_published(loader.root, files)
    assert len(bucket.requests("GetObject")) == 3
