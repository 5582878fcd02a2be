"""Real registries for tests: distribution 3 as the devcluster builds it, and Debian's docker-registry 2.8, each as a process.

The Debian package is unpacked, not installed: installing it starts a service.
"""

import json
import os
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from devcluster.build import MODULES, build_all
from devcluster.packages import unpack_package
from modelyard.oci.access import Access, Keychain, Login
from tests.services.ports import free_port
from tests.services.s3_fixtures import Certificates

_STARTUP_SECONDS = 60
KINDS = ("distribution-3", "docker-registry-2.8")


def program(kind: str) -> Path:
    """The registry's program, built or unpacked once into the user's cache."""
    if kind == "distribution-3":
        [module] = [module for module in MODULES if module.name == "registry"]
        [directory] = build_all([module])
        return directory / "registry"
    return unpack_package("docker-registry") / "usr/bin/docker-registry"


@dataclass
class Registry:
    """A registry's process, which a test may kill and start again on the same port and data."""

    kind: str
    port: int
    data: Path
    settings: dict[str, Any] = field(default_factory=dict)
    scheme: str = "http"
    authority: Path | None = None
    credentials: Login | None = None
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    @property
    def access(self) -> Access:
        authority = self.authority.read_text() if self.authority else None
        return Access(self.host, plain_http=self.scheme == "http", authority=authority, credentials=self.credentials)

    @property
    def keychain(self) -> Keychain:
        return Keychain(self.access)

    @property
    def log(self) -> Path:
        return self.data.parent / f"{self.data.name}.log"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        config = {
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": False}},
            "storage": {"filesystem": {"rootdirectory": str(self.data)}, "delete": {"enabled": True}},
            "http": {"addr": self.host, "secret": "of these tests alone"},  # else a restart would forget its uploads
        }
        _merge(config, self.settings)
        file = self.data.parent / f"{self.data.name}.json"
        file.write_text(json.dumps(config))
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("REGISTRY_", "OTEL_"))}
        environment["OTEL_TRACES_EXPORTER"] = "none"  # distribution 3 else looks for a collector
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([str(program(self.kind)), "serve", str(file)], stdout=log, stderr=log, env=environment)
        deadline = time.monotonic() + _STARTUP_SECONDS
        verify = ssl.create_default_context(cafile=str(self.authority)) if self.authority else True
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                httpx.get(f"{self.url}/v2/", timeout=5, verify=verify)
            except httpx.TransportError:
                time.sleep(0.02)
            else:
                return
        pytest.fail(f"{self.kind} did not start (exit code {self.process.poll()}): {self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        """Kill it -9."""
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def requests(self, method: str, part: str = "") -> list[str]:
        """The requests of ``method`` whose line holds ``part``, as the access log has them: ``PATCH /v2/... HTTP/1.1" 202``."""
        return [line for line in self.log.read_text(errors="replace").splitlines() if f'"{method} ' in line and part in line]

    def abandoned(self, repository: str) -> int:
        """How many of a repository's uploads were given up."""
        return len({line.split()[6].partition("?")[0] for line in self.requests("DELETE", f"{repository}/blobs/uploads/")})

    def __hash__(self) -> int:
        return id(self)


def _merge(config: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, value in more.items():
        if isinstance(value, Mapping) and isinstance(config.get(name), dict):
            _merge(config[name], value)
        else:
            config[name] = value


@contextmanager
def running_registry(kind: str, data: Path, **fields: Any) -> Iterator[Registry]:
    """A registry over ``data`` while the block lasts."""
    data.mkdir(parents=True, exist_ok=True)
    registry = Registry(kind, free_port(), data, **fields)
    try:
        registry.start()
        yield registry
    finally:
        registry.kill()


@pytest.fixture(scope="session", params=KINDS)
def registry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Each kind in turn, one for the whole session; tests take repositories of their own."""
    with running_registry(request.param, tmp_path_factory.mktemp("registry") / "data") as running:
        yield running


@pytest.fixture(params=KINDS)
def own_registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    """Each kind in turn, for tests that kill it or count its requests."""
    with running_registry(request.param, tmp_path / "registry") as running:
        yield running


@pytest.fixture(scope="session")
def registry_3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Distribution 3 alone, for what does not depend on the registry."""
    with running_registry("distribution-3", tmp_path_factory.mktemp("registry3") / "data") as running:
        yield running


@pytest.fixture(params=KINDS)
def tls_registry(request: pytest.FixtureRequest, tmp_path: Path, certificates: Certificates) -> Iterator[Registry]:
    """Behind TLS under an authority of the tests."""
    tls = {"http": {"tls": {"certificate": str(certificates.certificate), "key": str(certificates.key)}}}
    with running_registry(request.param, tmp_path / "registry", settings=tls, scheme="https", authority=certificates.ca) as running:
        yield running
