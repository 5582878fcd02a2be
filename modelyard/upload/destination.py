"""The place in a bucket that a model is uploaded to. Every object carries a CRC64NVME of the whole, which the server compares."""

import base64
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from botocore.exceptions import BotoCoreError, ClientError

from modelyard.checksums import new_hash
from modelyard.errors import ModelyardError, SourceDenied, SourceUnavailable
from modelyard.models import FileRecord, S3Location
from modelyard.sources.s3_answers import error_code, source_error
from modelyard.upload.local import Reading
from modelyard.upload.workers import Batch

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_MIB = 1024 * 1024
PART_SIZE = 16 * _MIB
#: S3 takes 10,000 parts. https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
_MOST_PARTS = 9000
_RIGHTS = "uploading needs s3:ListBucket, s3:GetObject, s3:PutObject, s3:AbortMultipartUpload, and s3:PutObjectTagging for --tag"
_DENIED = {"AccessDenied", "403"}
_MISSING = {"NoSuchKey", "404", "NotFound"}
#: Answers to a write that is to replace nothing: an object is there; another write is under way; the store does not know this.
#: https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
_THERE = {"PreconditionFailed", "412"}
_CONFLICT = "ConditionalRequestConflict"
_UNKNOWN = {"NotImplemented", "501"}


def part_size(size: int) -> int:
    """How large the parts of a file of ``size`` bytes are."""
    return max(PART_SIZE, -(-size // _MOST_PARTS // _MIB) * _MIB)


@dataclass(frozen=True, slots=True)
class Sending:
    """How large files are sent: who sends their parts, how many of these wait in memory, and who hears of what was sent and read."""

    pool: Executor
    slots: BoundedSemaphore
    on_sent: Callable[[int], None]
    accept: Callable[[FileRecord], None]


@dataclass(frozen=True, slots=True)
class Destination:
    """A prefix of a bucket, written by many threads."""

    location: S3Location
    client: "S3Client"

    def key(self, path: str) -> str:
        """The object's key for a file's path."""
        return self.location.directory + path

    def target(self, path: str) -> Any:  # noqa: ANN401 - the keyword arguments of many calls
        """Bucket and key of a file."""
        return {"Bucket": self.location.bucket, "Key": self.key(path)}

    def objects(self) -> dict[str, int]:
        """Size by path of what is there already; folder markers are passed over."""
        with _told(self.location.uri):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.location.bucket, Prefix=self.location.directory)
            found = {
                entry["Key"].removeprefix(self.location.directory): entry["Size"] for page in pages for entry in page.get("Contents", ())
            }
        return {path: size for path, size in found.items() if size or (path and not path.endswith("/"))}

    def crc64nvme(self, path: str) -> str | None:
        """The server's CRC64NVME of the whole object; None if it has none."""
        with _told(self.location.uri + path):
            return self.client.head_object(**self.target(path), ChecksumMode="ENABLED").get("ChecksumCRC64NVME")

    def read(self, path: str) -> bytes | None:
        """A small object's bytes; None if it is not there."""
        try:
            return self.client.get_object(**self.target(path))["Body"].read()
        except (ClientError, BotoCoreError) as error:
            if isinstance(error, ClientError) and error_code(error) in _MISSING:
                return None
            raise _error(error, self.location.uri + path) from error

    def put(self, path: str, body: bytes, checksum: str, tags: Mapping[str, str] | None = None) -> bool:
        """Write an object at once; False if one is there. A store that knows no conditional writes replaces it."""
        more: Any = {"Tagging": urlencode(tags)} if tags else {}
        with _told(self.location.uri + path):
            return _unless_there(self.client.put_object, **self.target(path), Body=body, ChecksumCRC64NVME=checksum, **more)

    def tag(self, path: str, tags: Mapping[str, str]) -> None:
        """Replace an object's tags."""
        with _told(self.location.uri + path):
            self.client.put_object_tagging(**self.target(path), Tagging={"TagSet": [{"Key": key, "Value": tags[key]} for key in tags]})

    def send_large(self, reading: Reading, sending: "Sending") -> bool:
        """Upload a large file in parts that go out beside each other; it becomes an object only if ``sending.accept`` takes it.

        False if one is there, as ``put``.
        """
        path, target = reading.file.path, self.target(reading.file.path)
        with _told(self.location.uri + path):
            begun = self.client.create_multipart_upload(**target, ChecksumAlgorithm="CRC64NVME", ChecksumType="FULL_OBJECT")
            upload: dict[str, Any] = {**target, "UploadId": begun["UploadId"]}
            parts: Batch[Any] = Batch(sending.pool, sending.slots)
            try:
                self._send_parts(reading, upload, sending, parts)
                sent = parts.results()
                sending.accept(reading.hashed)
                whole: dict[str, Any] = {"ChecksumCRC64NVME": reading.crc64nvme, "ChecksumType": "FULL_OBJECT"}
                complete = self.client.complete_multipart_upload
                if not (written := _unless_there(complete, **upload, MultipartUpload={"Parts": sent}, **whole)):
                    self._abort(upload)
            except BaseException:
                parts.stop()  # a part that arrives after the abort would be kept, and cost storage
                self._abort(upload)
                raise
        return written

    def _abort(self, upload: dict[str, Any]) -> None:
        with suppress(ClientError, BotoCoreError):  # the next run aborts what is left; what led here is what to tell
            self.client.abort_multipart_upload(**upload)

    def _send_parts(self, reading: Reading, upload: dict[str, Any], sending: "Sending", parts: Batch[Any]) -> None:
        def send(number: int, body: bytes) -> dict[str, Any]:
            checksum = crc64nvme_of(body)
            sent = self.client.upload_part(**upload, PartNumber=number, Body=body, ChecksumCRC64NVME=checksum)
            sending.on_sent(len(body))
            return {"PartNumber": number, "ETag": sent["ETag"], "ChecksumCRC64NVME": checksum}

        for number, body in enumerate(reading.parts(part_size(reading.file.size)), 1):
            parts.submit(send, number, body)

    def forget_unfinished(self, paths: set[str]) -> None:
        """Abort uploads of these files that a killed run left: their parts cost storage until someone does.

        Stores that do not list them, and accounts that may not, are left alone.
        """
        with _told(self.location.uri), suppress(ClientError):
            pages = self.client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self.location.bucket, Prefix=self.location.directory
            )
            for page in pages:
                for upload in page.get("Uploads", ()):
                    if upload["Key"].removeprefix(self.location.directory) in paths:
                        self.client.abort_multipart_upload(Bucket=self.location.bucket, Key=upload["Key"], UploadId=upload["UploadId"])


def crc64nvme_of(body: bytes) -> str:
    """The CRC64NVME of ``body`` as S3 writes it."""
    crc = new_hash("CRC64NVME")
    crc.update(body)
    return base64.b64encode(crc.digest()).decode()


def _unless_there(write: Callable[..., Any], **arguments: Any) -> bool:
    try:
        write(**arguments, IfNoneMatch="*")
    except ClientError as error:
        if error_code(error) in _THERE:
            return False
        if error_code(error) not in _UNKNOWN:
            raise
        write(**arguments)
    return True


class _told:  # noqa: N801 - reads as a word at its uses
    """Turns boto3's errors about ``subject`` into those that say what to do next."""

    def __init__(self, subject: str) -> None:
        self._subject = subject

    def __enter__(self) -> None:
        return

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, ClientError | BotoCoreError):
            raise _error(error, self._subject) from error


def _error(error: Exception, subject: str) -> ModelyardError:
    if isinstance(error, ClientError) and error_code(error) in _DENIED:
        return SourceDenied(f"{subject}: {error_code(error)}; {_RIGHTS}")
    if isinstance(error, ClientError) and error_code(error) == _CONFLICT:
        return SourceUnavailable(f"{subject}: another upload writes here at this moment; run it again")
    return source_error(error, subject)
