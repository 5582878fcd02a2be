"""Images of other builders onto a volume: layers as they come, and those that are refused by name."""

import os
import secrets
import tarfile

import pytest

from modelyard.errors import Refused, RegistryMissing
from modelyard.models import Listing, ModelRef, summarise
from modelyard.orders import LoadSpec, RegistryAddress, VerifySpec
from tests.services.oci.archives import GZIP, TAR, archive, file, model_layer, push_image
from tests.services.oci.building import new_repository
from tests.services.oci.registries import Registry
from tests.services.oci.registry_proxy import proxy_before
from tests.services.oci.sources import location, order, source_of
from tests.services.s3_fixtures import Loader, assert_absent, assert_published

MIB = 1024 * 1024
faults = pytest.mark.faults


@pytest.mark.parametrize("media_type", [TAR, GZIP, "application/vnd.docker.image.rootfs.diff.tar.gzip"])
def test_an_image_of_another_builder(media_type: str, registry_3: Registry, loader: Loader) -> None:
    """Files of one layer and of many, names from the root or not, directories between them, a base with links of its own below."""
    repository = new_repository()
    weights = {"a.safetensors": os.urandom(5 * MIB + 1), "b.safetensors": bytes(3 * MIB)}
    small = {f"part-{number:03}/x": secrets.token_bytes(number) for number in range(60)}
    base = archive(file("bin/sh", b"#!"), file("bin/ln", kind=tarfile.SYMTYPE, target="/bin/sh"), file("etc/models/x", b"no model's"))
    layers = [base, model_layer(weights, "./models/"), model_layer(small)]
    push_image(registry_3.url, repository, "v1", layers, media_type, index=True)
    spec = order(location(registry_3, repository))
    assert spec.listing == Listing(digest=spec.listing.digest, files=62, bytes=sum(map(len, {**weights, **small}.values())))
    run = loader.run(spec)
    run.succeeded()
    assert "is not one of ours" in run.output
    manifest = assert_published(loader.root, {**weights, **small})
    damaged = loader.root / "m/v1/a.safetensors"
    damaged.write_bytes(os.urandom(5 * MIB + 1))
    address = RegistryAddress(host=registry_3.host, plain_http=True)
    found = loader.run(VerifySpec(repair=True, registry=address)).succeeded()
    assert (found["damaged"], found["repaired"]) == (1, 1)
    assert assert_published(loader.root, {**weights, **small}) == manifest


def test_a_plan_passes_over_the_bodies_of_plain_layers(registry_3: Registry) -> None:
    repository = new_repository()
    with proxy_before(registry_3) as proxy:
        push_image(registry_3.url, repository, "v1", [model_layer({"a": bytes(30 * MIB), "b": bytes(30 * MIB)})])
        spec = order(location(proxy, repository), proxy.keychain)
        ranged = [line for line in proxy.passed if "/blobs/" in line]
    assert spec.listing.bytes == 60 * MIB
    assert len(ranged) == 3


LINKED = file("l", kind=tarfile.SYMTYPE, target="models")
HOSTILE = {
    "upwards": (file("models/../etc/passwd", b"x"), "leads upwards"),
    "upwards elsewhere": (file("opt/../../x", b"x"), "leads upwards"),
    "absolute": (file("/models/x", b"x"), "is absolute"),
    "twice": (file("models/a", b"y"), "is in the image twice"),
    "whiteout": (file("models/.wh.a"), "is a whiteout"),
    "opaque": (file("models/.wh..wh..opq"), "is a whiteout"),
    "whiteout of all": (file(".wh.models"), "is a whiteout"),
    "link": (file("models/l", kind=tarfile.SYMTYPE, target="/etc/passwd"), "is a symbolic link"),
    "link of the root": (file("models", kind=tarfile.SYMTYPE, target="/data"), "is a symbolic link"),
    "hard link": (file("models/h", kind=tarfile.LNKTYPE, target="models/a"), "is a hard link"),
    "pipe": (file("models/p", kind=tarfile.FIFOTYPE), "is a pipe"),
    "device": (file("models/d", kind=tarfile.CHRTYPE), "is a device"),
    "file for directory": (file("models", b"x"), "is a file, not a directory"),
    "link, with dots": (file("././models/l", kind=tarfile.SYMTYPE, target="/etc/passwd"), "is a symbolic link"),
    "below a link": (file("l/x", b"x"), "lies below a symbolic link"),
    "empty name": (file("models//x", b"x"), "is absolute"),
    "dot": (file("models/./x", b"x"), "holds '.'"),
    "own directory": (file("models/.modelyard/x", b"x"), "own directory"),
    "control": (file("models/a\nb", b"x"), "control characters"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in {"upwards", "link", "twice", "below a link"} else faults) for name in HOSTILE]
)
def test_entries_that_are_refused(name: str, registry_3: Registry) -> None:
    entry, said = HOSTILE[name]
    repository = new_repository()
    push_image(registry_3.url, repository, "v1", [archive(file("models/a", b"x"), LINKED), archive(entry)])
    with pytest.raises(Refused, match=said) as refused:
        list(source_of(location(registry_3, repository)).list())
    shown = repr(entry[0].name)[1:-1]
    assert shown in str(refused.value) or shown.removeprefix("models/") in str(refused.value)


BROKEN = {
    "no tar": os.urandom(5000),
    "no end": model_layer({"a": b"x" * 600})[:1600],
    "a header that is none": archive(file("models/a", b"x" * 512))[:1024] + b"?" * 512 + os.urandom(5 * MIB),
    "a header for all entries": archive(file("bin/x", b"x"), for_all={"path": "bin/x"}),
    "too many entries": archive(*(file(f"l{number}", kind=tarfile.SYMTYPE, target="x") for number in range(100_001))),
    "more behind its end": archive(file("models/a", b"x"), end=archive(file("models/b", b"y"))),
}


@pytest.mark.parametrize("media_type", [TAR, GZIP])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in {"a header that is none", "more behind its end"} else faults) for name in BROKEN]
)
def test_archives_that_are_none(name: str, media_type: str, registry_3: Registry, loader: Loader) -> None:
    """What other readers see differently, or cannot read, is not loaded, whether its digest is right or not."""
    repository = new_repository()
    push_image(registry_3.url, repository, "v1", [BROKEN[name]], media_type)
    with pytest.raises(Refused, match="build the image anew"):
        list(source_of(location(registry_3, repository)).list())
    spec = LoadSpec(model=ModelRef(name="m", version="v1"), source=location(registry_3, repository), listing=summarise([]))
    loader.run(spec).failed("Refused", "build the image anew")
    assert_absent(loader.root)


def test_layers_that_are_no_archives(registry_3: Registry) -> None:
    repository = new_repository()
    push_image(registry_3.url, repository, "v1", [b"raw"], "application/vnd.cncf.model.weight.v1.raw")
    with pytest.raises(Refused, match="neither tar nor tar"):
        list(source_of(location(registry_3, repository)).list())
    with pytest.raises(RegistryMissing, match="is not there"):
        list(source_of(location(registry_3, repository, "v2")).list())
