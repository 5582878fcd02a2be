"""Images to be signed: built from a bucket with versions into each kind of registry, one of which lists referrers itself."""

import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from modelyard.images.references import Reference
from modelyard.signing.keys import SigningKey
from tests.services.oci.building import Builder
from tests.services.oci.registries import KINDS, Registry, registry_3, running_registry
from tests.services.ports import free_port
from tests.services.s3_fixtures import Bucket, bucket, certificates, s3_api, s3_server, versioned_bucket
from tests.services.signing.oracles import new_key_pair, program

__all__ = ["bucket", "certificates", "registry_3", "s3_api", "s3_server", "versioned_bucket"]

LISTING = "lists referrers"
PASSWORD = f"password{secrets.token_hex(8)}"
_STARTUP_SECONDS = 60


@contextmanager
def _listing_registry(data: Path) -> Iterator[Registry]:
    registry = Registry(LISTING, free_port(), data)
    registry.process = subprocess.Popen([str(program("./registry")), registry.host], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _STARTUP_SECONDS
        while time.monotonic() < deadline and registry.process.poll() is None:
            try:
                httpx.get(f"{registry.url}/v2/", timeout=5)
            except httpx.TransportError:
                time.sleep(0.02)
            else:
                break
        yield registry
    finally:
        registry.kill()


@pytest.fixture(scope="session", params=[*KINDS, LISTING])
def any_registry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Each kind in turn."""
    data = tmp_path_factory.mktemp("registry") / "data"
    with _listing_registry(data) if request.param == LISTING else running_registry(request.param, data) as running:
        yield running


@dataclass(frozen=True)
class KeyPair:
    """A key pair of cosign's: the private one encrypted."""

    private: str = field(repr=False)
    public: str

    @property
    def key(self) -> SigningKey:
        return SigningKey.load(self.private, PASSWORD)


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return KeyPair(*new_key_pair(tmp_path_factory.mktemp("keys"), PASSWORD))


@pytest.fixture(scope="session")
def other_keys(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return KeyPair(*new_key_pair(tmp_path_factory.mktemp("keys"), PASSWORD))


def build(bucket: Bucket, registry: Registry, files: dict[str, bytes], **fields: Any) -> Reference:
    """An image of these files in a repository of its own, by digest."""
    bucket.put(files)
    image, _ = Builder(bucket, registry).build(repository=f"models/{secrets.token_hex(4)}", **fields)
    return Reference.parse(image.image)
