"""A real S3 server for tests (versitygw over HTTPS, with a CA of its own), and the loader run against it as in its pod."""

import hashlib
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import boto3
import pytest
from botocore.awsrequest import AWSPreparedRequest
from botocore.config import Config

from devcluster.build import MODULES, build_all
from modelyard.models import Manifest, ModelRef, S3Location, summarise
from modelyard.orders import ENTRY_LINE, Entries, LoadSpec, Order
from modelyard.sources.s3 import S3Source, client_config
from tests.services.ports import free_port

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REPOSITORY = Path(__file__).parents[2]
_ACCESS_KEY = "loader-test"
#: Searched for in all that a loader says; nothing else looks like it.
SECRET_KEY = f"secret{secrets.token_hex(16)}"
_STARTUP_SECONDS = 60
RUN_SECONDS = 120
_LOG_LINE = re.compile(r"^\S+ (\S+) \[[^\]\n]*\] \S+ \S+ \S+ s3_(\w+) (.*?) /\S* (\d{3}) ", re.MULTILINE)


@dataclass(frozen=True)
class Certificates:
    """A CA, the server's certificate that it signed, and another CA that signed nothing here."""

    ca: Path
    certificate: Path
    key: Path
    other_ca: Path


@dataclass(frozen=True)
class S3Server:
    """A running server. ``requests`` reads its access log, which is what the tests believe about what was fetched."""

    url: str
    certificates: Certificates
    access_log: Path

    def environment(self, secret: str = SECRET_KEY, ca: Path | None = None) -> dict[str, str]:
        """What a loader's pod has in its environment for this server."""
        return {
            "AWS_ACCESS_KEY_ID": _ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_CA_BUNDLE": str(ca or self.certificates.ca),
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def requests(self) -> list["Request"]:
        """What the server answered so far, oldest first."""
        return [
            Request(bucket, operation, key, int(status))
            for bucket, operation, key, status in _LOG_LINE.findall(self.access_log.read_text())
        ]


@dataclass(frozen=True)
class Request:
    """One line of the server's access log."""

    bucket: str
    operation: str
    key: str
    status: int


@dataclass(frozen=True)
class Bucket:
    """A bucket of one test."""

    name: str
    server: S3Server
    client: "S3Client"

    def put(self, files: Mapping[str, bytes], prefix: str = "m/v1/") -> None:
        for key, body in files.items():
            self.client.put_object(Bucket=self.name, Key=prefix + key, Body=body)

    def location(self, prefix: str = "m/v1", url: str | None = None) -> S3Location:
        return S3Location(bucket=self.name, prefix=prefix, endpoint_url=url or self.server.url)

    def spec(self, version: str = "v1", prefix: str = "m/v1", url: str | None = None, **fields: Any) -> LoadSpec:
        """What the planner would tell a loader now."""
        listing = summarise(S3Source(self.location(prefix), self.client).list())
        return LoadSpec(model=ModelRef(name="m", version=version), source=self.location(prefix, url), listing=listing, **fields)

    def requests(self, *operations: str) -> list[Request]:
        """What was asked of this bucket."""
        return [
            request
            for request in self.server.requests()
            if request.bucket == self.name and (not operations or request.operation in operations)
        ]


@dataclass(frozen=True)
class Run:
    """How a loader ended."""

    code: int
    output: str
    message: dict[str, Any]

    @property
    def error(self) -> str:
        return str(self.message.get("message", ""))

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The entries of the log, which are those that the result counts and hashes."""
        lines = [line for line in self.output.splitlines() if line.startswith(ENTRY_LINE)]
        assert Entries.of(lines) == Entries.model_validate(self.message["entries"])
        return [json.loads(line) for line in lines]

    def failed(self, kind: str, *told: str, code: int = 1) -> None:
        """Assert the end with one clear error that tells all of ``told``."""
        assert (self.code, self.message.get("error")) == (code, kind), self.output
        for words in told:
            assert words in self.error, self.error

    def succeeded(self) -> dict[str, Any]:
        """Assert success; the result."""
        assert (self.code, self.message.get("event")) == (0, "result"), self.output
        return self.message


@dataclass
class Loader:
    """Runs the loader as its pod does: a process with credentials in its environment and a volume at ``root``."""

    root: Path
    scratch: Path
    environment: dict[str, str]
    runs: int = field(default=0)

    def start(self, order: Order, **environment: str) -> "Running":
        self.runs += 1
        log = self.scratch / f"termination-{self.runs}"
        log.touch()
        output = self.scratch / f"output-{self.runs}"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MODELYARD_"))}
        command = [sys.executable, "-m", "modelyard.loader", order.command, "--spec", order.model_dump_json()]
        command += ["--root", str(self.root), "--termination-log", str(log)]
        with output.open("wb") as stream:
            process = subprocess.Popen(  # the caller waits for it
                command, cwd=REPOSITORY, env=inherited | self.environment | environment, stdout=stream, stderr=stream
            )
        return Running(process, output, log)

    def run(self, order: Order, **environment: str) -> Run:
        return self.start(order, **environment).wait()


@dataclass(frozen=True)
class Running:
    """A loader under way."""

    process: "subprocess.Popen[bytes]"
    output: Path
    log: Path

    def wait(self) -> Run:
        try:
            code = self.process.wait(timeout=RUN_SECONDS)
        finally:
            self.process.kill()
            self.process.wait()
        output, log = self.output.read_text(), self.log.read_text()
        assert SECRET_KEY not in output + log, "the loader told its secret key"
        assert len(log.encode()) <= 4096, "Kubernetes would cut this termination message"
        return Run(code, output, json.loads(log) if log else {})

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Until ``condition`` holds while the loader runs."""
        deadline = time.monotonic() + RUN_SECONDS
        while not condition():
            assert self.process.poll() is None, f"ended too early: {self.output.read_text()}"
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.01)


def assert_published(root: Path, expected: Mapping[str, bytes], version: str = "v1") -> Manifest:
    """Assert that exactly these files are on the volume under the version, usable, and nothing half-done is left."""
    target = root / "m" / version
    found = {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert sorted(found) == sorted(expected)
    different = [path for path in expected if found[path] != expected[path]]
    assert not different
    directories = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_dir()}
    assert directories == {str(parent) for path in expected for parent in Path(path).parents} - {"."}
    manifest = Manifest.model_validate_json((root / ".modelyard/manifests/m" / f"{version}.json").read_bytes())
    assert manifest.digest == f"sha256:{coreutils_digest(target, list(expected))}"
    assert not (root / ".modelyard/manifests/m" / f"{version}.json.pending").exists()
    assert not (root / ".modelyard/staging/m" / version).exists()
    return manifest


def coreutils_digest(directory: Path, paths: list[str]) -> str:
    """The version's digest without our code: sha256sum of the output of sha256sum."""
    if not paths:
        return hashlib.sha256(b"").hexdigest()
    command = ["sha256sum", "--", *sorted(paths, key=lambda path: path.encode())]
    sums = subprocess.run(command, cwd=directory, check=True, capture_output=True).stdout
    return subprocess.run(["sha256sum"], input=sums, check=True, capture_output=True).stdout.split()[0].decode()


def assert_absent(root: Path, version: str = "v1") -> None:
    """Assert that no reader could take anything on the volume for the version."""
    assert not (root / "m" / version).exists()
    assert not (root / ".modelyard/manifests/m" / f"{version}.json").exists()


def tree(root: Path) -> dict[str, str]:
    """Every file below ``root`` with its SHA-256, and every link with its end: what must not have changed."""
    return {
        str(path.relative_to(root)): f"-> {path.readlink()}" if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


# Fixtures -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def make_certificates(directory: Path, address: str = "127.0.0.1") -> Certificates:
    """Those of a server at ``address``."""
    for name in ("ca", "other"):
        _openssl(directory, "req", "-x509", *_new_key(f"{name}.key"), "-out", f"{name}.crt", "-days", "2", "-subj", f"/CN=test {name}")
    _openssl(directory, "req", *_new_key("server.key"), "-out", "server.csr", "-subj", f"/CN={address}")
    (directory / "names").write_text(f"subjectAltName=IP:{address}\n")
    signing = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names"]
    _openssl(directory, "x509", "-req", "-in", "server.csr", *signing, "-out", "server.crt")
    return Certificates(directory / "ca.crt", directory / "server.crt", directory / "server.key", directory / "other.crt")


def _new_key(name: str) -> list[str]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", name]


def _openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)


@pytest.fixture(scope="session")
def s3_server(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The server of this session, over HTTPS."""
    data = tmp_path_factory.mktemp("s3")
    with running_server(data, certificates, tls=True) as server:
        yield server


@pytest.fixture(scope="session")
def plain_http_server(s3_server: S3Server) -> Iterator[S3Server]:
    """A second door to the same buckets, over plain HTTP."""
    with running_server(s3_server.access_log.parent, s3_server.certificates, tls=False) as server:
        yield server


@contextmanager
def running_server(data: Path, certificates: Certificates, *, tls: bool, options: tuple[str, ...] = ()) -> Iterator[S3Server]:
    """A versitygw over ``data``; it changes its directory, so every path is absolute."""
    port, name = free_port(), "https" if tls else "http"
    access_log = data / f"access-{name}.log"
    for directory in ("buckets", "versions", "accounts"):
        (data / directory).mkdir(exist_ok=True)
    command = [str(versitygw()), "--port", f"127.0.0.1:{port}", "--keep-alive", "--access-log", str(access_log), "--quiet", *options]
    command += ["--cert", str(certificates.certificate), "--key", str(certificates.key)] if tls else []
    command += ["--iam-dir", str(data / "accounts"), "--iam-cache-disable"]  # accounts beside the root one, without delay
    command += ["posix", "--versioning-dir", str(data / "versions"), str(data / "buckets")]
    keys = {"ROOT_ACCESS_KEY": _ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}
    with (data / f"{name}.log").open("wb") as log, subprocess.Popen(command, env=os.environ | keys, stdout=log, stderr=log) as process:
        try:
            _wait_for_port(port, process, data / f"{name}.log")
            yield S3Server(f"{name}://127.0.0.1:{port}", certificates, access_log)
        finally:
            process.terminate()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for_port(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _STARTUP_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    pytest.fail(f"versitygw did not start (exit code {process.poll()}): {log.read_text()[-2000:]}")


def versitygw() -> Path:
    """The server's program as the devcluster builds it, once, into the user's cache."""
    [module] = [module for module in MODULES if module.name == "versitygw"]
    [directory] = build_all([module])
    return directory / "versitygw"


@pytest.fixture(scope="session")
def s3_api(s3_server: S3Server) -> "S3Client":
    """A client with all rights, for uploads."""
    with patch.dict(os.environ, s3_server.environment()):
        patient = client_config(own_endpoint=True).merge(Config(read_timeout=300))  # a server may copy a GiB on a busy disk
        client = boto3.session.Session().client("s3", endpoint_url=s3_server.url, config=patient)
        client.meta.events.register("before-send.s3", _close_after)
        client.list_buckets()  # credentials and CA are read at the first request
        return client


def _close_after(request: AWSPreparedRequest, **_: Any) -> None:
    """One connection a request: versitygw 1.8.0 at times takes the end of an aws-chunked body for the next request (400)."""
    request.headers["Connection"] = "close"


@pytest.fixture
def bucket(s3_server: S3Server, s3_api: "S3Client") -> Bucket:
    """A fresh bucket without versions."""
    name = f"plain-{secrets.token_hex(6)}"
    s3_api.create_bucket(Bucket=name)
    return Bucket(name, s3_server, s3_api)


@pytest.fixture
def versioned_bucket(s3_server: S3Server, s3_api: "S3Client") -> Bucket:
    """A fresh bucket with versions."""
    name = f"versioned-{secrets.token_hex(6)}"
    s3_api.create_bucket(Bucket=name)
    s3_api.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    return Bucket(name, s3_server, s3_api)


@pytest.fixture
def loader(s3_server: S3Server, tmp_path: Path) -> Loader:
    """A loader beside an empty volume."""
    (tmp_path / "volume").mkdir()
    return Loader(tmp_path / "volume", tmp_path, s3_server.environment())
