"""The gates before a version is called there: pickles by policy, the author's digests, and the pin that the plan listed by."""

import hashlib
import io
import json
import os
import pickle
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from modelyard.models import Manifest, Pin, S3Location, WeightPolicy, summarise
from modelyard.plans.digests import MARKER_NAME, SUMS_NAME
from modelyard.sources.s3 import S3Source, s3_client
from tests.services.s3_fixtures import (
    SECRET_KEY,
    Bucket,
    Certificates,
    Loader,
    assert_absent,
    assert_published,
    running_server,
    tree,
    versitygw,
)

WEIGHTS = b"weights"


class Evil:
    """Runs a program when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


def torch_like(data: bytes) -> bytes:
    """A zip as torch.save makes it, with ``data`` as its pickle, and a tensor of 6 MiB beside it."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/data/0", bytes(6 * 1024 * 1024))
    return target.getvalue()


HARMLESS = pickle.dumps({"weight": [1.0, 2.0], "shape": {3}}, 2)
EVIL = pickle.dumps(Evil(), 2)


def sums_of(files: dict[str, bytes]) -> bytes:
    return "".join(f"{hashlib.sha256(body).hexdigest()}  {path}\n" for path, body in files.items()).encode()


def manifest(loader: Loader) -> Manifest:
    return Manifest.model_validate_json((loader.root / ".modelyard/manifests/m/v1.json").read_bytes())


# Weight formats -------------------------------------------------------------------------------------------------------


def test_dangerous_pickles_are_refused_all_at_once(bucket: Bucket, loader: Loader) -> None:
    bucket.put({"pytorch_model.bin": torch_like(EVIL), "a/scaler.pkl": EVIL, "config.json": EVIL, "good.safetensors": WEIGHTS})
    run = loader.run(bucket.spec())
    run.failed("Refused", "pytorch_model.bin", "a/scaler.pkl", "config.json", "posix.system", "known to be dangerous", "safetensors")
    assert "good.safetensors" not in run.error
    assert_absent(loader.root)


def test_taken_as_they_are_if_the_cache_says_so(bucket: Bucket, loader: Loader) -> None:
    files = {"pytorch_model.bin": torch_like(EVIL)}
    bucket.put(files)
    loader.run(bucket.spec()).failed("Refused", "pytorch_model.bin")
    fetched = len(bucket.requests("GetObject"))
    loader.run(bucket.spec(weights=WeightPolicy.ANY)).succeeded()
    assert len(bucket.requests("GetObject")) == fetched  # what the refused run fetched was kept
    assert assert_published(loader.root, files).weights is WeightPolicy.ANY


def test_harmless_pickles_pass_the_scan(bucket: Bucket, loader: Loader) -> None:
    files = {"pytorch_model.bin": torch_like(HARMLESS), "vocabulary.pkl": pickle.dumps(["a", "b"]), "raw.bin": bytes(range(256))}
    bucket.put(files)
    run = loader.run(bucket.spec())
    run.succeeded()
    assert "m@v1: 2 files that pickle loads were scanned" in run.output
    assert assert_published(loader.root, files).weights is WeightPolicy.SCAN


def test_no_pickle_takes_none(bucket: Bucket, loader: Loader) -> None:
    bucket.put({"model.bin": torch_like(HARMLESS), "good.safetensors": WEIGHTS})
    loader.run(bucket.spec(weights=WeightPolicy.NO_PICKLE)).failed("Refused", "model.bin", "no-pickle", "safetensors")
    assert_absent(loader.root)


def test_no_pickle_by_name_reads_nothing(bucket: Bucket, loader: Loader) -> None:
    bucket.put({"model.pt": torch_like(HARMLESS)})
    loader.run(bucket.spec(weights=WeightPolicy.NO_PICKLE)).failed("Refused", "model.pt", "no-pickle")
    assert not bucket.requests("GetObject")


def test_no_pickle_takes_the_rest(bucket: Bucket, loader: Loader) -> None:
    files = {"good.safetensors": WEIGHTS, "openvino.bin": bytes(range(256)), "config.json": b"{}"}
    bucket.put(files)
    loader.run(bucket.spec(weights=WeightPolicy.NO_PICKLE)).succeeded()
    assert assert_published(loader.root, files).weights is WeightPolicy.NO_PICKLE


def test_a_version_of_weaker_rules_is_scanned_where_it_lies(bucket: Bucket, loader: Loader) -> None:
    bucket.put({"model.bin": torch_like(EVIL)})
    loader.run(bucket.spec(weights=WeightPolicy.ANY)).succeeded()
    before = tree(loader.root)
    loader.run(bucket.spec()).failed("Refused", "model.bin", "posix.system")
    assert tree(loader.root) == before  # it stays what it was: published under the weaker rules


def test_a_harmless_version_is_marked_with_the_stricter_policy(bucket: Bucket, loader: Loader) -> None:
    bucket.put({"model.bin": torch_like(HARMLESS)})
    loader.run(bucket.spec(weights=WeightPolicy.ANY)).succeeded()
    reads = len(bucket.requests())
    spec = bucket.spec()
    first = loader.run(spec)
    first.succeeded()
    assert "scanned" in first.output
    assert manifest(loader).weights is WeightPolicy.SCAN
    assert len(bucket.requests()) == reads + 1  # the plan's listing
    again = loader.run(bucket.spec(weights=WeightPolicy.ANY))
    again.succeeded()
    assert "scanned" not in again.output
    assert manifest(loader).weights is WeightPolicy.SCAN


def test_a_manifest_of_an_earlier_release_counts_as_not_scanned(bucket: Bucket, loader: Loader) -> None:
    bucket.put({"model.bin": torch_like(EVIL)})
    loader.run(bucket.spec(weights=WeightPolicy.ANY)).succeeded()
    path = loader.root / ".modelyard/manifests/m/v1.json"
    told = json.loads(path.read_bytes())
    del told["weights"], told["digestsFrom"]
    path.write_text(json.dumps(told))
    loader.run(bucket.spec()).failed("Refused", "posix.system")


# Digests --------------------------------------------------------------------------------------------------------------

FILES = {"config.json": b"{}", "dir/back\\slash": b"weights"}


@pytest.fixture
def signed(bucket: Bucket) -> dict[str, bytes]:
    """A model with its author's digests, and the marker of its upload."""
    escaped = sums_of({"config.json": FILES["config.json"]}) + b"\\" + sums_of({"dir/back\\\\slash": b"weights"})
    bucket.put({**FILES, SUMS_NAME: escaped, MARKER_NAME: b"{}"})
    return {**FILES, SUMS_NAME: escaped}


@pytest.mark.parametrize("required", [True, False])
def test_the_authors_digests_are_honoured(required: bool, signed: dict[str, bytes], bucket: Bucket, loader: Loader) -> None:  # noqa: FBT001
    loader.run(bucket.spec(require_digests=required)).succeeded()
    published = assert_published(loader.root, signed)  # the marker is none of the model's files
    assert published.digests_from == f"sha256:{hashlib.sha256(signed[SUMS_NAME]).hexdigest()}"


@pytest.mark.parametrize("required", [True, False])
def test_an_object_that_was_exchanged_is_found_out(required: bool, signed: dict[str, bytes], bucket: Bucket, loader: Loader) -> None:  # noqa: FBT001
    """Its S3 checksum is right: only the author's digest tells."""
    bucket.client.put_object(Bucket=bucket.name, Key="m/v1/config.json", Body=b"[]", ChecksumAlgorithm="CRC64NVME")
    run = loader.run(bucket.spec(require_digests=required))
    run.failed("DigestMismatch", "'config.json' has the SHA-256", hashlib.sha256(signed["config.json"]).hexdigest(), "find out who")
    assert_absent(loader.root)


def test_a_listed_file_that_is_missing(signed: dict[str, bytes], bucket: Bucket, loader: Loader) -> None:
    assert signed
    bucket.client.delete_object(Bucket=bucket.name, Key="m/v1/config.json")
    loader.run(bucket.spec()).failed("DigestMismatch", "'config.json' is listed and not there")
    assert_absent(loader.root)


def test_a_file_that_is_not_listed(signed: dict[str, bytes], bucket: Bucket, loader: Loader) -> None:
    bucket.put({"more": b"more"})
    loader.run(bucket.spec(require_digests=True)).failed("DigestMismatch", "'more' is not listed")
    assert_absent(loader.root)
    loader.run(bucket.spec()).succeeded()
    assert_published(loader.root, {**signed, "more": b"more"})
    loader.run(bucket.spec(require_digests=True)).failed("DigestMismatch", "'more' is not listed")


def test_required_digests_that_are_not_there(bucket: Bucket, loader: Loader) -> None:
    bucket.put(FILES)
    loader.run(bucket.spec(require_digests=True)).failed("Refused", bucket.location().uri, "has no SHA256SUMS", "modelyard upload")
    assert_absent(loader.root)


def test_digests_that_are_none(bucket: Bucket, loader: Loader) -> None:
    bucket.put({**FILES, SUMS_NAME: b"hello\n"})
    loader.run(bucket.spec()).failed("DigestMismatch", "line 1 is none of sha256sum's")
    assert_absent(loader.root)


def test_a_version_that_is_there_is_held_against_required_digests(bucket: Bucket, loader: Loader) -> None:
    bucket.put(FILES)
    loader.run(bucket.spec()).succeeded()
    loader.run(bucket.spec(require_digests=True)).failed("Refused", "has no SHA256SUMS")
    assert_published(loader.root, FILES)


# The pin --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bucket", "versioned_bucket"])
@pytest.mark.parametrize("pin", list(Pin))
def test_the_loader_lists_as_the_plan_did(kind: str, pin: Pin, loader: Loader, request: pytest.FixtureRequest) -> None:
    bucket: Bucket = request.getfixturevalue(kind)
    bucket.put(FILES)
    spec = bucket.spec(pin=pin)
    source = S3Source(bucket.location(), bucket.client, pin)
    pinned_by_version = [bool(file.version_id) for file in source.list()]
    assert pinned_by_version == [pin is Pin.VERSION and kind == "versioned_bucket"] * len(FILES)
    run = loader.run(spec)
    if pin is Pin.ETAG and kind == "versioned_bucket":  # the fixture's plan pinned versions
        run.failed("SourceChanged")
    else:
        run.succeeded()


def test_a_source_tells_how_it_listed(versioned_bucket: Bucket) -> None:
    versioned_bucket.put(FILES)
    source = S3Source(versioned_bucket.location(), versioned_bucket.client)
    assert source.pin is None
    assert list(source.list())
    assert source.pin is Pin.VERSION


@pytest.fixture
def limited_bucket(certificates: Certificates, tmp_path: Path) -> Iterator[Bucket]:
    """A bucket with versions on a server of its own, whose policy lets the account ``limited`` list and read objects, not versions."""
    (tmp_path / "s3").mkdir()
    (tmp_path / "iam").mkdir()
    with running_server(tmp_path / "s3", certificates, tls=False, options=("--iam-dir", str(tmp_path / "iam"))) as server:
        root = server.environment()
        admin = [str(versitygw()), "admin", "--access", root["AWS_ACCESS_KEY_ID"], "--secret", SECRET_KEY, "--endpoint-url", server.url]
        subprocess.run([*admin, "create-user", "--access", "limited", "--secret", SECRET_KEY, "--role", "user"], check=True)
        with patch.dict(os.environ, root):
            client = s3_client(S3Location(bucket="any", endpoint_url=server.url))
            client.create_bucket(Bucket="limited", ObjectOwnership="BucketOwnerEnforced")
        client.put_bucket_versioning(Bucket="limited", VersioningConfiguration={"Status": "Enabled"})
        allowed = {"Effect": "Allow", "Principal": {"AWS": ["limited"]}, "Action": ["s3:ListBucket", "s3:GetObject"]}
        resources = ["arn:aws:s3:::limited", "arn:aws:s3:::limited/*"]
        statements = [{**allowed, "Action": action, "Resource": on} for action, on in zip(allowed["Action"], resources, strict=True)]
        client.put_bucket_policy(Bucket="limited", Policy=json.dumps({"Version": "2012-10-17", "Statement": statements}))
        yield Bucket("limited", server, client)


def test_an_account_that_may_not_list_versions(limited_bucket: Bucket, loader: Loader) -> None:
    """The right that is missing is named; it is not said that the model had changed."""
    limited_bucket.put(FILES)
    spec = limited_bucket.spec()
    limited = {"AWS_ACCESS_KEY_ID": "limited"}
    run = loader.run(spec.model_copy(update={"pin": Pin.VERSION}), **limited)
    run.failed("SourceDenied", limited_bucket.location().uri, "s3:ListBucketVersions", "the plan pinned")
    assert_absent(loader.root)
    listed = summarise(S3Source(limited_bucket.location(), limited_bucket.client, Pin.ETAG).list())
    loader.run(spec.model_copy(update={"pin": Pin.ETAG, "listing": listed}), **limited).succeeded()
    assert_published(loader.root, FILES)
