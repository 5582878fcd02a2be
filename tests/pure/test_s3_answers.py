"""What an S3 server's refusals become, and where its buckets are asked for."""

import pytest
from awscrt.s3 import S3ResponseError
from botocore.exceptions import ClientError, ConnectTimeoutError, NoCredentialsError, SSLError

from modelyard.errors import ModelyardError, SourceChanged, SourceDenied, SourceMissing, SourceUnavailable
from modelyard.models import S3Location, SourceFile
from modelyard.sources.s3_answers import Refusal, http_error, object_error, source_error
from modelyard.sources.s3_fetch import address, crt_error

LOCATION = S3Location(bucket="bucket", prefix="m/v1", region="eu-west-1")
URI = LOCATION.uri
PINNED = SourceFile("x", 1, version_id="v-1")
UNTRUSTED = OSError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
MALFORMED = "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-west-1'"


@pytest.mark.parametrize(
    ("refusal", "kind", "told"),
    [
        (Refusal("ExpiredToken", 400), SourceUnavailable, "have expired"),
        (Refusal("ExpiredTokenException", 400), SourceUnavailable, "have expired"),
        (Refusal("TokenRefreshRequired", 400), SourceUnavailable, "have expired"),
        (Refusal("RequestExpired", 403), SourceUnavailable, "have expired"),
        (Refusal("Throttling", 400), SourceUnavailable, "Throttling"),
        (Refusal("ThrottlingException", 400), SourceUnavailable, "ThrottlingException"),
        (Refusal("RequestThrottled", 400), SourceUnavailable, "RequestThrottled"),
        (Refusal("RequestLimitExceeded", 503), SourceUnavailable, "RequestLimitExceeded"),
        (Refusal("RequestLimitExceeded", 400), SourceUnavailable, "RequestLimitExceeded"),
        (Refusal("SlowDown", 503), SourceUnavailable, "SlowDown"),
        (Refusal("", 408), SourceUnavailable, "408"),
        (Refusal("", 425), SourceUnavailable, "425"),
        (Refusal("", 429), SourceUnavailable, "429"),
        (Refusal("InternalError", 500), SourceUnavailable, "InternalError"),
        (Refusal("AccessDenied", 403), SourceDenied, "check the credentials"),
        (Refusal("", 403), SourceDenied, "check the credentials"),
        (Refusal("SignatureDoesNotMatch", 403, "Check your key."), SourceDenied, "Check your key; check the credentials: the key is"),
        (Refusal("XAdminUserNotFound", 404), SourceDenied, "the key is not known there"),
        (Refusal("AuthorizationHeaderMalformed", 400, MALFORMED), SourceMissing, "the bucket is in the region eu-west-1"),
        (Refusal("AuthorizationHeaderMalformed", 400, "", "eu-west-2"), SourceMissing, "the bucket is in the region eu-west-2"),
        (Refusal("PermanentRedirect", 301, "", "eu-west-2"), SourceMissing, "the bucket is in the region eu-west-2"),
        (Refusal("", 301), SourceMissing, "the bucket is in another region"),
        (Refusal("NoSuchBucket", 404), SourceMissing, "check the bucket"),
        (Refusal("InvalidRequest", 400), SourceMissing, "does not take this request"),
    ],
)
def test_a_refusal(refusal: Refusal, kind: type[ModelyardError], told: str) -> None:
    error = http_error(refusal, URI)
    assert type(error) is kind
    assert str(error).startswith(f"{URI}: ")
    assert told in str(error)
    assert "GetObjectVersion" not in str(error)


def test_a_version_that_may_not_be_read_names_the_permission() -> None:
    assert "s3:GetObjectVersion" in str(http_error(Refusal("AccessDenied", 403), URI, versioned=True))
    assert "s3:GetObjectVersion" in str(object_error(answer("403", 403), LOCATION, PINNED))


def answer(code: str, status: int, headers: dict[str, str] | None = None) -> ClientError:
    metadata = {"HTTPStatusCode": status, "HTTPHeaders": headers or {}, "RequestId": "", "HostId": "", "RetryAttempts": 0}
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": metadata}, "HeadObject")  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (SSLError(endpoint_url="https://x", error=UNTRUSTED), SourceDenied, "certificate is not trusted"),
        (SSLError(endpoint_url="https://x", error=UNTRUSTED), SourceDenied, "give the CA in the source's block"),
        (
            SSLError(endpoint_url="https://x", error=OSError("EOF occurred in violation of protocol")),
            SourceUnavailable,
            "cannot be reached",
        ),
        (ConnectTimeoutError(endpoint_url="https://x"), SourceUnavailable, "cannot be reached"),
        (NoCredentialsError(), SourceDenied, "no credentials were found"),
        (answer("301", 301, {"x-amz-bucket-region": "eu-west-2"}), SourceMissing, "the region eu-west-2"),
        (answer("429", 429), SourceUnavailable, "429"),
    ],
)
def test_a_failed_request(error: Exception, kind: type[ModelyardError], told: str) -> None:
    found = source_error(error, URI)
    assert type(found) is kind
    assert told in str(found)


@pytest.mark.parametrize(
    ("status", "code", "kind", "told"),
    [
        (301, "PermanentRedirect", SourceMissing, "the region eu-west-2"),
        (400, "ExpiredToken", SourceUnavailable, "have expired"),
        (403, "AccessDenied", SourceDenied, "s3:GetObjectVersion"),
        (404, "NoSuchKey", SourceChanged, "changed or deleted"),
    ],
)
def test_the_engine_is_refused(status: int, code: str, kind: type[ModelyardError], told: str) -> None:
    headers = [("X-Amz-Bucket-Region", "eu-west-2")]
    error = S3ResponseError(code=1, name="AWS_ERROR", message="", status_code=status, headers=headers)
    found = crt_error(error, status, f"<Error><Code>{code}</Code></Error>".encode(), LOCATION, PINNED)
    assert type(found) is kind
    assert told in str(found)


@pytest.mark.parametrize(
    ("bucket", "region", "host", "path"),
    [
        ("models-1", "eu-west-1", "models-1.s3.eu-west-1.amazonaws.com", "/"),
        ("models.old", "eu-west-1", "s3.eu-west-1.amazonaws.com", "/models.old/"),
        ("Models", "us-east-1", "s3.us-east-1.amazonaws.com", "/Models/"),
        ("my_models", "us-east-1", "s3.us-east-1.amazonaws.com", "/my_models/"),
        ("models", "cn-north-1", "models.s3.cn-north-1.amazonaws.com.cn", "/"),
    ],
)
def test_where_a_bucket_is_asked_for(bucket: str, region: str, host: str, path: str) -> None:
    assert address(S3Location(bucket=bucket, region=region)) == (host, path, True)


def test_an_own_endpoint_is_asked_by_path() -> None:
    location = S3Location(bucket="models", endpoint_url="http://minio:9000/base/")
    assert address(location) == ("minio:9000", "/base/models/", False)
