"""From the author's disk to the replica's mount: uploaded, preloaded under required digests, compared in a pod on the claim."""

import os
import pickle
from pathlib import Path

import pytest

from deployments.demo import model
from deployments.demo.check import check_files
from flows.preload import PreloadReport, preload_model
from modelyard.errors import DigestMismatch, Refused
from tests.cluster.preload.conftest import Stack

pytestmark = pytest.mark.cluster
CLAIM = "modelyard-models-cache"


def upload(stack: Stack, files: Path) -> dict[str, str]:
    """Upload as the demo does; the digests as they are on the author's disk."""
    access, secret = stack.cluster.s3_keys()
    others = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    options = ["--endpoint-url", stack.cluster.s3_endpoint, "--ca-bundle", str(stack.cluster.ca_bundle)]
    model.upload(files, f"s3://{stack.name}/m/v1/", options, {**others, "AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret})
    return model.digests(files)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_bytes(b"{}")
    (tmp_path / "model.safetensors").write_bytes(os.urandom(20_000_000))
    return tmp_path


def test_the_digests_on_the_mount_are_those_of_the_authors_disk(stack: Stack, image: str, files: Path) -> None:
    digests = upload(stack, files)
    stack.cache(requireDigests=True, weightFormats="no-pickle")
    report = preload_model(**stack.parameters())
    assert isinstance(report, PreloadReport)
    assert report.result
    assert report.result.files == len(digests) + 1  # its SHA256SUMS, and not the marker of the upload
    assert check_files(stack.kube, stack.name, CLAIM, image, "m/v1", digests).startswith("3 files")


def test_refusals_of_the_gates(stack: Stack, files: Path) -> None:
    upload(stack, files)
    stack.cache(requireDigests=True)
    stack.put(model__safetensors=(files / "model.safetensors").read_bytes()[:-1] + b"!")
    with pytest.raises(DigestMismatch, match=r"'model\.safetensors' has the SHA-256"):
        preload_model(**stack.parameters())
    stack.put(evil__bin=pickle.dumps(os.getcwd))
    stack.s3.delete_object(Bucket=stack.name, Key="m/v1/SHA256SUMS")
    with pytest.raises(Refused, match="has no SHA256SUMS"):
        preload_model(**stack.parameters())
    stack.cache()
    with pytest.raises(Refused, match=r"evil\.bin.*posix\.getcwd"):
        preload_model(**stack.parameters())
