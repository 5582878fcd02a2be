"""What an S3Source gives: a location, a client that trusts its authority, the loader's Secret; and what it hides."""

import stat
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from prefect_aws import AwsClientParameters, AwsCredentials, MinIOCredentials
from pydantic import SecretStr, ValidationError

from blocks import S3Source
from blocks.certificates import authority_file
from modelyard.errors import SourceDenied, SourceUnavailable
from modelyard.models import S3Location

KEYS = AwsCredentials(aws_access_key_id="AKIA", aws_secret_access_key=SecretStr("the-secret"), aws_session_token="the-session")
MINIO = MinIOCredentials(minio_root_user="root", minio_root_password=SecretStr("the-secret"))


@pytest.mark.parametrize(
    ("prefix", "path", "expected"),
    [
        ("", "", ""),
        ("base", "", "base"),
        ("", "llama/v1", "llama/v1"),
        ("/base/", "/llama/v1/", "base/llama/v1"),
        ("a/b", "c", "a/b/c"),
    ],
)
def test_a_path_extends_the_prefix(prefix: str, path: str, expected: str) -> None:
    source = S3Source(bucket="models", prefix=prefix, endpoint_url="https://minio:9000/", region="eu-central-1")
    assert source.location(path) == S3Location(bucket="models", prefix=expected, endpoint_url="https://minio:9000", region="eu-central-1")


def test_the_endpoint_of_the_credentials_counts_if_the_source_has_none() -> None:
    credentials = AwsCredentials(aws_client_parameters=AwsClientParameters(endpoint_url="https://minio:9000"))
    assert S3Source(bucket="models", credentials=credentials).location().endpoint_url == "https://minio:9000"
    assert S3Source(bucket="models").location().endpoint_url is None


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"bucket": "s3://models"}, "without s3:// and without a path"),
        ({"bucket": "models/llama"}, "without s3:// and without a path"),
        ({"bucket": "ab"}, "is no bucket's name"),
        ({"bucket": "models", "endpoint_url": "minio:9000"}, "must be http:// or https://"),
        ({"bucket": "models", "endpoint_url": "https://minio:9000/models"}, "a host and no path"),
        ({"bucket": "models", "endpoint_url": "https://root:the-secret@minio"}, "must hold no user or password"),
        ({"bucket": "models", "ca_certificate": "-----BEGIN CERTIFICATE-----"}, "holds no certificate in PEM form"),
    ],
)
def test_what_makes_no_source(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as invalid:
        S3Source(**fields)
    assert told in str(invalid.value)
    assert "the-secret" not in str(invalid.value)


def test_a_client_trusts_its_authority_and_asks_by_path(
    echo_server: tuple[str, list[tuple[str, str]]], authority: tuple[Path, Path]
) -> None:
    url, seen = echo_server
    source = S3Source(bucket="models", endpoint_url=url, ca_certificate=authority[0].read_text(), credentials=MINIO)
    assert source.client().list_objects_v2(Bucket="models")["KeyCount"] == 0
    ((path, signature),) = seen
    assert path.startswith("/models?list-type=2")
    assert "Credential=root/" in signature
    assert source.client() is not source.client()


def test_an_authority_lies_in_one_private_file(authority: tuple[Path, Path]) -> None:
    pem = authority[0].read_text()
    path = Path(authority_file(pem))
    assert path.read_text() == pem
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert authority_file(pem) == str(path)


def test_clients_are_patient_within_limits() -> None:
    config: Any = S3Source(bucket="models").client().meta.config
    assert (config.connect_timeout, config.read_timeout) == (5, 30)
    assert config.retries == {"mode": "standard", "total_max_attempts": 5}


@pytest.mark.parametrize(
    ("credentials", "expected"),
    [
        pytest.param(None, {}, id="what the pod has"),
        pytest.param(AwsCredentials(region_name="eu-central-1"), {}, id="a block without keys is what the pod has"),
        pytest.param(MINIO, {"AWS_ACCESS_KEY_ID": "root", "AWS_SECRET_ACCESS_KEY": "the-secret"}, id="minio"),
        pytest.param(
            KEYS,
            {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "the-secret", "AWS_SESSION_TOKEN": "the-session"},
            id="temporary keys",
        ),
    ],
)
def test_the_loaders_secret(
    credentials: AwsCredentials | MinIOCredentials | None, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of the flow's own pod")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the flow's own pod")
    assert S3Source(bucket="models", credentials=credentials).secret_data() == expected


def test_the_loaders_secret_holds_the_authority(authority: tuple[Path, Path]) -> None:
    pem = authority[0].read_text()
    assert S3Source(bucket="models", ca_certificate=pem).secret_data() == {"ca.crt": pem}


class TokenService:
    """Stands in for STS: what a role is answered with."""

    def __init__(self, answer: Exception | dict[str, str]) -> None:
        self.answer = answer

    def assume_role(self, **_: str) -> dict[str, Any]:
        if isinstance(self.answer, Exception):
            raise self.answer
        return {"Credentials": self.answer}


def refusal(status: int) -> ClientError:
    response: Any = {"Error": {"Code": f"Code{status}"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "AssumeRole")


def assumed(answer: Exception | dict[str, str], monkeypatch: pytest.MonkeyPatch) -> S3Source:
    monkeypatch.setattr("boto3.Session.client", lambda *_, **__: TokenService(answer))
    role = AwsCredentials(aws_access_key_id="AKIA", aws_secret_access_key=SecretStr("s"), assume_role_arn="arn:aws:iam::1:role/models")
    return S3Source(bucket="models", credentials=role)


def test_a_role_becomes_temporary_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    source = assumed({"AccessKeyId": "ASIA", "SecretAccessKey": "temporary", "SessionToken": "session"}, monkeypatch)
    assert source.secret_data() == {"AWS_ACCESS_KEY_ID": "ASIA", "AWS_SECRET_ACCESS_KEY": "temporary", "AWS_SESSION_TOKEN": "session"}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (refusal(403), SourceDenied),
        (refusal(500), SourceUnavailable),
        (EndpointConnectionError(endpoint_url="https://sts"), SourceUnavailable),
    ],
)
def test_a_role_that_is_not_given(answer: Exception, expected: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(expected):
        assumed(answer, monkeypatch).secret_data()


def test_a_profile_that_is_not_there_is_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(SourceDenied, match="absent"):
        S3Source(bucket="models", credentials=AwsCredentials(profile_name="absent")).client()


@pytest.mark.parametrize("credentials", [KEYS, MINIO])
def test_secrets_are_not_printed(credentials: AwsCredentials | MinIOCredentials) -> None:
    source = S3Source(bucket="models", credentials=credentials)
    for shown in (repr(source), str(source), str(source.model_dump()), source.model_dump_json(), repr(source.location("x"))):
        assert "the-secret" not in shown
        assert "the-session" not in shown
