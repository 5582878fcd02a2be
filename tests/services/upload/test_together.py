"""Two uploads to one prefix at the same time: only one of them may say that it is done, unless they are of the same files."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from modelyard.errors import SourceChanged, SourceUnavailable
from modelyard.plans.digests import MARKER_NAME, SUMS_NAME
from modelyard.upload.destination import PART_SIZE, Destination
from modelyard.upload.run import Marker, Upload
from tests.services.s3_fixtures import Bucket
from tests.services.upload.conftest import before, client_of, write

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

FIRST = {"config.json": b"{}", "w.safetensors": b"1" * (PART_SIZE + 1)}


def upload(bucket: Bucket, root: Path, client: "S3Client | None" = None) -> Upload:
    return Upload(root, Destination(bucket.location(), client or client_of(bucket)))


def once(act: Callable[[], object]) -> Callable[[dict[str, Any]], None]:
    """``act`` at the first call only."""
    left = [act]

    def act_once(_: dict[str, Any]) -> None:
        if left:
            left.pop()()

    return act_once


def contents(bucket: Bucket) -> dict[str, bytes]:
    keys = [entry["Key"] for entry in bucket.client.list_objects_v2(Bucket=bucket.name).get("Contents", [])]
    return {key.removeprefix("m/v1/"): bucket.client.get_object(Bucket=bucket.name, Key=key)["Body"].read() for key in keys}


@pytest.mark.parametrize(
    ("second", "told"),
    [
        ({"config.json": b"[]", "w.safetensors": FIRST["w.safetensors"]}, "config.json"),
        ({"config.json": b"{}", "w.safetensors": b"2" * (PART_SIZE + 1)}, "w.safetensors"),
        ({"other.json": b"{}"}, SUMS_NAME),
    ],
    ids=["small", "large", "other names"],
)
def test_the_second_of_two_uploads_replaces_nothing(second: dict[str, bytes], told: str, bucket: Bucket, tmp_path: Path) -> None:
    roots, client, seen = (write(tmp_path / "first", FIRST), write(tmp_path / "second", second)), client_of(bucket), dict[str, bytes]()

    def first() -> None:  # whole, after the second one has looked at the prefix
        upload(bucket, roots[0]).run()
        seen.update(contents(bucket))

    before(client, "ListMultipartUploads", once(first))
    with pytest.raises(SourceChanged, match=f"{told}: another upload wrote"):
        upload(bucket, roots[1], client).run()
    assert {path: body for path, body in contents(bucket).items() if path in seen} == seen
    assert seen.keys() == {*FIRST, SUMS_NAME, MARKER_NAME}
    assert not bucket.client.list_multipart_uploads(Bucket=bucket.name).get("Uploads")


def test_two_uploads_of_the_same_files_are_both_done(bucket: Bucket, tmp_path: Path) -> None:
    root, client, done = write(tmp_path / "model", FIRST), client_of(bucket), list[Marker | None]()
    before(client, "ListMultipartUploads", once(lambda: done.append(upload(bucket, root).run().marker)))
    done.append(upload(bucket, root, client).run().marker)
    assert len({marker.digest for marker in done if marker}) == 1
    assert len(done) == len([marker for marker in done if marker]) == 2
    assert not bucket.client.list_multipart_uploads(Bucket=bucket.name).get("Uploads")


def refuse_conditions(params: dict[str, Any]) -> None:
    if "IfNoneMatch" in params:
        raise ClientError({"Error": {"Code": "NotImplemented", "Message": "A header is not implemented"}}, "PutObject")


def pass_conditions_over(params: dict[str, Any]) -> None:
    params.pop("IfNoneMatch", None)


@pytest.mark.parametrize("unable", [refuse_conditions, pass_conditions_over])
@pytest.mark.parametrize("late", [SUMS_NAME, MARKER_NAME])
@pytest.mark.parametrize("taken", [False, True])
def test_a_store_without_conditional_writes(
    unable: Callable[[dict[str, Any]], None],
    late: str,
    taken: bool,  # noqa: FBT001 - a parameter of pytest
    bucket: Bucket,
    tmp_path: Path,
) -> None:
    client = client_of(bucket)
    before(client, "PutObject", unable)
    before(client, "CompleteMultipartUpload", unable)
    if taken:  # another's comes after ours, as such a store lets it
        client.meta.events.register(
            "after-call.s3.PutObject", lambda **_: bucket.put({late: b"of another"}) if late in contents(bucket) else None
        )
    work = upload(bucket, write(tmp_path / "model", FIRST), client)
    if taken:
        with pytest.raises(SourceChanged, match=f"{late}: another upload wrote"):
            work.run()
    else:
        assert work.run().marker
        assert contents(bucket).keys() == {*FIRST, SUMS_NAME, MARKER_NAME}


def test_a_write_under_way_is_worth_another_try(bucket: Bucket, tmp_path: Path) -> None:
    client = client_of(bucket)

    def conflict(_: dict[str, Any]) -> None:
        raise ClientError({"Error": {"Code": "ConditionalRequestConflict", "Message": "of another"}}, "PutObject")

    before(client, "PutObject", conflict)
    with pytest.raises(SourceUnavailable, match="run it again"):
        upload(bucket, write(tmp_path / "model", {"config.json": b"{}"}), client).run()
