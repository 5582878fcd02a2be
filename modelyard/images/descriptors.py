"""What images are made of by digest: descriptors, manifests, indexes. https://github.com/opencontainers/image-spec"""

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Any, Self, TypeVar

from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from modelyard.errors import RegistryRefused
from modelyard.models import Value

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
#: What a registry is asked for when a tag or digest is read.
MANIFESTS = (INDEX, MANIFEST, DOCKER_LIST, DOCKER_MANIFEST)
INDEXES = frozenset({INDEX, DOCKER_LIST})

#: Docker's own names of what the OCI names differ: an OCI manifest must use OCI's.
_AS_OCI = {
    "application/vnd.docker.image.rootfs.diff.tar": LAYER,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": f"{LAYER}+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": f"{LAYER}+zstd",
}

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]


class Platform(Value):
    """What a manifest runs on: ``linux/amd64``, ``linux/arm64/v8``."""

    os: str = "linux"
    architecture: str
    variant: str | None = None

    # Docker's lists tell more (os.version, features), which does not matter here.
    model_config = ConfigDict(frozen=True, extra="ignore")

    @classmethod
    def parse(cls, text: str) -> Self:
        """``os/architecture``, with a variant or without.

        Raises:
            ValueError: anything else.
        """
        parts = text.split("/")
        if len(parts) not in {2, 3} or not all(parts):
            raise ValueError(f"{text!r} is no platform; write os/architecture, for example linux/amd64")
        return cls(os=parts[0], architecture=parts[1], variant=parts[2] if parts[2:] else None)

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def serves(self, wanted: "Platform") -> bool:
        """Whether an image for this platform is one for ``wanted``; v8 is arm64's only variant, and often left out."""
        same = (self.os, self.architecture) == (wanted.os, wanted.architecture)
        return same and (wanted.variant is None or (self.variant or "v8") == wanted.variant)


class Descriptor(Value):
    """A blob or manifest by digest, with what the one who points to it says of it."""

    media_type: str = Field(alias="mediaType")
    digest: Digest
    size: int = Field(ge=0)
    annotations: dict[str, str] | None = None
    platform: Platform | None = None

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    @classmethod
    def of(cls, media_type: str, content: bytes) -> Self:
        """The descriptor of ``content``."""
        return cls(media_type=media_type, digest=digest_of(content), size=len(content))

    def as_oci(self) -> "Descriptor":
        """The same blob under OCI's media type."""
        return self.model_copy(update={"media_type": _AS_OCI.get(self.media_type, self.media_type)})

    def document(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        return self.model_dump(by_alias=True, exclude_none=True)


Told = TypeVar("Told")
_ANNOTATIONS = TypeAdapter(dict[str, str])
_DESCRIPTOR = TypeAdapter(Descriptor)
_DESCRIPTORS = TypeAdapter(list[Descriptor])


class Document(Value):
    """A manifest or an index as a registry gave it."""

    media_type: str
    content: bytes

    @property
    def digest(self) -> str:
        return digest_of(self.content)

    @property
    def is_index(self) -> bool:
        return self.media_type in INDEXES

    @property
    def annotations(self) -> dict[str, str]:
        """The document's own annotations."""
        return _validated(_ANNOTATIONS, parsed(self.content).get("annotations") or {}, "annotations")

    @property
    def config(self) -> Descriptor:
        """A manifest's config."""
        return _validated(_DESCRIPTOR, parsed(self.content).get("config"), "config")

    def descriptors(self, name: str) -> list[Descriptor]:
        """``layers`` of a manifest, ``manifests`` of an index.

        Raises:
            RegistryRefused: they are no descriptors.
        """
        return _validated(_DESCRIPTORS, parsed(self.content).get(name) or [], name)


def parsed(content: bytes) -> dict[str, Any]:
    """A JSON object that a registry gave.

    Raises:
        RegistryRefused: it is none.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RegistryRefused(f"the registry's answer is not JSON: {content[:100]!r}") from error
    if not isinstance(value, dict):
        raise RegistryRefused(f"the registry's answer is no JSON object: {content[:100]!r}")
    return value


def _validated(kind: TypeAdapter[Told], value: object, name: str) -> Told:
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, (name, *first["loc"])))
        raise RegistryRefused(f"the registry's answer is no manifest: {where}: {first['msg']}") from error


def manifest(config: Descriptor, layers: Sequence[Descriptor], annotations: dict[str, str], artifact_type: str = "") -> bytes:
    """An image manifest's bytes."""
    return canonical({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        **({"artifactType": artifact_type} if artifact_type else {}),
        "config": config.document(),
        "layers": [layer.document() for layer in layers],
        "annotations": annotations,
    })  # fmt: skip


def index(manifests: Sequence[Descriptor], annotations: dict[str, str]) -> bytes:
    """An index's bytes."""
    listed = [each.document() for each in manifests]
    return canonical({"schemaVersion": 2, "mediaType": INDEX, "manifests": listed, "annotations": annotations})


def canonical(value: object) -> bytes:
    """The one way to write ``value`` as JSON: its digest is an identity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest_of(content: bytes) -> str:
    """``sha256:...``"""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
