"""What is read of an image before it is served: its files, the programs in it, and whether anyone may pull it."""

import os
from dataclasses import replace

import pytest

from modelyard.errors import RegistryDenied
from modelyard.images.references import Reference
from modelyard.oci.access import Keychain
from modelyard.plans.model_image import PROGRAMS, ImageFile
from modelyard.serving.image import read_image
from tests.services.oci.bases import push_base
from tests.services.oci.building import AMD64, ARM64, Builder
from tests.services.oci.registries import Registry
from tests.services.oci.registry_proxy import Fault, proxy_before
from tests.services.oci.test_access import password_registry
from tests.services.s3_fixtures import Bucket

__all__ = ["password_registry"]
FILES = {"config.json": b"{}", "sub/model.safetensors": os.urandom(17 * 1024 * 1024)}


@pytest.mark.parametrize("based", [True, False])
def test_an_image_of_ours(bucket: Bucket, registry: Registry, based: bool) -> None:  # noqa: FBT001
    bucket.put(FILES)
    push_base(registry.url, "base", "v1", ("linux/amd64", "linux/arm64"))
    base = Reference(host=registry.host, repository="base", tag="v1") if based else None
    repository = f"served/{'with' if based else 'without'}-base"
    built, _ = Builder(bucket, registry).build(repository=repository, base=base, platforms=(AMD64, ARM64))
    found = read_image(Reference(host=registry.host, repository=repository, tag="v1"), registry.keychain)
    assert found
    assert (found.digest, found.platforms, found.public) == (built.digest, (AMD64, ARM64), True)
    assert found.digests == (built.digest, *built.platforms.values())
    assert found.files == tuple(ImageFile(path=path, size=len(body)) for path, body in sorted(FILES.items()))
    assert found.lacks == (PROGRAMS[1:] if based else PROGRAMS)  # the tests' base has a shell alone


def test_an_image_of_others_and_none(registry: Registry) -> None:
    digest = push_base(registry.url, "theirs", "v1", ("linux/amd64",), index=False)
    reference = Reference(host=registry.host, repository="theirs", tag="v1")
    found = read_image(reference, registry.keychain)
    assert found
    assert (found.digest, found.platforms, found.files) == (digest, (AMD64,), None)
    assert read_image(reference.at(tag="v2"), registry.keychain) is None


@pytest.mark.parametrize("fault", [pytest.param({"cut_answer": 1}, id="cut"), pytest.param({"status": 503}, id="503")])
def test_a_base_layer_that_breaks_is_read_again(fault: dict[str, int], registry: Registry) -> None:
    push_base(registry.url, "broken", "v1", ("linux/amd64",), index=False)
    with proxy_before(registry) as proxy:
        reference = Reference(host=proxy.host, repository="broken", tag="v1")
        whole = read_image(reference, proxy.keychain)
        harm = Fault("^GET .*/blobs/", skip=1, **fault)  # type: ignore[arg-type]  # the first is the config
        proxy.faults = [harm]
        assert read_image(reference, proxy.keychain) == whole
        assert whole
        assert whole.lacks == PROGRAMS[1:]
    assert harm.done == 1


def test_an_image_that_only_some_may_pull(bucket: Bucket, password_registry: Registry) -> None:
    bucket.put({"config.json": b"{}"})
    Builder(bucket, password_registry).build(repository="served/private")
    reference = Reference(host=password_registry.host, repository="served/private", tag="v1")
    found = read_image(reference, password_registry.keychain)
    assert found
    assert not found.public
    with pytest.raises(RegistryDenied):
        read_image(reference, Keychain(replace(password_registry.access, credentials=None)))
