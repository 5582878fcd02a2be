"""What the upload's tests share: a real S3 server, and the program run as an author runs it."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

from modelyard.sources.s3 import s3_client
from tests.services.s3_fixtures import (
    REPOSITORY,
    RUN_SECONDS,
    SECRET_KEY,
    Bucket,
    bucket,
    certificates,
    loader,
    s3_api,
    s3_server,
    versioned_bucket,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["bucket", "certificates", "loader", "s3_api", "s3_server", "versioned_bucket"]


@dataclass(frozen=True)
class Uploader:
    """``modelyard upload`` of a directory to ``m/v1/`` of a bucket."""

    directory: Path
    bucket: Bucket

    def start(self, *options: str, url: str | None = None) -> "subprocess.Popen[str]":
        """The program under way; the caller waits for it."""
        server = self.bucket.server
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        environment = {name: value for name, value in server.environment().items() if name != "AWS_CA_BUNDLE"}
        command = [sys.executable, "-m", "modelyard", "upload", str(self.directory), f"s3://{self.bucket.name}/m/v1/"]
        command += ["--endpoint-url", url or server.url, "--ca-bundle", str(server.certificates.ca), *options]
        pipe, variables = subprocess.PIPE, inherited | environment
        return subprocess.Popen(command, cwd=REPOSITORY, env=variables, text=True, stdout=pipe, stderr=pipe)

    def run(self, *options: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        with self.start(*options) as process:
            said, errors = process.communicate(timeout=RUN_SECONDS)
        assert SECRET_KEY not in said + errors
        return process.returncode, said, errors

    def succeeded(self, *options: str) -> str:
        """Run, assert success; what it said."""
        code, said, errors = self.run(*options)
        assert code == 0, errors
        return said

    def refused(self, *told: str, options: tuple[str, ...] = ()) -> None:
        """Run, assert a refusal that tells all of ``told``, and that nothing was written."""
        written = len(self.writes())
        code, _, errors = self.run(*options)
        assert code == 1, errors
        assert not [words for words in told if words not in errors], errors
        assert len(self.writes()) == written

    def writes(self) -> list[str]:
        """The keys of the bucket's objects that were written so far."""
        return [request.key for request in self.bucket.requests("PutObject", "UploadPart", "CompleteMultipartUpload")]

    def keys(self) -> set[str]:
        """The bucket's objects, below the prefix."""
        listed = self.bucket.client.list_objects_v2(Bucket=self.bucket.name).get("Contents", [])
        return {entry["Key"].removeprefix("m/v1/") for entry in listed}


@pytest.fixture
def uploader(bucket: Bucket, tmp_path: Path) -> Uploader:
    """An author with an empty directory."""
    (tmp_path / "model").mkdir()
    return Uploader(tmp_path / "model", bucket)


def client_of(bucket: Bucket) -> "S3Client":
    """A client of the test's own, to which it can listen."""
    with patch.dict(os.environ, bucket.server.environment()):
        client = s3_client(bucket.location())
        client.list_buckets()  # credentials and CA are read at the first request
        return client


def before(client: "S3Client", operation: str, act: Callable[[dict[str, Any]], object]) -> None:
    """Have ``act`` see the arguments of each call of ``operation`` before it goes out."""

    def handle(params: dict[str, Any], **_: object) -> None:
        act(params)

    client.meta.events.register(f"provide-client-params.s3.{operation}", handle)


def write(directory: Path, files: Mapping[str, bytes]) -> Path:
    directory.mkdir()
    for path, body in files.items():
        (directory / path).write_bytes(body)
    return directory
