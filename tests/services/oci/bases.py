"""Base images for tests: a few bytes that stand where a shell would, for any platforms, pushed without the code under test."""

import gzip
import hashlib
import io
import json
import tarfile
from typing import Any

import httpx

from tests.services.oci.oracle import INDEX, MANIFEST

_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def push_blob(url: str, repository: str, content: bytes, **client: Any) -> str:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    with httpx.Client(timeout=60, **client) as http:
        begun = http.post(f"{url}/v2/{repository}/blobs/uploads/")
        assert begun.status_code == 202, begun.text
        location = httpx.URL(url).join(begun.headers["Location"]).copy_merge_params({"digest": digest})
        assert http.put(location, content=content).status_code == 201
    return digest


def push_base(url: str, repository: str, tag: str, platforms: tuple[str, ...], *, index: bool = True, **client: Any) -> str:
    """An image that holds /bin/sh for each platform, under an index or (one platform) alone; its digest."""
    listed = []
    for platform in platforms:
        system, architecture = platform.split("/")
        layer = _layer(platform)
        packed = gzip.compress(layer, mtime=0)
        config = json.dumps(
            {
                "created": "2026-01-01T00:00:00Z",
                "os": system,
                "architecture": architecture,
                "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
            }
        ).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(_CONFIG, push_blob(url, repository, config, **client), config),
            "layers": [descriptor(_LAYER, push_blob(url, repository, packed, **client), packed)],
        }
        content = json.dumps(manifest).encode()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        put_manifest(url, repository, tag if not index else digest, MANIFEST, content, **client)
        described = {"platform": {"os": system, "architecture": architecture}}
        listed.append({**descriptor(MANIFEST, digest, content), **described})
    if not index:
        return str(listed[0]["digest"])
    content = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}).encode()
    put_manifest(url, repository, tag, INDEX, content, **client)
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def put_manifest(url: str, repository: str, selector: str, media_type: str, content: bytes, **client: Any) -> None:
    with httpx.Client(timeout=60, **client) as http:
        put = http.put(f"{url}/v2/{repository}/manifests/{selector}", content=content, headers={"Content-Type": media_type})
        assert put.status_code == 201, put.text


def descriptor(media_type: str, digest: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def _layer(platform: str) -> bytes:
    return tar_of({"bin/sh": platform.encode()})


def tar_of(files: dict[str, bytes]) -> bytes:
    """A layer of programs."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size = 0o755, len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
