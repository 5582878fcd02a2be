"""What is signed is accepted by those who check signatures elsewhere, and by nobody once a byte of it has changed."""

import base64
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from modelyard.images.descriptors import Descriptor
from modelyard.images.references import Reference
from modelyard.oci.registry import Repository
from modelyard.signing.bundles import BUNDLE
from modelyard.signing.keys import read_public_keys
from modelyard.signing.referrers import Referrers
from modelyard.signing.sign import sign_image
from modelyard.signing.statements import MODEL, PROVENANCE, SIGNED
from modelyard.signing.verify import verify_image
from tests.services.oci.bases import push_base
from tests.services.oci.building import AMD64, ARM64
from tests.services.oci.registries import Registry
from tests.services.s3_fixtures import Bucket
from tests.services.signing.conftest import KeyPair, build
from tests.services.signing.oracles import check_model, cosign, sign_model

#: Sorted otherwise as paths than as text, and with what model_signing leaves out.
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights" * 1000,
    ".gitattributes": b"*",
    "onnx/model.onnx": b"more",
    "onnx-int8/é.onnx": b"",
    "empty": b"",
}


def bundles(registry: Registry, image: Reference) -> dict[str, bytes]:
    """What is attached to an image, by the statement's kind; read without the code under test's own opening of it."""
    with Repository.of(registry.access, image) as repository:
        document = repository.find(image.digest or "")
        assert document
        contents = [*Referrers(repository, Descriptor.of(document.media_type, document.content), BUNDLE).read()]
    return {statement(content)["predicateType"]: content for content in contents}


def statement(bundle: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.b64decode(json.loads(bundle)["dsseEnvelope"]["payload"]))
    return found


def write(directory: Path, files: dict[str, bytes]) -> Path:
    for path, content in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)
    return directory


def test_what_is_signed_is_accepted_by_all(versioned_bucket: Bucket, any_registry: Registry, keys: KeyPair, other_keys: KeyPair) -> None:
    registry, base = any_registry, "bases/shell"
    push_base(registry.url, base, "1", ("linux/amd64", "linux/arm64"))
    below = Reference(host=registry.host, repository=base, tag="1")
    image = build(versioned_bucket, registry, FILES, base=below, platforms=(AMD64, ARM64))
    signed = sign_image(registry.keychain, image, keys.key)
    assert (signed.files, len(signed.added)) == (len(FILES), 2 * 3 + 2), "index and two manifests, in two forms; two statements"
    requests = len(registry.requests("PUT")) if registry.log.exists() else None
    assert not sign_image(registry.keychain, image, keys.key).added
    assert requests is None or len(registry.requests("PUT")) == requests, "signed again, nothing is written"

    for read_layers in (False, True):
        public = read_public_keys(other_keys.public + keys.public)
        verified = verify_image(registry.keychain, image, public, read_layers=read_layers)
        assert (verified.image, verified.key, verified.files) == (str(image), keys.key.public.hint, len(FILES))
        assert (verified.bytes, verified.provenance, verified.read) == (sum(map(len, FILES.values())), True, read_layers)

    with Repository.of(registry.access, image) as repository:
        index = repository.find(image.digest or "")
        assert index
        manifests = [image.at(digest=each.digest) for each in index.descriptors("manifests")]
    assert [cosign(str(each), keys.public) for each in (image, *manifests)] == [2, 1, 1]
    assert [cosign(str(each), keys.public, old=True) for each in (image, *manifests)] == [1, 1, 1]
    assert "accepted signatures do not match threshold" in str(cosign(str(image), other_keys.public))
    assert "invalid signature" in str(cosign(str(image), other_keys.public, old=True))

    assert bundles(registry, image).keys() == {SIGNED, MODEL, PROVENANCE}


def test_model_signing_takes_the_statement_of_the_files(
    versioned_bucket: Bucket, registry_3: Registry, keys: KeyPair, other_keys: KeyPair, tmp_path: Path
) -> None:
    image = build(versioned_bucket, registry_3, FILES)
    sign_image(registry_3.keychain, image, keys.key)
    bundle = bundles(registry_3, image)[MODEL]
    directory = write(tmp_path / "model", FILES)
    assert not check_model(directory, bundle, keys.public)
    assert "Key mismatch" in check_model(directory, bundle, other_keys.public)
    (directory / "onnx/model.onnx").write_bytes(b"mora")
    (directory / "added.py").touch()
    said = check_model(directory, bundle, keys.public)
    assert "Hash mismatch for 'onnx/model.onnx'" in said
    assert "added.py" in said


def test_the_statement_of_the_files_is_the_one_that_model_signing_makes(
    versioned_bucket: Bucket, registry_3: Registry, keys: KeyPair, tmp_path: Path
) -> None:
    image = build(versioned_bucket, registry_3, FILES)
    sign_image(registry_3.keychain, image, keys.key)
    private = keys.key._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    theirs = statement(sign_model(write(tmp_path / "m", FILES), private))
    ours = statement(bundles(registry_3, image)[MODEL])
    for each in (theirs, ours):
        each["predicate"]["serialization"]["ignore_paths"].sort()
    assert ours == theirs
