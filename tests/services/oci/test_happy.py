"""A model from S3 to a registry and back, byte for byte, on both registries; read by an oracle of the tests and by skopeo."""

import hashlib
import json
import os
from pathlib import Path

from modelyard.oci.registry import Repository
from tests.services.oci.building import AMD64, ARM64, Builder, new_repository
from tests.services.oci.oracle import assert_modelcar, blob, copied_blobs, skopeo
from tests.services.oci.registries import Registry
from tests.services.s3_fixtures import Bucket

MIB = 1024 * 1024


def test_a_model_becomes_an_image(bucket: Bucket, registry: Registry, tmp_path: Path) -> None:
    files = {
        "config.json": b"{}",
        "empty": b"",
        "tokenizer/vocab with spaces é+%.txt": os.urandom(100_000),
        "d" * 120 + "/long.safetensors": os.urandom(10),
        "model-1.safetensors": os.urandom(40 * MIB + 7),
        "model-2.safetensors": os.urandom(16 * MIB),
    }
    bucket.put(files)
    repository = new_repository()
    image, built = Builder(bucket, registry).build(repository=repository, platforms=(AMD64, ARM64))
    digest = assert_modelcar(registry.host, repository, "v1", files, ("linux/amd64", "linux/arm64"))
    assert image.digest == digest
    assert len(built.layers) == 3, "one layer for all small files, one for each weight file"
    assert built.read_bytes == sum(map(len, files.values()))
    told = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{registry.host}/{repository}:v1"))
    assert told["Labels"]["org.opencontainers.image.version"] == "v1"
    assert {each.layer.digest for each in built.layers} == set(told["Layers"])
    assert {each.layer.digest for each in built.layers} <= set(copied_blobs(registry.host, repository, "v1", tmp_path / "copy"))
    sums = "".join(
        f"{hashlib.sha256(body).hexdigest()}  {path}\n" for path, body in sorted(files.items(), key=lambda item: item[0].encode())
    )
    assert image.content_digest == f"sha256:{hashlib.sha256(sums.encode()).hexdigest()}", "a preload's digest of the same files"


def test_a_second_run_reads_and_sends_nothing(bucket: Bucket, registry: Registry) -> None:
    files = {"a.safetensors": os.urandom(20 * MIB), "config.json": b"{}"}
    bucket.put(files)
    builder, repository = Builder(bucket, registry), new_repository()
    image, _ = builder.build(repository=repository)
    read = len(bucket.requests("GetObject"))
    plan = builder.plan(repository=repository)
    assert plan.is_done
    assert not plan.problems
    again, built = builder.build(repository=repository)
    assert again.digest == image.digest
    assert (built.read_bytes, built.sent_bytes) == (0, 0)
    assert len(bucket.requests("GetObject")) == read


def test_an_upload_whose_size_is_not_told(registry: Registry) -> None:
    """As registries want it that take no long body with a Content-Length."""
    content = os.urandom(5 * MIB + 3)
    digest, name = f"sha256:{hashlib.sha256(content).hexdigest()}", new_repository()
    with Repository(registry.access, name) as repository:
        upload = repository.begin_upload("a blob")
        upload.send(iter([content[:MIB], content[MIB:]]), 0, len(content), chunked=True)
        upload.commit(digest)
    assert blob(registry.host, name, {"digest": digest, "size": len(content)}) == content
