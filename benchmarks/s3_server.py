"""The S3 server of the benchmark: versitygw on loopback over HTTPS with a CA of its own, and what its log counted.

Keep-alive is switched on: versitygw's default closes the connection after each request, and then 2,000 small files measure
2,000 TLS handshakes, which no S3 in production asks for.
"""

import os
import secrets
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.servers import cpu_seconds, free_port, io_bytes, pinned_version, program, wait_listening

#: The last lines of the log come a little after the last response.
_LOG_SECONDS = 0.2
#: Where the request's operation stands in a line of the access log, split at blanks; the key is next. Byte counts are 0 for a GetObject.
_OPERATION = 7


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server, and the environment in which a client reaches it."""

    endpoint: str
    ca: Path
    log: Path
    data: Path
    process: int
    credentials: dict[str, str] = field(repr=False)

    @property
    def environment(self) -> dict[str, str]:
        """Credentials, region and CA as every AWS SDK reads them."""
        return {**self.credentials, "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1", "AWS_CA_BUNDLE": str(self.ca)}

    def cpu_seconds(self) -> float:
        """The CPU time of the server's process so far."""
        return cpu_seconds(self.process)

    def written_bytes(self) -> int:
        """What the server's process has written so far: bodies and headers inside TLS, and its log."""
        return io_bytes(self.process, "wchar")

    def mark(self) -> int:
        """A place in the log, for ``requests_since``."""
        return self.log.stat().st_size

    def requests_since(self, mark: int) -> Counter[str]:
        """The requests that were served after ``mark``, by their operation."""
        return Counter(line[_OPERATION].removeprefix("s3_") for line in self._lines(mark))

    def objects_since(self, mark: int) -> Counter[str]:
        """The objects whose bytes were asked for after ``mark``, and how often."""
        return Counter(line[_OPERATION + 1] for line in self._lines(mark) if line[_OPERATION] == "s3_GetObject")

    def _lines(self, mark: int) -> list[list[str]]:
        time.sleep(_LOG_SECONDS)
        with self.log.open("rb") as log:
            log.seek(mark)
            lines = [line.split() for line in log.read().decode(errors="replace").splitlines()]
        return [line for line in lines if len(line) > _OPERATION + 1 and line[_OPERATION].startswith("s3_")]


def grow_object(backing: Path, size: int) -> None:
    """Make an object as long as ``size`` by a hole behind its bytes, in the file that holds it; its checksums are forgotten."""
    os.truncate(backing, size)
    os.removexattr(backing, "user.checksums")  # of the object before it grew
    os.setxattr(backing, "user.etag", secrets.token_hex(16).encode() + b"-2")  # its MD5 before; now as one of several parts


def versitygw_version() -> str:
    """The pinned version, and the digest of the binary that ran."""
    return pinned_version("versitygw", "versity/versitygw")


@contextmanager
def s3_server(work: Path, *, keep_alive: bool = True) -> Iterator[S3Server]:
    """Run the server on the data in ``work`` while the block lasts.

    Uploads are to be made without ``keep_alive``: with it, boto3's parts break off (400 IncompleteBody) at a slow disk.
    """
    data = work / "s3"
    data.mkdir(parents=True, exist_ok=True)
    _make_certificate(work)
    port, log = free_port(), work / "access.log"
    credentials = {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16)}
    command = [str(program("versitygw")), "--port", f"127.0.0.1:{port}", "--quiet", "--access-log", str(log)]
    command += ["--keep-alive"] if keep_alive else []
    command += ["--cert", str(work / "server.crt"), "--key", str(work / "server.key"), "posix", str(data)]
    log.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "ROOT_ACCESS_KEY": credentials["AWS_ACCESS_KEY_ID"],
        "ROOT_SECRET_KEY": credentials["AWS_SECRET_ACCESS_KEY"],
    }
    with (work / "server.out").open("wb") as output, subprocess.Popen(command, env=environment, stdout=output, stderr=output) as process:
        try:
            wait_listening("versitygw", port, process, work / "server.out")
            yield S3Server(f"https://127.0.0.1:{port}", work / "ca.crt", log, data, process.pid, credentials)
        finally:
            process.terminate()


def _make_certificate(work: Path) -> None:
    """A CA and a server certificate for 127.0.0.1, both ECDSA P-256."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
    ca = ["-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=benchmark CA", "-addext", "keyUsage=critical,keyCertSign"]
    server = ["-keyout", "server.key", "-out", "server.crt", "-CA", "ca.crt", "-CAkey", "ca.key", "-subj", "/CN=127.0.0.1"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"]
    for arguments in (ca, server + names):
        subprocess.run(["openssl", "req", "-x509", *key, *arguments], cwd=work, check=True, capture_output=True)
