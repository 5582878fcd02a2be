"""What must not be taken for signed: each image here is one that somebody with a right to push, or even the key, could make."""

import base64
import json
import os
import secrets
from collections.abc import Callable
from typing import Any

import pytest

from modelyard.errors import Refused, RegistryMissing, RegistryRefused
from modelyard.images.descriptors import LAYER, MANIFEST, Descriptor, digest_of
from modelyard.images.references import Reference
from modelyard.models import FileRecord
from modelyard.oci.http import Patience
from modelyard.oci.registry import Repository
from modelyard.signing import verify
from modelyard.signing.bundles import BUNDLE, make_bundle
from modelyard.signing.contents import read_image
from modelyard.signing.keys import SigningKey, read_public_keys
from modelyard.signing.referrers import Referrers
from modelyard.signing.sign import SIGNATURE, sign_image
from modelyard.signing.statements import MODEL, SIGNED, model_statement, signed_statement
from modelyard.signing.verify import Verified, verify_image
from tests.services.oci.bases import push_blob, tar_of
from tests.services.oci.registries import Registry
from tests.services.s3_fixtures import Bucket
from tests.services.signing.conftest import KeyPair, build
from tests.services.signing.oracles import cosign

FILES = {"config.json": b"{}", "model.safetensors": b"weights", "tokenizer.json": b"[]"}
QUICK = Patience(attempts=2, first=0.01)
Change = Callable[[dict[str, Any]], None]


def attach(registry: Registry, image: Reference, *contents: bytes) -> None:
    with Repository(registry.access, image.repository) as repository:
        document = read_image(repository, image.digest or "").document
        for content in contents:
            Referrers(repository, Descriptor.of(document.media_type, document.content), BUNDLE).add(content, {})


def attached(registry: Registry, image: Reference) -> list[bytes]:
    with Repository(registry.access, image.repository) as repository:
        document = read_image(repository, image.digest or "").document
        return [*Referrers(repository, Descriptor.of(document.media_type, document.content), BUNDLE).read()]


def records(registry: Registry, image: Reference) -> list[FileRecord]:
    with Repository(registry.access, image.repository) as repository:
        return [*read_image(repository, image.digest or "").files.values()]


def sign_by_hand(registry: Registry, image: Reference, key: SigningKey, files: list[FileRecord] | None = None) -> None:
    """With a statement of these files, whatever the image holds."""
    told = records(registry, image) if files is None else files
    statements = (signed_statement(image.digest or ""), model_statement("m", told))
    attach(registry, image, *(make_bundle(each, key) for each in statements))


def changed(registry: Registry, image: Reference, change: Change) -> Reference:
    """Another image: the manifest of the first platform, changed, and signed by nobody."""
    with Repository(registry.access, image.repository) as repository:
        manifest = json.loads(read_image(repository, image.digest or "").manifests[0].content)
        change(manifest)
        content = json.dumps(manifest).encode()
        return image.at(digest=repository.put_manifest(MANIFEST, content, digest_of(content)))


def verified(registry: Registry, image: Reference, keys: KeyPair, **options: Any) -> Verified:
    return verify_image(registry.keychain, image, read_public_keys(keys.public), patience=QUICK, **options)


def refused(registry: Registry, image: Reference, keys: KeyPair, said: str, **options: Any) -> None:
    with pytest.raises(Refused, match=said):
        verified(registry, image, keys, **options)


@pytest.fixture
def image(bucket: Bucket, registry_3: Registry) -> Reference:
    return build(bucket, registry_3, FILES)


def test_the_signature_of_another_image(bucket: Bucket, registry_3: Registry, image: Reference, keys: KeyPair) -> None:
    other = build(bucket, registry_3, {**FILES, "config.json": b"{ }"})
    sign_image(registry_3.keychain, other, keys.key)
    attach(registry_3, image, *attached(registry_3, other))
    refused(registry_3, image, keys, "carries the signature of another image; do not use it")
    assert "does not match" in str(cosign(str(image), keys.public))
    with Repository(registry_3.access, image.repository) as mine, Repository(registry_3.access, other.repository) as theirs:
        old = theirs.find(f"{other.digest}.sig".replace(":", "-"))
        assert old
        for blob in (old.config, *old.descriptors("layers")):
            mine.put_blob(theirs.get_blob(blob))
        mine.put_manifest(MANIFEST, old.content, f"{image.digest}.sig".replace(":", "-"))
    refused(registry_3, image, keys, "carries the signature of another image")
    assert "missing digest in claim" in str(cosign(str(image), keys.public, old=True))


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        (lambda files: files[1:], "holds files that were not signed: config.json;"),
        (lambda files: [*files, files[0].model_copy(update={"path": "more"})], "lacks files that were signed: more;"),
        (
            lambda files: [files[0].model_copy(update={"sha256": "0" * 64}), *files[1:]],
            "holds other files than those that were signed: config.json;",
        ),
    ],
    ids=["lacks one", "one too many", "another digest"],
)
def test_a_statement_that_is_not_true(
    listed: Callable[[list[FileRecord]], list[FileRecord]], said: str, registry_3: Registry, image: Reference, keys: KeyPair
) -> None:
    files = sorted(records(registry_3, image), key=lambda record: record.path)
    sign_by_hand(registry_3, image, keys.key, listed(files))
    refused(registry_3, image, keys, said)
    sign_by_hand(registry_3, image, keys.key)
    assert verified(registry_3, image, keys).files == len(files), "one that is true is enough"


def test_an_image_with_a_file_that_nobody_recorded(registry_3: Registry, image: Reference, keys: KeyPair) -> None:
    """In a layer below the model's, as a base may have it; above, where it would hide the model's own, nothing is allowed at all."""
    extra = tar_of({"models/sitecustomize.py": b"import os", "bin/sh": b""})
    push_blob(registry_3.url, image.repository, extra)
    layer = Descriptor.of(LAYER, extra).document()
    below = changed(registry_3, image, lambda manifest: manifest["layers"].insert(0, layer))
    with pytest.raises(Refused, match=r"holds 'models/sitecustomize\.py', which nothing records"):
        sign_image(registry_3.keychain, below, keys.key)
    assert not attached(registry_3, below)
    sign_by_hand(registry_3, below, keys.key)
    refused(registry_3, below, keys, "holds 'models/sitecustomize.py', which nothing records; do not use it")
    above = changed(registry_3, image, lambda manifest: manifest["layers"].append(layer))
    sign_by_hand(registry_3, above, keys.key)
    refused(registry_3, above, keys, "has layers without records above the model's")


def test_a_record_that_is_not_what_the_layer_holds(registry_3: Registry, image: Reference, keys: KeyPair) -> None:
    """Only reading shows it; who signed it has lied."""

    def lie(manifest: dict[str, Any]) -> None:
        annotations = manifest["layers"][0]["annotations"]
        told = json.loads(annotations["dev.modelyard.files"])
        told[0]["sha256"] = "0" * 64
        annotations["dev.modelyard.files"] = json.dumps([*told, {**told[0], "path": "absent"}])

    forged = changed(registry_3, image, lie)
    sign_by_hand(registry_3, forged, keys.key)
    assert verified(registry_3, forged, keys).files == len(FILES) + 1
    refused(
        registry_3, forged, keys, "(?s)holds another 'models/config.json' than its record says.*lacks 'models/absent'", read_layers=True
    )


def test_a_flipped_byte_in_the_registrys_storage(bucket: Bucket, registry_3: Registry, keys: KeyPair) -> None:
    image = build(bucket, registry_3, {"model.safetensors": os.urandom(3_000_000)})
    sign_image(registry_3.keychain, image, keys.key)
    assert verified(registry_3, image, keys, read_layers=True).read
    with Repository(registry_3.access, image.repository) as repository:
        layer = read_image(repository, image.digest or "").manifests[0].descriptors("layers")[-1].digest.removeprefix("sha256:")
    blob = registry_3.data / f"docker/registry/v2/blobs/sha256/{layer[:2]}/{layer}/data"
    content = bytearray(blob.read_bytes())
    content[2_000_000] ^= 1
    blob.write_bytes(content)
    refused(registry_3, image, keys, "cannot be read as what it is said to be", read_layers=True)


@pytest.mark.parametrize("part", ["payload", "sig"])
def test_a_flipped_byte_in_a_bundle(part: str, registry_3: Registry, image: Reference, keys: KeyPair) -> None:
    sign_image(registry_3.keychain, image, keys.key)
    good = attached(registry_3, image)
    unsigned = changed(registry_3, image, lambda manifest: manifest["annotations"].update(again=secrets.token_hex(4)))

    def flipped(bundle: bytes) -> bytes:
        found = json.loads(bundle)
        holder = found["dsseEnvelope"] if part == "payload" else found["dsseEnvelope"]["signatures"][0]
        content = bytearray(base64.b64decode(holder[part]))
        if part == "payload":  # made to be about the other image
            content = bytearray(bytes(content).replace((image.digest or "")[7:].encode(), (unsigned.digest or "")[7:].encode()))
        else:
            content[-1] ^= 1
        holder[part] = base64.b64encode(content).decode()
        return json.dumps(found).encode()

    attach(registry_3, unsigned, *(flipped(bundle) for bundle in good))
    refused(registry_3, unsigned, keys, "is signed, but not by a trusted key")
    assert isinstance(cosign(str(unsigned), keys.public), str)


def test_the_older_form_alone_says_nothing_of_the_files(registry_3: Registry, image: Reference, keys: KeyPair, other_keys: KeyPair) -> None:
    """As `cosign sign` of release 2 leaves it; and two keys' signatures stand side by side."""
    for pair in (other_keys, keys):
        sign_image(registry_3.keychain, image, pair.key)
    with Repository(registry_3.access, image.repository) as repository:
        repository.delete_manifest(repository.digest((image.digest or "").replace(":", "-")) or "")
        old = repository.find(f"{image.digest}.sig".replace(":", "-"))
    assert old
    assert len({(layer.annotations or {})[SIGNATURE] for layer in old.descriptors("layers")}) == 2
    for pair in (keys, other_keys):
        assert cosign(str(image), pair.public, old=True) == 1
        refused(registry_3, image, pair, "carries no statement of its files by a trusted key; sign it again")


def test_what_is_attached_beside_signatures_is_passed_over(registry_3: Registry, image: Reference, keys: KeyPair) -> None:
    strange = [
        b"",
        b"{}",
        b"not JSON",
        b'{"dsseEnvelope": {"payload": "?", "payloadType": "application/vnd.in-toto+json", "signatures": []}}',
    ]
    attach(registry_3, image, *strange)
    refused(registry_3, image, keys, "is not signed")
    added = sign_image(registry_3.keychain, image, keys.key).added
    assert {kind for kind in (SIGNED, MODEL) if any(kind in each for each in added)} == {SIGNED, MODEL}
    assert verified(registry_3, image, keys).files == len(FILES)


def test_statements_without_end(
    registry_3: Registry, image: Reference, keys: KeyPair, other_keys: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of what others attach is kept; of what was copied from other images of a trusted key, so much and no more."""
    monkeypatch.setattr(verify, "_MOST_STATEMENTS", 2)
    sign_by_hand(registry_3, image, keys.key)
    told = [model_statement(f"m-{number}", records(registry_3, image)) for number in range(4)]
    attach(registry_3, image, *(make_bundle(each, other_keys.key) for each in told))
    assert verified(registry_3, image, keys).files == len(FILES)
    attach(registry_3, image, *(make_bundle(each, keys.key) for each in told[:2]))
    with pytest.raises(RegistryRefused, match=r"more than 2 statements of files by trusted keys.*delete all but its own"):
        verified(registry_3, image, keys)


def test_an_image_that_is_not_there(registry_3: Registry, keys: KeyPair) -> None:
    with pytest.raises(RegistryMissing, match="is not there; check the repository and the tag"):
        verified(registry_3, Reference(host=registry_3.host, repository="models/none", tag="v1"), keys)
    with pytest.raises(Refused, match="only a digest can be signed"):
        sign_image(registry_3.keychain, Reference(host=registry_3.host, repository="models/none", tag="v1"), keys.key)
