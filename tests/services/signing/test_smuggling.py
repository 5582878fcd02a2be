"""Layers that hold more than they say: what containerd would unpack into the model is seen, by whichever way it got there."""

import gzip
import hashlib
import json
import tarfile

import pytest

from modelyard.errors import Refused
from modelyard.images.build import FILES as FILES_RECORDED
from modelyard.images.descriptors import CONFIG, LAYER, MANIFEST, Descriptor, manifest
from modelyard.images.references import Reference
from modelyard.signing.sign import sign_image
from tests.services.oci.archives import GZIP, archive, file
from tests.services.oci.bases import push_blob, put_manifest
from tests.services.oci.registries import Registry
from tests.services.signing.conftest import KeyPair
from tests.services.signing.oracles import cosign
from tests.services.signing.test_tampering import FILES, changed, image, refused, sign_by_hand, verified

__all__ = ["image"]

EVIL = file("models/evil.bin", b"evil")
#: What one reader sees and another does not: containerd unpacks the file of each of these.
SMUGGLED = {
    "another member of the gzip stream": (
        GZIP,
        gzip.compress(archive(file("bin/sh"))[:512]) + gzip.compress(archive(EVIL)),
        "'models/evil",
    ),
    "behind the end": (LAYER, archive(file("bin/sh"), end=archive(EVIL)), "goes on behind its end"),
    "below a link": (
        LAYER,
        archive(file("x", kind=tarfile.SYMTYPE, target="models"), file("x/evil.bin", b"evil")),
        "below a symbolic link",
    ),
    "under a global header": (LAYER, archive(EVIL, for_all={"path": "bin/sh"}), "has a header for all entries"),
    "a name of a GiB": (LAYER, archive(EVIL, long_name=2**30), "has a header of 1073741824 bytes"),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if "member" in name else pytest.mark.faults) for name in SMUGGLED])
def test_what_a_base_smuggles(name: str, registry_3: Registry, image: Reference, keys: KeyPair) -> None:
    """The layer says that it is the model's own, and lists no files, or is a base's: it is read all the same."""
    media_type, content, said = SMUGGLED[name]
    push_blob(registry_3.url, image.repository, content)
    layer = Descriptor.of(media_type, content).document() | {"annotations": {FILES_RECORDED: "[]", "dev.modelyard.recipe": "1"}}
    below = changed(registry_3, image, lambda manifest: manifest["layers"].insert(0, layer))
    with pytest.raises(Refused, match=said):
        sign_image(registry_3.keychain, below, keys.key)
    sign_by_hand(registry_3, below, keys.key)
    for read_layers in (False, True):
        refused(registry_3, below, keys, said, read_layers=read_layers)


def test_a_base_too_large_to_be_looked_into(registry_3: Registry, image: Reference, keys: KeyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told, not passed over; who reads all of the image looks into it."""
    monkeypatch.setattr("modelyard.signing.contents.MAX_BASE_LAYER", 1000)
    content = archive(file("bin/sh", b"#!"))
    push_blob(registry_3.url, image.repository, content)
    layer = Descriptor.of(LAYER, content).document()
    below = changed(registry_3, image, lambda manifest: manifest["layers"].insert(0, layer))
    sign_by_hand(registry_3, below, keys.key)
    refused(registry_3, below, keys, "which is not looked into here; use a smaller base, or verify with read_layers")
    assert verified(registry_3, below, keys, read_layers=True).read


def test_a_layer_of_the_models_that_holds_something_else(registry_3: Registry, image: Reference, keys: KeyPair) -> None:
    """Outside of models/, where a base's link may lead into it."""
    content = archive(file("models/a", b"a"), file("x/evil.bin", b"evil"))
    push_blob(registry_3.url, image.repository, content)
    record = {"path": "a", "size": 1, "sha256": hashlib.sha256(b"a").hexdigest()}
    told = {FILES_RECORDED: json.dumps([record]), "dev.modelyard.recipe": "1"}
    layer = Descriptor.of(LAYER, content).document() | {"annotations": told}
    forged = changed(registry_3, image, lambda manifest: manifest["layers"].append(layer))
    sign_by_hand(registry_3, forged, keys.key)
    assert verified(registry_3, forged, keys).files == len(FILES) + 1
    refused(registry_3, forged, keys, r"'x/evil\.bin': is no file of the model", read_layers=True)


def test_rubbish_under_the_older_forms_tag(registry_3: Registry, image: Reference, keys: KeyPair) -> None:
    """It stands in nobody's way, neither of who verifies nor of who signs."""
    sign_by_hand(registry_3, image, keys.key)
    push_blob(registry_3.url, image.repository, b"{}")
    proper = manifest(Descriptor.of(CONFIG, b"{}"), [Descriptor.of("l", b"{}")], {})
    put_manifest(
        registry_3.url, image.repository, f"{image.digest}.sig".replace(":", "-"), MANIFEST, proper.replace(b'l","size":2', b'l","size":-1')
    )
    assert verified(registry_3, image, keys).files == len(FILES)
    sign_image(registry_3.keychain, image, keys.key)
    assert cosign(str(image), keys.public, old=True) == 1
