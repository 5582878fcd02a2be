"""A model arrives byte for byte, whatever its keys are called and however its objects were uploaded."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from modelyard.orders import VerifyLevel
from modelyard.sources.s3 import S3Source
from tests.services.loader.uploads import MIB, behind_the_back, multipart, single
from tests.services.s3_fixtures import Bucket, Loader, S3Server, assert_published

#: Keys that a naive client mangles in a URL, in XML, in a shell or in a path.
AWKWARD = {
    "config.json": b"{}",
    "with space.bin": b"space",
    " leading and trailing ": b"spaces",
    "ünïcödé/日本語.txt": "日本語".encode(),
    "emoji-\U0001f600": b"astral",
    "a+b=c&d.bin": b"plus",
    "100%25.bin": b"percent",
    "~tilde": b"tilde",
    "quote'\"<&>.bin": b"xml",
    "back\\slash\\name": b"backslash",
    "question?mark#hash": b"url",
    "[brackets]{braces}*!$(x);|": b"shell",
    "deep/" * 30 + "nested.bin": b"deep",
    "-rf": b"looks like an option",
    "empty.bin": b"",
    "dir/empty": b"",
    "n" * 200 + ".bin": b"long name",
}


@pytest.mark.parametrize("kind", ["plain", "versioned"])
def test_awkward_keys_arrive_under_their_own_names(kind: str, loader: Loader, request: pytest.FixtureRequest) -> None:
    bucket: Bucket = request.getfixturevalue("bucket" if kind == "plain" else "versioned_bucket")
    bucket.put(AWKWARD)
    bucket.put({"marker/": b"", "deep/": b""})  # folder markers, as consoles make them
    bucket.put({"other": b"another model"}, prefix="m/v11/")
    result = loader.run(bucket.spec()).succeeded()
    manifest = assert_published(loader.root, AWKWARD)
    assert (result["files"], result["bytes"]) == (len(AWKWARD), sum(map(len, AWKWARD.values())))
    assert result["fetched_bytes"] == result["bytes"]
    assert result["digest"] == manifest.digest
    assert all(bool(record.version_id) == (kind == "versioned") for record in manifest.files)


def test_a_second_run_asks_the_server_nothing(bucket: Bucket, loader: Loader) -> None:
    files = {"a": b"a", "b/c": b"c"}
    bucket.put(files)
    spec = bucket.spec()
    first = loader.run(spec).succeeded()
    before = len(bucket.requests())
    second = loader.run(spec).succeeded()
    assert len(bucket.requests()) == before
    assert (second["digest"], second["fetched_bytes"]) == (first["digest"], 0)
    third = loader.run(spec.model_copy(update={"verify": VerifyLevel.DIGESTS})).succeeded()
    assert (len(bucket.requests()), third["digest"]) == (before, first["digest"])
    assert_published(loader.root, files)


UPLOADS = [
    pytest.param(behind_the_back, 100, None, id="a file that nobody uploaded"),
    pytest.param(single("CRC64NVME"), 100, "CRC64NVME", id="small CRC64NVME", marks=pytest.mark.faults),
    pytest.param(single("CRC32"), 100, "CRC32", id="small CRC32", marks=pytest.mark.faults),
    pytest.param(single("CRC32C"), 100, "CRC32C", id="small CRC32C", marks=pytest.mark.faults),
    pytest.param(single("SHA1"), 100, "SHA1", id="small SHA1", marks=pytest.mark.faults),
    pytest.param(single("SHA256"), 100, "SHA256", id="small SHA256"),
    pytest.param(single("CRC64NVME"), 20 * MIB + 1, "CRC64NVME", id="large single put"),
    pytest.param(multipart("CRC64NVME", "FULL_OBJECT"), 12 * MIB, "CRC64NVME", id="multipart CRC64NVME of the whole"),
    pytest.param(multipart("CRC32", "COMPOSITE"), 12 * MIB, None, id="multipart composite CRC32 covers no whole"),
    pytest.param(
        multipart("SHA256", "COMPOSITE"), 12 * MIB, None, id="multipart composite SHA256 covers no whole", marks=pytest.mark.faults
    ),
    pytest.param(multipart("CRC32", "FULL_OBJECT"), 6 * MIB, "CRC32", id="small multipart, CRC32 of the whole", marks=pytest.mark.faults),
]


@pytest.mark.parametrize(("upload", "size", "algorithm"), UPLOADS)
def test_the_checksum_of_the_whole_is_compared_and_recorded(
    upload: Callable[[Bucket, bytes], None], size: int, algorithm: str | None, bucket: Bucket, loader: Loader
) -> None:
    body = os.urandom(size)
    upload(bucket, body)
    result = loader.run(bucket.spec()).succeeded()
    [record] = assert_published(loader.root, {"x": body}).files
    assert (record.checksum and record.checksum.algorithm) == algorithm
    assert result["unverified_files"] == (algorithm is None)


def test_plain_http_works_too(bucket: Bucket, plain_http_server: S3Server, loader: Loader) -> None:
    files = {"a": b"a", "large": os.urandom(9 * MIB)}
    bucket.put(files)
    loader.run(bucket.spec(url=plain_http_server.url)).succeeded()
    assert_published(loader.root, files)


@pytest.mark.parametrize("kind", ["bucket", "versioned_bucket"])
def test_a_listing_of_several_pages_tells_each_file_once(kind: str, request: pytest.FixtureRequest) -> None:
    """A page holds 1,000 entries. versitygw 1.8 begins each page of versions with the last entry of the one before."""
    bucket: Bucket = request.getfixturevalue(kind)
    names = [f"{number:04}" for number in range(1005)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: bucket.put({name: b""}), names))
    bucket.put({"0999": b"of another version"})
    listed = list(S3Source(bucket.location(), bucket.client).list())
    assert [file.path for file in listed] == names
    assert listed[999].size == len(b"of another version")


def test_progress_and_result_are_json_lines(bucket: Bucket, loader: Loader) -> None:
    bucket.put({"a": b"abc"})
    run = loader.run(bucket.spec())
    assert '"event": "progress", "bytes": 3, "total_bytes": 3, "files": 1, "total_files": 1' in run.output
    assert run.output.count("\n") == len([line for line in run.output.splitlines() if line.startswith('{"event"')])


def test_an_empty_listing_makes_an_empty_version_only_if_planned(bucket: Bucket, loader: Loader) -> None:
    empty = bucket.spec()
    bucket.put({"a": b"abc"})
    spec = bucket.spec()
    bucket.client.delete_object(Bucket=bucket.name, Key="m/v1/a")
    loader.run(spec).failed("SourceChanged", "lists 0 files", "the plan saw 1", "plan again")
    assert not (loader.root / "m" / "v1").exists()
    loader.run(empty).succeeded()
    assert_published(loader.root, {})
