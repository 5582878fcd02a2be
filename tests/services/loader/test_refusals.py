"""What the loader cannot or must not load is refused: one clear error, and nothing on the volume."""

from collections.abc import Callable

import pytest

from modelyard.orders import LoadSpec
from tests.services.fault_proxy import FaultProxy
from tests.services.ports import free_port
from tests.services.s3_fixtures import Bucket, Loader, Run, S3Server, assert_absent, assert_published

LARGE = 9 * 1024 * 1024


def at(spec: LoadSpec, **source: str) -> LoadSpec:
    return spec.model_copy(update={"source": spec.source.model_copy(update=source)})


@pytest.fixture
def spec(bucket: Bucket) -> LoadSpec:
    bucket.put({"a": b"abc"})
    return bucket.spec()


def test_a_missing_bucket(spec: LoadSpec, loader: Loader) -> None:
    loader.run(at(spec, bucket="no-such-bucket")).failed("SourceMissing", "s3://no-such-bucket/m/v1/", "NoSuchBucket", "check the bucket")
    assert_absent(loader.root)


def test_a_wrong_secret(spec: LoadSpec, loader: Loader) -> None:
    run = loader.run(spec, AWS_SECRET_ACCESS_KEY="not-the-secret")
    run.failed("SourceDenied", spec.source.uri, "SignatureDoesNotMatch", "its secret is another")
    assert_absent(loader.root)


def test_no_credentials(spec: LoadSpec, loader: Loader) -> None:
    loader.environment = {name: value for name, value in loader.environment.items() if "KEY" not in name}
    run = loader.run(spec, AWS_SHARED_CREDENTIALS_FILE="/nonexistent", AWS_CONFIG_FILE="/nonexistent")
    run.failed("SourceDenied", spec.source.uri, "no credentials were found", "give them")
    assert_absent(loader.root)


@pytest.mark.parametrize(
    "unreachable",
    [
        pytest.param(lambda _: f"https://127.0.0.1:{free_port()}", id="closed port"),
        pytest.param(lambda server: server.url.replace("https", "http"), id="plain HTTP to a TLS port", marks=pytest.mark.faults),
    ],
)
def test_a_wrong_endpoint(unreachable: Callable[[S3Server], str], spec: LoadSpec, s3_server: S3Server, loader: Loader) -> None:
    url = unreachable(s3_server)
    loader.run(at(spec, endpoint_url=url)).failed("SourceUnavailable", spec.source.uri, url, "check the endpoint", code=75)
    assert_absent(loader.root)


def test_an_endpoint_that_is_no_address(spec: LoadSpec, loader: Loader) -> None:
    loader.run(at(spec, endpoint_url="minio:9000")).failed("SourceMissing", "minio:9000", "https://")
    assert_absent(loader.root)


@pytest.mark.faults
def test_a_wrong_ca(spec: LoadSpec, s3_server: S3Server, loader: Loader) -> None:
    run = loader.run(spec, AWS_CA_BUNDLE=str(s3_server.certificates.other_ca))
    run.failed("SourceDenied", spec.source.uri, "certificate is not trusted", "certificate verify failed", "give the CA in the source's")
    assert_absent(loader.root)


def test_a_ca_that_is_not_there(spec: LoadSpec, loader: Loader) -> None:
    loader.run(spec, AWS_CA_BUNDLE="/nonexistent/ca.crt").failed("SourceMissing", "/nonexistent/ca.crt", "AWS_CA_BUNDLE")
    assert_absent(loader.root)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        pytest.param([".modelyard/manifests/m/v2.json"], "Modelyard's own directory", id="our own directory"),
        pytest.param([".MODELYARD/x"], "Modelyard's own directory", id="our own directory in other case", marks=pytest.mark.faults),
        pytest.param(["new\nline"], "control characters", id="new line", marks=pytest.mark.faults),
        pytest.param(["del\x7f"], "control characters", id="delete character", marks=pytest.mark.faults),
        pytest.param(["Config.json", "config.json"], "only in case", id="case twins", marks=pytest.mark.faults),
        pytest.param(["caf\u00e9", "cafe\u0301"], "Unicode form", id="composed and decomposed", marks=pytest.mark.faults),
    ],
)
def test_hostile_keys(keys: list[str], told: str, bucket: Bucket, loader: Loader) -> None:
    bucket.put({**dict.fromkeys(keys, b"evil"), "good": b"good"})
    loader.run(bucket.spec()).failed("Refused", told, "rename or remove the object")
    assert_absent(loader.root)
    assert not (loader.root / ".modelyard" / "staging").exists()
    assert not bucket.requests("GetObject", "HeadObject")


@pytest.mark.parametrize("body", [b"other", b"x" * LARGE], ids=["small", "large"])
def test_changed_after_the_plan(body: bytes, bucket: Bucket, loader: Loader) -> None:
    bucket.put({"a": b"abc" * (len(body) // 3)})
    spec = bucket.spec()
    bucket.put({"a": body})
    loader.run(spec).failed("SourceChanged", spec.source.uri, spec.listing.digest, "nothing was written: plan again")
    assert_absent(loader.root)
    assert not bucket.requests("GetObject", "HeadObject")


@pytest.mark.parametrize("size", [100, LARGE], ids=["small", "large"])
def test_overwritten_between_listing_and_fetch(size: int, bucket: Bucket, fault_proxy: FaultProxy, loader: Loader) -> None:
    """Without versions the ETag is the pin: 412."""
    bucket.put({"a": b"a" * size, "b": b"b"})
    spec = bucket.spec(url=fault_proxy.url)
    fault_proxy.before_first_fetch = lambda: bucket.put({"a": b"z" * size})
    assert_changed(loader.run(spec), spec)
    assert_absent(loader.root)
    loader.run(bucket.spec()).succeeded()  # a new plan takes the new bytes, and none of the old
    assert_published(loader.root, {"a": b"z" * size, "b": b"b"})


def test_an_overwritten_version_is_still_the_planned_one(versioned_bucket: Bucket, fault_proxy: FaultProxy, loader: Loader) -> None:
    versioned_bucket.put({"a": b"planned", "large": b"p" * LARGE})
    spec = versioned_bucket.spec(url=fault_proxy.url)
    fault_proxy.before_first_fetch = lambda: versioned_bucket.put({"a": b"later", "large": b"later"})
    loader.run(spec).succeeded()
    assert_published(loader.root, {"a": b"planned", "large": b"p" * LARGE})


@pytest.mark.parametrize("size", [100, pytest.param(LARGE, marks=pytest.mark.faults)], ids=["small", "large"])
def test_a_deleted_version(size: int, versioned_bucket: Bucket, fault_proxy: FaultProxy, loader: Loader) -> None:
    versioned_bucket.put({"a": b"a" * size})
    spec = versioned_bucket.spec(url=fault_proxy.url)
    [entry] = versioned_bucket.client.list_object_versions(Bucket=versioned_bucket.name)["Versions"]
    fault_proxy.before_first_fetch = lambda: versioned_bucket.client.delete_object(
        Bucket=versioned_bucket.name, Key="m/v1/a", VersionId=entry["VersionId"]
    )
    assert_changed(loader.run(spec), spec)
    assert_absent(loader.root)


def assert_changed(run: Run, spec: LoadSpec) -> None:
    run.failed("SourceChanged", f"{spec.source.uri}a", "changed or deleted since it was listed", "run it again to plan anew")


def test_a_spec_that_is_none(loader: Loader, spec: LoadSpec) -> None:
    run = loader.run(spec.model_copy(update={"headroom": -1}))
    run.failed("LoaderFailed", "headroom")
    assert_absent(loader.root)


def test_tuning_out_of_bounds(loader: Loader, spec: LoadSpec) -> None:
    loader.run(spec, MODELYARD_LOADER_TRANSFERS="0").failed("LoaderFailed", "transfers")
    assert_absent(loader.root)
