"""The loader beside other downloaders: ``python -m benchmarks.preload``; a table, and as the last line one JSON object.

Every repetition runs all tools once, in random order, each into an empty directory of one file system and each ending with
one sync of it inside the timed region. Server and client share the machine, so wall time is both of them; the client's CPU
seconds are the steadier comparison. The server's files are read into the page cache before each run, for all tools alike.
The loader runs by its container's entry point and, unlike the others, verifies: a SHA-256 of every byte and the source's
CRC64NVME. After the first repetition of each, its files are compared with what was uploaded, byte for byte by their digests.
"""

import argparse
import json
import os
import random
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.dataset import BUCKET, DATASETS, Dataset, prepare
from benchmarks.loader_python import loader_python
from benchmarks.machine import commit, default_work, machine, read_all
from benchmarks.measure import run, sync
from benchmarks.report import Result, figures, table
from benchmarks.s3_server import S3Server, s3_server, versitygw_version
from benchmarks.then_sha256 import digests
from benchmarks.tools import TOOLS, Job, Tool, binary, plan, versions
from modelyard.models import S3Location
from modelyard.sources.s3 import s3_client


def main() -> None:
    """Measure, and print what was measured."""
    options = _options()
    for need in {TOOLS[tool].needs for tool in options.tools} - {None}:
        binary(str(need))
    options.work.mkdir(parents=True, exist_ok=True)
    options.python = options.python or loader_python(options.work)
    began = datetime.now(UTC)
    with s3_server(options.work, keep_alive=False) as server:
        datasets = _datasets(server, options)
    with s3_server(options.work) as server:
        os.environ.update(server.environment)
        results, again = _measure(server, datasets, options)
    print("\n" + table(results, {dataset.name: dataset.bytes for dataset in datasets}) + "\n")
    print(json.dumps(_summary(results, again, datasets, options, began)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.preload", description="The loader beside other downloaders.")
    parser.add_argument("--scale", type=float, default=1.0, help="a fraction of the datasets, for a smoke run")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("--tools", nargs="+", choices=sorted(TOOLS), default=list(TOOLS))
    parser.add_argument("--work", type=Path, default=default_work(), help="datasets (5.5 GB) and targets, on one file system")
    parser.add_argument("--python", type=Path, help="the loader's interpreter; else one is made below --work, as the image has it")
    parser.add_argument("--cgroup", type=Path, help="a memory cgroup to make children in: adds cgroup_peak_mib, page cache included")
    return parser.parse_args()


def _datasets(server: S3Server, options: argparse.Namespace) -> list[Dataset]:
    os.environ.update(server.environment)
    (server.data / BUCKET).mkdir(exist_ok=True)
    client = s3_client(S3Location(bucket=BUCKET, endpoint_url=server.endpoint))
    return [prepare(name, options.scale, client, options.work) for name in options.datasets]


def _measure(server: S3Server, datasets: list[Dataset], options: argparse.Namespace) -> tuple[list[Result], dict[str, int]]:
    """All runs; and of each dataset the object requests that a second run of the loader makes on a volume that has it."""
    results: list[Result] = []
    again: dict[str, int] = {}
    for dataset in datasets:
        job = plan(options.python, server, dataset, options.work / "target")
        for repetition in range(1, options.repetitions + 1):
            for name in random.sample(options.tools, len(options.tools)):
                results.append(_one(TOOLS[name], job, repetition, options.cgroup))
                _say(results[-1])
                if name == "loader" and repetition == options.repetitions:
                    again[dataset.name] = _second_run(job)
    _clear(options.work / "target")
    return results, again


def _one(tool: Tool, job: Job, repetition: int, cgroup: Path | None) -> Result:
    _clear(job.target)
    job.target.mkdir()
    read_all(job.server.data / BUCKET / job.dataset.prefix)
    sync(job.target)
    counted = run(tool.command(job), tool.environment(job), job.target, job.server, cgroup)
    _check(tool, job, with_digests=repetition == 1)
    return Result(job.dataset.name, tool.name, repetition, counted)


def _clear(target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)


def _check(tool: Tool, job: Job, *, with_digests: bool) -> None:
    """Raise unless the files are those that were uploaded."""
    root = job.target / tool.files_in
    there = {str(path.relative_to(root)): path.stat().st_size for path in root.rglob("*") if path.is_file()}
    if there != {path: size for path, (size, _) in job.dataset.files.items()}:
        raise SystemExit(f"{tool.name}: the files in {root} are not those of {job.dataset.prefix}")
    if with_digests and digests(root) != {path: digest for path, (_, digest) in job.dataset.files.items()}:
        raise SystemExit(f"{tool.name}: bytes in {root} are not those of {job.dataset.prefix}")


def _second_run(job: Job) -> int:
    loader = TOOLS["loader"]
    counted = run(loader.command(job), loader.environment(job), job.target, job.server, None)
    return counted.requests.get("GetObject", 0) + counted.requests.get("HeadObject", 0)


def _say(result: Result) -> None:
    counted = result.run
    print(
        f"{result.dataset} #{result.repetition} {result.tool}: wall {counted.wall_s:.2f} s, cpu {counted.cpu_s:.2f} s,"
        f" peak {counted.peak_rss_mib:.0f} MiB, others' cpu {counted.foreign_cpu_s:.1f} s",
        flush=True,
    )


def _summary(
    results: list[Result], again: dict[str, int], datasets: list[Dataset], options: argparse.Namespace, began: datetime
) -> dict[str, Any]:
    return {
        "benchmark": "preload",
        "began": began.isoformat(timespec="seconds"),
        "commit": commit(),
        "scheme": "https",
        "scale": options.scale,
        "page_cache": "warm for the server, for all tools",
        "machine": machine(),
        "versions": {**versions(options.python, options.tools), "versitygw": versitygw_version()},
        "dataset_bytes": {dataset.name: dataset.bytes for dataset in datasets},
        "dataset_files": {dataset.name: len(dataset.files) for dataset in datasets},
        **figures(results),
        "second_run_gets": sum(again.values()) if again else None,
        "runs": [result.as_data() for result in results],
    }


if __name__ == "__main__":
    main()
