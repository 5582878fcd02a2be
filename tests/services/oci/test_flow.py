"""The flow build-modelcar against a real Prefect server, S3 server and registry: the plan, the image, the artifacts, what secrets show."""

import os
import secrets
from pathlib import Path
from typing import Any

import pytest
from prefect_aws import MinIOCredentials
from pydantic import SecretStr

from blocks import OciRegistry, S3Source
from flows.modelcar import build_modelcar
from modelyard.errors import Refused
from tests.services.oci.oracle import assert_modelcar, read_image
from tests.services.oci.registries import Registry
from tests.services.s3_fixtures import _ACCESS_KEY, SECRET_KEY, Bucket

MIB = 1024 * 1024


@pytest.fixture
def blocks(prefect_server: str, bucket: Bucket, registry_3: Registry) -> str:
    """A source and a registry block of this test; their name."""
    assert prefect_server
    name = f"of-{secrets.token_hex(4)}"
    keys = MinIOCredentials(minio_root_user=_ACCESS_KEY, minio_root_password=SecretStr(SECRET_KEY))
    authority = Path(bucket.server.certificates.ca).read_text()
    S3Source(bucket=bucket.name, endpoint_url=bucket.server.url, ca_certificate=authority, credentials=keys).save(name)
    OciRegistry(host=registry_3.host, plain_http=True).save(name)
    return name


def test_from_bucket_to_registry(blocks: str, bucket: Bucket, registry_3: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(variable)  # the block's credentials are enough
    files = {"config.json": b"{}", "model.safetensors": os.urandom(20 * MIB)}
    bucket.put(files)
    repository = f"models/{secrets.token_hex(4)}"
    told: dict[str, Any] = {"model": "m", "path": "m/v1", "repository": repository, "source": blocks, "registry": blocks, "base": "none"}
    dry = build_modelcar(**told, dry_run=True)
    assert (dry.image, dry.new, dry.problems) == (None, 2, ())
    assert not bucket.requests("GetObject")
    assert not registry_3.requests("POST", repository)
    report = build_modelcar(**told)
    assert report.image
    platforms = ("linux/amd64", "linux/arm64")
    assert assert_modelcar(registry_3.host, repository, "v1", files, platforms) == report.image.digest
    assert (report.new, report.reused, report.read_bytes) == (2, 0, 2 + 20 * MIB)
    again = build_modelcar(**told)
    assert again.image
    assert (again.new, again.reused, again.read_bytes, again.image.digest) == (0, 2, 0, report.image.digest)


def test_a_tag_that_is_taken_is_refused_and_moved_when_asked(blocks: str, bucket: Bucket, registry_3: Registry) -> None:
    repository = f"models/{secrets.token_hex(4)}"
    told: dict[str, Any] = {"model": "m", "path": "m/v1", "repository": repository, "source": blocks, "registry": blocks, "base": "none"}
    bucket.put({"a": b"1"})
    first = build_modelcar(**told)
    bucket.put({"a": b"2"})
    with pytest.raises(Refused, match="choose another tag, or allow that it is moved"):
        build_modelcar(**told)
    assert first.image
    assert read_image(registry_3.host, repository, "v1")[0] == first.image.digest
    moved = build_modelcar(**told, move_tag=True)
    assert moved.image
    assert moved.image.moved_from == first.image.digest
    assert_modelcar(registry_3.host, repository, "v1", {"a": b"2"}, ("linux/amd64", "linux/arm64"))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tag": "latest"}, "pull policy Always"),
        ({"base": "busybox"}, "names no registry"),
        ({"platforms": ["amd64"]}, "is no platform"),
        ({"previous": "models/x"}, "names no registry"),
        ({"registry": "missing"}, "there is no block"),
        ({"path": "pvc://claim/m/v1"}, "name the cache whose claim it is"),
    ],
)
def test_forms_that_are_refused(fields: dict[str, object], said: str, blocks: str, bucket: Bucket) -> None:
    bucket.put({"a": b"1"})
    told: dict[str, Any] = {"model": "m", "path": "m/v1", "repository": "m", "source": blocks, "registry": blocks, "base": "none"}
    with pytest.raises(Refused, match=said):
        build_modelcar(**(told | fields))
