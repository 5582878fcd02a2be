"""Whether an image is signed by a key that is trusted, and holds the files that were signed. Needs the registry and a public key alone."""

import base64
import binascii
from collections.abc import Iterable, Iterator, Sequence

from pydantic import ValidationError

from modelyard.errors import Problem, Refused, RegistryMissing, RegistryRefused
from modelyard.images.descriptors import Descriptor, Document, parsed
from modelyard.images.references import Reference
from modelyard.models import FileRecord, Value
from modelyard.oci.access import Keychain
from modelyard.oci.http import Patience
from modelyard.oci.registry import Repository
from modelyard.signing.bundles import BUNDLE, Statement, open_bundle
from modelyard.signing.contents import SignedImage, layer_problems, read_image, record_problems
from modelyard.signing.keys import PublicKey, hints
from modelyard.signing.referrers import Referrers
from modelyard.signing.sign import SIGNATURE, SIMPLE_SIGNING, old_signatures
from modelyard.signing.statements import MODEL, PROVENANCE, SIGNED, is_ignored

_MOST_NAMED = 10
#: A statement holds a line a file. Each key makes one; a hundred are those of other images, attached to fill a reader's memory.
_MOST_STATEMENTS = 100
_ASK_THE_SIGNER = "do not use it before whoever signed it has explained that"


class Verified(Value):
    """An image that may be used. ``read``: its layers were read, not only its records."""

    image: str
    key: str
    files: int
    bytes: int
    provenance: bool
    read: bool


def verify_image(
    keychain: Keychain, reference: Reference, keys: Sequence[PublicKey], *, read_layers: bool = False, patience: Patience | None = None
) -> Verified:
    """The image if one of ``keys`` has signed its digest, and a statement of its files that is true of each platform.

    Use what is verified by ``Verified.image``, which names the digest: a tag may name another image a moment later.

    Raises:
        Refused: it is not signed so; what is wrong and what to do, all at once.
        RegistryMissing: it is not there.
    """
    with Repository.of(keychain.access(reference), reference, patience) as repository:
        image = read_image(repository, reference.selector)
        subject = str(reference.at(tag=reference.tag, digest=image.document.digest))
        found = _Signatures(repository, image.document, keys)
        key = found.key
        if key is None:
            raise Refused([found.problem(subject)])
        problems = [*record_problems(image, subject), *_statement_problems(found, image, subject)]
        problems += layer_problems(repository, image, subject, read_all=read_layers)
    if problems:
        raise Refused(problems)
    return Verified(
        image=subject,
        key=key.hint,
        files=len(image.files),
        bytes=sum(record.size for record in image.files.values()),
        provenance=found.has_provenance,
        read=read_layers,
    )


def signer_of(repository: Repository, document: Document, keys: Sequence[PublicKey]) -> PublicKey | None:
    """Which of ``keys`` signed the image, or the manifest, itself; what it holds is not looked at."""
    return _Signatures(repository, document, keys).key


class _Signatures:
    """What is attached to an image, and who signed it. Of what anybody may attach, without end, only that it is there is kept.

    Raises:
        RegistryRefused: there are more than ``_MOST_STATEMENTS`` of trusted keys.
    """

    def __init__(self, repository: Repository, document: Document, keys: Sequence[PublicKey]) -> None:
        self._keys, self._digest = keys, document.digest
        self.key: PublicKey | None = None
        self.models: list[Statement] = []
        self.has_provenance = self._of_another = self._anything = False
        descriptor = Descriptor.of(document.media_type, document.content)
        for content in Referrers(repository, descriptor, BUNDLE).read():
            if opened := open_bundle(content, keys):
                self._add(*opened)
            if len(self.models) > _MOST_STATEMENTS:
                what = f"more than {_MOST_STATEMENTS} statements of files by trusted keys are attached to it; delete all but its own"
                raise RegistryRefused(f"{repository}@{document.digest}: {what}")
        for key in _simple_signatures(repository, document.digest, keys):
            self.key, self._anything = self.key or key, True

    def _add(self, statement: Statement, key: PublicKey | None) -> None:
        self._anything = True
        if key is None:
            return
        here = statement.is_about(self._digest)
        if statement.predicate_type == SIGNED:
            self.key = self.key or (key if here else None)
            self._of_another = self._of_another or not here
        elif statement.predicate_type == PROVENANCE:
            self.has_provenance = self.has_provenance or here
        elif statement.predicate_type == MODEL:
            self.models.append(statement)

    def problem(self, subject: str) -> Problem:
        """Why the image is not taken as signed."""
        if self._of_another:
            return Problem(subject, "carries the signature of another image", "do not use it; sign this image if it is what you want")
        if self._anything:
            trusted = hints(self._keys)
            return Problem(subject, f"is signed, but not by a trusted key ({trusted})", "do not use it, or trust the key that signed it")
        return Problem(subject, "is not signed", "build it with a signing key (build-modelcar, signing_key), or use one that is signed")


def _simple_signatures(repository: Repository, digest: str, keys: Iterable[PublicKey]) -> Iterator[PublicKey | None]:
    """Who signed the digest in cosign's older form; None for each signature of others."""
    for layer in old_signatures(repository, digest):
        if layer.media_type != SIMPLE_SIGNING or not (signature := _decoded((layer.annotations or {}).get(SIGNATURE, ""))):
            continue
        try:
            payload = repository.get_blob(layer)
        except (RegistryMissing, RegistryRefused):
            continue  # whoever may push may leave anything there
        key = next((key for key in keys if key.verifies(signature, payload)), None)
        yield key if key and _signed_digest(payload) == digest else None


def _signed_digest(payload: bytes) -> str:
    try:
        return str(parsed(payload)["critical"]["image"]["docker-manifest-digest"])
    except (KeyError, TypeError):
        return ""


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""


# The model's files ------------------------------------------------------------------------------------------------------


def _statement_problems(found: _Signatures, image: SignedImage, subject: str) -> list[Problem]:
    """What stands between the files that were signed and those of the image; nothing if one statement is true."""
    if not found.models:
        what = "carries no statement of its files by a trusted key"
        return [Problem(subject, what, "sign it again with build-modelcar: cosign alone does not make that statement")]
    told = [_compared(statement, image.files, subject) for statement in found.models]
    return min(told, key=len)


def _compared(statement: Statement, files: dict[str, FileRecord], subject: str) -> list[Problem]:
    signed = _signed_files(statement)
    if signed is None:
        return [Problem(subject, "carries a statement of its files in a form that is not known here", _ASK_THE_SIGNER)]
    has = {path: record.sha256 for path, record in files.items() if path in signed or not is_ignored(path)}
    differences = [
        ("holds files that were not signed", has.keys() - signed.keys()),
        ("lacks files that were signed", signed.keys() - has.keys()),
        ("holds other files than those that were signed", {path for path in has.keys() & signed.keys() if has[path] != signed[path]}),
    ]
    return [Problem(subject, f"{what}: {_shown(paths)}", _ASK_THE_SIGNER) for what, paths in differences if paths]


class _Resource(Value):
    name: str
    algorithm: str
    digest: str


def _signed_files(statement: Statement) -> dict[str, str] | None:
    """Each file's SHA-256, by path. Statements over parts of files, or of other digests, are not known."""
    try:
        method = statement.predicate["serialization"]["method"]
        resources = [_Resource.model_validate(each) for each in statement.predicate["resources"]]
    except (ValidationError, KeyError, TypeError):
        return None
    if method != "files" or any(each.algorithm != "sha256" for each in resources):
        return None
    return {each.name: each.digest for each in resources}


def _shown(paths: Iterable[str]) -> str:
    listed = sorted(paths)
    return ", ".join(listed[:_MOST_NAMED]) + (f" and {len(listed) - _MOST_NAMED} more" if listed[_MOST_NAMED:] else "")
