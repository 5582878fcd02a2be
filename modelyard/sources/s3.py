"""S3 as a source: any server that speaks it (AWS, MinIO, SeaweedFS, versitygw, Ceph), versioned or not.

Listing is boto3's; the bytes come through the AWS Common Runtime (``s3_fetch``), imported only where bytes are read.
Credentials come from where boto3 looks for them: the environment of the loader's pod, Pod Identity, IRSA, an instance role.
"""

import base64
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.exceptions import (
    ConnectionError as BotoConnectionError,
)

from modelyard.errors import ModelyardError, SourceChanged, SourceDenied, SourceMissing, SourceUnavailable
from modelyard.models import Checksum, S3Location, SourceFile
from modelyard.sources.base import Done, Sink, Transfer

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectTypeDef, ObjectVersionTypeDef

    from modelyard.sources.s3_fetch import S3Fetcher

#: Algorithms of x-amz-checksum headers, in the order in which a response is asked for them.
ALGORITHMS = ("CRC64NVME", "CRC32C", "CRC32", "SHA256", "SHA1")

_DENIED = {
    "XAdminUserNotFound",  # versitygw, for a key that it does not know
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "AuthorizationHeaderMalformed",
    "403",
}
_MISSING = {"NoSuchBucket", "NoSuchKey", "NoSuchVersion", "404", "NotFound"}
_CHANGED = {"PreconditionFailed", "412", "NoSuchKey", "NoSuchVersion", "404", "NotFound"}
_NO_VERSIONS = {"AccessDenied", "NotImplemented", "MethodNotAllowed", "403", "501", "405"}
_SERVER_ERROR = 500
_MD5 = re.compile("[0-9a-f]{32}")


def s3_client(location: S3Location) -> "S3Client":
    """A client for ``location`` with credentials from the environment; a CA from AWS_CA_BUNDLE is used by boto3 itself.

    Raises:
        SourceMissing: the endpoint is no URL, or the CA's file is not there.
    """
    if (ca_bundle := os.environ.get("AWS_CA_BUNDLE")) and not Path(ca_bundle).is_file():
        raise SourceMissing(f"{location.uri}: AWS_CA_BUNDLE names {ca_bundle}, which is no file; give the CA in the source's block")
    if location.endpoint_url and not re.match(r"https?://[^/]+", location.endpoint_url):
        raise SourceMissing(f"{location.uri}: endpoint {location.endpoint_url!r} is no URL; write https://host:port")
    config = Config(
        s3={"addressing_style": "path"} if location.endpoint_url else {},
        retries={"mode": "standard", "max_attempts": 5},
        connect_timeout=5,
        read_timeout=30,
    )
    return boto3.session.Session().client("s3", endpoint_url=location.endpoint_url, region_name=location.region, config=config)


class S3Source:
    """A model's files below one prefix of a bucket."""

    def __init__(self, location: S3Location, client: "S3Client") -> None:
        self.location = location
        self._client = client
        self._fetcher: S3Fetcher | None = None

    def list(self) -> Iterator[SourceFile]:
        """The objects below the prefix, pinned to their VersionId where the bucket has versions, else to their ETag.

        Folder markers (keys that end in '/' and hold nothing, as S3 consoles make them) are passed over.
        """
        try:
            yield from _versions(self._client, self.location)
        except ClientError as error:
            if _code(error) not in _NO_VERSIONS:
                raise source_error(error, self.location.uri) from error
        except BotoCoreError as error:
            raise source_error(error, self.location.uri) from error
        else:
            return
        # ListObjectVersions is a permission of its own, and some servers lack it: then the ETag is the pin.
        try:
            yield from _objects(self._client, self.location)
        except (ClientError, BotoCoreError) as error:
            raise source_error(error, self.location.uri) from error

    def stat(self, file: SourceFile) -> Checksum | None:
        """The checksum of the whole object as the server keeps it."""
        pin: dict[str, Any] = {"VersionId": file.version_id} if file.version_id else {"IfMatch": file.etag} if file.etag else {}
        try:
            head = self._client.head_object(
                Bucket=self.location.bucket, Key=self.location.directory + file.path, ChecksumMode="ENABLED", **pin
            )
        except (ClientError, BotoCoreError) as error:
            raise object_error(error, f"{self.location.uri}{file.path}") from error
        return full_object_checksum({name.lower(): value for name, value in head["ResponseMetadata"]["HTTPHeaders"].items()})

    def fetch(self, file: SourceFile, sink: Sink, start: int, done: Done) -> Transfer:
        """Push the object's bytes from ``start`` on into ``sink``, through the AWS Common Runtime."""
        if self._fetcher is None:
            from modelyard.sources.s3_fetch import S3Fetcher  # noqa: PLC0415 - 0.2 s and 30 MB that a listing does not need

            self._fetcher = S3Fetcher(self.location)
        return self._fetcher.fetch(file, sink, start, done)


def _versions(client: "S3Client", location: S3Location) -> Iterator[SourceFile]:
    for page in client.get_paginator("list_object_versions").paginate(Bucket=location.bucket, Prefix=location.directory):
        for entry in page.get("Versions", ()):
            if entry["IsLatest"]:
                version = entry.get("VersionId")
                if file := _file(location, entry, version if version != "null" else None):
                    yield file


def _objects(client: "S3Client", location: S3Location) -> Iterator[SourceFile]:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=location.bucket, Prefix=location.directory):
        for entry in page.get("Contents", ()):
            if file := _file(location, entry, None):
                yield file


def _file(location: S3Location, entry: "ObjectVersionTypeDef | ObjectTypeDef", version: str | None) -> SourceFile | None:
    path = entry["Key"].removeprefix(location.directory)
    if (path.endswith("/") or not path) and not entry["Size"]:
        return None
    return SourceFile(path, entry["Size"], entry.get("ETag"), version, entry.get("StorageClass"))


def full_object_checksum(headers: dict[str, str]) -> Checksum | None:
    """The checksum in a response's headers (names in lower case) if it covers the whole object, else None.

    A composite checksum (``value-N``) is a checksum of the parts' checksums and says nothing about the file's bytes as such. Without
    any, the ETag of an object put at once is its MD5, unless it is encrypted with a key of KMS or of the customer.
    https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html
    """
    if headers.get("x-amz-checksum-type", "FULL_OBJECT") != "FULL_OBJECT":
        return None
    for algorithm in ALGORITHMS:
        value = headers.get(f"x-amz-checksum-{algorithm.lower()}")
        if value and "-" not in value:
            return Checksum.model_validate({"algorithm": algorithm, "value": value})
    encryption = headers.get("x-amz-server-side-encryption", "")
    if encryption.startswith("aws:") or "x-amz-server-side-encryption-customer-algorithm" in headers:
        return None
    etag = headers.get("etag", "").strip('"')
    return Checksum(algorithm="MD5", value=base64.b64encode(bytes.fromhex(etag)).decode()) if _MD5.fullmatch(etag) else None


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def source_error(error: Exception, subject: str) -> ModelyardError:
    """What a failed request for ``subject`` means, as an error that says what to do next."""
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return SourceDenied(
            f"{subject}: no credentials were found; give them in the source's block, or let Pod Identity or IRSA provide them"
        )
    if isinstance(error, BotoConnectionError | HTTPClientError):
        return SourceUnavailable(f"{subject}: the server cannot be reached ({error}); check the endpoint's address, port and certificate")
    if not isinstance(error, ClientError):
        return SourceUnavailable(f"{subject}: {error}")
    code, status = _code(error), int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    message = error.response.get("Error", {}).get("Message", "")
    return http_error(code, status, message, subject)


def http_error(code: str, status: int, message: str, subject: str) -> ModelyardError:
    """What a server's refusal means: by its error code first, then by the HTTP status."""
    said = f"{subject}: {code or status} {message}".strip()
    if code == "InvalidObjectState":
        return SourceMissing(f"{said}; the object is archived: restore it first (`aws s3api restore-object`)")
    if code in _DENIED or status in {401, 403}:
        return SourceDenied(f"{said}; check the credentials, and that they may list and read this prefix")
    if code in _MISSING or status == 404:  # noqa: PLR2004 - HTTP
        return SourceMissing(f"{said}; check the bucket, the prefix and the endpoint")
    if status >= _SERVER_ERROR or code in {"SlowDown", "RequestTimeout", "Throttling"} or status == 429:  # noqa: PLR2004 - HTTP
        return SourceUnavailable(said)
    return SourceMissing(f"{said}; the server does not take this request: check the endpoint, the region and the bucket's name")


def object_error(error: Exception, subject: str) -> ModelyardError:
    """Like ``source_error``, for an object that the listing showed: what is missing now has changed since."""
    if isinstance(error, ClientError) and _code(error) in _CHANGED:
        return changed(subject)
    return source_error(error, subject)


def changed(subject: str) -> SourceChanged:
    """The object was there when it was listed, and is gone or another one now."""
    return SourceChanged(f"{subject}: changed or deleted since it was listed; nothing was published: run the preload again to plan anew")
