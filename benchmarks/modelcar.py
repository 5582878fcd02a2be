"""The modelcar builder beside other ways to an image: ``python -m benchmarks.modelcar``; a table, and as the last line one JSON object.

From an S3 server over HTTPS into an empty registry over HTTP, both on this machine, where all share its cores. Every repetition runs
all contestants once, in random order, each into a registry that was begun for it, on the same disk; what the others download first is
in their time. The S3 server's files are read into the page cache before each run, for all alike. The builder has a mount namespace in
which nothing can be written. After the first repetition of each, the files in its image are compared with what was uploaded, by digest.
What limits the builder is measured in between: one SHA-256 of the bytes, and the registry taking them from a sender's memory.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.dataset import BUCKET, Dataset, prepare, with_another
from benchmarks.loader_python import loader_python
from benchmarks.machine import commit, default_work, machine, read_all
from benchmarks.measure import run, sync
from benchmarks.modelcar_bounds import registry_seconds, sha256_seconds
from benchmarks.modelcar_check import image_files
from benchmarks.modelcar_report import OURS, SECOND, Bounds, Result, figures, table
from benchmarks.modelcar_tools import CONTESTANTS, REPOSITORY, Job, check_tools, read_only_mounts, versions
from benchmarks.registry import Registry, running_registry
from benchmarks.s3_server import S3Server, s3_server
from benchmarks.servers import free_port
from modelyard.models import S3Location
from modelyard.sources.s3 import s3_client

_BOUNDS = "bounds"
_CHANGED = "model-00002-of-00004.safetensors"


def main() -> None:
    """Measure, and print what was measured."""
    options = _options()
    options.work.mkdir(parents=True, exist_ok=True)
    check_tools(options.tools, options.work)
    options.python = options.python or loader_python(options.work)
    began = datetime.now(UTC)
    with s3_server(options.work, keep_alive=False) as server:
        first, second = _datasets(server, options)
    try:
        with s3_server(options.work) as server:
            results, bounds = _measure(server, first, second, options)
    finally:
        shutil.rmtree(options.work / "s3" / BUCKET / second.prefix)
    print("\n" + table(results) + "\n")
    told = {
        "benchmark": "modelcar",
        "began": began.isoformat(timespec="seconds"),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "schemes": {"s3": "https", "registry": "http"},
        "machine": machine(),
        "versions": versions(options.python, options.tools),
        "dataset_bytes": first.bytes,
        "dataset_files": len(first.files),
        "rounds": options.rounds,
        **figures(results, bounds, first.bytes, os.cpu_count() or 1),
        "bounds": [asdict(each) for each in bounds],
        "runs": [result.as_data() for result in results],
    }
    print(json.dumps(told))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.modelcar", description="The modelcar builder beside other ways.")
    parser.add_argument("--gib", type=float, default=1.0, help="size of each of the four weight files")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tools", nargs="+", choices=sorted(CONTESTANTS), default=list(CONTESTANTS))
    parser.add_argument("--work", type=Path, default=default_work(), help="dataset (4.3 GB), registry and the others' scratch (11 GB)")
    parser.add_argument(
        "--python", type=Path, help="the builder's interpreter; else one is made below --work, as the loader's image has it"
    )
    return parser.parse_args()


def _datasets(server: S3Server, options: argparse.Namespace) -> tuple[Dataset, Dataset]:
    os.environ.update(server.environment)
    (server.data / BUCKET).mkdir(exist_ok=True)
    client = s3_client(S3Location(bucket=BUCKET, endpoint_url=server.endpoint))
    first = prepare("large", options.gib, client, options.work)
    return first, with_another(first, _CHANGED, client, server.data, options.work)


def _measure(server: S3Server, first: Dataset, second: Dataset, options: argparse.Namespace) -> tuple[list[Result], list[Bounds]]:
    results: list[Result] = []
    bounds: list[Bounds] = []
    port = free_port()  # one for all of its registries: an image tells its base's name, so its digest depends on it
    for repetition in range(1, options.rounds + 1):
        turns = [*options.tools, _BOUNDS]
        for name in random.sample(turns, len(turns)):
            with running_registry(options.work, port) as registry:
                job = Job(options.work, options.python, server, registry, first)
                if name == _BOUNDS:
                    bounds.append(_bound(registry, first, options.work))
                    print(f"#{repetition} {bounds[-1]}", flush=True)
                    continue
                results.append(_one(name, name, job, repetition))
                if name == OURS:
                    again = replace(job, dataset=second, tag="v2", previous=job.image)
                    results.append(_one(name, SECOND, again, repetition))
    return results, bounds


def _bound(registry: Registry, dataset: Dataset, work: Path) -> Bounds:
    sync(work)
    sha256 = sha256_seconds(dataset.bytes)
    cpu = registry.cpu_seconds()
    seconds = registry_seconds(registry, [size for size, _ in dataset.files.values()])
    return Bounds(sha256, seconds, round(registry.cpu_seconds() - cpu, 2))


def _one(name: str, title: str, job: Job, repetition: int) -> Result:
    """One run, checked, with nothing left of it but its image."""
    _clear(job.scratch)
    job.prepare()
    read_all(job.server.data / BUCKET / job.dataset.prefix)
    try:
        if name == OURS:
            with read_only_mounts() as namespace:
                result = _counted(name, title, replace(job, namespace=namespace), repetition)
        else:
            result = _counted(name, title, job, repetition)
    finally:
        _clear(job.scratch)
    if repetition == 1 and image_files(job.registry, REPOSITORY, job.tag) != job.dataset.files:
        raise SystemExit(f"{title}: the files of {job.image} are not those of {job.dataset.prefix}")
    return result


def _counted(name: str, title: str, job: Job, repetition: int) -> Result:
    command = CONTESTANTS[name](job)
    sync(job.work)
    mark, cpu, received = job.server.mark(), job.registry.cpu_seconds(), job.registry.received_bytes()
    counted = run(command, job.environment(), job.scratch, job.server, None, synced=False)
    cpu = round(job.registry.cpu_seconds() - cpu, 2)
    counted = replace(counted, foreign_cpu_s=round(counted.foreign_cpu_s - cpu, 2))
    told = _told(job.work / "output.log") if name == OURS else {}
    result = Result(title, repetition, counted, cpu, job.registry.received_bytes() - received, dict(job.server.objects_since(mark)), told)
    if told.get("writable"):
        raise SystemExit(f"the builder could have written to {told['writable']}")
    print(
        f"#{repetition} {title}: wall {counted.wall_s:.2f} s, cpu {counted.cpu_s:.2f} s, s3's {counted.server_cpu_s:.1f} s,"
        f" registry's {cpu:.1f} s, others' {counted.foreign_cpu_s:.1f} s, peak {counted.peak_rss_mib:.0f} MiB,"
        f" disk {counted.disk_bytes / 1e6:,.2f} MB, read {counted.server_wrote_bytes / 1e6:,.1f} MB",
        flush=True,
    )
    return result


def _told(log: Path) -> dict[str, Any]:
    """The builder's last line."""
    told: dict[str, Any] = json.loads(log.read_text().splitlines()[-1])
    return told


def _clear(scratch: Path) -> None:
    """Remove it, and what containers' storage left mounted in it."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    for mount in sorted((mount for mount in mounts if mount.startswith(f"{scratch}/")), reverse=True):
        subprocess.run(["umount", mount], check=True)
    shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
