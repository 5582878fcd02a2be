"""Which layers in a registry a signed build may use again: those that a trusted key vouches for.

A layer that is used again is not read, and the image around it is signed. Whoever may push to the registry could else write records
that make another layer seem to be the source's, and have it signed.
"""

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass

from modelyard.images.descriptors import Document
from modelyard.images.references import Reference
from modelyard.images.vouchers import without_voucher
from modelyard.oci.access import Keychain
from modelyard.oci.http import Patience
from modelyard.oci.registry import Repository
from modelyard.signing.keys import PublicKey, SigningKey
from modelyard.signing.verify import signer_of


@dataclass(frozen=True, slots=True)
class Trust:
    """Trusted keys, and the one that signs (None where only a registry's block asks for signatures)."""

    keys: tuple[PublicKey, ...]
    key: SigningKey | None = None

    def believed(self, keychain: Keychain, references: Iterable[Reference], patience: Patience | None = None) -> tuple[str, ...]:
        """The digests of those that are there and that a trusted key signed."""
        found = []
        for reference in references:
            with Repository.of(keychain.access(reference), reference, patience) as repository:
                document = repository.find(reference.selector)
                if document and self.vouches(repository, document):
                    found.append(document.digest)
        return tuple(found)

    def vouches(self, repository: Repository, document: Document) -> bool:
        """Whether a trusted key signed an image, or the record of a build that did not end."""
        content, voucher = without_voucher(document.content)
        if not voucher:
            return signer_of(repository, document, self.keys) is not None
        try:
            signature = base64.b64decode(voucher, validate=True)
        except binascii.Error:
            return False
        return any(key.verifies(signature, content) for key in self.keys)

    def record_secret(self, image: Reference) -> bytes | None:
        """What a Job that builds ``image`` vouches with for its records, and believes them by; None without a key."""
        return self.key.derived(f"records of {image}") if self.key else None

    def vouch(self, content: bytes) -> str:
        """The signature of a record; empty without a key to sign with."""
        return base64.b64encode(self.key.sign(content)).decode() if self.key else ""
