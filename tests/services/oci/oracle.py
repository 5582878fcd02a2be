"""An independent reading of an image in a registry: every digest recomputed, every layer unpacked, nothing of modelyard imported."""

import gzip
import hashlib
import http.client
import io
import json
import subprocess
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass
class Seen:
    """One platform's image: its config, its manifest, and the files that its layers put together."""

    config: dict[str, Any]
    manifest: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)
    entries: list[tarfile.TarInfo] = field(default_factory=list)

    @property
    def model_layers(self) -> list[dict[str, Any]]:
        return [layer for layer in self.manifest["layers"] if "dev.modelyard.files" in (layer.get("annotations") or {})]


def get(host: str, path: str, accept: str = f"{INDEX}, {MANIFEST}, */*") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(host, timeout=60)
    connection.request("GET", path, headers={"Accept": accept})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, body


def document(host: str, repository: str, selector: str) -> tuple[str, dict[str, Any]]:
    """A manifest's digest, recomputed from its bytes and compared with what the registry says, and its content."""
    status, headers, body = get(host, f"/v2/{repository}/manifests/{selector}", f"{INDEX}, {MANIFEST}")
    assert status == 200, body
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    assert headers["docker-content-digest"] == digest
    found = json.loads(body)
    assert headers["content-type"] == found["mediaType"]
    assert body == json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(), "not canonical JSON"
    return digest, found


def blob(host: str, repository: str, descriptor: dict[str, Any]) -> bytes:
    status, _, body = get(host, f"/v2/{repository}/blobs/{descriptor['digest']}")
    assert status == 200, descriptor
    assert f"sha256:{hashlib.sha256(body).hexdigest()}" == descriptor["digest"]
    assert len(body) == descriptor["size"]
    return body


def read_image(host: str, repository: str, tag: str) -> tuple[str, dict[str, Seen]]:
    """The index's digest, and each platform's image."""
    digest, index = document(host, repository, tag)
    assert index["mediaType"] == INDEX
    images = {}
    for listed in index["manifests"]:
        found, manifest = document(host, repository, listed["digest"])
        assert found == listed["digest"]
        images["/".join(filter(None, (listed["platform"].get(key) for key in ("os", "architecture", "variant"))))] = _image(
            host, repository, manifest, listed["platform"]
        )
    return digest, images


def _image(host: str, repository: str, manifest: dict[str, Any], platform: dict[str, str]) -> Seen:
    config = json.loads(blob(host, repository, manifest["config"]))
    assert (config["os"], config["architecture"]) == (platform["os"], platform["architecture"])
    assert "created" not in config
    seen = Seen(config, manifest)
    assert config["rootfs"]["type"] == "layers"
    assert len(config["rootfs"]["diff_ids"]) == len(manifest["layers"])
    for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        body = blob(host, repository, layer)
        if layer["mediaType"].endswith("+gzip"):
            body = gzip.decompress(body)
        assert f"sha256:{hashlib.sha256(body).hexdigest()}" == diff_id
        with tarfile.open(fileobj=io.BytesIO(body)) as archive:
            for entry in archive:
                content = archive.extractfile(entry)
                seen.entries.append(entry)
                if content:
                    assert entry.name not in seen.files, "twice in one image"
                    seen.files[entry.name] = content.read()
    return seen


def assert_modelcar(host: str, repository: str, tag: str, files: dict[str, bytes], platforms: tuple[str, ...] = ("linux/amd64",)) -> str:
    """Assert that the image holds exactly these files of the model, with the facts about them written beside; its digest."""
    digest, images = read_image(host, repository, tag)
    assert set(images) == set(platforms)
    for seen in images.values():
        model = {name: content for name, content in seen.files.items() if name.startswith("models/")}
        assert sorted(model) == sorted(f"models/{path}" for path in files)
        assert not [path for path in files if model[f"models/{path}"] != files[path]]
        for entry in seen.entries:
            if entry.name.startswith("models/"):
                assert (entry.mtime, entry.uid, entry.gid, entry.mode, entry.uname) == (0, 0, 0, 0o644, ""), entry
        told = [record for layer in seen.model_layers for record in json.loads(layer["annotations"]["dev.modelyard.files"])]
        sums = {record["path"]: (record["size"], record["sha256"]) for record in told}
        assert sums == {path: (len(body), hashlib.sha256(body).hexdigest()) for path, body in files.items()}
        assert all(layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar" for layer in seen.model_layers)
    return digest


def skopeo(*arguments: str) -> str:
    """Run skopeo, a reader that is not ours."""
    done = subprocess.run(["skopeo", "--override-os", "linux", *arguments], check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def copied_blobs(host: str, repository: str, tag: str, target: Path) -> dict[str, Path]:
    """What skopeo copied of all platforms into a directory, by digest; it compares each with its digest itself."""
    skopeo("copy", "--all", "--src-tls-verify=false", f"docker://{host}/{repository}:{tag}", f"dir:{target}")
    return {f"sha256:{path.name}": path for path in target.iterdir() if len(path.name) == 64}
