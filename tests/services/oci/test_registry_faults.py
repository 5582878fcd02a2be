"""Registries without room or with wrong answers, connections cut anywhere, and inputs at the ends of what images can hold."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from benchmarks.compressing_volume import compressing_volume
from benchmarks.s3_server import grow_object
from modelyard.errors import ContentMismatch, Refused, RegistryRefused, RegistryUnavailable
from modelyard.images.limits import MAX_LAYERS
from modelyard.modelcar import layer_reader, resolve
from modelyard.modelcar.tuning import Tuning
from modelyard.oci import http
from modelyard.oci.http import Patience
from modelyard.plans import modelcar
from modelyard.sources.oci import OciSource
from tests.services.oci.archives import GZIP, model_layer, push_image
from tests.services.oci.building import Builder, new_repository
from tests.services.oci.oracle import assert_modelcar, copied_blobs, document, get
from tests.services.oci.registries import KINDS, Registry, running_registry
from tests.services.oci.registry_proxy import Fault, RegistryProxy, proxy_before
from tests.services.oci.sources import location
from tests.services.oci.test_faults import DRIVER, FEW_TRIES, UPLOAD, assert_untagged, builder, weights
from tests.services.s3_fixtures import REPOSITORY, Bucket

MIB = 1024 * 1024
GIB = 1024 * MIB
faults = pytest.mark.faults
#: The other takes no DELETE of an upload that broke.
GIVES_BACK = "distribution-3"


@pytest.fixture
def proxy(registry: Registry) -> Iterator[RegistryProxy]:
    with proxy_before(registry) as running:
        yield running


# Room -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_registry_that_becomes_full(kind: str, bucket: Bucket, tmp_path: Path) -> None:
    """It is told whose disk is full and what to do; what came so far is given back; with more room the next run ends well."""
    files = {"model-1.safetensors": os.urandom(16 * MIB), **weights(40 * MIB)}
    bucket.put(files)
    with limited(tmp_path / "registry", "90m") as data, running_registry(kind, data) as registry:
        (data / "others").write_bytes(bytes(40 * MIB))
        with pytest.raises(
            RegistryRefused, match=r"no space left on device.*the registry's storage is full: make room there.*then run again"
        ):
            Builder(bucket, registry, FEW_TRIES).build()
        assert_untagged(registry, "models/m")
        assert (uploaded(data) == 0) is (kind == GIVES_BACK), "what was sent of the layers still fills the disk"
        (data / "others").unlink()
        registry.kill()  # distribution 3 keeps what it deleted open, until it collects its garbage (minutes) or ends
        for remains in data.rglob("_uploads"):  # 2.8 purges them after a week
            shutil.rmtree(remains)
        registry.start()
        Builder(bucket, registry).build()
        assert_modelcar(registry.host, "models/m", "v1", files)


def uploaded(data: Path) -> int:
    """Bytes of uploads that are not committed."""
    return sum(path.stat().st_size for path in data.rglob("_uploads/*/data"))


@contextmanager
def limited(directory: Path, size: str) -> Iterator[Path]:
    """A small disk."""
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def test_what_a_broken_upload_leaves(bucket: Bucket, own_registry: Registry) -> None:
    bucket.put(weights())
    with proxy_before(own_registry) as proxy:
        proxy.faults = [Fault(UPLOAD, cut=10 * MIB, times=1000)]
        with pytest.raises(RegistryUnavailable, match="broke the connection"):
            builder(bucket, proxy, Tuning(retry_seconds=0.05, attempts=1)).build()
    assert (uploaded(own_registry.data) == 0) is (own_registry.kind == GIVES_BACK)


# Cuts -------------------------------------------------------------------------------------------------------------------

SEEDS = [pytest.param(seed, marks=() if seed < 2 else faults) for seed in range(20)]


@pytest.mark.parametrize("seed", SEEDS)
def test_connections_cut_at_random_bytes(seed: int, bucket: Bucket, proxy: RegistryProxy) -> None:
    chance = random.Random(seed)  # noqa: S311
    files, repository = {**weights(20 * MIB + chance.randrange(MIB)), "config.json": b"{}"}, new_repository()
    bucket.put(files)
    proxy.faults = [Fault(UPLOAD, cut=chance.randrange(1, 20 * MIB)) for _ in range(3)]
    proxy.faults += [Fault("^(PUT|GET|HEAD|POST) ", cut_answer=chance.randrange(3)) for _ in range(2)]
    builder(bucket, proxy, resume=bool(seed % 2)).build(repository=repository)
    assert_modelcar(proxy.registry.host, repository, "v1", files)


# Wrong answers ----------------------------------------------------------------------------------------------------------


def test_a_wrong_digest_answered_to_a_commit(bucket: Bucket, proxy: RegistryProxy) -> None:
    files, repository = weights(17 * MIB), new_repository()
    bucket.put(files)
    wrong = {"Docker-Content-Digest": f"sha256:{'0' * 64}"}
    proxy.faults = [Fault("^PUT .*/uploads/", answer=wrong)]
    builder(bucket, proxy).build(repository=repository)
    assert_modelcar(proxy.registry.host, repository, "v1", files)
    other = new_repository()
    proxy.faults = [Fault("^PUT .*/uploads/", answer=wrong, times=1000)]
    with pytest.raises(ContentMismatch, match="the registry says sha256:0000"):
        builder(bucket, proxy, FEW_TRIES).build(repository=other)
    assert_untagged(proxy.registry, other)


def test_a_manifest_that_is_not_what_was_put(bucket: Bucket, proxy: RegistryProxy) -> None:
    repository = new_repository()
    bucket.put({"a": b"1"})
    proxy.faults = [Fault("^GET .*/manifests/sha256:", body=b"{}", times=1000)]
    with pytest.raises(ContentMismatch, match="the registry answers with sha256:"):
        builder(bucket, proxy, FEW_TRIES).build(repository=repository)
    assert_untagged(proxy.registry, repository)


# Silence ----------------------------------------------------------------------------------------------------------------

HURRIED = Tuning(retry_seconds=0.01, answer_seconds=0.5)
FOR_GOOD = 60.0


@pytest.mark.parametrize("line", ["^(GET|HEAD) ", "^POST ", "^PUT .*/manifests/"])
def test_a_registry_that_says_nothing(line: str, bucket: Bucket, proxy: RegistryProxy, caplog: pytest.LogCaptureFixture) -> None:
    """It is told at the first time-out that it is silent, and after the fourth that this is the end."""
    repository = new_repository()
    bucket.put({"a": b"1"})
    silence = Fault(line, stall=FOR_GOOD, times=1000)
    proxy.faults = [silence]
    begun = time.monotonic()
    with pytest.raises(RegistryUnavailable, match=r"the registry says nothing .*read timeout=0.5.*any proxy before it"):
        builder(bucket, proxy, HURRIED).build(repository=repository)
    assert time.monotonic() - begun < FOR_GOOD / 2
    assert silence.done <= 2 * HURRIED.patience.silences, "asked about one thing after another"
    told = [record.getMessage() for record in caplog.records if record.name.startswith("modelyard.")]
    assert len([each for each in told if "the registry says nothing" in each and "tried again in" in each]) >= 3
    assert_untagged(proxy.registry, repository)


def test_a_registry_that_works_long_on_a_layer_is_not_taken_for_silent(bucket: Bucket, proxy: RegistryProxy) -> None:
    """While it answers the end of an upload it may move the whole of it."""
    files, repository = weights(17 * MIB), new_repository()
    bucket.put(files)
    works = [Fault("^PATCH ", stall=1.5), Fault("^PUT .*/uploads/.*digest=", stall=1.5)]
    proxy.faults = works
    builder(bucket, proxy, HURRIED).build(repository=repository)
    assert [fault.done for fault in works] == [1, 1]
    assert_modelcar(proxy.registry.host, repository, "v1", files)
    assert len([line for line in proxy.passed if line.startswith("PATCH ")]) == 1


@pytest.mark.parametrize("line", ["^PATCH ", "^PUT .*/uploads/.*digest="], ids=["sent", "committed"])
def test_a_registry_that_never_ends_its_work(line: str, bucket: Bucket, proxy: RegistryProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given the long time twice, not four times or, with all that is around it, sixteen."""
    monkeypatch.setattr(http, "_WORK_SECONDS", 1.0)
    repository, silence = new_repository(), Fault(line, stall=FOR_GOOD, times=1000)
    bucket.put({"a": b"1"})  # so small that it is sent before the proxy takes a byte
    proxy.faults = [silence]
    with pytest.raises(RegistryUnavailable, match=r"the registry says nothing .*read timeout=1.0"):
        builder(bucket, proxy, HURRIED).build(repository=repository)
    assert silence.done == 2
    assert_untagged(proxy.registry, repository)


def test_a_blob_of_which_nothing_comes_is_asked_for_four_times(proxy: RegistryProxy) -> None:
    """Not four times as often, though the reading of a layer is begun anew too after what passes."""
    repository, silence = new_repository(), Fault("^GET .*/blobs/", stall=FOR_GOOD, times=1000)
    push_image(proxy.registry.url, repository, "v1", [model_layer({"config.json": b"{}"})], GZIP)
    proxy.faults = [silence]
    with (
        closing(OciSource(location(proxy, repository), proxy.keychain, patience=HURRIED.patience)) as image,
        pytest.raises(RegistryUnavailable, match="the registry says nothing"),
    ):
        list(image.list())
    assert silence.done == HURRIED.patience.silences


def test_what_waits_for_an_answer_by_default() -> None:
    """The first warning within a minute, the end within a few."""
    patience = Tuning().patience
    assert patience == Patience()
    assert patience.answer < 60
    waits = sum(min(patience.longest, patience.first * 2**failures) for failures in range(patience.silences - 1))
    assert patience.silences * patience.answer + waits < 240


# Inputs -----------------------------------------------------------------------------------------------------------------


def test_128_weight_files(bucket: Bucket, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there are; only that a weight file is one of 1 KiB or more here, so that they need not be 2 GiB."""
    for module in (modelcar, layer_reader, resolve):
        monkeypatch.setattr(module, "SMALL", 1024)
    files = {f"model-{number:05}-of-00128.safetensors": os.urandom(1024 + 17 * number) for number in range(1, 129)}
    files["model.safetensors.index.json"] = b"{}"
    bucket.put(files)
    repository = new_repository()
    image, built = Builder(bucket, registry).build(repository=repository)
    assert assert_modelcar(registry.host, repository, "v1", files) == image.digest
    assert 60 < len(built.layers) <= MAX_LAYERS
    assert {each.layer.digest for each in built.layers} <= set(copied_blobs(registry.host, repository, "v1", tmp_path / "copy"))


def test_names_that_differ_only_by_case_are_refused(bucket: Bucket, registry_3: Registry) -> None:
    """Image layers could hold them; the volumes and nodes that models also lie on may not."""
    bucket.put({"Config.json": b"{}", "config.json": b"[]"})
    repository = new_repository()
    with pytest.raises(Refused, match=r"differs from 'Config.json' only in case"):
        Builder(bucket, registry_3).build(repository=repository)
    assert not registry_3.requests("POST", repository)
    assert not bucket.requests("GetObject")


#: Makes every mounted file system read-only for what runs next, and sees that it is so.
_READ_ONLY = """
set -e
mount --make-rprivate /
awk '{print $2}' /proc/self/mounts | while read -r target; do
  mount -o remount,bind,ro "$(printf '%b' "$target")" 2>/dev/null || true
done
for place in / /tmp /var/tmp /dev/shm "$PWD" "$HOME"; do
  if touch "$place/.writable" 2>/dev/null; then echo "$place can be written" >&2; exit 9; fi
done
unset TMPDIR HOME
exec "$@"
"""
_NO_TEMPORARY_FILES = """
import tempfile
try:
    raise SystemExit(f"{tempfile.gettempdir()} can be written")
except FileNotFoundError:
    pass
"""


def test_a_machine_without_a_writable_directory(bucket: Bucket, registry: Registry) -> None:
    """The builder as a process that sees nothing that can be written: no /tmp, no home, no working directory."""
    files = {"config.json": b"{}", **weights(33 * MIB)}
    bucket.put(files)
    request = Builder(bucket, registry).request(repository=new_repository())
    command = ["unshare", "--mount", "sh", "-c", _READ_ONLY, "sh", sys.executable, "-c", _NO_TEMPORARY_FILES + DRIVER]
    environment = {**os.environ, **bucket.server.environment(), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        command, cwd=REPOSITORY, check=False, input=request.model_dump_json(), env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert_modelcar(registry.host, request.image.repository, "v1", files)


# A file beyond 8 GiB ----------------------------------------------------------------------------------------------------

SIZE = 9 * GIB + 1


@faults
@pytest.mark.timeout(3000)
def test_a_file_of_9_gib_is_pushed(bucket: Bucket, tmp_path: Path) -> None:
    """All of its bytes go through; but it is a hole at the source, and the registry's disk compresses it away."""
    bucket.put({"model.safetensors": b"zeros"})
    backing = bucket.server.access_log.parent / "buckets" / bucket.name / "m/v1/model.safetensors"
    grow_object(backing, SIZE)
    with backing.open("r+b") as file:
        file.write(b"first")
        file.seek(SIZE - 4)
        file.write(b"last")
    with compressing_volume(tmp_path, 24 * GIB) as volume, running_registry("distribution-3", volume / "data") as registry:
        _, built = Builder(bucket, registry).build()
        [layer] = [each.layer for each in built.layers]
        assert layer.size == 512 + SIZE + 511 + 1024
        _, index = document(registry.host, "models/m", "v1")
        _, manifest = document(registry.host, "models/m", index["manifests"][0]["digest"])
        assert manifest["layers"][0]["digest"] == layer.digest
        status, _, config = get(registry.host, f"/v2/models/m/blobs/{manifest['config']['digest']}")
        assert (status, json.loads(config)["rootfs"]["diff_ids"]) == (200, [layer.digest])
        copied = copied_blobs(registry.host, "models/m", "v1", volume / "copy")  # skopeo compares each with its digest
        with backing.open("rb") as file:
            body = hashlib.file_digest(file, "sha256").hexdigest()
        assert unpacked(copied[layer.digest], "models/model.safetensors") == body == layer.files[0].sha256
    backing.unlink()


def unpacked(archive: Path, member: str) -> str:
    """The SHA-256 of a member as GNU tar reads it."""
    with subprocess.Popen(["tar", "-xOf", str(archive), member], stdout=subprocess.PIPE) as tar:
        assert tar.stdout
        digest = hashlib.file_digest(tar.stdout, "sha256").hexdigest()  # type: ignore[arg-type]
    assert tar.returncode == 0
    return digest
