"""What a build that was killed has done: the finished layers, kept in the registry under a tag beside the image's own.

A layer's digest is known only when it was read, so a later build cannot ask for the blob without being told. The record is a small
manifest: it lies where the layers lie (any machine can go on), and while it is there no garbage collection takes them.
"""

import hashlib
import hmac
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from modelyard.errors import ModelyardError
from modelyard.images.build import SOURCE, ModelLayer
from modelyard.images.descriptors import EMPTY, MANIFEST, Descriptor, Document, manifest, parsed
from modelyard.images.vouchers import with_voucher, without_voucher
from modelyard.oci.registry import Repository

_SUFFIX = ".modelyard-unfinished"
_LONGEST_TAG = 128
_TYPE = "application/vnd.modelyard.unfinished.v1"
_EMPTY_CONFIG = b"{}"
#: Gives a signature over a record, or nothing.
Vouch = Callable[[bytes], str]
_MAC = "hmac-sha256:"


def unfinished_tag(tag: str) -> str:
    """The record's tag of the image that will have ``tag``."""
    if len(tag) + len(_SUFFIX) <= _LONGEST_TAG:
        return tag + _SUFFIX
    return hashlib.sha256(tag.encode()).hexdigest() + _SUFFIX


@dataclass(frozen=True, slots=True)
class RecordSecret:
    """Vouches for the records of one image where the signing key must not be: in a Job. Made from the key and the image's name."""

    value: bytes = field(repr=False)

    def vouch(self, content: bytes) -> str:
        """The authentication code of a record."""
        return _MAC + hmac.digest(self.value, content, "sha256").hex()

    def vouches(self, document: Document) -> bool:
        """Whether a record is as somebody wrote it who has the secret."""
        content, voucher = without_voucher(document.content)
        return hmac.compare_digest(voucher.encode(), self.vouch(content).encode())


class Unfinished:
    """The record of one build. Threads may share it."""

    def __init__(self, repository: Repository, tag: str, source: str, known: Iterable[ModelLayer], vouch: Vouch | None = None) -> None:
        self._vouch = vouch
        self._repository, self._tag, self._source = repository, unfinished_tag(tag), source
        self._layers = list(known)
        self._lock = threading.Lock()
        self._begun = False

    def add(self, layer: ModelLayer) -> None:
        """Write down that a layer is there. One that cannot be written down is only sent again by a build that has to begin anew."""
        with self._lock:
            self._layers.append(layer)
            content = manifest(
                Descriptor.of(EMPTY, _EMPTY_CONFIG),
                [each.descriptor for each in sorted(self._layers, key=lambda layer: layer.files[0].path)],
                {SOURCE: self._source},
                _TYPE,
            )
            if self._vouch and (voucher := self._vouch(content)):
                content = with_voucher(content, voucher)
            try:
                if not self._begun:
                    self._repository.put_blob(_EMPTY_CONFIG)
                self._repository.put_manifest(MANIFEST, content, self._tag)
            except ModelyardError:
                return
            self._begun = True

    def remove(self) -> bool:
        """The build is over: False if the registry does not delete, and the record stays.

        Deleting takes a manifest from all its tags, so what the tag names is deleted only if it is a record: anybody may move a tag.
        """
        with self._lock:
            found = self._repository.find(self._tag)
            return found is None or not _is_record(found) or self._repository.delete_manifest(found.digest)


def _is_record(document: Document) -> bool:
    return not document.is_index and parsed(document.content).get("artifactType") == _TYPE
