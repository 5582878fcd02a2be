"""An image onto a volume: a modelcar of ours and images that are not; every byte checked, and the same version as from the bucket."""

import hashlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelyard.errors import Refused, SourceChanged
from modelyard.images.references import Reference
from modelyard.models import ModelRef, OciLocation
from modelyard.oci.environment import secret_of
from modelyard.orders import LoadSpec
from tests.services.oci.archives import GZIP, TAR, archive, file, model_layer, push_image
from tests.services.oci.bases import descriptor, push_base, push_blob, put_manifest
from tests.services.oci.building import AMD64, ARM64, Builder, new_repository
from tests.services.oci.oracle import INDEX, MANIFEST, get
from tests.services.oci.registries import KINDS, Registry, running_registry
from tests.services.oci.registry_proxy import Fault, RegistryProxy, proxy_before
from tests.services.oci.sources import location, order, source_of
from tests.services.oci.token_server import USER, token_server
from tests.services.s3_fixtures import Bucket, Loader, assert_absent, assert_published

MIB = 1024 * 1024
faults = pytest.mark.faults
FILES = {
    "config.json": b"{}",
    "empty": b"",
    "tokenizer/vocab with spaces é+%.txt": os.urandom(100_000),
    "d" * 120 + "/long.safetensors": os.urandom(10),
    "model-1.safetensors": os.urandom(20 * MIB + 7),
    "model-2.safetensors": os.urandom(16 * MIB),
}
BLOB = "^GET .*/blobs/"


def pin(spec: LoadSpec) -> str | None:
    assert isinstance(spec.source, OciLocation)
    return spec.source.digest


@pytest.fixture
def proxy(registry_3: Registry) -> Iterator[RegistryProxy]:
    with proxy_before(registry_3) as running:
        yield running


# Both paths meet --------------------------------------------------------------------------------------------------------


def test_a_modelcar_is_the_same_version_as_its_bucket(versioned_bucket: Bucket, registry: Registry, loader: Loader, tmp_path: Path) -> None:
    versioned_bucket.put(FILES)
    repository = new_repository()
    push_base(registry.url, "base/sh", repository[-8:], ("linux/amd64", "linux/arm64"))
    base = Reference.parse(f"{registry.host}/base/sh:{repository[-8:]}")
    image, _ = Builder(versioned_bucket, registry).build(repository=repository, platforms=(AMD64, ARM64), base=base)
    from_bucket = loader.run(versioned_bucket.spec()).succeeded()
    (tmp_path / "other").mkdir()
    other = Loader(tmp_path / "other", tmp_path, {})
    spec = order(location(registry, repository))
    assert pin(spec) == image.digest
    read = len(registry.requests("GET", f"/v2/{repository}/blobs"))
    run = other.run(spec)
    result = run.succeeded()
    assert "of linux/amd64, linux/arm64 the image for linux/amd64 is taken" in run.output
    manifest = assert_published(other.root, FILES)
    assert result["digest"] == from_bucket["digest"] == image.content_digest
    assert (result["fetched_bytes"], result["unverified_files"]) == (sum(map(len, FILES.values())), 0)
    assert manifest.source == spec.source
    bodies, one_base = len([body for body in FILES.values() if body]), 1
    archives = 2 * 2 + 1  # of each large layer its first and its last header
    assert len(registry.requests("GET", f"/v2/{repository}/blobs")) - read == bodies + one_base + archives
    again = other.run(spec).succeeded()
    assert (again["fetched_bytes"], again["digest"]) == (0, result["digest"])


def test_a_version_that_came_from_the_bucket_is_there_already(bucket: Bucket, registry_3: Registry, loader: Loader) -> None:
    bucket.put(FILES)
    repository = new_repository()
    image, _ = Builder(bucket, registry_3).build(repository=repository)
    loader.run(bucket.spec()).succeeded()
    spec = order(location(registry_3, repository))
    known = spec.model_copy(update={"digest": image.content_digest})
    assert loader.run(known).succeeded()["fetched_bytes"] == 0
    bucket.put({"config.json": b"other"})
    moved, _ = Builder(bucket, registry_3).build(repository=repository, tag="v2")
    other = order(location(registry_3, repository, "v2")).model_copy(update={"digest": moved.content_digest})
    loader.run(other).failed("VersionConflict", "A version never changes in place")
    linked = loader.run(other.model_copy(update={"model": ModelRef(name="m", version="v2")})).succeeded()
    assert linked["fetched_bytes"] == len(b"other"), "what the other version has, whose SHA-256 is told, is linked"
    assert_published(loader.root, {**FILES, "config.json": b"other"}, "v2")


# Pins -------------------------------------------------------------------------------------------------------------------


def test_a_tag_that_moved_since_the_plan_is_refused(bucket: Bucket, registry_3: Registry, loader: Loader) -> None:
    repository = new_repository()
    bucket.put({"a": b"1"})
    Builder(bucket, registry_3).build(repository=repository)
    spec = order(location(registry_3, repository))
    bucket.put({"a": b"2"})
    Builder(bucket, registry_3).build(repository=repository, move_tag=True)
    loader.run(spec).failed("SourceChanged", "the tag names sha256:", "plan again")
    assert_absent(loader.root)
    loader.run(order(location(registry_3, repository, None, pin(spec)))).succeeded()
    assert_published(loader.root, {"a": b"1"})
    with pytest.raises(SourceChanged, match="the tag is gone"):
        list(source_of(location(registry_3, repository, "gone", pin(spec))).list())


def test_annotations_that_lie(registry_3: Registry, bucket: Bucket, loader: Loader) -> None:
    """A modelcar whose manifest tells another SHA-256 than its layer has: no byte of it is published."""
    bucket.put({"a": b"1234"})
    repository = new_repository()
    image, _ = Builder(bucket, registry_3).build(repository=repository)
    _, _, body = get(registry_3.host, f"/v2/{repository}/manifests/{image.platforms['linux/amd64']}")
    true, false = (hashlib.sha256(content).hexdigest() for content in (b"1234", b"4321"))
    put_manifest(registry_3.url, repository, "one", MANIFEST, body.replace(true.encode(), false.encode()))
    with pytest.raises(Refused, match="whose digest it is annotated with"):
        order(location(registry_3, repository, "one"))
    sums = hashlib.sha256(f"{false}  a\n".encode()).hexdigest()
    lie = body.replace(true.encode(), false.encode()).replace(image.content_digest.encode(), f"sha256:{sums}".encode())
    put_manifest(registry_3.url, repository, "both", MANIFEST, lie)
    spec = order(location(registry_3, repository, "both"))
    loader.run(spec, MODELYARD_LOADER_ATTEMPTS="2").failed("ContentMismatch", "SHA256 is", code=75)
    assert_absent(loader.root)


def test_an_archive_that_names_other_files_than_its_annotations(registry_3: Registry, bucket: Bucket, loader: Loader) -> None:
    """A node that mounts the image would see other files than a claim that it is loaded onto: the bytes are the same, the name is not."""
    bucket.put({"a": b"1234"})
    repository = new_repository()
    image, _ = Builder(bucket, registry_3).build(repository=repository)
    _, _, body = get(registry_3.host, f"/v2/{repository}/manifests/{image.platforms['linux/amd64']}")
    [layer] = [each for each in json.loads(body)["layers"] if each["mediaType"] == TAR]
    renamed = archive(file("models/b", b"1234"))[: layer["size"]]
    digest = push_blob(registry_3.url, repository, renamed)
    put_manifest(registry_3.url, repository, "renamed", MANIFEST, body.replace(layer["digest"].encode(), digest.encode()))
    spec = order(location(registry_3, repository, "renamed"))
    loader.run(spec).failed("Refused", "does not hold what its annotations tell: its archive names 'b'", "build the image anew")
    assert_absent(loader.root)


def test_platforms_that_hold_other_files(registry_3: Registry, bucket: Bucket) -> None:
    """A node of the other platform would get another model than the one that is loaded."""
    bucket.put({"a": b"1234"})
    repository = new_repository()
    Builder(bucket, registry_3).build(repository=repository, platforms=(AMD64, ARM64))
    _, _, index = get(registry_3.host, f"/v2/{repository}/manifests/v1")
    listed = json.loads(index)
    [arm] = [each for each in listed["manifests"] if each["platform"]["architecture"] == "arm64"]
    _, _, body = get(registry_3.host, f"/v2/{repository}/manifests/{arm['digest']}")
    other = body.replace(hashlib.sha256(b"1234").hexdigest().encode(), hashlib.sha256(b"4321").hexdigest().encode())
    arm |= {"digest": f"sha256:{hashlib.sha256(other).hexdigest()}", "size": len(other)}
    put_manifest(registry_3.url, repository, arm["digest"], MANIFEST, other)
    put_manifest(registry_3.url, repository, "two", INDEX, json.dumps(listed).encode())
    assert order(location(registry_3, repository)).listing.files == 1
    with pytest.raises(Refused, match="has other files of the model for linux/arm64 than for the one that is loaded"):
        order(location(registry_3, repository, "two"))


@pytest.mark.parametrize("kind", ["a file", "a large layer"])
def test_a_base_that_holds_files_of_a_model(kind: str, registry_3: Registry, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that mounts the image has it among the model's; a layer that is too large to be looked into may hold it."""
    bucket.put({"a": b"1234"})
    repository = new_repository()
    image, _ = Builder(bucket, registry_3).build(repository=repository)
    _, _, body = get(registry_3.host, f"/v2/{repository}/manifests/{image.platforms['linux/amd64']}")
    manifest = json.loads(body)
    base = archive(file("models/evil.py" if kind == "a file" else "bin/sh", b"x"))
    manifest["layers"].insert(0, descriptor(TAR, push_blob(registry_3.url, repository, base), base))
    put_manifest(registry_3.url, repository, "harmed", MANIFEST, json.dumps(manifest).encode())
    if kind == "a large layer":
        assert order(location(registry_3, repository, "harmed")).listing.files == 1
        monkeypatch.setattr("modelyard.sources.oci.MAX_BASE_LAYER", len(base) - 1)
    said = (
        r"of its base: holds 'models/evil\.py'"
        if kind == "a file"
        else "are looked into for files of a model; build the image on a smaller"
    )
    with pytest.raises(Refused, match=said):
        order(location(registry_3, repository, "harmed"))


# Who may read -----------------------------------------------------------------------------------------------------------


def test_tokens_and_secrets(bucket: Bucket, loader: Loader, tmp_path: Path) -> None:
    bucket.put(FILES)
    with (
        token_server(tmp_path) as tokens,
        running_registry(KINDS[1], tmp_path / "tokens", settings=tokens.settings, credentials=USER) as own,
    ):
        Builder(bucket, own).build()
        spec = order(location(own, "models/m"), own.keychain)
        loader.run(spec).failed("RegistryDenied", "models/m")
        run = loader.run(spec, **secret_of(own.keychain))
        run.succeeded()
        assert ["repository:models/m:pull"] in tokens.asked
    assert USER.password not in run.output
    assert_published(loader.root, FILES)


def test_an_own_authority(bucket: Bucket, tls_registry: Registry, loader: Loader) -> None:
    bucket.put({"a": b"1"})
    Builder(bucket, tls_registry).build()
    place = OciLocation(host=tls_registry.host, repository="models/m", tag="v1")
    spec = order(place, tls_registry.keychain)
    loader.run(spec).failed("RegistryDenied", "is not trusted")
    loader.run(spec, **secret_of(tls_registry.keychain)).succeeded()
    assert_published(loader.root, {"a": b"1"})


# Faults -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cut", pytest.param("flip", marks=()), pytest.param("throttled", marks=faults)])
@pytest.mark.parametrize("ours", [True, pytest.param(False, marks=faults)])
def test_answers_that_are_harmed(kind: str, ours: bool, bucket: Bucket, proxy: RegistryProxy, loader: Loader) -> None:  # noqa: FBT001
    repository = new_repository()
    files = {"model.safetensors": os.urandom(24 * MIB), "config.json": b"{}"}
    bucket.put(files)
    if ours:
        Builder(bucket, proxy.registry).build(repository=repository)
    else:
        push_image(proxy.registry.url, repository, "v1", [model_layer(files)], GZIP)
    spec = order(location(proxy, repository))
    harm = {
        "cut": Fault(BLOB, times=3, cut_answer=1),
        "flip": Fault(BLOB, times=1, flip_answer=1),
        "throttled": Fault(BLOB, times=3, status=503, headers={"Retry-After": "0"}),
    }
    proxy.faults = [harm[kind]]
    loader.run(spec, MODELYARD_LOADER_RETRY_SECONDS="0.05").succeeded()
    assert harm[kind].done == harm[kind].times
    assert_published(loader.root, files)


@pytest.mark.parametrize("kind", [KINDS[0], pytest.param(KINDS[1], marks=faults)])
def test_a_registry_that_is_killed_in_mid_layer(kind: str, bucket: Bucket, loader: Loader, tmp_path: Path) -> None:
    files = {"model.safetensors": os.urandom(24 * MIB)}
    bucket.put(files)
    with running_registry(kind, tmp_path / "own") as own, proxy_before(own) as proxy:
        Builder(bucket, own).build()

        def restart() -> None:
            own.kill()
            own.start()

        spec = order(location(proxy, "models/m"))
        # The loader's first two requests are for the archive's headers.
        proxy.faults = [Fault(BLOB, skip=2, cut_answer=10 * MIB, then=restart)]
        result = loader.run(spec, MODELYARD_LOADER_RETRY_SECONDS="0.05").succeeded()
        asked = [line for line in proxy.passed if line.startswith("GET") and "/blobs/" in line]
    assert len(asked) >= 4, "the headers, the file, and the file again"
    assert_published(loader.root, files)
    assert result["fetched_bytes"] == 24 * MIB


@pytest.mark.parametrize("point", ["mid-file", *(pytest.param(point, marks=faults) for point in ("listing", "first-byte", "renamed"))])
def test_a_killed_loader_keeps_what_it_has(point: str, bucket: Bucket, registry_3: Registry, loader: Loader) -> None:
    repository = new_repository()
    files = {"model.safetensors": os.urandom(24 * MIB), "a.safetensors": os.urandom(18 * MIB)}
    bucket.put(files)
    Builder(bucket, registry_3).build(repository=repository)
    spec = order(location(registry_3, repository))
    assert loader.run(spec, MODELYARD_KILL_AT=point).code == -signal.SIGKILL
    loader.run(spec).succeeded()
    assert_published(loader.root, files)


@pytest.mark.parametrize("media_type", [TAR, GZIP])
def test_finished_files_and_checkpoints_outlive_a_kill(media_type: str, proxy: RegistryProxy, loader: Loader) -> None:
    """Killed inside the larger file, behind a checkpoint; the small one was finished."""
    repository, stalled = new_repository(), threading.Event()
    files = {"a/small": b"s", "model.safetensors": os.urandom(40 * MIB)}
    push_image(proxy.registry.url, repository, "v1", [model_layer(files)], media_type)
    quick = {"MODELYARD_LOADER_CHECKPOINT_BYTES": str(4 * MIB), "MODELYARD_LOADER_SYNC_SECONDS": "0.01"}
    journal = loader.root / ".modelyard/staging/m/v1/journal.jsonl"
    spec = order(location(proxy, repository))
    # The loader's first request lists the layer; the files' follow, in any order: the small one's answer is whole.
    proxy.faults = [Fault(BLOB, skip=1, times=2, cut_answer=20 * MIB, then=lambda: stalled.wait(100))]
    running = loader.start(spec, **quick)
    running.wait_until(lambda: journal.exists() and all(word in journal.read_text() for word in ('"checkpoint"', '"a/small"')))
    running.process.kill()
    assert running.wait().code == -signal.SIGKILL
    proxy.faults = []
    stalled.set()
    result = loader.run(spec, **quick).succeeded()
    assert 0 < result["resumed_bytes"] <= 20 * MIB + 1
    assert result["fetched_bytes"] + result["resumed_bytes"] == 40 * MIB + 1
    manifest = assert_published(loader.root, files)
    assert manifest.source == spec.source
