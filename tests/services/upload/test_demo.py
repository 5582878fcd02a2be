"""The demo's way of a model to the volume: uploaded by its publisher, loaded under required digests."""

from pathlib import Path

import pytest

from deployments.demo import model
from modelyard.errors import LoaderFailed
from modelyard.models import WeightPolicy
from modelyard.plans.digests import SUMS_NAME
from tests.services.s3_fixtures import Bucket, Loader, assert_published


def upload(files: Path, bucket: Bucket) -> str:
    server = bucket.server
    options = ["--endpoint-url", server.url, "--ca-bundle", str(server.certificates.ca)]
    return model.upload(files, f"s3://{bucket.name}/m/v1/", options, server.environment())


def test_the_publishers_digests_are_those_on_the_volume(versioned_bucket: Bucket, loader: Loader, tmp_path: Path) -> None:
    files = tmp_path / "files"
    (files / "1_Pooling").mkdir(parents=True)
    bodies = {"model.safetensors": bytes(20_000_000), "1_Pooling/config.json": b"{}"}
    for path, body in bodies.items():
        (files / path).write_bytes(body)
    assert "2 files, 19.1 MiB were sent now" in upload(files, versioned_bucket)
    assert "0 files, 0 B were sent now" in upload(files, versioned_bucket)
    loader.run(versioned_bucket.spec(require_digests=True, weights=WeightPolicy.NO_PICKLE)).succeeded()
    sums = "".join(f"{digest}  {path}\n" for path, digest in sorted(model.digests(files).items())).encode()
    assert_published(loader.root, {**bodies, SUMS_NAME: sums})


def test_a_refusal_is_told(versioned_bucket: Bucket, tmp_path: Path) -> None:
    with pytest.raises(LoaderFailed, match="holds no file"):
        upload(tmp_path, versioned_bucket)
