"""What an S3 server says of itself: its refusals as errors that say what to do next, and its checksums of whole objects."""

import base64
import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from botocore.exceptions import (
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    SSLError,
)
from botocore.exceptions import (
    ConnectionError as BotoConnectionError,
)

from modelyard.errors import ModelyardError, SourceChanged, SourceDenied, SourceMissing, SourceUnavailable
from modelyard.models import Checksum, S3Location, SourceFile
from modelyard.plans.archives import unreadable

#: Algorithms of x-amz-checksum headers, in the order in which a response is asked for them.
ALGORITHMS = ("CRC64NVME", "CRC32C", "CRC32", "SHA256", "SHA1")

#: The last is versitygw's, for a key that it does not know.
_WRONG_KEY = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "XAdminUserNotFound"}
_DENIED = {"AccessDenied", "InvalidToken", "403"} | _WRONG_KEY
_MISSING = {"NoSuchBucket", "NoSuchKey", "NoSuchVersion", "404", "NotFound"}
_CHANGED = {"PreconditionFailed", "412", "NoSuchKey", "NoSuchVersion", "404", "NotFound"}
#: Session credentials that are over. Roles' are renewed by whoever gives them, so this passes.
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
#: Beside these, every code with "Throttl" in it.
_PASSING = {"SlowDown", "RequestTimeout", "RequestLimitExceeded", "408", "425", "429"}
_PASSING_STATUS = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
#: Requests that were signed for, or sent to, a region that the bucket is not in.
_ELSEWHERE = {"AuthorizationHeaderMalformed", "PermanentRedirect", "301"}
_EXPECTED_REGION = re.compile("expecting '([^']+)'")
_UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"
#: In lower case, as headers are looked up here.
REGION_HEADER = "x-amz-bucket-region"
_MD5 = re.compile("[0-9a-f]{32}")


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


def error_code(error: ClientError) -> str:
    """The server's own code, such as NoSuchBucket."""
    return str(error.response.get("Error", {}).get("Code", ""))


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a server said instead of giving what was asked for; ``region`` and ``storage_class`` where it names them."""

    code: str
    status: int
    message: str = ""
    region: str = ""
    storage_class: str = ""


def no_credentials(subject: str) -> SourceDenied:
    """Nothing gave credentials for ``subject``."""
    return SourceDenied(f"{subject}: no credentials were found; give them in the source's block, or let Pod Identity or IRSA provide them")


def source_error(error: Exception, subject: str, *, versioned: bool = False) -> ModelyardError:
    """What a failed request for ``subject`` means, as an error that says what to do next."""
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return no_credentials(subject)
    if isinstance(error, SSLError) and _UNTRUSTED in str(error):  # other TLS errors are broken connections
        return SourceDenied(f"{subject}: the server's certificate is not trusted ({error}): give the CA in the source's block")
    if isinstance(error, BotoConnectionError | HTTPClientError):
        return SourceUnavailable(f"{subject}: the server cannot be reached ({error}); check the endpoint's address, port and certificate")
    if not isinstance(error, ClientError):
        return SourceUnavailable(f"{subject}: {error}")
    return http_error(_refusal(error), subject, versioned=versioned)


def _refusal(error: ClientError) -> Refusal:
    told: Any = error.response.get("Error", {})
    response: Any = error.response.get("ResponseMetadata", {})
    region = told.get("Region") or response.get("HTTPHeaders", {}).get(REGION_HEADER, "")
    return Refusal(error_code(error), int(response.get("HTTPStatusCode", 0)), told.get("Message", ""), region, told.get("StorageClass", ""))


def http_error(refusal: Refusal, subject: str, *, versioned: bool = False) -> ModelyardError:
    """What a server's refusal means: by its error code first, then by the HTTP status. ``versioned``: one version was asked for."""
    said = _said(refusal, subject)
    return _passing(refusal, said) or _lasting(refusal, said, versioned=versioned)


def _said(refusal: Refusal, subject: str) -> str:
    return f"{subject}: {refusal.code or refusal.status} {refusal.message}".strip().rstrip(".")


def _passing(refusal: Refusal, said: str) -> SourceUnavailable | None:
    code, status = refusal.code, refusal.status
    if code in _EXPIRED:
        return SourceUnavailable(f"{said}; the credentials have expired: another try gets fresh ones, unless they are fixed in the block")
    known = code in _DENIED | _MISSING  # whatever status a server puts beside it
    passing = code in _PASSING or "throttl" in code.lower() or status in _PASSING_STATUS
    return SourceUnavailable(said) if passing or (status >= HTTPStatus.INTERNAL_SERVER_ERROR and not known) else None


def _lasting(refusal: Refusal, said: str, *, versioned: bool) -> ModelyardError:
    code, status = refusal.code, refusal.status
    if code in _ELSEWHERE or status == HTTPStatus.MOVED_PERMANENTLY:
        return SourceMissing(f"{said}; the bucket is in {_region(refusal)}: give it in the source's block")
    if code == "RequestTimeTooSkewed":
        return SourceDenied(f"{said}; the clock of the machine that asks is wrong: set it, for example by NTP")
    if code in _DENIED or status in {401, 403}:
        return SourceDenied(f"{said}; {_denied_step(code, versioned=versioned)}")
    if code in _MISSING or status == HTTPStatus.NOT_FOUND:
        return SourceMissing(f"{said}; check the bucket, the prefix and the endpoint")
    return SourceMissing(f"{said}; the server does not take this request: check the endpoint, the region and the bucket's name")


def _denied_step(code: str, *, versioned: bool) -> str:
    if code in _WRONG_KEY:
        return "check the credentials: the key is not known there, or its secret is another"
    needed = " (a version of an object needs s3:GetObjectVersion)" if versioned else ""
    return f"check the credentials, and that they may list and read this prefix{needed}"


def _region(refusal: Refusal) -> str:
    named = refusal.region or "".join(_EXPECTED_REGION.findall(refusal.message)[:1])
    return f"the region {named}" if named else "another region"


def object_error(error: Exception, location: S3Location, file: SourceFile) -> ModelyardError:
    """Like ``source_error``, for an object that the listing showed: what is missing now has changed since."""
    if not isinstance(error, ClientError):
        return source_error(error, f"{location.uri}{file.path}")
    return changed(f"{location.uri}{file.path}") if error_code(error) in _CHANGED else refused_object(_refusal(error), location, file)


def refused_object(refusal: Refusal, location: S3Location, file: SourceFile) -> ModelyardError:
    """Like ``http_error``, for an object. What is archived is met here alone if it is in a tier of Intelligent-Tiering."""
    subject = f"{location.uri}{file.path}"
    if refusal.code == "InvalidObjectState":
        return SourceMissing(f"{_said(refusal, subject)}; {unreadable(location, file, refusal.storage_class)}")
    return http_error(refusal, subject, versioned=file.version_id is not None)


def changed(subject: str) -> SourceChanged:
    """The object was there when it was listed, and is gone or another one now."""
    return SourceChanged(f"{subject}: changed or deleted since it was listed; nothing was published: run it again to plan anew")
