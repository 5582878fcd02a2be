"""Whoever may push could have a layer of theirs signed, if a signed build used layers again that nobody vouches for."""

import json
import os
from typing import Any

import pytest

from modelyard.images.descriptors import INDEX, MANIFEST, Descriptor, digest_of
from modelyard.images.references import Reference
from modelyard.modelcar.build import build_layers
from modelyard.modelcar.records import unfinished_tag
from modelyard.modelcar.resolve import earlier_builds
from modelyard.oci.registry import Repository
from modelyard.plans.modelcar import Action, ModelcarRequest
from modelyard.signing.sign import sign_image
from modelyard.signing.trust import Trust
from tests.services.oci.building import Builder
from tests.services.oci.oracle import assert_modelcar
from tests.services.oci.registries import Registry
from tests.services.s3_fixtures import Bucket
from tests.services.signing.conftest import KeyPair

FILES = {"config.json": b"{}", "model.safetensors": b"weights"}


def believing(builder: Builder, trust: Trust, **fields: Any) -> ModelcarRequest:
    request = builder.request(**fields)
    return request.model_copy(update={"believed": trust.believed(builder.keychain, earlier_builds(request))})


def actions(builder: Builder, request: ModelcarRequest) -> set[Action]:
    return {layer.action for layer in builder.plan(request).layers}


def test_only_layers_of_signed_images_are_used_again(
    versioned_bucket: Bucket, registry_3: Registry, keys: KeyPair, other_keys: KeyPair
) -> None:
    versioned_bucket.put(FILES)
    builder, repository, trust = Builder(versioned_bucket, registry_3), f"models/{os.urandom(4).hex()}", Trust((keys.key.public,), keys.key)
    image, _ = builder.build(repository=repository)
    assert actions(builder, builder.request(repository=repository)) == {Action.REUSED}
    sign_image(registry_3.keychain, Reference.parse(image.image), other_keys.key)
    assert actions(builder, believing(builder, trust, repository=repository)) == {Action.NEW}
    sign_image(registry_3.keychain, Reference.parse(image.image), keys.key)
    assert actions(builder, believing(builder, trust, repository=repository)) == {Action.REUSED}
    of_previous = believing(builder, trust, repository=f"{repository}-2", previous=Reference.parse(image.image))
    assert actions(builder, of_previous) == {Action.MOUNTED}


def test_a_layer_that_pretends_to_be_the_sources_is_not_signed(versioned_bucket: Bucket, registry_3: Registry, keys: KeyPair) -> None:
    """An image under the tag, whose records name the source's versions, and whose layer holds something else."""
    versioned_bucket.put(FILES)
    builder, repository, trust = Builder(versioned_bucket, registry_3), f"models/{os.urandom(4).hex()}", Trust((keys.key.public,), keys.key)
    builder.build(repository=repository)
    _poison(registry_3, repository, "v1")
    assert actions(builder, builder.request(repository=repository)) == {Action.REUSED}, "it does pretend well"
    request = believing(builder, trust, repository=repository, move_tag=True)
    built, _ = builder.build(request)
    assert assert_modelcar(registry_3.host, repository, "v1", FILES) == built.digest


@pytest.mark.parametrize("changed", [False, True], ids=["as it was written", "changed"])
def test_the_record_of_a_killed_build(changed: bool, versioned_bucket: Bucket, registry_3: Registry, keys: KeyPair) -> None:  # noqa: FBT001
    versioned_bucket.put(FILES)
    builder, repository, trust = Builder(versioned_bucket, registry_3), f"models/{os.urandom(4).hex()}", Trust((keys.key.public,), keys.key)
    plan = builder.plan(believing(builder, trust, repository=repository))
    with builder.environment():
        source = builder.open(plan.request)
        build_layers(plan, source, builder.keychain, builder.tuning, lambda _: None, builder.notes.append, vouch=trust.vouch)
    record = Reference(host=registry_3.host, repository=repository, tag=unfinished_tag("v1"))
    assert len(trust.believed(builder.keychain, [record])) == 1
    if changed:
        _poison(registry_3, repository, unfinished_tag("v1"))
    assert actions(builder, builder.request(repository=repository)) == {Action.REUSED}
    assert actions(builder, believing(builder, trust, repository=repository)) == ({Action.NEW} if changed else {Action.REUSED})
    without_key = Trust((keys.key.public,))
    assert without_key.vouch(b"record") == ""
    assert len(without_key.believed(builder.keychain, [record])) == (0 if changed else 1)


def _poison(registry: Registry, repository: str, tag: str) -> None:
    """Let the tag name the same records over another layer."""
    other = os.urandom(2000)
    with Repository(registry.access, repository) as target:
        document = target.find(tag)
        assert document
        index = json.loads(document.content) if document.is_index else None
        inner = target.find(index["manifests"][0]["digest"]) if index else document
        assert inner
        manifest = json.loads(inner.content)
        target.put_blob(other)
        manifest["layers"][-1] |= Descriptor.of(manifest["layers"][-1]["mediaType"], other).document()
        content = json.dumps(manifest).encode()
        target.put_manifest(MANIFEST, content, digest_of(content) if index else tag)
        if index:
            index["manifests"][0] |= Descriptor.of(MANIFEST, content).document()
            target.put_manifest(INDEX, json.dumps(index).encode(), tag)
