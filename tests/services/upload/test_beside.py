"""What goes on beside each other in an upload, with the program's own classes before a real server."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from modelyard.errors import SourceUnavailable
from modelyard.upload.destination import PART_SIZE, Destination, Sending
from modelyard.upload.local import Reading, read_tree
from modelyard.upload.run import Upload
from tests.services.s3_fixtures import RUN_SECONDS, Bucket
from tests.services.upload.conftest import before, client_of, write

#: Long enough that an abort which waits for nothing comes first.
_HELD_SECONDS = 3


def unheard(pool: ThreadPoolExecutor, slots: int) -> Sending:
    return Sending(pool, BoundedSemaphore(slots), lambda _: None, lambda _: None)


def test_many_small_files_are_not_asked_for_again_and_again(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count, asked = 300, list[str]()
    for name in ("done", "result", "exception", "cancelled"):
        original = getattr(Future, name)

        def counted(future: Future[Any], *arguments: Any, _name: str = name, _original: Any = original) -> Any:
            asked.append(_name)
            return _original(future, *arguments)

        monkeypatch.setattr(Future, name, counted)
    root = write(tmp_path / "many", {f"{number}.json": b"{}" for number in range(count)})
    done = Upload(root, Destination(bucket.location(), client_of(bucket))).run()
    assert done.sent_files == count
    assert len(asked) <= 5 * count


def test_a_server_that_goes_away_before_the_first_file(bucket: Bucket, tmp_path: Path) -> None:
    client = client_of(bucket)

    def go_away(_: dict[str, Any]) -> None:
        raise EndpointConnectionError(endpoint_url="of the store")

    before(client, "ListMultipartUploads", go_away)
    upload = Upload(write(tmp_path / "model", {"config.json": b"{}"}), Destination(bucket.location(), client))
    with pytest.raises(SourceUnavailable, match="of the store"):
        upload.run()


def test_no_part_is_under_way_when_an_upload_is_aborted(bucket: Bucket, tmp_path: Path) -> None:
    client, second_begun, aborting, events = client_of(bucket), threading.Event(), threading.Event(), list[str]()

    def on_part(params: dict[str, Any]) -> None:
        if params["PartNumber"] == 1:
            assert second_begun.wait(RUN_SECONDS)
            raise EndpointConnectionError(endpoint_url="of the first part")
        second_begun.set()
        aborting.wait(_HELD_SECONDS)

    def on_abort(_: dict[str, Any]) -> None:
        events.append("abort")
        aborting.set()

    before(client, "UploadPart", on_part)
    before(client, "AbortMultipartUpload", on_abort)
    client.meta.events.register("after-call.s3.UploadPart", lambda **_: events.append("part"))
    [file] = read_tree(write(tmp_path / "large", {"w.safetensors": bytes(2 * PART_SIZE)})).files
    with ThreadPoolExecutor(2) as pool, pytest.raises(SourceUnavailable, match="of the first part"):
        Destination(bucket.location(), client).send_large(Reading(file), unheard(pool, slots=2))
    assert events == ["part", "abort"]
    assert not bucket.client.list_multipart_uploads(Bucket=bucket.name).get("Uploads")


def test_a_failed_part_ends_the_reading_of_its_file(bucket: Bucket, tmp_path: Path) -> None:
    client, begun = client_of(bucket), list[int]()

    def on_part(params: dict[str, Any]) -> None:
        begun.append(params["PartNumber"])
        raise EndpointConnectionError(endpoint_url="of a part")

    before(client, "UploadPart", on_part)
    [file] = read_tree(write(tmp_path / "large", {"w.safetensors": bytes(4 * PART_SIZE)})).files
    with ThreadPoolExecutor(1) as pool, pytest.raises(SourceUnavailable, match="of a part"):
        Destination(bucket.location(), client).send_large(Reading(file), unheard(pool, slots=1))
    assert begun == [1]
