"""The bytes of S3 objects through the AWS Common Runtime (CRT), in order and in one pass.

Why the CRT: over TLS it costs half of the CPU of Python's ssl, and it is in-process (benchmarks/). Large objects are split
into parallel ranged requests and handed back in order; small ones are one plain GET each, because the CRT puts a HEAD
before every object that it validates. Validation is ours in both cases (``Sink.expect``), so that one rule holds for all.
"""

import os
import re
import threading
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from awscrt.auth import AwsCredentials, AwsCredentialsProvider
from awscrt.exceptions import AwsCrtError
from awscrt.http import HttpHeaders, HttpRequest
from awscrt.io import ClientBootstrap, ClientTlsContext, DefaultHostResolver, EventLoopGroup, TlsContextOptions
from awscrt.s3 import (
    S3ChecksumConfig,
    S3Client,
    S3RequestTlsMode,
    S3RequestType,
    S3ResponseError,
    create_default_s3_signing_config,
)
from botocore.session import get_session

from modelyard.errors import ContentMismatch, ModelyardError, SourceUnavailable
from modelyard.models import S3Location, SourceFile
from modelyard.sources.base import Done, Sink
from modelyard.sources.s3_access import S3Access
from modelyard.sources.s3_answers import REGION_HEADER, Refusal, changed, full_object_checksum, no_credentials, refused_object

#: Measured with benchmarks/preload.py on 2 CPUs, 4 x 1 GiB. What waits to be hashed waits as whole parts: with parts of 8 MiB the
#: loader grew to 430 MiB, with these to 340. Smaller ones cost the server more: each range 1 to 2 ms of its CPU.
PART_SIZE = 5 * 1024 * 1024
THROUGHPUT_GBPS = 5.0
#: Threads for TLS, and as many for hashing and writing. The CRT would take half of the node's CPUs, whatever the pod's limit is: one
#: of 2, whose single thread that hashes held up all others (17 s for 14). Four win nothing on 2 CPUs and cost memory.
_EVENT_LOOPS = 2
#: 404: the version was deleted; 412: the ETag is another one.
_CHANGED_STATUS = {404, 412}
_MISMATCH = "AWS_ERROR_S3_RESPONSE_CHECKSUM_MISMATCH"


class S3Fetcher:
    """Fetches objects of one location. One per process: the CRT keeps threads and connections."""

    def __init__(self, location: S3Location, access: S3Access | None = None) -> None:
        self._location = location
        access = access or S3Access()
        self._host, self._base, tls = address(location)
        options = TlsContextOptions()
        if access.authority:
            options.override_default_trust_store(access.authority.encode())
        elif ca_bundle := os.environ.get("AWS_CA_BUNDLE"):
            options.override_default_trust_store_from_path(None, ca_bundle)
        connection = ClientTlsContext(options).new_connection_options()
        loops = EventLoopGroup(_EVENT_LOOPS)
        self._client = S3Client(
            bootstrap=ClientBootstrap(loops, DefaultHostResolver(loops)),
            region=location.region,
            signing_config=create_default_s3_signing_config(region=location.region, credential_provider=_credentials(location, access)),
            tls_mode=S3RequestTlsMode.ENABLED if tls else S3RequestTlsMode.DISABLED,
            tls_connection_options=connection if tls else None,
            part_size=PART_SIZE,
            throughput_target_gbps=THROUGHPUT_GBPS,
            connect_timeout_ms=5000,
        )

    def fetch(self, file: SourceFile, sink: Sink, start: int, done: Done) -> "S3Transfer":
        """Push the object's bytes from ``start`` on into ``sink``; ``done`` is called once, from a thread of the CRT."""
        transfer = S3Transfer(self._location, file, sink, done)
        large = file.size > PART_SIZE
        transfer.begin(
            self._client,
            type=S3RequestType.GET_OBJECT if large else S3RequestType.DEFAULT,
            operation_name=None if large else "GetObject",
            request=HttpRequest("GET", self._path(file), self._headers(file, start, large=large)),
            # Ranged parts carry no checksum; with validation on, the CRT asks for it by a HEAD, which we get to see.
            checksum_config=S3ChecksumConfig(validate_response=True) if large and not start else None,
        )
        return transfer

    def _path(self, file: SourceFile) -> str:
        path = self._base + quote(self._location.directory + file.path, safe="/~")
        return f"{path}?versionId={quote(file.version_id, safe='')}" if file.version_id else path

    def _headers(self, file: SourceFile, start: int, *, large: bool) -> HttpHeaders:
        headers = HttpHeaders([("host", self._host)])
        if not file.version_id and file.etag:
            headers.add("if-match", file.etag)
        if start:
            headers.add("range", f"bytes={start}-")
        elif not large:
            headers.add("x-amz-checksum-mode", "ENABLED")
        return headers


class S3Transfer:
    """One object on its way. The CRT calls back from its threads, one call at a time."""

    def __init__(self, location: S3Location, file: SourceFile, sink: Sink, done: Done) -> None:
        self._location, self._file = location, file
        self._sink = sink
        self._done = done
        self._failure: Exception | None = None
        self._request: Any = None
        self._ended = False
        self._begun = threading.Event()

    def begin(self, client: S3Client, **request: Any) -> None:
        """Start the request. A callback may come before this returns."""
        self._request = client.make_request(on_headers=self._on_headers, on_body=self._on_body, on_done=self._on_done, **request)
        if self._ended:
            self._request = None
        self._begun.set()

    def cancel(self) -> None:
        self._begun.wait()
        if request := self._request:
            request.cancel()

    def _on_headers(self, status_code: int, headers: Sequence[tuple[str, str]], **_: Any) -> None:
        if status_code == 200:  # noqa: PLR2004 - a ranged response (206) has no checksum of the whole
            self._sink.expect(full_object_checksum({name.lower(): value for name, value in headers}))

    def _on_body(self, chunk: bytes, offset: int, **_: Any) -> None:
        if self._failure:
            return
        try:
            self._sink.write(chunk, offset)
        except Exception as failure:  # noqa: BLE001 - a full volume, above all; the CRT must not see it, ``done`` must
            self._failure = failure
            threading.Thread(target=self.cancel).start()  # not from the CRT's own thread: it may still be in make_request

    def _on_done(self, error: Exception | None, status_code: int | None, error_body: bytes | None, **_: Any) -> None:
        # The CRT's memory holds these callbacks, where Python's collector sees no circle; unbroken, it would keep 14 KiB a file.
        self._ended, self._request = True, None
        self._done(self._reason(error, status_code, error_body))

    def _reason(self, error: Exception | None, status_code: int | None, body: bytes | None) -> ModelyardError | None:
        if isinstance(self._failure, ModelyardError):
            return self._failure
        if self._failure:
            return SourceUnavailable(f"{self._location.uri}{self._file.path}: {self._failure}")
        return crt_error(error, status_code, body, self._location, self._file) if error else None


def crt_error(error: Exception, status_code: int | None, body: bytes | None, location: S3Location, file: SourceFile) -> ModelyardError:
    """What the CRT's failure means: the server's refusal, its own verdict on a checksum, or a broken connection."""
    subject = f"{location.uri}{file.path}"
    if isinstance(error, S3ResponseError) and status_code:
        if status_code in _CHANGED_STATUS:
            return changed(subject)
        region = _element("Region", body) or _header(REGION_HEADER, error.headers or [])
        refusal = Refusal(_element("Code", body), status_code, _element("Message", body), region, _element("StorageClass", body))
        return refused_object(refusal, location, file)
    if isinstance(error, AwsCrtError) and error.name == _MISMATCH:
        return ContentMismatch(f"{subject}: the bytes that arrived are not those whose checksum the source keeps")
    reason = f"{error.name}: {error.message}" if isinstance(error, AwsCrtError) else str(error)
    return SourceUnavailable(f"{subject}: {reason}")


def address(location: S3Location) -> tuple[str, str, bool]:
    """Host header, path before the key, and whether TLS is spoken: path style for an own endpoint, virtual hosts for AWS."""
    if location.endpoint_url:
        parts = urlsplit(location.endpoint_url)
        return parts.netloc, f"{parts.path.rstrip('/')}/{location.bucket}/", parts.scheme == "https"
    domain = f"s3.{location.region}.amazonaws.com{'.cn' if location.region.startswith('cn-') else ''}"
    # The wildcard certificate covers one label only, and old buckets have names that are no host's: upper case and '_'.
    if not re.fullmatch("[a-z0-9-]+", location.bucket):
        return domain, f"/{location.bucket}/", True
    return f"{location.bucket}.{domain}", "/", True


def _credentials(location: S3Location, access: S3Access) -> AwsCredentialsProvider:
    """boto3's own credentials, so that listing and reading never differ; temporary ones are refreshed by botocore."""
    found = access.credentials or get_session().get_credentials()
    if found is None:
        raise no_credentials(location.uri)

    def current() -> AwsCredentials:
        frozen = found.get_frozen_credentials()
        return AwsCredentials(frozen.access_key, frozen.secret_key, frozen.token)

    return AwsCredentialsProvider.new_delegate(current)


def _header(wanted: str, headers: Sequence[tuple[str, str]]) -> str:
    return next((value for name, value in headers if name.lower() == wanted), "")


def _element(name: str, body: bytes | None) -> str:
    """The text of an element of S3's error document; empty if the body is none."""
    found = re.search(rf"<{name}>([^<]{{1,300}})</{name}>", (body or b"").decode(errors="replace"))
    return found[1] if found else ""
