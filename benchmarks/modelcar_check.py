"""The files of an image as the registry has them, read by Python's own tarfile: what each contestant's image is compared with."""

import hashlib
import json
import tarfile
import urllib.request
from http.client import HTTPResponse
from typing import Any

from benchmarks.registry import Registry
from modelyard.images.descriptors import MANIFESTS

_BLOCK = 1024 * 1024


def image_files(registry: Registry, repository: str, tag: str) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 of each file below ``models/``, as the layers make it: the last one stands."""
    document = _document(registry, repository, tag)
    if "manifests" in document:
        document = _document(registry, repository, document["manifests"][0]["digest"])
    files: dict[str, tuple[int, str]] = {}
    for layer in document["layers"]:
        with (
            _open(f"{registry.access.url}/v2/{repository}/blobs/{layer['digest']}") as blob,
            tarfile.open(fileobj=blob, mode="r|*", bufsize=_BLOCK) as archive,
        ):
            files |= {_path(entry): _told(archive, entry) for entry in archive if entry.isfile()}
    return {path.removeprefix("models/"): told for path, told in files.items() if path.startswith("models/")}


def _document(registry: Registry, repository: str, selector: str) -> dict[str, Any]:
    with _open(f"{registry.access.url}/v2/{repository}/manifests/{selector}") as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def _open(url: str) -> HTTPResponse:
    request = urllib.request.Request(url, headers={"Accept": ", ".join(MANIFESTS)})  # noqa: S310 - loopback http, ours
    answer: HTTPResponse = urllib.request.urlopen(request, timeout=60)  # noqa: S310 - loopback http, ours
    return answer


def _path(entry: tarfile.TarInfo) -> str:
    return entry.name.removeprefix("./").lstrip("/")


def _told(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> tuple[int, str]:
    sha256, body = hashlib.sha256(), archive.extractfile(entry)
    while body and (chunk := body.read(_BLOCK)):
        sha256.update(chunk)
    return entry.size, sha256.hexdigest()
