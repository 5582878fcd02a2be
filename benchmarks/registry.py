"""The registry of the benchmark: distribution 3 on loopback over plain HTTP, as the devcluster builds it, begun empty for each run."""

import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers import cpu_seconds, io_bytes, pinned_version, program, wait_listening
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
        return cpu_seconds(self.process)

    def received_bytes(self) -> int:
        """What it has read so far: bodies and headers."""
        return io_bytes(self.process, "rchar")


def registry_version() -> str:
    """The pinned version, and the digest of the binary that ran."""
    return pinned_version("registry", "distribution/distribution/v3")


@contextmanager
def running_registry(work: Path, port: int) -> Iterator[Registry]:
    """An empty registry on the disk of ``work`` while the block lasts; with the base image in it, and nothing left of it afterwards."""
    data = work / "registry"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir()
    host = f"127.0.0.1:{port}"
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
    command = [str(program("registry")), "serve", str(config)]
    with (work / "registry.log").open("wb") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process:
        try:
            wait_listening("the registry", port, process, work / "registry.log")
            registry = Registry(host, data, process.pid)
            _put_base(registry)
            yield registry
        finally:
            process.terminate()
            process.wait()
            shutil.rmtree(data)


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
