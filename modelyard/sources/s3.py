"""S3 as a source: any server that speaks it (AWS, MinIO, SeaweedFS, versitygw, Ceph), versioned or not.

Listing is boto3's; the bytes come through the AWS Common Runtime (``s3_fetch``), imported only where bytes are read.
Credentials come from where boto3 looks for them: the environment of the loader's pod, Pod Identity, IRSA, an instance role.
"""

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from modelyard.errors import ModelyardError, SourceDenied, SourceMissing
from modelyard.models import Checksum, Pin, Restore, S3Location, SourceFile
from modelyard.plans.archives import is_archived
from modelyard.plans.digests import MARKER_NAME
from modelyard.sources.base import Done, Sink, Transfer
from modelyard.sources.s3_access import S3Access
from modelyard.sources.s3_answers import error_code, full_object_checksum, object_error, source_error

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef, ObjectTypeDef, ObjectVersionTypeDef, RestoreStatusTypeDef

    from modelyard.sources.s3_fetch import S3Fetcher

_Page = TypeVar("_Page")

#: 400, 501: how servers refuse headers that they do not know.
_NOT_UNDERSTOOD = {HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_IMPLEMENTED}
_NO_VERSIONS = {"AccessDenied", "NotImplemented", "MethodNotAllowed", "403", "501", "405"}


def s3_client(location: S3Location) -> "S3Client":
    """A client for ``location`` with credentials from the environment; a CA from AWS_CA_BUNDLE is used by boto3 itself.

    Raises:
        SourceMissing: the endpoint is no URL, or the CA's file is not there.
    """
    if (ca_bundle := os.environ.get("AWS_CA_BUNDLE")) and not Path(ca_bundle).is_file():
        raise SourceMissing(f"{location.uri}: AWS_CA_BUNDLE names {ca_bundle}, which is no file; give the CA in the source's block")
    if location.endpoint_url and not re.match(r"https?://[^/]+", location.endpoint_url):
        raise SourceMissing(f"{location.uri}: endpoint {location.endpoint_url!r} is no URL; write https://host:port")
    config = client_config(own_endpoint=location.endpoint_url is not None)
    return boto3.session.Session().client("s3", endpoint_url=location.endpoint_url, region_name=location.region, config=config)


def client_config(*, own_endpoint: bool) -> Config:
    """Patient within limits, and for stores other than AWS path-style addresses and only the checksums that are required:
    many serve no bucket by host name, and not all know the trailing checksums that boto3 sends by default since 1.36.
    """
    common = Config(connect_timeout=5, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 5})
    if not own_endpoint:
        return common
    required: dict[str, Any] = {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
    return common.merge(Config(s3={"addressing_style": "path"}, **required))


class S3Source:
    """A model's files below one prefix of a bucket. ``pin`` is how they are listed; None: as the account may, told after the listing.

    ``access`` is what the bytes are read with where the environment does not hold it.
    """

    def __init__(self, location: S3Location, client: "S3Client", pin: Pin | None = None, access: S3Access | None = None) -> None:
        self.location = location
        self.pin = pin
        self._client = client
        self._access = access
        self._fetcher: S3Fetcher | None = None
        self._starting = threading.Lock()

    def list(self) -> Iterator[SourceFile]:
        """The objects below the prefix, pinned to their VersionId where the bucket has versions, else to their ETag.

        Passed over are folder markers (keys that end in '/' and hold nothing, as S3 consoles make them) and the marker of an upload.

        Raises:
            SourceDenied: beside its other reasons, the plan's account could list versions, and this one may not.
        """
        if self.pin is not Pin.ETAG:
            try:
                yield from self._restored(_versions(self._client, self.location))
            except ClientError as error:
                if error_code(error) not in _NO_VERSIONS:
                    raise source_error(error, self.location.uri) from error
                if self.pin is Pin.VERSION:
                    raise _may_not_list_versions(self.location) from error
            except BotoCoreError as error:
                raise source_error(error, self.location.uri) from error
            else:
                self.pin = Pin.VERSION
                return
        # ListObjectVersions is a permission of its own, and some servers lack it: then the ETag is the pin.
        try:
            yield from self._restored(_objects(self._client, self.location))
        except (ClientError, BotoCoreError) as error:
            raise source_error(error, self.location.uri) from error
        self.pin = Pin.ETAG

    def _restored(self, files: Iterable[SourceFile]) -> Iterator[SourceFile]:
        """With the restores that only a HEAD tells, where listings tell none; the first that is not restored ends the asking."""
        ask = True
        for file in files:
            if not (ask and is_archived(file)):
                yield file
                continue
            with suppress(ModelyardError):  # an account may list what it may not read: then it is as it was listed
                file = replace(file, restore=_restore_told(self._head(file).get("Restore", "")))  # noqa: PLW2901 - the same file
            ask = not is_archived(file)
            yield file

    def _head(self, file: SourceFile) -> "HeadObjectOutputTypeDef":
        try:
            return self._client.head_object(**self._pinned(file), ChecksumMode="ENABLED")
        except (ClientError, BotoCoreError) as error:
            raise object_error(error, self.location, file) from error

    def stat(self, file: SourceFile) -> Checksum | None:
        """The checksum of the whole object as the server keeps it."""
        headers = self._head(file)["ResponseMetadata"]["HTTPHeaders"]
        return full_object_checksum({name.lower(): value for name, value in headers.items()})

    def read(self, file: SourceFile, start: int, count: int) -> bytes:
        """The object's ``count`` bytes at ``start``, by a request of their own."""
        try:
            return self._client.get_object(**self._pinned(file), Range=f"bytes={start}-{start + count - 1}")["Body"].read()
        except (ClientError, BotoCoreError) as error:
            raise object_error(error, self.location, file) from error

    def _pinned(self, file: SourceFile) -> dict[str, Any]:
        """The object's address, and what ties it to the bytes that were listed."""
        pin = {"VersionId": file.version_id} if file.version_id else {"IfMatch": file.etag} if file.etag else {}
        return {"Bucket": self.location.bucket, "Key": self.location.directory + file.path, **pin}

    def fetch(self, file: SourceFile, sink: Sink, start: int, done: Done) -> Transfer:
        """Push the object's bytes from ``start`` on into ``sink``, through the AWS Common Runtime."""
        with self._starting:
            if self._fetcher is None:
                from modelyard.sources.s3_fetch import S3Fetcher  # noqa: PLC0415 - 0.2 s and 30 MB that a listing does not need

                self._fetcher = S3Fetcher(self.location, self._access)
        return self._fetcher.fetch(file, sink, start, done)


def _may_not_list_versions(location: S3Location) -> SourceDenied:
    return SourceDenied(
        f"{location.uri}: the plan pinned its objects to their VersionIds, and this account may not list them: grant it"
        " s3:ListBucketVersions (and s3:GetObjectVersion) as the flow's account has, or take it from both"
    )


def _pages(paginate: Callable[..., Iterable[_Page]], location: S3Location) -> Iterator[_Page]:
    """A listing's pages, with the status of restores; without it where a server does not take the question."""
    asked, begun = {"Bucket": location.bucket, "Prefix": location.directory}, False
    try:
        for page in paginate(**asked, OptionalObjectAttributes=["RestoreStatus"]):
            begun = True
            yield page
    except ClientError as error:
        if begun or error.response["ResponseMetadata"]["HTTPStatusCode"] not in _NOT_UNDERSTOOD:
            raise
        yield from paginate(**asked)


def _versions(client: "S3Client", location: S3Location) -> Iterator[SourceFile]:
    last = None  # versitygw begins each page with the last entry of the one before
    for page in _pages(client.get_paginator("list_object_versions").paginate, location):
        for entry in page.get("Versions", ()):
            if entry["IsLatest"]:
                version = entry.get("VersionId")
                file = _file(location, entry, version if version != "null" else None)
                if file and file != last:
                    yield file
                    last = file


def _objects(client: "S3Client", location: S3Location) -> Iterator[SourceFile]:
    for page in _pages(client.get_paginator("list_objects_v2").paginate, location):
        for entry in page.get("Contents", ()):
            if file := _file(location, entry, None):
                yield file


def _file(location: S3Location, entry: "ObjectVersionTypeDef | ObjectTypeDef", version: str | None) -> SourceFile | None:
    path = entry["Key"].removeprefix(location.directory)
    if path == MARKER_NAME or ((path.endswith("/") or not path) and not entry["Size"]):
        return None
    restore = _restore(entry.get("RestoreStatus", {}))
    return SourceFile(path, entry["Size"], entry.get("ETag"), version, entry.get("StorageClass"), restore=restore)


def _restore_told(header: str) -> Restore | None:
    """By x-amz-restore: ``ongoing-request="false", expiry-date="..."``; a copy whose days are over has none.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadObject.html
    """
    ongoing = re.search('ongoing-request="(true|false)"', header)
    return None if ongoing is None else Restore.UNDER_WAY if ongoing[1] == "true" else Restore.DONE


def _restore(status: "RestoreStatusTypeDef") -> Restore | None:
    """A copy may be listed for a while after its days are over; one that stays for good (Ceph) has no day on which it ends."""
    if "IsRestoreInProgress" not in status:
        return None
    if status["IsRestoreInProgress"]:
        return Restore.UNDER_WAY
    expiry = status.get("RestoreExpiryDate")
    return Restore.DONE if expiry is None or expiry > datetime.now(UTC) else None
