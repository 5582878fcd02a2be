"""The two models that the benchmark loads: their files, made once from a seed and kept as the S3 server's own data.

Random bytes, because nothing on the way may compress or deduplicate them. Uploaded with a CRC64NVME of the whole object,
as the AWS CLI and boto3 of today can, so that the loader's comparison with the source's checksum is part of its figures.
"""

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from boto3.s3.transfer import TransferConfig

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET = "models"
DATASETS = ("large", "small")
_MIB = 1024 * 1024
#: Parts as `aws s3 cp` makes them, few at a time: the disk is slower than the client.
_UPLOAD = TransferConfig(multipart_chunksize=16 * _MIB, max_concurrency=2)
#: What lies beside the shards of a model of today, in bytes: configurations, an index, a tokenizer.
_BESIDE = {
    "LICENSE": 11_500,
    "README.md": 38_000,
    "chat_template.jinja": 4_100,
    "config.json": 900,
    "generation_config.json": 200,
    "merges.txt": 1_700_000,
    "model.safetensors.index.json": 24_000,
    "special_tokens_map.json": 300,
    "tokenizer.json": 9_100_000,
    "tokenizer.model": 4_200_000,
    "tokenizer_config.json": 51_000,
    "vocab.json": 2_800_000,
}


@dataclass(frozen=True, slots=True)
class Dataset:
    """One model on the server: ``files`` maps each path to (size, SHA-256)."""

    name: str
    prefix: str
    files: dict[str, tuple[int, str]]

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(size for size, _ in self.files.values())


def prepare(name: str, scale: float, client: "S3Client", cache: Path) -> Dataset:
    """The dataset on the server, uploaded now if it is not there whole from an earlier run."""
    prefix = name if scale == 1 else f"{name}-{scale:g}"
    sizes = _sizes(name, scale)
    known = cache / f"{prefix}.json"
    if known.exists():
        files = {path: (size, digest) for path, (size, digest) in json.loads(known.read_text()).items()}
        if {path: size for path, (size, _) in files.items()} == sizes == _listed(client, prefix):
            return Dataset(name, prefix, files)
    print(f"making dataset {prefix} ({sum(sizes.values()) / 1e9:.2f} GB) once", flush=True)
    files = {path: (size, _upload(client, f"{prefix}/{path}", size, cache)) for path, size in sizes.items()}
    known.write_text(json.dumps(files))
    return Dataset(name, prefix, files)


def with_another(dataset: Dataset, changed: str, client: "S3Client", data: Path, cache: Path) -> Dataset:
    """The model's next version, under a prefix of its own: other bytes in one file. ``data`` is the server's own directory.

    The others are hard links there: the ETags and checksums that an upload of the same bytes in the same parts gives, for no disk.
    """
    prefix = f"{dataset.prefix}-v2"
    for path in dataset.files:
        link = data / BUCKET / prefix / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        if path != changed:
            link.hardlink_to(data / BUCKET / dataset.prefix / path)
    size = dataset.files[changed][0]
    return Dataset(dataset.name, prefix, {**dataset.files, changed: (size, _upload(client, f"{prefix}/{changed}", size, cache))})


def _sizes(name: str, scale: float) -> dict[str, int]:
    if name == "large":
        shards = {f"model-{number:05}-of-00004.safetensors": int(1024 * _MIB * scale) for number in range(1, 5)}
        return shards | _BESIDE
    sizes = random.Random(2000)  # noqa: S311 - the same files each time are the point
    return {f"part-{number // 100:02}/{number:05}.bin": sizes.randint(100_000, 1_000_000) for number in range(max(1, int(2000 * scale)))}


def _listed(client: "S3Client", prefix: str) -> dict[str, int]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/")
    return {entry["Key"].removeprefix(f"{prefix}/"): entry["Size"] for page in pages for entry in page.get("Contents", ())}


def _upload(client: "S3Client", key: str, size: int, cache: Path) -> str:
    """Make one file, upload it, remove it: the server's copy is the one that stays. Gives the SHA-256."""
    path, digest = cache / "upload", hashlib.sha256()
    with path.open("wb") as file:
        for chunk in _random_bytes(key, size):
            digest.update(chunk)
            file.write(chunk)
    client.upload_file(str(path), BUCKET, key, ExtraArgs={"ChecksumAlgorithm": "CRC64NVME"}, Config=_UPLOAD)
    path.unlink()
    return digest.hexdigest()


def _random_bytes(key: str, size: int) -> Iterator[bytes]:
    source = random.Random(key)  # noqa: S311 - the same bytes each time are the point
    while size > 0:
        yield source.randbytes(min(size, _MIB))
        size -= _MIB
