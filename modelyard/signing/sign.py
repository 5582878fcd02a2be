"""Signing an image that is in the registry: the three statements as referrers, and cosign's older form under its tag.

The older form is what cosign 2, and the admission controllers and runtimes built on it, look for.
"""

import base64
from collections.abc import Mapping

from modelyard.errors import Refused, RegistryRefused
from modelyard.images.build import read_layers
from modelyard.images.descriptors import CONFIG, MANIFEST, Descriptor, Document, canonical, manifest
from modelyard.images.references import Reference
from modelyard.models import Value
from modelyard.oci.access import Keychain
from modelyard.oci.http import Patience
from modelyard.oci.registry import Repository
from modelyard.signing.bundles import BUNDLE, make_bundle
from modelyard.signing.contents import SignedImage, layer_problems, read_image, record_problems
from modelyard.signing.keys import SigningKey
from modelyard.signing.referrers import Referrers
from modelyard.signing.statements import MODEL, PROVENANCE, SIGNED, model_statement, provenance_statement, signed_statement, simple_signing

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE = "dev.cosignproject.cosign/signature"


class Signed(Value):
    """What a key says of an image now. ``added``: what it had not said before."""

    image: str
    key: str
    files: int
    added: tuple[str, ...]


def sign_image(keychain: Keychain, reference: Reference, key: SigningKey, patience: Patience | None = None) -> Signed:
    """Sign the image of the reference's digest; what this key has signed already is left as it is.

    Nothing is read of the weights: their digests stand in the manifests, which the image's digest covers.

    Raises:
        Refused: the image holds something beside its model that nothing records.
        ModelyardError: the registry does not take it.
    """
    if reference.digest is None:
        raise Refused(f"{reference}: only a digest can be signed, for a tag may name another image a moment later")
    with Repository(keychain.access(reference), reference.repository, patience) as repository:
        image = read_image(repository, reference.digest)
        subject = str(reference)
        if problems := [*record_problems(image, subject), *layer_problems(repository, image, subject, read_all=False)]:
            raise Refused(problems)
        added = _Signing(repository, f"{reference.host}/{reference.repository}", image, key).run()
    return Signed(image=subject, key=key.public.hint, files=len(image.files), added=tuple(added))


class _Signing:
    def __init__(self, repository: Repository, name: str, image: SignedImage, key: SigningKey) -> None:
        self._repository, self._name, self._image, self._key = repository, name, image, key

    def run(self) -> list[str]:
        """The platforms' manifests first: a runtime that finds the index signed finds them signed, too."""
        image, added = self._image, list[str]()
        documents = {each.digest: each for each in (*image.manifests, image.document)}
        for digest, document in documents.items():
            added += self._attach(document, {SIGNED: signed_statement(digest)})
            added += self._sign_simply(digest)
        title = image.manifests[0].annotations
        layers = read_layers(image.manifests[0])
        whole = {
            MODEL: model_statement(title.get("org.opencontainers.image.title") or self._name, image.files.values()),
            PROVENANCE: provenance_statement(self._name, image.digests, title, image.platforms, layers),
        }
        return [*added, *self._attach(image.document, whole)]

    def _attach(self, document: Document, statements: Mapping[str, bytes]) -> list[str]:
        descriptor = Descriptor.of(document.media_type, document.content)
        referrers = Referrers(self._repository, descriptor, BUNDLE)
        said = set(referrers.read())
        bundles = {kind: make_bundle(statement, self._key) for kind, statement in statements.items()}
        missing = {kind: bundle for kind, bundle in bundles.items() if bundle not in said}
        for kind, bundle in missing.items():
            annotations = {"dev.sigstore.bundle.content": "dsse-envelope", "dev.sigstore.bundle.predicateType": kind}
            referrers.add(bundle, annotations)
        return [f"{kind} of {document.digest}" for kind in missing]

    def _sign_simply(self, digest: str) -> list[str]:
        """https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md. Signatures of others stay."""
        payload = simple_signing(self._name, digest)
        signature = base64.b64encode(self._key.sign(payload)).decode()
        tag = _old_tag(digest)
        layers = old_signatures(self._repository, digest)
        if any((layer.annotations or {}).get(SIGNATURE) == signature for layer in layers):
            return []
        layers.append(Descriptor.of(SIMPLE_SIGNING, payload).model_copy(update={"annotations": {SIGNATURE: signature}}))
        config = canonical({
            "architecture": "",
            "config": {},
            "os": "",
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
        })  # fmt: skip
        self._repository.put_blob(payload)
        self._repository.put_blob(config)
        self._repository.put_manifest(MANIFEST, manifest(Descriptor.of(CONFIG, config), layers, {}), tag)
        return [tag]


def old_signatures(repository: Repository, digest: str) -> list[Descriptor]:
    """What stands under the tag of cosign's older form; nothing where that is no manifest: whoever may push leaves what he likes."""
    try:
        document = repository.find(_old_tag(digest))
        return document.descriptors("layers") if document and not document.is_index else []
    except RegistryRefused:
        return []


def _old_tag(digest: str) -> str:
    return f"{digest.replace(':', '-')}.sig"
