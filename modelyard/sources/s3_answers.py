"""What an S3 server says of itself: its refusals as errors that say what to do next, and its checksums of whole objects."""

import base64
import re

from botocore.exceptions import (
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.exceptions import (
    ConnectionError as BotoConnectionError,
)

from modelyard.errors import ModelyardError, SourceChanged, SourceDenied, SourceMissing, SourceUnavailable
from modelyard.models import Checksum

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
_SERVER_ERROR = 500
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
    code, status = error_code(error), int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
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
    if isinstance(error, ClientError) and error_code(error) in _CHANGED:
        return changed(subject)
    return source_error(error, subject)


def changed(subject: str) -> SourceChanged:
    """The object was there when it was listed, and is gone or another one now."""
    return SourceChanged(f"{subject}: changed or deleted since it was listed; nothing was published: run the preload again to plan anew")
