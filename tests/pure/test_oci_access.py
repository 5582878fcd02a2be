"""Credentials from docker configs, challenges, and how an upload's bytes are cut."""

import base64
import json

import pytest
from pydantic import SecretStr
from urllib3 import Timeout

from blocks import OciRegistry
from flows.modelcar_sites import keychain_for
from flows.parameters import parse_image
from flows.verify import secrets_for
from modelyard.errors import RegistryDenied
from modelyard.images.descriptors import Platform
from modelyard.images.references import Reference
from modelyard.models import ClaimLocation, ModelRef
from modelyard.oci.access import Access, Credentials, Keychain, read_docker_config
from modelyard.oci.environment import CONFIG_VARIABLE, secret_of
from modelyard.oci.http import _Request
from modelyard.oci.tokens import Challenge
from modelyard.oci.uploads import SEND_SIZE, sendable
from modelyard.plans.modelcar import ModelcarRequest


def config(**auths: dict[str, str]) -> str:
    return json.dumps({"auths": {name.replace("_", "."): entry for name, entry in auths.items()}})


def test_a_docker_config() -> None:
    encoded = base64.b64encode(b"me:pass:word").decode()
    text = json.dumps(
        {
            "auths": {
                "registry.example": {"auth": encoded},
                "https://index.docker.io/v1/": {"username": "hub", "password": "p"},
                "azure.example": {"auth": base64.b64encode(b"00000000:").decode(), "identitytoken": "refresh"},
                "helper.example": {},
            }
        }
    )
    found = read_docker_config(text)
    assert found == {
        "registry.example": Credentials("me", "pass:word"),
        "index.docker.io": Credentials("hub", "p"),
        "azure.example": Credentials("00000000", "", "refresh"),
    }
    keychain = Keychain(Access("registry.example"), found)
    assert keychain.access(Reference.parse("docker.io/library/busybox:1")) == Access(
        "registry-1.docker.io", credentials=Credentials("hub", "p")
    )
    assert keychain.access(Reference.parse("other.example/m:1")) == Access("other.example")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"auths": 1}', '{"auths": {"r": {"auth": "s3cret%"}}}', '{"credsStore": "x"}'])
def test_no_docker_config_and_nothing_of_it_told(text: str) -> None:
    with pytest.raises(RegistryDenied) as caught:
        read_docker_config(text)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_secrets_do_not_show() -> None:
    credentials = Credentials("me", "s3cret", "r3fresh")
    shown = repr(Keychain(Access("r.example", credentials=credentials), {"r.example": credentials}))
    assert "s3cret" not in shown
    assert "r3fresh" not in shown


@pytest.mark.parametrize(
    ("header", "challenge"),
    [
        (
            'Bearer realm="https://auth.example/token",service="r",scope="a,b"',
            Challenge("bearer", {"realm": "https://auth.example/token", "service": "r", "scope": "a,b"}),
        ),
        ("Basic realm=registry", Challenge("basic", {"realm": "registry"})),
        ('bearer realm="x", error="invalid_token"', Challenge("bearer", {"realm": "x", "error": "invalid_token"})),
        ("Negotiate abc", None),
        ("", None),
    ],
)
def test_challenges(header: str, challenge: Challenge | None) -> None:
    assert Challenge.of(header) == challenge


@pytest.mark.parametrize("sizes", [[], [1], [SEND_SIZE], [SEND_SIZE - 1, 1], [512, 5 * SEND_SIZE + 3, 509, 1024], [1] * 1000])
def test_pieces_hold_the_same_bytes(sizes: list[int]) -> None:
    chunks = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    pieces = [bytes(piece) for piece in sendable(iter(chunks))]
    assert b"".join(pieces) == b"".join(chunks)
    assert all(0 < len(piece) <= SEND_SIZE for piece in pieces)


def test_a_job_is_given_credentials_of_no_other_registries_than_it_needs() -> None:
    text = config(
        r_example={"auth": _auth("me", "main")}, base_example={"auth": _auth("me", "base")}, other_example={"auth": _auth("me", "x")}
    )
    hub = json.dumps({"auths": json.loads(text)["auths"] | {"https://index.docker.io/v1/": {"auth": _auth("hub", "p")}}})
    request = ModelcarRequest(
        model="m",
        version="v1",
        source=ClaimLocation(claim="c", model=ModelRef(name="m", version="v1")),
        image=Reference(host="r.example", repository="m", tag="v1"),
        base=Reference(host="base.example", repository="b", tag="1"),
        platforms=(Platform.parse("linux/amd64"),),
    )
    registry = OciRegistry(host="r.example", docker_config=SecretStr(hub))
    kept = keychain_for(request, registry)
    assert read_docker_config(secret_of(kept)[CONFIG_VARIABLE]) == {
        "r.example": Credentials("me", "main"),
        "base.example": Credentials("me", "base"),
    }
    on_hub = keychain_for(request.model_copy(update={"base": parse_image("docker.io/library/busybox:1")}), registry)
    assert set(on_hub.others) == {"r.example", "index.docker.io"}
    assert read_docker_config(secrets_for(registry)[CONFIG_VARIABLE]) == {"r.example": Credentials("me", "main")}, "a repair"


def _auth(username: str, password: str) -> str:
    return base64.b64encode(f"{username}:{password}".encode()).decode()


def test_a_request_shows_no_secret() -> None:
    told = _Request("POST", {"Authorization": "Basic s3cret"}, Timeout(1), b"refresh_token=s3cret")
    assert "s3cret" not in repr(told) + str(told)
