"""Keys, statements, bundles and records, without a registry."""

import base64
import hashlib
import itertools
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from modelyard.images.build import FILES, SOURCE, BaseImage, ModelLayer, build_image
from modelyard.images.descriptors import LAYER, MANIFEST, Descriptor, Document, Platform, canonical, manifest
from modelyard.models import Checksum, FileRecord
from modelyard.signing.bundles import make_bundle, make_statement, open_bundle
from modelyard.signing.contents import SignedImage, layers_of, record_problems
from modelyard.signing.keys import SigningKey, read_public_keys
from modelyard.signing.statements import is_ignored, model_statement, provenance_statement, signed_statement

PRIVATE = ec.generate_private_key(ec.SECP256R1())
KEY = SigningKey(PRIVATE)
OTHER = SigningKey(ec.generate_private_key(ec.SECP256R1()))
DIGEST = f"sha256:{'a' * 64}"
RECORD = FileRecord(
    path="d e/m.bin", size=3, sha256="1" * 64, etag='"e"', version_id="v+1", checksum=Checksum(algorithm="CRC64NVME", value="AA==")
)


def pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, form: PrivateFormat, password: bytes = b"") -> str:
    encryption: KeySerializationEncryption = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, form, encryption).decode()


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize("password", ["", "pässword"])
def test_a_private_key_of_openssl(form: PrivateFormat, password: str) -> None:
    key = SigningKey.load(f"\n{pem(PRIVATE, form, password.encode())}\n", password)
    assert key.public.pem == KEY.public.pem
    assert key.sign(b"content") == KEY.sign(b"content"), "the same content, the same signature"
    assert key.public.verifies(key.sign(b"content"), b"content")
    assert not key.public.verifies(key.sign(b"content"), b"Content")
    assert not key.public.verifies(b"no DER", b"content")


def cosign_box(**changed: Any) -> str:
    told = {
        "kdf": {"name": "scrypt", "params": {"N": 16, "r": 8, "p": 1}, "salt": "AA=="},
        "cipher": {"name": "nacl/secretbox", "nonce": base64.b64encode(bytes(24)).decode()},
        "ciphertext": base64.b64encode(bytes(100)).decode(),
    } | changed
    text = base64.b64encode(json.dumps(told).encode()).decode()
    return f"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n{text}\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("text", "password"),
    [
        ("", ""),
        ("s3cret", ""),
        (pem(PRIVATE, PrivateFormat.PKCS8, b"right"), "s3cret"),
        (pem(PRIVATE, PrivateFormat.PKCS8, b"right"), ""),
        (KEY.public.pem, ""),
        (cosign_box(), "s3cret"),
        (cosign_box(ciphertext="AA=="), ""),
        (cosign_box(cipher={"name": "none", "nonce": ""}), ""),
        (cosign_box(kdf={"name": "scrypt", "params": {"N": 2**40, "r": 8, "p": 1}, "salt": ""}), ""),
        (cosign_box(kdf=None), ""),
        ("-----BEGIN ENCRYPTED COSIGN PRIVATE KEY-----\n%\n-----END ENCRYPTED COSIGN PRIVATE KEY-----", ""),
    ],
    ids=itertools.count(),  # the keys are new in each process
)
def test_no_private_key_and_nothing_of_it_told(text: str, password: str) -> None:
    with pytest.raises(ValueError, match="holds no private key in PEM form that this password opens") as caught:
        SigningKey.load(text, password)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_keys_of_other_kinds() -> None:
    others = (ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate())
    for other in others:
        with pytest.raises(ValueError, match=r"no ECDSA key on the curve P-256"):
            SigningKey.load(pem(other, PrivateFormat.PKCS8))
        public = other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        with pytest.raises(ValueError, match=r"none of ECDSA on the curve P-256"):
            read_public_keys(KEY.public.pem + public)
    for nothing in ("", "a", "-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----"):
        with pytest.raises(ValueError, match="holds"):
            read_public_keys(nothing)
    assert [key.pem for key in read_public_keys(f"old:\n{KEY.public.pem}new:{OTHER.public.pem}")] == [KEY.public.pem, OTHER.public.pem]


def test_a_private_key_does_not_show() -> None:
    number = PRIVATE.private_numbers().private_value
    assert str(number) not in f"{KEY!r}{KEY.public!r}"
    assert KEY.public.hint == hashlib.sha256(KEY.public.pem.encode()).hexdigest()


def test_a_bundle() -> None:
    bundle = make_bundle(signed_statement(DIGEST), KEY)
    assert bundle == make_bundle(signed_statement(DIGEST), KEY)
    opened = open_bundle(bundle, [OTHER.public, KEY.public])
    assert opened
    statement, key = opened
    assert key
    assert key.pem == KEY.public.pem
    assert statement.is_about(DIGEST)
    assert not statement.is_about(f"sha256:{'b' * 64}")
    assert open_bundle(bundle, [OTHER.public]) == (statement, None)
    assert open_bundle(bundle, []) == (statement, None)


def changed_bundle(**envelope: Any) -> bytes:
    bundle = json.loads(make_bundle(signed_statement(DIGEST), KEY))
    bundle["dsseEnvelope"] |= envelope
    return json.dumps(bundle).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"messageSignature": {}}',
        b"[" * 100_000,
        changed_bundle(payload="%"),
        changed_bundle(payload=base64.b64encode(b"[1]").decode()),
        changed_bundle(payload=base64.b64encode(b"\xff").decode()),
        changed_bundle(payloadType="text/plain"),
        changed_bundle(signatures=[{"sig": "%"}]),
        changed_bundle(signatures=[{"sig": ""}] * 21),
        changed_bundle(payload=base64.b64encode(canonical({"_type": "https://in-toto.io/Statement/v0.1"})).decode()),
    ],
    ids=itertools.count(),
)
def test_no_bundle(content: bytes) -> None:
    assert open_bundle(content, [KEY.public]) is None


def test_a_signature_of_another_form_is_none() -> None:
    """Over the bare payload: a signature is only one of a statement if the statement's type is under it."""
    payload = signed_statement(DIGEST)
    signatures = [{"sig": base64.b64encode(KEY.sign(payload)).decode()}]
    opened = open_bundle(changed_bundle(signatures=signatures), [KEY.public])
    assert opened
    assert opened[1] is None
    assert open_bundle(changed_bundle(signatures=[]), [KEY.public]) == (opened[0], None)


def test_the_statement_of_the_files() -> None:
    """Files sort by the parts of their paths; the root is over their digests in that order."""
    paths = ("a-b/x", "a/x", "a.b", ".gitattributes", ".github/w", "x/.gitattributes")
    files = [FileRecord(path=path, size=0, sha256=hashlib.sha256(path.encode()).hexdigest()) for path in paths]
    told = json.loads(model_statement("m", files))
    listed = ["a/x", "a-b/x", "a.b", "x/.gitattributes"]
    assert [each["name"] for each in told["predicate"]["resources"]] == listed
    root = hashlib.sha256(b"".join(hashlib.sha256(path.encode()).digest() for path in listed)).hexdigest()
    assert told["subject"] == [{"name": "m", "digest": {"sha256": root}}]
    assert [path for path in paths if is_ignored(path)] == [".gitattributes", ".github/w"]


def test_the_provenance() -> None:
    annotations = {
        SOURCE: "s3://b/m/v1/",
        "org.opencontainers.image.title": "m",
        "org.opencontainers.image.base.name": "r.example/busybox:1",
        "org.opencontainers.image.base.digest": DIGEST,
    }
    layer = ModelLayer(digest=f"sha256:{'c' * 64}", size=1, files=(RECORD,))
    told = json.loads(provenance_statement("r.example/m", [DIGEST], annotations, ["linux/amd64"], [layer]))
    definition = told["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["model"] == "m"
    [file, base] = definition["resolvedDependencies"]
    assert file["uri"] == "s3://b/m/v1/d%20e/m.bin?versionId=v%2B1"
    assert file["digest"] == {"sha256": RECORD.sha256}
    assert file["annotations"] == {
        "size": 3,
        "layer": layer.digest,
        "versionId": "v+1",
        "etag": '"e"',
        "checksum": {"algorithm": "CRC64NVME", "value": "AA=="},
    }
    assert base == {"name": "base", "uri": "oci://r.example/busybox:1", "digest": {"sha256": "a" * 64}}


def image_of(*manifests: bytes) -> SignedImage:
    documents = tuple(Document(media_type=MANIFEST, content=content) for content in manifests)
    return SignedImage(documents[0], documents, ())


def platform(sha256: str = "1" * 64, bare_above: int = 0) -> bytes:
    layer = ModelLayer(digest=DIGEST, size=1, files=(RECORD.model_copy(update={"sha256": sha256}),))
    bare = Descriptor(media_type=LAYER, digest=f"sha256:{'d' * 64}", size=1)
    config = Descriptor(media_type="c", digest=DIGEST, size=1)
    return manifest(config, [bare, layer.descriptor, *[bare] * bare_above], {})


def test_records_of_an_image() -> None:
    assert not record_problems(image_of(platform(), platform()), "i")
    cases = {
        "has other files than the first platform": (platform(), platform("2" * 64)),
        "has layers without records above the model's": (platform(bare_above=1),),
        "records nothing of its files": (manifest(Descriptor(media_type="c", digest=DIGEST, size=1), [], {}),),
    }
    for said, manifests in cases.items():
        [problem] = record_problems(image_of(*manifests), "i")
        assert said in problem.what


def test_an_image_that_we_build_has_good_records() -> None:
    bases = [BaseImage(platform=Platform.parse(text)) for text in ("linux/amd64", "linux/arm64")]
    layer = ModelLayer(digest=DIGEST, size=1, files=(RECORD,))
    image = build_image(bases, [layer], {}, {})
    seen = image_of(*image.manifests)
    assert not record_problems(seen, "i")
    assert seen.files == {RECORD.path: RECORD}
    assert FILES in image.manifests[0].decode()


@pytest.mark.parametrize("media_type", [LAYER, f"{LAYER}+gzip"])
@pytest.mark.parametrize("told", ["[]", None])
def test_a_base_that_says_it_is_ours_is_a_base(media_type: str, told: str | None) -> None:
    """Its layer is read like any other base's: neither what it says of itself counts, nor is it taken along."""
    ours = ModelLayer(digest=DIGEST, size=1, files=(RECORD,))
    lying = Descriptor(media_type=media_type, digest=f"sha256:{'d' * 64}", size=1, annotations=dict(ours.descriptor.annotations or {}))
    if told:
        lying = lying.model_copy(update={"annotations": {**(lying.annotations or {}), FILES: told}})
    image = build_image([BaseImage(platform=Platform.parse("linux/amd64"), layers=(lying,))], [ours], {}, {})
    by_hand = manifest(Descriptor(media_type="c", digest=DIGEST, size=1), [lying, ours.descriptor], {})
    known = [layer.files for layer in layers_of(image_of(*image.manifests).document)]
    assert known == [None, (RECORD,)]
    if told or media_type != LAYER:
        assert [layer.files for layer in layers_of(image_of(by_hand).document)] == known


def test_a_statement_is_canonical() -> None:
    assert make_statement([{"name": "é"}], "t", {"b": 1, "a": 2}) == make_statement([{"name": "é"}], "t", {"a": 2, "b": 1})
