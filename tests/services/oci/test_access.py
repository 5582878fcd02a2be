"""Who may push: TLS under an own authority, passwords, tokens that end in mid-layer; and what is said to those who may not."""

import os
from collections.abc import Iterator
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path

import pytest

from modelyard.errors import RegistryDenied, RegistryRefused, RegistryUnavailable
from modelyard.images.references import Reference
from modelyard.modelcar.tuning import Tuning
from modelyard.oci.access import Access, Credentials, Keychain
from modelyard.oci.http import Patience
from modelyard.oci.registry import Repository
from tests.services.oci.building import Builder
from tests.services.oci.registries import Registry, running_registry
from tests.services.oci.registry_proxy import Fault, proxy_before
from tests.services.oci.test_faults import builder
from tests.services.oci.token_server import USER, TokenServer, token_server
from tests.services.s3_fixtures import Bucket, Certificates

MIB = 1024 * 1024
#: The devcluster builds its distribution 3 without access controllers.
_WITH_AUTH = "docker-registry-2.8"
ONCE = Patience(attempts=1)
#: bcrypt of "of-these-tests", as `htpasswd -nbB builder of-these-tests` writes it.
HTPASSWD = "builder:$2b$05$OoGM5cdTclPZNFTsePjEJuffPU3Kfz9MNQl3HsrwB8DX/p5gH0Ob.\n"


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[TokenServer]:
    with token_server(tmp_path) as running:
        yield running


@pytest.fixture
def token_registry(tokens: TokenServer, tmp_path: Path) -> Iterator[Registry]:
    with running_registry(_WITH_AUTH, tmp_path / "tokens", settings=tokens.settings, credentials=USER) as running:
        yield running


@pytest.fixture
def password_registry(tmp_path: Path) -> Iterator[Registry]:
    file = tmp_path / "htpasswd"
    file.write_text(HTPASSWD)
    settings = {"auth": {"htpasswd": {"realm": "tests", "path": str(file)}}}
    with running_registry(_WITH_AUTH, tmp_path / "passwords", settings=settings, credentials=USER) as running:
        yield running


def test_tls_under_an_own_authority(bucket: Bucket, tls_registry: Registry, certificates: Certificates) -> None:
    bucket.put({"a": b"1", "model.safetensors": os.urandom(17 * MIB)})
    image, _ = Builder(bucket, tls_registry).build()
    with Repository(tls_registry.access, "models/m") as repository:
        assert repository.digest("v1") == image.digest
    for authority in (None, certificates.other_ca.read_text()):
        with (
            Repository(replace(tls_registry.access, authority=authority), "m", ONCE) as other,
            pytest.raises(RegistryDenied, match="its CA"),
        ):
            other.find("v1")


def test_plain_http_only_when_said(registry: Registry) -> None:
    with Repository(Access(registry.host), "m", ONCE) as repository, pytest.raises(RegistryRefused, match="plain HTTP"):
        repository.find("v1")


def test_nobody_there(caplog: pytest.LogCaptureFixture) -> None:
    with (
        Repository(Access("127.0.0.1:1", plain_http=True), "m", Patience(attempts=2, first=0.01)) as repository,
        pytest.raises(RegistryUnavailable, match=r"cannot be reached.*check its host and port"),
    ):
        repository.find("v1")
    [told] = [record.getMessage() for record in caplog.records if record.name.startswith("modelyard.")]  # others log in threads of theirs
    assert "cannot be reached" in told
    assert "tried again in" in told


def test_a_base_whose_registry_is_not_there(bucket: Bucket, registry_3: Registry) -> None:
    """Who named no base does not know that there is one."""
    bucket.put({"a": b"1"})
    base = Reference.parse("127.0.0.1:1/library/busybox:1")
    with pytest.raises(RegistryUnavailable, match=r"base 127.0.0.1:1/library/busybox:1: .*; or name another base, or none"):
        Builder(bucket, registry_3).plan(base=base)


def test_a_password(bucket: Bucket, password_registry: Registry) -> None:
    bucket.put({"a": b"1"})
    image, _ = Builder(bucket, password_registry).build()
    with Repository(password_registry.access, "models/m") as repository:
        assert repository.digest("v1") == image.digest


@pytest.mark.parametrize("credentials", [None, Credentials("builder", "wr0ng")], ids=["none", "wrong"])
def test_wrong_passwords(credentials: Credentials | None, bucket: Bucket, password_registry: Registry, token_registry: Registry) -> None:
    bucket.put({"a": b"1"})
    for registry in (password_registry, token_registry):
        registry.credentials = credentials
        with pytest.raises(RegistryDenied, match=r"check the user name|no token") as caught:
            Builder(bucket, registry).build()
        assert "wr0ng" not in str(caught.value)


def test_tokens(bucket: Bucket, token_registry: Registry, tokens: TokenServer) -> None:
    bucket.put({"a": b"1", "model.safetensors": os.urandom(17 * MIB)})
    image, built = Builder(bucket, token_registry).build()
    assert len(built.layers) == 2
    assert ["repository:models/m:pull,push"] in tokens.asked
    with Repository(token_registry.access, "models/m") as repository:
        assert repository.digest("v1") == image.digest


@pytest.mark.parametrize("line", ["^PATCH ", "^PUT .*/uploads/", "^PUT .*/manifests/"])
def test_a_token_that_ends_in_mid_layer(line: str, bucket: Bucket, token_registry: Registry, tokens: TokenServer) -> None:
    """The registry's own refusal of it, put in its place: registries take tokens for a minute longer than they say."""
    bucket.put({"model.safetensors": os.urandom(17 * MIB)})
    challenge = f'Bearer realm="{tokens.url}/token",service="registry",scope="repository:models/m:pull,push",error="invalid_token"'
    with proxy_before(token_registry) as proxy:
        proxy.faults = [Fault(line, status=401, headers={"WWW-Authenticate": challenge})]
        image, _ = builder(bucket, proxy, Tuning(retry_seconds=0.05)).build()
        assert proxy.faults[0].done == 1
    with Repository(token_registry.access, "models/m") as repository:
        assert repository.digest("v1") == image.digest


def test_credentials_do_not_follow_to_another_host(registry: Registry) -> None:
    """A registry that points elsewhere gets no password sent there."""
    with proxy_before(registry) as proxy:
        elsewhere = f"http://{registry.host}/v2/"
        proxy.faults = [
            Fault("^GET ", status=401, headers={"WWW-Authenticate": "Basic realm=x"}),
            Fault("^GET ", status=307, headers={"Location": elsewhere}),
        ]
        keychain = Keychain(Access(proxy.host, plain_http=True, credentials=USER))
        before = len(registry.log.read_text())
        with Repository(keychain.main, "m", ONCE) as repository:
            repository.http.request("GET", "/v2/m/blobs/x", repository.scopes)
    told = registry.log.read_text()[before:]  # perhaps with lines of what earlier tests had broken off
    assert '"GET /v2/ ' in told
    assert USER.username not in told


@pytest.mark.parametrize("asks", ["Basic realm=x", 'Bearer realm="{elsewhere}/token",service=x'], ids=["basic", "bearer"])
@pytest.mark.parametrize("before", ["", "Basic realm=x"], ids=["first", "after the registry's own"])
def test_another_host_that_asks_for_credentials_gets_none(asks: str, before: str, registry_3: Registry) -> None:
    """A 401 of whoever a redirect leads to is no challenge of the registry's: nothing is sent for it, neither there nor to a realm."""
    with proxy_before(registry_3) as proxy, proxy_before(registry_3) as other:
        elsewhere = f"http://{other.host}"
        proxy.faults = [Fault("^GET ", status=401, headers={"WWW-Authenticate": before})] if before else []
        proxy.faults += [Fault("^GET ", status=307, headers={"Location": f"{elsewhere}/v2/m/blobs/x"}, times=3)]
        other.faults = [Fault("^GET ", status=401, headers={"WWW-Authenticate": asks.format(elsewhere=elsewhere)}, times=9)]
        keychain = Keychain(Access(proxy.host, plain_http=True, credentials=USER))
        with Repository(keychain.main, "m", ONCE) as repository:
            for _ in range(2):
                assert repository.http.request("GET", "/v2/m/blobs/x", repository.scopes).status == HTTPStatus.UNAUTHORIZED
        assert len(proxy.passed) == (3 if before else 2)
    assert other.passed == ["GET /v2/m/blobs/x"] * 2
    assert other.authorized == []
    assert len(proxy.authorized) == (2 if before else 0), "to the registry itself, as it asked"
