"""What a modelcar may not hold: pickles against the policy, and files that are not their author's. No manifest ever names them."""

import hashlib
import io
import os
import pickle
import threading
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest

from modelyard.errors import DigestMismatch, Refused, SourceUnavailable
from modelyard.images.references import Reference
from modelyard.models import Checksum, SourceFile, WeightPolicy
from modelyard.plans.modelcar import Action
from modelyard.sources.base import Done, Sink
from tests.services.oci.building import Builder, new_repository
from tests.services.oci.oracle import assert_modelcar, get
from tests.services.oci.registries import Registry
from tests.services.s3_fixtures import Bucket

MIB = 1024 * 1024


class Calls:
    """Runs a program when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


EVIL = pickle.dumps(Calls(), 2)
GOOD = pickle.dumps({"weights": [1.0, 2.0]}, 2)


def checkpoint(program: bytes, size: int = 18 * MIB) -> bytes:
    """What torch.save makes: a zip of a pickle and of tensors. Its directory is at its end."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        for number in range(3):
            archive.writestr(f"archive/data/{number}", os.urandom(size // 3))
    return target.getvalue()


def sums(files: dict[str, bytes]) -> bytes:
    return "".join(f"{hashlib.sha256(body).hexdigest()}  {path}\n" for path, body in files.items()).encode()


def assert_nothing_named(registry: Registry, repository: str, committed: int = 0) -> None:
    """No tag, no record of finished layers, no blob, and no upload left behind."""
    assert b"tags" not in get(registry.host, f"/v2/{repository}/tags/list")[2]
    assert len([line for line in registry.requests("PUT", repository) if "/uploads/" in line]) == committed
    assert registry.abandoned(repository) + committed == len(registry.requests("POST", repository))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param("notes.txt", EVIL, id="a small pickle under any name"),
        pytest.param("model.ckpt", checkpoint(EVIL), id="a large checkpoint"),
        pytest.param("weights", EVIL + bytes(17 * MIB), id="a large pickle under any name"),
    ],
)
def test_a_pickle_that_does_harm_is_never_committed(path: str, body: bytes, bucket: Bucket, registry: Registry) -> None:
    bucket.put({path: body})
    repository = new_repository()
    builder = Builder(bucket, registry)
    assert not builder.plan(repository=repository).problems, "the name alone does not tell"
    with pytest.raises(Refused, match=rf"'{path}': .*imports \w+.system.*weightFormats"):
        builder.build(repository=repository)
    assert_nothing_named(registry, repository)


def test_harmless_pickles_are_taken_and_other_policies_judge_them_unread(bucket: Bucket, registry_3: Registry) -> None:
    """What was found in a layer's files is written beside it: the image is the same whatever the policy was."""
    files = {"state.pkl": GOOD, "model.pt": checkpoint(GOOD), "model.bin": b"\0" + os.urandom(17 * MIB), "config.json": b"{}"}
    bucket.put(files)
    builder, first, second = Builder(bucket, registry_3), new_repository(), new_repository()
    image, _ = builder.build(repository=first, weights=WeightPolicy.SCAN)
    assert assert_modelcar(registry_3.host, first, "v1", files) == image.digest
    anything, _ = builder.build(repository=second, weights=WeightPolicy.ANY)
    assert anything.digest == image.digest
    read = len(bucket.requests("GetObject"))
    plan = builder.plan(repository=first, weights=WeightPolicy.NO_PICKLE)
    assert {layer.action for layer in plan.layers} == {Action.REUSED}
    assert sorted(problem.subject for problem in plan.problems) == ["'model.pt'", "'state.pkl'"]
    assert len(bucket.requests("GetObject")) == read


def test_what_another_policy_let_in_is_refused_later(bucket: Bucket, registry_3: Registry) -> None:
    files = {"model.ckpt": checkpoint(EVIL), "config.json": b"{}"}
    bucket.put(files)
    builder, repository = Builder(bucket, registry_3), new_repository()
    image, _ = builder.build(repository=repository, weights=WeightPolicy.ANY)
    assert_modelcar(registry_3.host, repository, "v1", files)
    previous = Reference(host=registry_3.host, repository=repository, digest=image.digest)
    for name in (repository, new_repository()):
        with pytest.raises(Refused, match=r"'model.ckpt': may do harm to whoever loads it"):
            builder.build(repository=name, tag="v2", previous=previous)


class InMemory:
    """A source that has no reads of a few bytes, only fetches."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.cancelled = threading.Event()

    def list(self) -> Iterator[SourceFile]:
        for path, body in sorted(self.files.items()):
            yield SourceFile(path, len(body))

    def stat(self, file: SourceFile) -> Checksum | None:
        assert file.path in self.files
        return None

    def fetch(self, file: SourceFile, sink: Sink, start: int, done: Done) -> "InMemory":
        threading.Thread(target=self._push, args=(self.files[file.path], sink, start, done)).start()
        return self

    def _push(self, body: bytes, sink: Sink, start: int, done: Done) -> None:
        try:
            sink.expect(None)
            for offset in range(start, len(body), MIB):
                sink.write(body[offset : offset + MIB], offset)
        except Exception as error:  # noqa: BLE001 - as a real source does
            done(SourceUnavailable(str(error)))
        else:
            done(None)

    def cancel(self) -> None:
        self.cancelled.set()


def test_a_source_without_random_access(bucket: Bucket, registry_3: Registry) -> None:
    files = {"good.pt": checkpoint(GOOD)}
    files["SHA256SUMS"] = sums(files)
    builder, repository = Builder(bucket, registry_3), new_repository()
    builder.source = InMemory(files)
    builder.build(repository=repository, require_digests=True)
    assert_modelcar(registry_3.host, repository, "v1", files)
    builder.source = InMemory({"good.pt": checkpoint(EVIL)})
    with pytest.raises(Refused, match="system"):
        builder.build(repository=new_repository())


@pytest.mark.parametrize("size", [1000, 17 * MIB])
def test_a_file_that_is_not_its_authors_is_never_committed(size: int, bucket: Bucket, registry: Registry) -> None:
    files = {"model.safetensors": os.urandom(size)}
    bucket.put({"model.safetensors": os.urandom(size), "SHA256SUMS": sums(files)})
    repository = new_repository()
    with pytest.raises(DigestMismatch, match=r"'model.safetensors' has the SHA-256 \w+, not \w+. Nothing was published"):
        Builder(bucket, registry).build(repository=repository)
    alone = size > MIB  # SHA256SUMS has a layer of its own then, which may be there already
    assert get(registry.host, f"/v2/{repository}/manifests/v1")[0] == 404
    if not alone:
        assert_nothing_named(registry, repository)


def test_required_digests(bucket: Bucket, registry_3: Registry) -> None:
    files = {"config.json": b"{}", "model.safetensors": os.urandom(17 * MIB)}
    bucket.put(files)
    builder, repository = Builder(bucket, registry_3), new_repository()

    def refused(what: str, **fields: Any) -> None:
        read = len(bucket.requests("GetObject"))
        with pytest.raises(Refused, match=what):
            builder.build(repository=repository, **fields)
        assert len(bucket.requests("GetObject")) <= read + 1, "no more than SHA256SUMS"

    refused("has no SHA256SUMS, and requireDigests is set", require_digests=True)
    bucket.put({"SHA256SUMS": sums({"config.json": b"{}"})})
    refused("'model.safetensors' is not listed", require_digests=True)
    bucket.put({"SHA256SUMS": sums({**files, "gone": b""})})
    refused("'gone' is listed and not there")
    listed = {**files, "SHA256SUMS": sums(files)}
    bucket.put(listed)
    plan = builder.plan(repository=repository, require_digests=True)
    assert plan.digests == {path: hashlib.sha256(body).hexdigest() for path, body in listed.items()}
    builder.build(repository=repository, require_digests=True)
    assert_modelcar(registry_3.host, repository, "v1", listed)
    bucket.put({"SHA256SUMS": sums({**files, "model.safetensors": b"another"})})
    refused(r"'model.safetensors' has the SHA-256 \w+, not \w+", move_tag=True)  # of the layer that is there


def test_sums_that_are_none(bucket: Bucket, registry_3: Registry) -> None:
    bucket.put({"a": b"1", "SHA256SUMS": b"<html>"})
    with pytest.raises(DigestMismatch, match="line 1 is none of sha256sum's"):
        Builder(bucket, registry_3).build(repository=new_repository())
