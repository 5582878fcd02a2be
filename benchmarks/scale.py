"""The loader at the ends of its scale: ``python -m benchmarks.scale``; a table, and as the last line one JSON object.

``many``: 100,000 small objects in one model: list, plan, load, inspect, verify, load again, remove. ``huge``: one sparse object of
300 GB (``--huge-gb``), which a real server serves without a disk of that size, onto a file system that compresses its zeros
away; the load is killed -9 half way and goes on from its last checkpoint. Both report seconds, CPU and peak memory of the
loader's process, and the requests that the server's log counted.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.compressing_volume import compressing_volume
from benchmarks.dataset import BUCKET
from benchmarks.loader_python import environment, loader_python
from benchmarks.measure import Run, run
from benchmarks.s3_server import S3Server, grow_object, s3_server
from modelyard.models import ModelRef, S3Location, summarise
from modelyard.orders import InspectSpec, LoadSpec, Order, RemoveSpec, VerifySpec
from modelyard.sources.s3 import S3Source, s3_client

_MODEL = ModelRef(name="scale", version="v1")
_UPLOADERS = 10
#: Planning in a process of its own, so that its memory is its own.
_PLAN = """
import sys
from modelyard.models import S3Location, summarise
from modelyard.plans.paths import path_problems
from modelyard.sources.s3 import S3Source, s3_client
location = S3Location.model_validate_json(sys.argv[1])
files = list(S3Source(location, s3_client(location)).list())
assert not path_problems(files)
print(summarise(files).digest)
"""


def main() -> None:
    """Measure, and print what was measured."""
    options = _options()
    options.work.mkdir(parents=True, exist_ok=True)
    python = options.python or loader_python(options.work)
    began = datetime.now(UTC)
    with s3_server(options.work, keep_alive=False) as server:
        os.environ.update(server.environment)
        (server.data / BUCKET).mkdir(exist_ok=True)
        _upload_many(server, options.objects)
    figures: dict[str, Any] = {}
    with s3_server(options.work) as server:
        os.environ.update(server.environment)
        if options.objects:
            figures["many"] = {"objects": options.objects, **_many(server, python, options)}
        if options.huge_gb:
            figures["huge"] = {"gb": options.huge_gb, **_huge(server, python, options)}
    print(json.dumps({"benchmark": "scale", "began": began.isoformat(timespec="seconds"), **figures}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description="The loader at the ends of its scale.")
    parser.add_argument("--objects", type=int, default=100_000, help="objects of the model of many; 0 leaves it out")
    parser.add_argument("--huge-gb", type=int, default=0, help="size of the sparse object in GB, for example 300; 0 leaves it out")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "modelyard" / "benchmarks")
    parser.add_argument("--python", type=Path, help="the loader's interpreter; else one is made below --work, as the image has it")
    return parser.parse_args()


# Many small objects ----------------------------------------------------------------------------------------------------------


def _upload_many(server: S3Server, count: int) -> None:
    """Put what is missing of ``count`` objects of one to four KiB."""
    client = s3_client(_location(server, "many"))
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"many-{count}/")
    there = {entry["Key"] for page in pages for entry in page.get("Contents", ())}
    keys = [f"many-{count}/part-{number // 1000:03}/{number:06}.json" for number in range(count)]
    missing = [key for key in keys if key not in there]

    def put(key: str) -> None:
        client.put_object(Bucket=BUCKET, Key=key, Body=key.encode() * 64)

    with ThreadPoolExecutor(_UPLOADERS) as pool:
        for done, _ in enumerate(pool.map(put, missing), 1):
            if done % 10_000 == 0:
                print(f"uploaded {done:,} of {len(missing):,} objects", flush=True)


def _many(server: S3Server, python: Path, options: argparse.Namespace) -> dict[str, Any]:
    location = _location(server, f"many-{options.objects}")
    spec = _load_spec(location)
    root = options.work / "scale"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    steps = {
        "list and plan": [str(python), "-c", _PLAN, location.model_dump_json()],
        "load": _command(python, spec, root),
        "inspect": _command(python, InspectSpec(), root),
        "verify": _command(python, VerifySpec(), root),
        "load again": _command(python, spec, root),
        "remove": _command(python, RemoveSpec(model=_MODEL), root),
    }
    told = {name: _told(name, run(command, _environment(server), root, server, None)) for name, command in steps.items()}
    shutil.rmtree(root)
    return told


# One huge object -------------------------------------------------------------------------------------------------------------


def _huge(server: S3Server, python: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The load in two halves: killed when half of the bytes are there, then run to its end."""
    size = options.huge_gb * 10**9
    location = _location(server, "huge")
    client = s3_client(location)  # sends no checksum, which the object would outgrow
    client.put_object(Bucket=BUCKET, Key="huge/model.gguf", Body=b"GGUF")
    backing = server.data / BUCKET / "huge" / "model.gguf"
    grow_object(backing, size)
    spec = _load_spec(location)
    with compressing_volume(options.work, size * 11 // 10 + 5 * 10**9) as root:
        settings = {**_environment(server), "MODELYARD_LOADER_DIRECT_WRITES": "false"}  # direct writes are not compressed
        killed = _killed_half_way(_command(python, spec, root), settings, size, options.work / "killed.log")
        second = run(_command(python, spec, root), settings, root, server, None)
        resumed = _last(root.parent / "output.log").get("resumed_bytes")
        verified = run(_command(python, VerifySpec(), root), settings, root, server, None)
        told = {"killed": killed, "goes on": _told("goes on", second), "resumed_bytes": resumed, "verify": _told("verify", verified)}
    backing.unlink()
    return told


def _killed_half_way(command: list[str], settings: dict[str, str], size: int, log: Path) -> dict[str, float]:
    began = time.monotonic()
    with log.open("wb") as output, subprocess.Popen(command, env=settings, stdout=output, stderr=output) as process:
        while (there := int(_last(log).get("bytes", 0))) < size // 2:
            if process.poll() is not None:
                raise SystemExit(f"the loader ended before it was killed:\n{log.read_text()[-3000:]}")
            time.sleep(1)
        process.send_signal(signal.SIGKILL)
    seconds = time.monotonic() - began
    print(f"killed -9 after {seconds:.0f} s at {there / 1e9:.1f} GB", flush=True)
    return {"bytes": there, "wall_s": round(seconds, 1)}


# What both need --------------------------------------------------------------------------------------------------------------


def _location(server: S3Server, prefix: str) -> S3Location:
    return S3Location(bucket=BUCKET, prefix=prefix, endpoint_url=server.endpoint)


def _load_spec(location: S3Location) -> LoadSpec:
    return LoadSpec(model=_MODEL, source=location, listing=summarise(S3Source(location, s3_client(location)).list()))


def _command(python: Path, order: Order, root: Path) -> list[str]:
    return [str(python), "-m", "modelyard.loader", order.command, "--spec", order.model_dump_json(), "--root", str(root)]


def _environment(server: S3Server) -> dict[str, str]:
    return {**environment(), **server.environment}


def _told(name: str, counted: Run) -> dict[str, Any]:
    print(f"{name}: wall {counted.wall_s:.1f} s, cpu {counted.cpu_s:.1f} s, peak {counted.peak_rss_mib:.0f} MiB", flush=True)
    shown = {"wall_s": counted.wall_s, "cpu_s": counted.cpu_s, "peak_rss_mib": counted.peak_rss_mib}
    return {**shown, "others_cpu_s": counted.foreign_cpu_s, "requests": counted.requests}


def _last(log: Path) -> dict[str, Any]:
    """The last line of a loader's log that is JSON."""
    for line in reversed(log.read_text(errors="replace").splitlines()):
        if line.startswith("{") and line.endswith("}"):
            told: dict[str, Any] = json.loads(line)
            return told
    return {}


if __name__ == "__main__":
    main()
