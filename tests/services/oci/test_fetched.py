"""A built image as KServe's ``oci+fetch://`` reads it: each layer once, as a stream, into a directory that the server mounts.

KServe 0.20 does not have that mode yet, so its rules stand here, written from its documentation and code on the main branch
(python/storage: kserve_storage.py), and the reading shares nothing with Modelyard's.
"""

import http.client
import json
import os
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from modelyard.images.references import Reference
from tests.services.oci.archives import GZIP, TAR, model_layer, push_image
from tests.services.oci.bases import push_base
from tests.services.oci.building import AMD64, ARM64, Builder, new_repository
from tests.services.oci.oracle import INDEX, MANIFEST, get
from tests.services.oci.registries import Registry
from tests.services.s3_fixtures import Bucket

MIB = 1024 * 1024
_MODES: dict[str, Any] = {TAR: "r|", GZIP: "r|gz", "application/vnd.docker.image.rootfs.diff.tar.gzip": "r|gz"}

#: Python 3.11 has filters since 3.11.4.
_DATA: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


class NotFetched(Exception):
    """What KServe would end its init container with."""


def fetch(host: str, repository: str, tag: str, architecture: str, target: Path) -> set[str]:
    """Extract what KServe would into ``target``; the names that it passed over.

    Names are compared as they stand in the archive: neither ./models/x nor /models/x is below models/.
    """
    passed_over, taken = set[str](), 0
    for layer in _manifest(host, repository, tag, architecture)["layers"]:
        if layer["mediaType"].endswith("+zstd"):
            raise NotFetched(f"layer {layer['digest']} is {layer['mediaType']}")
        with closing(http.client.HTTPConnection(host, timeout=60)) as connection:
            connection.request("GET", f"/v2/{repository}/blobs/{layer['digest']}")
            with tarfile.open(fileobj=connection.getresponse(), mode=_MODES[layer["mediaType"]]) as archive:
                for member in archive:
                    if not member.name.startswith("models/"):
                        passed_over.add(member.name)
                        continue
                    member.name = member.name.removeprefix("models/")
                    archive.extract(member, target, **_DATA)
                    taken += 1
    if not taken:
        raise NotFetched(f"no name begins with models/, but {sorted(passed_over)}")
    return passed_over


def _manifest(host: str, repository: str, tag: str, architecture: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(get(host, f"/v2/{repository}/manifests/{tag}", f"{INDEX}, {MANIFEST}")[2])
    if found["mediaType"] != INDEX:
        return found
    wanted = {"os": "linux", "architecture": architecture}
    [digest] = [each["digest"] for each in found["manifests"] if wanted.items() <= each["platform"].items()]
    return _manifest(host, repository, digest, architecture)


def files_below(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("below", [{"bin/sh"}, set()], ids=["on a base", "without a base"])
def test_each_platform_is_fetched_byte_by_byte(below: set[str], bucket: Bucket, registry_3: Registry, tmp_path: Path) -> None:
    files = {
        "config.json": b"{}",
        "empty": b"",
        "tokenizer/vocab with spaces é+%.txt": os.urandom(100_000),
        "d" * 120 + "/long.safetensors": os.urandom(10),
        "model-1.safetensors": os.urandom(20 * MIB + 7),
        "model-2.safetensors": os.urandom(16 * MIB),
    }
    bucket.put(files)
    base, repository = None, new_repository()
    if below:
        push_base(registry_3.url, "fetched-base", "1", ("linux/amd64", "linux/arm64"))
        base = Reference(host=registry_3.host, repository="fetched-base", tag="1")
    Builder(bucket, registry_3).build(repository=repository, platforms=(AMD64, ARM64), base=base)
    for platform in (AMD64, ARM64):
        target = tmp_path / platform.architecture
        assert fetch(registry_3.host, repository, "v1", platform.architecture, target) == below
        fetched = files_below(target)
        assert sorted(fetched) == sorted(files)
        assert [path for path in files if fetched[path] != files[path]] == []


@pytest.mark.parametrize(
    ("root", "media_type", "told"),
    [
        pytest.param("./models/", TAR, r"no name begins with models/, but .*\./models/a", id="names from the root"),
        pytest.param("/models/", TAR, "no name begins with models/, but .*'/models/a'", id="absolute names"),
        pytest.param("models/", f"{TAR}+zstd", r"tar\+zstd", id="zstd"),
    ],
)
def test_what_is_built_otherwise_is_not_fetched(root: str, media_type: str, told: str, registry_3: Registry, tmp_path: Path) -> None:
    """So that the reader above is as strict as KServe's."""
    repository = new_repository()
    push_image(registry_3.url, repository, "v1", [model_layer({"a": b"1"}, root)], media_type)
    with pytest.raises(NotFetched, match=told):
        fetch(registry_3.host, repository, "v1", "arm64", tmp_path)
    assert files_below(tmp_path) == {}
