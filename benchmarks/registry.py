"""The registry of the benchmark: distribution 3 on loopback over plain HTTP, as the devcluster builds it, begun empty for each run."""

import hashlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.s3_server import START_SECONDS
from devcluster.build import MODULES, SOURCES, build_all
from modelyard.images.descriptors import CONFIG, LAYER, MANIFEST, Descriptor, digest_of
from modelyard.oci.access import Access
from modelyard.oci.registry import Repository

BASE = "base"
BASE_TAG = "v1"
#: Of the size of a static busybox.
_SHELL_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Registry:
    """A running registry."""

    host: str
    data: Path
    process: int

    @property
    def access(self) -> Access:
        """As clients of ours reach it."""
        return Access(self.host, plain_http=True)

    def cpu_seconds(self) -> float:
        """The CPU time of its process so far."""
        fields = Path(f"/proc/{self.process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def received_bytes(self) -> int:
        """What it has read so far: bodies and headers."""
        lines = Path(f"/proc/{self.process}/io").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("rchar:"))


def registry_program() -> Path:
    """The binary, built now if it is not in the devcluster's cache."""
    module = next(module for module in MODULES if module.name == "registry")
    return build_all([module])[0] / "registry"


def registry_version() -> str:
    """The pinned version, and the digest of the binary that ran."""
    pin = re.search(r"distribution/distribution/v3 (v\S+)", (SOURCES / "registry" / "go.mod").read_text())
    return f"{pin[1] if pin else 'unknown'} sha256:{hashlib.sha256(registry_program().read_bytes()).hexdigest()}"


@contextmanager
def running_registry(work: Path) -> Iterator[Registry]:
    """An empty registry on the disk of ``work`` while the block lasts; with the base image in it, and nothing left of it afterwards."""
    data = work / "registry"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir()
    host = f"127.0.0.1:{_free_port()}"
    config = work / "registry.json"
    config.write_text(
        json.dumps(
            {
                "version": "0.1",
                "log": {"level": "warn", "accesslog": {"disabled": True}},
                "storage": {"filesystem": {"rootdirectory": str(data)}, "delete": {"enabled": True}},
                "http": {"addr": host},
            }
        )
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("REGISTRY_", "OTEL_"))}
    environment["OTEL_TRACES_EXPORTER"] = "none"  # else it looks for a collector
    command = [str(registry_program()), "serve", str(config)]
    with (work / "registry.log").open("wb") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process:
        try:
            _wait(host, process, work / "registry.log")
            registry = Registry(host, data, process.pid)
            _put_base(registry)
            yield registry
        finally:
            process.terminate()
            process.wait()
            shutil.rmtree(data)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait(host: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    address, _, port = host.partition(":")
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection((address, int(port)), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit(f"the registry did not listen on {host} within {START_SECONDS} s: {log.read_text(errors='replace')[-1000:]}")


def _put_base(registry: Registry) -> None:
    """A base image of one layer, which stands where a shell would."""
    layer = _layer()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]},
        "history": [{"created_by": "benchmark"}],
    }
    written = json.dumps(config).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _told(CONFIG, written),
        "layers": [_told(LAYER, layer)],
    }
    with Repository(registry.access, BASE) as repository:
        repository.put_blob(layer)
        repository.put_blob(written)
        repository.put_manifest(MANIFEST, json.dumps(manifest).encode(), BASE_TAG)


def _layer() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        entry = tarfile.TarInfo("bin/sh")
        entry.mode, entry.size = 0o755, _SHELL_BYTES
        archive.addfile(entry, io.BytesIO(bytes(_SHELL_BYTES)))
    return buffer.getvalue()


def _told(media_type: str, content: bytes) -> dict[str, object]:
    described = Descriptor.of(media_type, content)
    return {"mediaType": media_type, "digest": described.digest, "size": described.size}
