"""A hundred thousand files: the loader's memory stays below what its pod has."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.services.s3_fixtures import REPOSITORY, Bucket

FILES = 100_000
LIMIT_MIB = 300

#: Run as a process of its own, whose peak is the loader's alone. The source makes its bytes up; the volume is real.
DRIVER = """
import json, sys
from pathlib import Path
from modelyard.loader.preload import preload
from modelyard.loader.tuning import Tuning
from modelyard.models import ModelRef, S3Location, SourceFile, summarise
from modelyard.orders import LoadSpec
from modelyard.plans.paths import path_problems
from modelyard.sources import s3_fetch

class Synthetic:
    def __init__(self, count):
        self.count = count
    def list(self):
        for number in range(self.count):
            path = f"models/shard-{number // 1000:03}/tensor-of-some-layer-{number:06}.safetensors"
            yield SourceFile(path, 1, f'"{number:032x}"', None, "STANDARD")
    def stat(self, file):
        return None
    def fetch(self, file, sink, start, done):
        sink.expect(None)
        sink.write(b"x", 0)
        done(None)

count, step, root = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
source = Synthetic(count)
if step == "list":
    assert path_problems(list(source.list())) == []
else:
    location = S3Location(bucket="bucket", prefix="m/v1")
    spec = LoadSpec(model=ModelRef(name="m", version="v1"), source=location, listing=summarise(source.list()))
    result = preload(spec, root, source, Tuning())
    assert result.files == count
# Not ru_maxrss: it begins with what pytest had when it forked.
peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
print(json.dumps({"peak": peak}))
"""


@pytest.mark.parametrize("step", ["list", pytest.param("load", marks=pytest.mark.faults)])
def test_a_hundred_thousand_files_fit(step: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", DRIVER, str(FILES), step, str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True, timeout=500)
    assert json.loads(done.stdout.splitlines()[-1])["peak"] < LIMIT_MIB


#: Fetches objects of a real server one after the other, and prints by how many KiB each one made the process grow.
FETCHER = """
import json, sys, threading
from pathlib import Path
from modelyard.models import S3Location, SourceFile
from modelyard.sources.s3_fetch import S3Fetcher

class Sink:
    def expect(self, checksum): pass
    def write(self, chunk, offset): pass

def resident():
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0])

fetcher, file = S3Fetcher(S3Location.model_validate_json(sys.argv[1])), SourceFile("a", 3)
errors = []

def fetch(count):
    for _ in range(count):
        over = threading.Event()
        fetcher.fetch(file, Sink(), 0, lambda error: (errors.append(error) if error else None, over.set()))
        assert over.wait(60)

fetch(200)
before = resident()
fetch(2000)
assert not errors, errors[0]
print(json.dumps({"kib": (resident() - before) / 2000}))
"""


def test_a_file_that_has_arrived_takes_no_memory(bucket: Bucket) -> None:
    """The engine's request and its callbacks once held each other: 14 KiB a file, 1.4 GiB at a hundred thousand."""
    bucket.put({"a": b"abc"})
    command = [sys.executable, "-c", FETCHER, bucket.location().model_dump_json()]
    environment = {**os.environ, **bucket.server.environment()}
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True, timeout=300, env=environment)
    assert json.loads(done.stdout.splitlines()[-1])["kib"] < 4
