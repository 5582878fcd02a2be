"""An image put together from layers that are in the registry: configs, manifests and the index, the same bytes for the same model.

A real image config with diffIDs, because containerd mounts nothing else; on a base with a shell for serving runtimes that start the
image, or without one for those that only mount it. The platforms share the model's layers: each costs a config and a manifest.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from modelyard.images.descriptors import (
    CONFIG,
    LAYER,
    MANIFEST,
    Descriptor,
    Document,
    Platform,
    canonical,
    digest_of,
    index,
    manifest,
)
from modelyard.images.tar import RECIPE
from modelyard.models import FileRecord, Value

#: What of a base's config goes on: not when and how it was made.
_KEPT = ("architecture", "os", "os.version", "os.features", "variant", "config")
FILES = "dev.modelyard.files"
_RECIPE = "dev.modelyard.recipe"
_SCAN = "dev.modelyard.scan"
SOURCE = "dev.modelyard.source"
#: The digest of the model's files, as a preload of them has it.
CONTENT = "dev.modelyard.digest"
_RECORDS = TypeAdapter(tuple[FileRecord, ...])


class BaseImage(Value):
    """What stands below the model for one platform; without layers it is the empty image."""

    platform: Platform
    config: dict[str, Any] = Field(default_factory=dict)
    layers: tuple[Descriptor, ...] = ()


class Scan(Value):
    """What was found in a layer's files by a scanner of this revision: those that pickle loads, and those of them that may do harm.

    A fact about the bytes, whatever the policy was: so the same files make the same image, and another policy judges it unread.
    """

    revision: Literal["1"] = "1"
    pickled: tuple[str, ...] = ()
    harmful: tuple[str, ...] = ()


class ModelLayer(Value):
    """A layer of model files as it is in a registry. Uncompressed: its digest is its diffID."""

    digest: str
    size: int
    files: tuple[FileRecord, ...]
    scan: Scan | None = None  # None: by no scanner, or by one of another revision

    @property
    def descriptor(self) -> Descriptor:
        """With all that must be known to use the layer again without reading its files."""
        return Descriptor(media_type=LAYER, digest=self.digest, size=self.size, annotations=layer_annotations(self.files, self.scan))


class Image(Value):
    """An image's documents: every blob beside the layers, the platforms' manifests, and the index that the tag names."""

    configs: tuple[bytes, ...]
    manifests: tuple[bytes, ...]
    index: bytes

    @property
    def digest(self) -> str:
        return digest_of(self.index)


def layer_annotations(files: Sequence[FileRecord], scan: Scan | None) -> dict[str, str]:
    """What is written beside a layer about its files."""
    scanned = {_SCAN: canonical(scan.model_dump(mode="json")).decode()} if scan else {}
    records = [record.model_dump(mode="json", exclude_none=True) for record in files]
    return {FILES: canonical(records).decode(), _RECIPE: RECIPE, **scanned}


def read_layers(document: Document) -> list[ModelLayer]:
    """The layers of a manifest that this release's builder made, or would make the same; others are passed over."""
    return [found for layer in document.descriptors("layers") if (found := read_layer(layer))]


def read_layer(layer: Descriptor) -> ModelLayer | None:
    """A layer of model files as its annotations tell it; None for any other. The one answer to whether a layer is ours.

    No layer of ours is empty: one that says so holds something else.
    """
    told = layer.annotations or {}
    if layer.media_type != LAYER or told.get(_RECIPE) != RECIPE:
        return None
    try:
        records = _RECORDS.validate_json(told.get(FILES, ""))
    except ValidationError:
        return None
    if not records:
        return None
    return ModelLayer(digest=layer.digest, size=layer.size, files=records, scan=_read_scan(told.get(_SCAN, "")))


def _read_scan(text: str) -> Scan | None:
    try:
        return Scan.model_validate_json(text)
    except ValidationError:
        return None


def build_image(
    bases: Iterable[BaseImage], layers: Sequence[ModelLayer], annotations: Mapping[str, str], labels: Mapping[str, str]
) -> Image:
    """The image of ``layers`` on each of ``bases``. No side effects."""
    configs, manifests, listed = [], [], []
    for base in bases:
        config = _config(base, [layer.digest for layer in layers], labels)
        content = manifest(
            Descriptor.of(CONFIG, config),
            [*(_base_layer(layer) for layer in base.layers), *(layer.descriptor for layer in layers)],
            dict(annotations),
        )
        configs.append(config)
        manifests.append(content)
        listed.append(Descriptor.of(MANIFEST, content).model_copy(update={"platform": base.platform}))
    return Image(configs=tuple(configs), manifests=tuple(manifests), index=index(listed, dict(annotations)))


def _base_layer(layer: Descriptor) -> Descriptor:
    """Without its annotations: those of a hostile base would make its layer pass for one of ours, and be signed unread."""
    return layer.as_oci().model_copy(update={"annotations": None})


def _config(base: BaseImage, diff_ids: Sequence[str], labels: Mapping[str, str]) -> bytes:
    kept = {name: base.config[name] for name in _KEPT if base.config.get(name) is not None}
    settings = kept.get("config") or {}
    below = (base.config.get("rootfs") or {}).get("diff_ids") or ()
    return canonical({
        **kept,
        "architecture": base.platform.architecture,
        "os": base.platform.os,
        **({"variant": base.platform.variant} if base.platform.variant else {}),
        "config": {**settings, "Labels": {**(settings.get("Labels") or {}), **labels}},
        "rootfs": {"type": "layers", "diff_ids": [*below, *diff_ids]},
    })  # fmt: skip


def annotations_size(paths: Iterable[str]) -> int:
    """About how many bytes of a manifest the files of these paths take, quoted as JSON in JSON; rather more than less."""
    per_file = len(json.dumps({"sha256": "0" * 64, "etag": "0" * 40, "version_id": "0" * 40, "checksum": {"algorithm": "CRC64NVME"}})) + 100
    return sum(per_file + 2 * len(json.dumps(path)) for path in paths)
