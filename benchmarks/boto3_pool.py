"""boto3 as KServe's storage-initializer uses it: four processes, each ``Bucket.download_file`` with the default TransferConfig.

Started by the benchmark as a process of its own: ``python -m benchmarks.boto3_pool ENDPOINT BUCKET PREFIX TARGET``.
"""

import multiprocessing
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import boto3

if TYPE_CHECKING:
    from mypy_boto3_s3.service_resource import Bucket

PROCESSES = 4
_open: dict[str, "Bucket"] = {}


def _bucket(endpoint: str, name: str) -> "Bucket":
    """The bucket, once a process."""
    if name not in _open:
        _open[name] = boto3.resource("s3", endpoint_url=endpoint).Bucket(name)
    return _open[name]


def _download(endpoint: str, bucket: str, prefix: str, target: Path, key: str) -> None:
    path = target / key.removeprefix(prefix)
    path.parent.mkdir(parents=True, exist_ok=True)
    _bucket(endpoint, bucket).download_file(key, str(path))


def main(endpoint: str, bucket: str, prefix: str, target: Path) -> None:
    """Download everything below the prefix."""
    keys = [entry.key for entry in boto3.resource("s3", endpoint_url=endpoint).Bucket(bucket).objects.filter(Prefix=prefix)]
    with multiprocessing.get_context("fork").Pool(PROCESSES) as pool:
        pool.map(partial(_download, endpoint, bucket, prefix, target), keys)
        pool.close()
        pool.join()  # so that wait4 counts what the workers used


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))
