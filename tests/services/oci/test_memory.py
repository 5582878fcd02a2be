"""Four layers of 1 GiB at once: the builder's memory stays below what its pod has, and it writes nothing to any disk."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelyard.modelcar.gates import Gate
from modelyard.modelcar.layer_reader import LayerReader
from modelyard.modelcar.tuning import Tuning
from modelyard.models import Checksum, SourceFile, WeightPolicy
from modelyard.sources.base import Done, Sink, Transfer
from tests.services.oci.building import Builder
from tests.services.oci.oracle import document
from tests.services.oci.registries import running_registry
from tests.services.oci.test_faults import DRIVER
from tests.services.s3_fixtures import REPOSITORY, Bucket

MIB = 1024 * 1024
GIB = 1024 * MIB
LIMIT_MIB = 400
MEASURED = """
import json
from pathlib import Path
# Not ru_maxrss: it begins with what pytest had when it forked.
peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
written = int(Path("/proc/self/io").read_text().partition("\\nwrite_bytes:")[2].split()[0])
print(json.dumps({"peak": peak, "written": written}))
"""


@pytest.mark.faults
def test_four_layers_of_a_gib(bucket: Bucket, tmp_path: Path) -> None:
    body = tmp_path / "body"
    block = os.urandom(16 * MIB)
    with body.open("wb") as file:
        for number in range(64):
            file.write(number.to_bytes(8, "big") + block[8:])
    bucket.client.upload_file(str(body), bucket.name, "m/v1/model-0.safetensors")
    for number in range(1, 4):
        source: Any = {"Bucket": bucket.name, "Key": "m/v1/model-0.safetensors"}
        bucket.client.copy_object(Bucket=bucket.name, Key=f"m/v1/model-{number}.safetensors", CopySource=source)
    body.unlink()
    with running_registry("distribution-3", tmp_path / "registry") as registry:
        request = Builder(bucket, registry).request()
        environment = {**os.environ, **bucket.server.environment(), "PYTHONDONTWRITEBYTECODE": "1"}
        driver = DRIVER.replace("Tuning(layers=1)", "Tuning()") + MEASURED
        command = [sys.executable, "-c", driver]
        told: dict[str, Any] = {"input": request.model_dump_json(), "env": environment, "timeout": 560}
        done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True, **told)
        measured = json.loads(done.stdout.splitlines()[-1])
        _, index = document(registry.host, "models/m", "v1")
        _, manifest = document(registry.host, "models/m", index["manifests"][0]["digest"])
        assert [layer["size"] for layer in manifest["layers"]] == [512 + GIB + 1024] * 4
    print(measured)  # noqa: T201 - shown by pytest -s
    assert measured["peak"] < LIMIT_MIB
    assert measured["written"] == 0


class Zeros:
    """A fake source, of files that hold only zeros: nothing stores 9 GiB for a test."""

    _block = bytes(5 * MIB)

    def list(self) -> Iterator[SourceFile]:
        yield SourceFile("model.safetensors", 9 * GIB + 1)

    def stat(self, file: SourceFile) -> Checksum | None:
        assert file.size
        return None

    def fetch(self, file: SourceFile, sink: Sink, start: int, done: Done) -> Transfer:
        import threading  # noqa: PLC0415

        def push() -> None:
            sink.expect(None)
            for offset in range(start, file.size, len(self._block)):
                sink.write(self._block[: file.size - offset], offset)
            done(None)

        threading.Thread(target=push).start()
        return Never()


class Never:
    """A transfer that nobody needs to stop."""

    def cancel(self) -> None:
        """It ends by itself."""


class Pulled(io.RawIOBase):
    """The layer as a stream, hashed on its way."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks, self.sha256, self.rest, self.count = chunks, hashlib.sha256(), b"", 0

    def read(self, size: int = -1) -> bytes:
        while len(self.rest) < size and (chunk := next(self.chunks, b"")):
            self.sha256.update(chunk)
            self.count += len(chunk)
            self.rest += chunk
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken


@pytest.mark.faults
def test_a_file_beyond_8_gib() -> None:
    """Read by tarfile as it is made: one member, of the whole size."""
    source = Zeros()
    [file] = source.list()
    gate = Gate(source, WeightPolicy.SCAN, {}, Tuning().patience, lambda _: None)
    reader = LayerReader([file], source, gate, Tuning(), lambda _: None)
    pulled = Pulled(reader.chunks(0))
    with tarfile.open(fileobj=pulled, mode="r|", bufsize=5 * MIB) as archive:
        assert [(entry.name, entry.size) for entry in archive] == [("models/model.safetensors", 9 * GIB + 1)]
    while pulled.read(5 * MIB):
        pass
    assert pulled.count == reader.size
    assert reader.digest == f"sha256:{pulled.sha256.hexdigest()}"
    assert reader.records[0].size == 9 * GIB + 1
