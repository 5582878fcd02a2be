"""Images that are not ours, pushed without the code under test: layers as tests write them, plain or compressed."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from typing import Any

from tests.services.oci.bases import descriptor, push_blob, put_manifest
from tests.services.oci.oracle import INDEX, MANIFEST

TAR = "application/vnd.oci.image.layer.v1.tar"
GZIP = f"{TAR}+gzip"


def archive(
    *entries: tuple[tarfile.TarInfo, bytes], end: bytes = b"", for_all: Mapping[str, str] | None = None, long_name: int = 0
) -> bytes:
    """A tar of these entries, with a global header, or with one that tells a name of so many bytes, and ``end`` behind it."""
    buffer = io.BytesIO()
    if long_name:
        told = tarfile.TarInfo("././@LongLink")
        told.type, told.size = tarfile.GNUTYPE_LONGNAME, long_name
        buffer.write(told.tobuf(tarfile.GNU_FORMAT))
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers=for_all or {}) as packed:
        for entry, content in entries:
            packed.addfile(entry, io.BytesIO(content))
    return buffer.getvalue() + end


def file(name: str, content: bytes = b"", *, kind: bytes = tarfile.REGTYPE, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    entry = tarfile.TarInfo(name)
    entry.size, entry.type, entry.linkname, entry.mode = len(content), kind, target, 0o644
    return entry, content


def model_layer(files: Mapping[str, bytes], root: str = "models/") -> bytes:
    """A layer as other builders write it: directories first, then files."""
    return archive(file(root.rstrip("/"), kind=tarfile.DIRTYPE), *(file(root + path, content) for path, content in files.items()))


def push_image(url: str, repository: str, tag: str, layers: Sequence[bytes], media_type: str = TAR, *, index: bool = False) -> str:
    """An image (or an index that lists it for arm64 and s390x) of these layers, packed as the media type says; its digest."""
    packed = [gzip.compress(layer, mtime=0) if media_type.endswith("gzip") else layer for layer in layers]
    diff_ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    config = json.dumps({"os": "linux", "architecture": "arm64", "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", push_blob(url, repository, config), config),
        "layers": [descriptor(media_type, push_blob(url, repository, layer), layer) for layer in packed],
    }
    content = json.dumps(manifest).encode()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    put_manifest(url, repository, digest if index else tag, MANIFEST, content)
    if not index:
        return digest
    listed: list[dict[str, Any]] = [
        {**descriptor(MANIFEST, digest, content), "platform": {"os": "linux", "architecture": each}} for each in ("s390x", "arm64")
    ]
    content = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}).encode()
    put_manifest(url, repository, tag, INDEX, content)
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
