"""What is not read or sent twice: layers of the previous version, of a killed build, of other repositories; bases; tags; digests."""

import os
import random
import secrets
from collections.abc import Iterator

import pytest

from modelyard.errors import Refused, TagTaken
from modelyard.images.references import Reference
from modelyard.modelcar.publish import publish
from modelyard.modelcar.push import copy_blob
from modelyard.modelcar.records import unfinished_tag
from modelyard.models import SourceFile
from modelyard.oci.registry import Repository
from modelyard.plans.modelcar import Action
from modelyard.sources.s3 import S3Source
from tests.services.oci.bases import push_base
from tests.services.oci.building import AMD64, ARM64, Builder
from tests.services.oci.oracle import assert_modelcar, blob, get, read_image
from tests.services.oci.registries import Registry
from tests.services.s3_fixtures import Bucket

MIB = 1024 * 1024


def new_repository() -> str:
    return f"models/{secrets.token_hex(4)}"


def shards(changed: int | None = None) -> dict[str, bytes]:
    """Four weight files and a config; the same each time but for the changed one."""
    files = {f"model-{number}.safetensors": random.Random(number).randbytes(16 * MIB + number) for number in range(4)}  # noqa: S311
    if changed is not None:
        files[f"model-{changed}.safetensors"] = os.urandom(16 * MIB + changed)
    return {"config.json": b"{}", **files}


@pytest.mark.parametrize("where", ["same prefix", "another prefix"])
def test_the_next_version_reads_and_sends_only_what_changed(where: str, versioned_bucket: Bucket, registry: Registry) -> None:
    bucket, prefix = versioned_bucket, "m/v1/" if where == "same prefix" else "m/v2/"
    bucket.put(shards())
    builder, repository = Builder(bucket, registry), new_repository()
    builder.build(repository=repository)
    files = shards(changed=2)
    changed = {path: body for path, body in files.items() if path == "model-2.safetensors"}
    bucket.put(changed if where == "same prefix" else files, prefix)
    previous = Reference(host=registry.host, repository=repository, tag="v1")
    image, built = builder.build(repository=repository, tag="v2", prefix=prefix.rstrip("/"), previous=previous)
    assert assert_modelcar(registry.host, repository, "v2", files) == image.digest
    reused = [each.layer.files[0].path for each in built.layers if each.action is Action.REUSED]
    small = ["config.json"] if where == "same prefix" else []  # of another prefix, small files are read rather than asked for
    assert reused == [*small, *(f"model-{number}.safetensors" for number in (0, 1, 3))]
    assert 16 * MIB <= built.read_bytes <= 16 * MIB + 10
    fresh, _ = builder.build(repository=new_repository(), tag="v2", prefix=prefix.rstrip("/"))
    assert fresh.digest == image.digest, "whether layers were used again does not show"


def test_layers_of_another_repository_are_mounted(bucket: Bucket, registry: Registry) -> None:
    bucket.put(shards())
    builder, first, second = Builder(bucket, registry), new_repository(), new_repository()
    image, _ = builder.build(repository=first)
    previous = Reference(host=registry.host, repository=first, digest=image.digest)
    mounted, built = builder.build(repository=second, previous=previous)
    assert {each.action for each in built.layers} == {Action.MOUNTED}
    assert (built.read_bytes, built.sent_bytes, mounted.digest) == (0, 0, image.digest)
    assert_modelcar(registry.host, second, "v1", shards())


def test_a_layer_that_the_registry_lost_is_sent_again(bucket: Bucket, own_registry: Registry) -> None:
    bucket.put({"model.safetensors": os.urandom(16 * MIB)})
    builder = Builder(bucket, own_registry)
    _, built = builder.build(repository="lost")
    digest = built.layers[0].layer.digest.removeprefix("sha256:")
    own_registry.kill()  # its descriptors are cached
    (own_registry.data / f"docker/registry/v2/repositories/lost/_layers/sha256/{digest}/link").unlink()
    own_registry.start()
    again, built = builder.build(repository="lost", tag="v2", previous=Reference(host=own_registry.host, repository="lost", tag="v1"))
    assert [each.action for each in built.layers] == [Action.NEW]
    assert read_image(own_registry.host, "lost", "v2")[0] == again.digest


def test_the_same_digest_from_two_registries_and_a_shuffled_listing(bucket: Bucket, registry: Registry) -> None:
    """Runs for each kind of registry; the digest is worked out from the files alone."""
    bucket.put(shards())
    first, _ = Builder(bucket, registry).build(repository=new_repository(), platforms=(AMD64, ARM64))

    class Shuffled(S3Source):
        def list(self) -> Iterator[SourceFile]:
            files = [*super().list()]
            random.Random(1).shuffle(files)  # noqa: S311
            return iter(files)

    builder = Builder(bucket, registry)
    builder.source = Shuffled(bucket.location(), bucket.client)
    second, built = builder.build(repository=new_repository(), platforms=(AMD64, ARM64))
    assert {each.action for each in built.layers} == {Action.NEW}
    assert second.digest == first.digest


def test_a_base_below_two_platforms(bucket: Bucket, registry: Registry) -> None:
    """It is mounted; the platforms share the model's layers."""
    files = {"config.json": b"{}", "model.safetensors": os.urandom(16 * MIB)}
    bucket.put(files)
    base, both = new_repository(), ("linux/amd64", "linux/arm64")
    digest = push_base(registry.url, base, "1", both)
    repository = new_repository()
    reference = Reference(host=registry.host, repository=base, tag="1")
    image, built = Builder(bucket, registry).build(repository=repository, base=reference, platforms=(AMD64, ARM64))
    assert assert_modelcar(registry.host, repository, "v1", files, both) == image.digest
    assert 16 * MIB < built.sent_bytes < 17 * MIB, "the model's layers once"
    _, images = read_image(registry.host, repository, "v1")
    for platform, seen in images.items():
        assert seen.files["bin/sh"] == platform.encode()
        assert seen.config["config"]["Cmd"] == ["sh"]
        assert seen.manifest["annotations"]["org.opencontainers.image.base.digest"] == digest
    by_digest = Reference(host=registry.host, repository=base, digest=digest)
    again, _ = Builder(bucket, registry).build(repository=new_repository(), base=by_digest, platforms=(AMD64, ARM64))
    assert len(again.platforms) == 2


def test_a_base_of_another_registry_is_copied(registry: Registry, registry_3: Registry) -> None:
    base = Reference(host=registry_3.host, repository=new_repository(), tag="1")
    push_base(registry_3.url, base.repository, "1", ("linux/amd64",))
    name = new_repository()
    with Repository.of(registry_3.access, base) as origin, Repository(registry.access, name) as target:
        document = origin.find("1")
        assert document
        manifest = origin.find(document.descriptors("manifests")[0].digest)
        assert manifest
        [layer] = manifest.descriptors("layers")
        assert copy_blob(origin, target, layer) == layer.size
        assert copy_blob(origin, target, layer) == 0
    told = {"digest": layer.digest, "size": layer.size}
    assert blob(registry.host, name, told) == blob(registry_3.host, base.repository, told)


def test_bases_that_are_refused(bucket: Bucket, registry_3: Registry) -> None:
    bucket.put({"a": b"1"})
    builder, base = Builder(bucket, registry_3), new_repository()
    push_base(registry_3.url, base, "one", ("linux/amd64",))
    push_base(registry_3.url, base, "alone", ("linux/amd64",), index=False)
    refused = {"one": "has no image for linux/arm64", "alone": "is for linux/amd64, not for linux/arm64", "none": "is not there"}
    for tag, said in refused.items():
        plan = builder.plan(base=Reference(host=registry_3.host, repository=base, tag=tag), platforms=(AMD64, ARM64))
        with pytest.raises(Refused, match=said):
            plan.approved()
    plan = builder.plan(repository=new_repository(), base=Reference(host=registry_3.host, repository=base, tag="alone"))
    assert not plan.problems


def test_a_tag_with_other_content_is_refused_before_a_byte_is_read(bucket: Bucket, registry: Registry) -> None:
    bucket.put({"a": b"1"})
    builder, repository = Builder(bucket, registry), new_repository()
    first, _ = builder.build(repository=repository)
    bucket.put({"a": b"2"})
    read = len(bucket.requests("GetObject"))
    with pytest.raises(Refused, match="choose another tag, or allow that it is moved"):
        builder.build(repository=repository)
    assert len(bucket.requests("GetObject")) == read
    assert read_image(registry.host, repository, "v1")[0] == first.digest
    moved, _ = builder.build(repository=repository, move_tag=True)
    assert moved.moved_from == first.digest
    assert_modelcar(registry.host, repository, "v1", {"a": b"2"})


def test_a_tag_that_somebody_took_meanwhile_stays_theirs(bucket: Bucket, registry: Registry) -> None:
    bucket.put({"a": b"1"})
    builder, repository = Builder(bucket, registry), new_repository()
    plan = builder.plan(repository=repository)
    built = builder.layers(plan)
    theirs = push_base(registry.url, repository, "v1", ("linux/amd64",))
    with pytest.raises(TagTaken, match="not what it named when the build began"):
        publish(plan, built, builder.keychain, builder.patience)
    status, headers, _ = get(registry.host, f"/v2/{repository}/manifests/v1", "application/vnd.oci.image.index.v1+json")
    assert (status, headers["docker-content-digest"]) == (200, theirs)


def test_no_record_is_left_beside_the_tag(bucket: Bucket, registry: Registry) -> None:
    bucket.put({"a": b"1"})
    repository = new_repository()
    Builder(bucket, registry).build(repository=repository)
    _, _, tags = get(registry.host, f"/v2/{repository}/tags/list")
    assert b'"tags":["v1"]' in tags


@pytest.mark.parametrize("part", ["index", "manifest"])
def test_an_image_under_the_tag_of_a_builds_record_is_not_deleted(part: str, bucket: Bucket, registry_3: Registry) -> None:
    """Whoever may push can let that tag name the image that is served."""
    bucket.put({"a": b"1"})
    builder, repository = Builder(bucket, registry_3), new_repository()
    served, _ = builder.build(repository=repository)
    with Repository(registry_3.access, repository) as target:
        document = target.find("v1" if part == "index" else next(iter(served.platforms.values())))
        assert document
        target.put_manifest(document.media_type, document.content, unfinished_tag("v2"))
    image, _ = builder.build(repository=repository, tag="v2")
    assert not image.notes
    assert read_image(registry_3.host, repository, "v1")[0] == served.digest
    assert_modelcar(registry_3.host, repository, "v2", {"a": b"1"})
