"""The cluster's registry, from outside: push an image made here, ask for a digest.

The two images every cluster starts with are made from Debian's static busybox, so that no registry of the world is
needed: `pause`, the sandbox of every pod, and `busybox:1.36`.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import platform
import tarfile
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from devcluster.commands import run
from devcluster.errors import DevclusterError

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


@dataclass(frozen=True)
class Registry:
    """A registry that speaks the OCI distribution protocol over plain HTTP at host:port."""

    address: str

    def _request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(self.address, timeout=120)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException) as error:
            raise DevclusterError(f"registry {self.address}: {method} {path}: {error}") from error
        finally:
            connection.close()
        return response

    def digest(self, repository: str, tag: str) -> str | None:
        """The digest of the manifest a tag names; None when there is none."""
        path = f"/v2/{repository}/manifests/{tag}"
        return self._request("HEAD", path, Accept=f"{MANIFEST}, {DOCKER_MANIFEST}").headers.get("Docker-Content-Digest")

    def push_blob(self, repository: str, content: bytes) -> str:
        """Upload unless it is there; return the digest."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if self._request("HEAD", f"/v2/{repository}/blobs/{digest}").status == HTTPStatus.OK:
            return digest
        begun = self._request("POST", f"/v2/{repository}/blobs/uploads/")
        location = urlsplit(begun.headers.get("Location", ""))
        query = "&".join(part for part in (location.query, urlencode({"digest": digest})) if part)
        done = self._request("PUT", f"{location.path}?{query}", content, Content_Type="application/octet-stream")
        if done.status != HTTPStatus.CREATED:
            raise DevclusterError(f"registry {self.address}: blob {digest} of {repository} refused with {done.status}")
        return digest

    def push_image(self, repository: str, tag: str, layer: bytes, command: list[str], user: str = "") -> None:
        """Push an image of one uncompressed layer; root runs it unless another ``user`` is named."""
        layer_digest = self.push_blob(repository, layer)
        config = _canonical({
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Cmd": command, "Env": ["PATH=/bin"]} | ({"User": user} if user else {}),
            "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
        })  # fmt: skip
        manifest = _canonical({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": self.push_blob(repository, config), "size": len(config)},
            "layers": [{"mediaType": LAYER, "digest": layer_digest, "size": len(layer)}],
        })  # fmt: skip
        done = self._request("PUT", f"/v2/{repository}/manifests/{tag}", manifest, Content_Type=MANIFEST)
        if done.status != HTTPStatus.CREATED:
            raise DevclusterError(f"registry {self.address}: {repository}:{tag} refused with {done.status}")


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def seed_images(address: str, busybox: Path) -> None:
    """Push what every cluster needs, unless it is there."""
    registry = Registry(address)
    wanted = {
        ("devcluster/pause", "1"): ["/bin/sleep", "2147483647"],
        ("library/busybox", "1.36"): ["/bin/sh"],
        ("library/busybox", "latest"): ["/bin/sh"],
    }
    missing = {image: command for image, command in wanted.items() if registry.digest(*image) is None}
    if missing:
        layer = busybox_layer(busybox)
        for (repository, tag), command in missing.items():
            registry.push_image(repository, tag, layer, command)


def program_layer(program: Path) -> bytes:
    """A file system of one static program at its top, with room for temporary files; the same bytes each time."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        _add(archive, "tmp", 0o1777, kind=tarfile.DIRTYPE)
        _add(archive, program.name, 0o755, program.read_bytes())
    return buffer.getvalue()


def busybox_layer(busybox: Path) -> bytes:
    """A file system of one program under all its names; the same bytes each time."""
    program = busybox.read_bytes()
    applets = run([busybox, "--list"]).split()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for directory, mode in (("bin", 0o755), ("etc", 0o755), ("mnt", 0o755), ("models", 0o755), ("tmp", 0o1777)):
            _add(archive, directory, mode, kind=tarfile.DIRTYPE)
        _add(archive, "bin/busybox", 0o755, program)
        for applet in sorted(set(applets) - {"busybox"}):
            _add(archive, f"bin/{applet}", 0o777, kind=tarfile.SYMTYPE, target="busybox")
        _add(archive, "etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
        _add(archive, "etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n")
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, mode: int, content: bytes = b"", *, kind: bytes = tarfile.REGTYPE, target: str = "") -> None:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.size, entry.type, entry.linkname = mode, len(content), kind, target
    archive.addfile(entry, io.BytesIO(content))
