"""A source or a network that misbehaves: the model arrives whole, or not at all with one clear error."""

import hashlib
import os

import pytest

from tests.services.fault_proxy import Fault, FaultProxy, Kind
from tests.services.loader.uploads import MIB, Upload, behind_the_back, multipart, single
from tests.services.s3_fixtures import Bucket, Loader, assert_absent, assert_published

#: Two tries and no long waits: what is tested is that the loader ends, not when.
FEW_TRIES = {"MODELYARD_LOADER_ATTEMPTS": "2", "MODELYARD_LOADER_RETRY_SECONDS": "0.1"}
faults = pytest.mark.faults

CHECKED = [
    pytest.param(single("CRC64NVME"), 1000, "CRC64NVME", id="small CRC64NVME"),
    pytest.param(single("CRC32"), 1000, "CRC32", id="small CRC32", marks=faults),
    pytest.param(single("CRC32C"), 1000, "CRC32C", id="small CRC32C", marks=faults),
    pytest.param(single("SHA1"), 1000, "SHA1", id="small SHA1", marks=faults),
    pytest.param(single("SHA256"), 1000, "SHA256", id="small SHA256", marks=faults),
    pytest.param(multipart("CRC64NVME", "FULL_OBJECT"), 20 * MIB, "CRC64NVME", id="large CRC64NVME"),
    pytest.param(multipart("CRC32", "FULL_OBJECT"), 12 * MIB, "CRC32", id="large CRC32", marks=faults),
    pytest.param(multipart("CRC32C", "FULL_OBJECT"), 12 * MIB, "CRC32C", id="large CRC32C", marks=faults),
]


@pytest.mark.parametrize(("upload", "size", "algorithm"), CHECKED)
def test_one_flipped_bit_is_fetched_again(
    upload: Upload, size: int, algorithm: str, bucket: Bucket, fault_proxy: FaultProxy, loader: Loader
) -> None:
    body = os.urandom(size)
    upload(bucket, body)
    fault_proxy.faults = [Fault(Kind.FLIP, times=1)]
    run = loader.run(bucket.spec(url=fault_proxy.url), **FEW_TRIES)
    run.succeeded()
    assert "fetched again from its first byte" in run.output, "else its progress falls back to nothing, and nobody knows why"
    [record] = assert_published(loader.root, {"x": body}).files
    assert record.checksum
    assert (record.checksum.algorithm, fault_proxy.faults[0].done) == (algorithm, 1)


@pytest.mark.parametrize(("upload", "size", "algorithm"), CHECKED)
def test_bits_that_always_flip_are_never_published(
    upload: Upload, size: int, algorithm: str, bucket: Bucket, fault_proxy: FaultProxy, loader: Loader
) -> None:
    assert algorithm
    upload(bucket, os.urandom(size))
    fault_proxy.faults = [Fault(Kind.FLIP)]
    loader.run(bucket.spec(url=fault_proxy.url), **FEW_TRIES).failed("ContentMismatch", "x: ", "the source", code=75)
    assert_absent(loader.root)
    fault_proxy.faults = []
    loader.run(bucket.spec(url=fault_proxy.url)).succeeded()


UNCHECKED = [
    pytest.param(multipart("CRC32", "COMPOSITE"), 12 * MIB, id="composite CRC32"),
    pytest.param(multipart("SHA256", "COMPOSITE"), 12 * MIB, id="composite SHA256", marks=faults),
    pytest.param(behind_the_back, 1000, id="none", marks=faults),
]


@pytest.mark.parametrize(("upload", "size"), UNCHECKED)
def test_a_flipped_bit_that_nothing_could_tell_is_said_in_the_manifest(
    upload: Upload, size: int, bucket: Bucket, fault_proxy: FaultProxy, loader: Loader
) -> None:
    """The limit of what a source without a checksum of the whole can promise: told by the result and the manifest."""
    body = os.urandom(size)
    upload(bucket, body)
    fault_proxy.faults = [Fault(Kind.FLIP, times=1)]
    result = loader.run(bucket.spec(url=fault_proxy.url), **FEW_TRIES).succeeded()
    arrived = (loader.root / "m/v1/x").read_bytes()
    [record] = assert_published(loader.root, {"x": arrived}).files
    assert (sum(a != b for a, b in zip(arrived, body, strict=True)), fault_proxy.faults[0].done) == (1, 1)
    assert (record.checksum, result["unverified_files"]) == (None, 1)


@pytest.mark.parametrize(("upload", "size"), UNCHECKED)
def test_the_authors_own_digests_catch_it_wherever_they_are(
    upload: Upload, size: int, bucket: Bucket, fault_proxy: FaultProxy, loader: Loader
) -> None:
    body = os.urandom(size)
    upload(bucket, body)
    bucket.put({"SHA256SUMS": f"{hashlib.sha256(body).hexdigest()}  x\n".encode()})
    fault_proxy.faults = [Fault(Kind.FLIP, times=1, target="/x")]
    loader.run(bucket.spec(url=fault_proxy.url), **FEW_TRIES).failed("DigestMismatch", "x")
    assert_absent(loader.root)
    loader.run(bucket.spec()).succeeded()
    assert_published(loader.root, {"x": body, "SHA256SUMS": f"{hashlib.sha256(body).hexdigest()}  x\n".encode()})


REFUSED = [
    pytest.param((403, "InvalidObjectState"), "SourceMissing", "the object is archived: restore it first", 1, id="archived"),
    pytest.param((400, "ExpiredToken"), "SourceUnavailable", "the credentials have expired", 75, id="expired session"),
    pytest.param((403, "RequestTimeTooSkewed"), "SourceUnavailable", "RequestTimeTooSkewed", 75, id="clock skew", marks=faults),
]


@pytest.mark.parametrize("size", [1000, pytest.param(70 * MIB, marks=faults)])
@pytest.mark.parametrize(("error", "kind", "told", "code"), REFUSED)
def test_a_refusal_in_the_middle_of_a_load(  # noqa: PLR0913, PLR0917 - a row of the table
    error: tuple[int, str], kind: str, told: str, code: int, size: int, bucket: Bucket, fault_proxy: FaultProxy, loader: Loader
) -> None:
    """As AWS answers; the real server here has neither archives nor sessions."""
    files = {"x": os.urandom(size), "beside": b"beside"}
    bucket.put(files)
    fault_proxy.faults = [Fault(Kind.REFUSE, target="/x", error=error, from_byte=size // 2 if size > MIB else 0)]
    loader.run(bucket.spec(url=fault_proxy.url), **FEW_TRIES).failed(kind, "x: ", told, code=code)
    assert_absent(loader.root)
    fault_proxy.faults = []
    loader.run(bucket.spec(url=fault_proxy.url)).succeeded()
    assert_published(loader.root, files)


BROKEN = [
    pytest.param(Kind.TRUNCATE, 1000, id="truncated small"),
    pytest.param(Kind.TRUNCATE, 20 * MIB, id="truncated large", marks=faults),
    pytest.param(Kind.SHORTEN, 1000, id="shortened small", marks=faults),
    pytest.param(Kind.SHORTEN, 20 * MIB, id="shortened large"),
    pytest.param(Kind.RESET, 3 * MIB, id="reset small", marks=faults),
    pytest.param(Kind.RESET, 20 * MIB, id="reset large"),
    pytest.param(Kind.REFUSE, 1000, id="throttled small"),
    pytest.param(Kind.REFUSE, 20 * MIB, id="throttled large", marks=faults),
    pytest.param(Kind.STALL, 1000, id="stalled small"),
    pytest.param(Kind.STALL, 20 * MIB, id="stalled large", marks=faults),
]


@pytest.mark.parametrize(("kind", "size"), BROKEN)
def test_a_passing_fault_is_survived(kind: Kind, size: int, bucket: Bucket, fault_proxy: FaultProxy, loader: Loader) -> None:
    files = {"x": os.urandom(size), "beside": b"beside"}
    bucket.put(files)
    fault_proxy.faults = [Fault(kind, times=3, target="/x")]
    loader.run(bucket.spec(url=fault_proxy.url), MODELYARD_LOADER_RETRY_SECONDS="0.1", MODELYARD_LOADER_STALL_SECONDS="1").succeeded()
    assert_published(loader.root, files)
    assert fault_proxy.faults[0].done == 3


@pytest.mark.parametrize(("kind", "size"), BROKEN)
@faults
def test_a_lasting_fault_publishes_nothing(kind: Kind, size: int, bucket: Bucket, fault_proxy: FaultProxy, loader: Loader) -> None:
    files = {"x": os.urandom(size), "beside": b"beside"}
    bucket.put(files)
    fault_proxy.faults = [Fault(kind, target="/x")]
    run = loader.run(bucket.spec(url=fault_proxy.url), **FEW_TRIES, MODELYARD_LOADER_STALL_SECONDS="1")
    run.failed("ContentMismatch" if kind is Kind.SHORTEN else "SourceUnavailable", "x: ", code=75)
    assert_absent(loader.root)
    fault_proxy.faults = []
    result = loader.run(bucket.spec(url=fault_proxy.url)).succeeded()
    assert_published(loader.root, files)
    assert result["fetched_bytes"] == size  # what arrived whole beside it was kept


def test_a_reset_goes_on_where_it_broke(bucket: Bucket, fault_proxy: FaultProxy, loader: Loader) -> None:
    files = {"x": os.urandom(40 * MIB)}
    bucket.put(files)
    fault_proxy.faults = [Fault(Kind.RESET, times=1, skip=2)]
    loader.run(bucket.spec(url=fault_proxy.url)).succeeded()
    assert_published(loader.root, files)
    assert 40 * MIB < fault_proxy.sent <= (40 + 8) * MIB


def test_a_slow_source_is_not_a_stalled_one(bucket: Bucket, fault_proxy: FaultProxy, loader: Loader) -> None:
    files = {"x": os.urandom(64 * 1024)}
    bucket.put(files)
    fault_proxy.faults = [Fault(Kind.DRIP)]  # three seconds, and the engine hands over nothing before the end
    loader.run(bucket.spec(url=fault_proxy.url), **FEW_TRIES, MODELYARD_LOADER_STALL_SECONDS="30").succeeded()
    assert_published(loader.root, files)
    assert fault_proxy.faults[0].done == 1
