"""What refers to an image: listed by the registry where it can, else under the tag ``sha256-<hex>`` that clients keep themselves.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md#listing-referrers. Distribution (2.8 and 3.1) has no such API.
"""

import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urljoin

from pydantic import ValidationError

from modelyard.errors import RegistryMissing, RegistryRefused, RegistryUnavailable
from modelyard.images.descriptors import EMPTY, INDEX, MANIFEST, Descriptor, canonical, digest_of, parsed
from modelyard.oci.registry import MAX_MANIFEST, Repository

_EMPTY_CONFIG = b"{}"
#: How registries answer that do not know the API.
_UNKNOWN = {HTTPStatus.NOT_FOUND, HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_ACCEPTABLE, HTTPStatus.METHOD_NOT_ALLOWED}
_MOST_PAGES = 20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TRIES = 5
#: The statements of a model of a hundred thousand files; registries limit manifests, not blobs.
MAX_REFERRER = 64 * 1024 * 1024


class Referrers:
    """The referrers of one manifest. Those that matter have one layer, of the type ``artifact_type``; others are kept and passed over.

    Registries' lists cannot be asked for the type: some put that of the config there.
    """

    def __init__(self, repository: Repository, subject: Descriptor, artifact_type: str) -> None:
        self._repository, self._subject, self._type = repository, subject, artifact_type
        self._tag = subject.digest.replace(":", "-")

    def read(self) -> Iterator[bytes]:
        """The content of each referrer of the type; one that is gone, or is not what it should be, is passed over."""
        listed = self._listed()
        for each in listed if listed is not None else self._tagged():
            if (content := self._content(str(each.get("digest")))) is not None:
                yield content

    def add(self, content: bytes, annotations: Mapping[str, str]) -> None:
        """Attach ``content``; what is there already is not attached again."""
        repository = self._repository
        repository.put_blob(_EMPTY_CONFIG)
        repository.put_blob(content)
        layer = Descriptor.of(self._type, content)
        manifest = canonical({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": self._type,
            "config": Descriptor.of(EMPTY, _EMPTY_CONFIG).document(),
            "layers": [layer.document()],
            "subject": Descriptor(media_type=self._subject.media_type, digest=self._subject.digest, size=self._subject.size).document(),
            "annotations": dict(annotations),
        })  # fmt: skip
        knows_api = self._listed() is not None
        repository.put_manifest(MANIFEST, manifest, digest_of(manifest))
        if not knows_api:
            self._add_to_tag({**Descriptor.of(MANIFEST, manifest).document(), "artifactType": self._type, "annotations": dict(annotations)})

    def _listed(self) -> list[dict[str, Any]] | None:
        """What the registry lists; None if it does not list."""
        return self._repository.patience.through(self._ask)

    def _ask(self) -> list[dict[str, Any]] | None:
        repository, found = self._repository, list[dict[str, Any]]()
        url = f"/v2/{repository.name}/referrers/{self._subject.digest}"
        for _ in range(_MOST_PAGES):
            response = repository.http.request("GET", url, repository.scopes, headers={"Accept": INDEX})
            if response.status in _UNKNOWN:
                return None
            repository.http.expect({HTTPStatus.OK}, response, f"{repository}: referrers of {self._subject.digest}")
            if response.headers.get("Content-Type", "").partition(";")[0] != INDEX:
                return None
            found += _manifests(response.data)
            following = response.headers.get("Link", "")
            if 'rel="next"' not in following:
                return found
            url = urljoin(repository.http.resolve(url), following.partition("<")[2].partition(">")[0])
        raise RegistryRefused(f"{repository}: lists more than {_MOST_PAGES} pages of referrers of {self._subject.digest}")

    def _tagged(self) -> list[dict[str, Any]]:
        document = self._repository.find(self._tag)
        return _manifests(document.content) if document and document.is_index else []

    def _add_to_tag(self, descriptor: dict[str, Any]) -> None:
        """Registries compare nothing when a tag is put: of two who add at one time one may be lost, so it is looked at again."""
        for _ in range(_TRIES):
            listed = self._tagged()
            if any(each.get("digest") == descriptor["digest"] for each in listed):
                return
            index = canonical({"schemaVersion": 2, "mediaType": INDEX, "manifests": [*listed, descriptor]})
            if len(index) > MAX_MANIFEST:
                raise RegistryRefused(f"{self._repository}:{self._tag}: lists too many referrers to add one; delete some")
            self._repository.put_manifest(INDEX, index, self._tag)
        raise RegistryUnavailable(f"{self._repository}:{self._tag}: others write it all the time; try again later")

    def _content(self, digest: str) -> bytes | None:
        """None for what is no bundle: anybody may attach anything, and tools do in forms of their own."""
        if not _DIGEST.fullmatch(digest):
            return None
        try:
            document = self._repository.find(digest)
            layers = document.descriptors("layers") if document and not document.is_index else []
            if len(layers) != 1 or layers[0].media_type != self._type:
                return None
            return self._repository.get_blob(layers[0], MAX_REFERRER)
        except (RegistryMissing, RegistryRefused, ValidationError):
            return None


def _manifests(content: bytes) -> list[dict[str, Any]]:
    return [each for each in parsed(content).get("manifests") or () if isinstance(each, dict)]
