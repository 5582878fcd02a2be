"""ECR's passwords: what AWS answers is a fake here (botocore's Stubber), the registry is a real one that takes those passwords.

Amazon ECR itself was never asked.
"""

import base64
import datetime as dt
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError, NoCredentialsError
from botocore.stub import Stubber

from modelyard.errors import RegistryDenied, RegistryUnavailable
from modelyard.modelcar.tuning import Tuning
from modelyard.oci.access import Access, Keychain
from modelyard.oci.ecr import EcrCredentials, ecr_region
from modelyard.oci.environment import keychain_of, secret_of
from modelyard.oci.registry import Repository
from tests.services.oci.registries import Registry, running_registry
from tests.services.oci.registry_proxy import Fault, proxy_before
from tests.services.oci.test_access import HTPASSWD
from tests.services.oci.test_faults import builder
from tests.services.oci.token_server import USER
from tests.services.s3_fixtures import Bucket

MIB = 1024 * 1024
_OPERATION = "get_authorization_token"


class FakeAws:
    """A client of boto3 whose answers are put there before; nothing leaves the machine."""

    def __init__(self) -> None:
        self.client = boto3.client("ecr", "eu-west-1", aws_access_key_id="a", aws_secret_access_key="b")
        self.stubber = Stubber(self.client)
        self.asked = 0

    def __call__(self) -> Any:
        self.asked += 1
        return self.client

    def answers(self, password: str, hours: float = 12) -> None:
        token = base64.b64encode(f"{USER.username}:{password}".encode()).decode()
        expires = dt.datetime.now(dt.UTC) + dt.timedelta(hours=hours)
        told = {"authorizationData": [{"authorizationToken": token, "expiresAt": expires, "proxyEndpoint": "https://x"}]}
        self.stubber.add_response(_OPERATION, told)


@pytest.fixture
def fake_aws() -> Iterator[FakeAws]:
    aws = FakeAws()
    with aws.stubber:
        yield aws


@pytest.fixture
def ecr(tmp_path: Path) -> Iterator[Registry]:
    """A registry that asks for a password by Basic, as ECR does."""
    file = tmp_path / "htpasswd"
    file.write_text(HTPASSWD)
    settings = {"auth": {"htpasswd": {"realm": "ecr", "path": str(file)}}}
    with running_registry("docker-registry-2.8", tmp_path / "ecr", settings=settings) as running:
        yield running


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("123456789012.dkr.ecr.eu-west-1.amazonaws.com", "eu-west-1"),
        ("123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("123456789012.dkr-ecr.eu-west-1.on.aws", "eu-west-1"),
        ("public.ecr.aws", None),
        ("123456789012.dkr.ecr.eu-west-1.amazonaws.com.example", None),
        ("registry.example:5000", None),
    ],
)
def test_hosts_of_ecr(host: str, region: str | None) -> None:
    assert ecr_region(host) == region


def test_one_password_serves_until_half_of_its_life(fake_aws: FakeAws) -> None:
    fake_aws.answers("first")
    credentials = EcrCredentials(fake_aws)
    assert [credentials.password for _ in range(5)] == ["first"] * 5
    fake_aws.answers("short", hours=0)
    fake_aws.answers("next")
    assert credentials.renewed(credentials.basic)
    assert (credentials.password, credentials.password) == ("short", "next")
    assert fake_aws.asked == 3


def test_a_password_that_another_thread_renewed_is_kept(fake_aws: FakeAws) -> None:
    fake_aws.answers("first")
    fake_aws.answers("second")
    credentials = EcrCredentials(fake_aws)
    old = credentials.basic
    credentials.renewed(old)
    new = credentials.basic
    credentials.renewed(old)
    assert credentials.basic == new
    assert fake_aws.asked == 2


def test_an_image_under_a_password_that_ends_in_mid_layer(bucket: Bucket, ecr: Registry, fake_aws: FakeAws) -> None:
    bucket.put({"a": b"1", "model.safetensors": os.urandom(17 * MIB)})
    fake_aws.answers(USER.password)
    fake_aws.answers(USER.password)
    ecr.credentials = EcrCredentials(fake_aws)
    with proxy_before(ecr) as proxy:
        proxy.faults = [Fault("^PATCH ", status=401, headers={"WWW-Authenticate": 'Basic realm="ecr"'})]
        image, _ = builder(bucket, proxy, Tuning(layers=1, retry_seconds=0.05)).build()
        assert proxy.faults[0].done == 1
    assert fake_aws.asked == 2, "the first was refused in mid-layer"
    with Repository(Access(ecr.host, plain_http=True, credentials=USER), "models/m") as repository:
        assert repository.digest("v1") == image.digest


def test_a_job_gets_the_password_of_now(fake_aws: FakeAws) -> None:
    fake_aws.answers(USER.password)
    host = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
    secret = secret_of(Keychain(Access(host, credentials=EcrCredentials(fake_aws))))
    assert keychain_of(secret, host, plain_http=False).main.credentials == USER


def test_a_password_is_never_handed_on(fake_aws: FakeAws) -> None:
    fake_aws.answers(USER.password)
    credentials = EcrCredentials(dict)
    credentials._client = fake_aws
    assert credentials.password == USER.password
    credentials._client = dict
    assert USER.password.encode() not in pickle.dumps(credentials)
    assert USER.password not in repr(credentials)


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("AccessDeniedException", 400, RegistryDenied),
        ("ThrottlingException", 400, RegistryUnavailable),
        ("ServerException", 500, RegistryUnavailable),
    ],
)
def test_what_aws_says_instead(code: str, status: int, kind: type[Exception], fake_aws: FakeAws) -> None:
    fake_aws.stubber.add_client_error(_OPERATION, code, "the words of AWS", status)
    with pytest.raises(kind, match="the words of AWS"):
        _ = EcrCredentials(fake_aws).basic


@pytest.mark.parametrize(
    ("error", "kind"),
    [(NoCredentialsError(), RegistryDenied), (EndpointConnectionError(endpoint_url="https://x"), RegistryUnavailable)],
)
def test_nobody_to_ask(error: Exception, kind: type[Exception]) -> None:
    def client() -> Any:
        raise error

    with pytest.raises(kind, match="ECR"):
        _ = EcrCredentials(client).basic


def test_an_answer_without_a_password(fake_aws: FakeAws) -> None:
    fake_aws.stubber.add_response(_OPERATION, {"authorizationData": [{"authorizationToken": "not base64!"}]})
    with pytest.raises(RegistryDenied, match="holds no password") as caught:
        _ = EcrCredentials(fake_aws).basic
    assert "base64!" not in json.dumps(caught.value.to_data())
