"""Ways in which an object may have come into a bucket, each leaving another checksum."""

from collections.abc import Callable
from typing import Any

from tests.services.s3_fixtures import Bucket

MIB = 1024 * 1024

Upload = Callable[[Bucket, bytes], None]


def single(algorithm: str) -> Upload:
    """One PUT of ``m/v1/x`` with a checksum."""

    def upload(bucket: Bucket, body: bytes) -> None:
        client: Any = bucket.client
        client.put_object(Bucket=bucket.name, Key="m/v1/x", Body=body, ChecksumAlgorithm=algorithm)

    return upload


def multipart(algorithm: str, kind: str) -> Upload:
    """A multipart upload of ``m/v1/x`` in parts of 5 MiB, with a checksum of the whole or one of the parts' checksums."""

    def upload(bucket: Bucket, body: bytes) -> None:
        client: Any = bucket.client
        target = {"Bucket": bucket.name, "Key": "m/v1/x"}
        upload_id = client.create_multipart_upload(**target, ChecksumAlgorithm=algorithm, ChecksumType=kind)["UploadId"]
        parts = []
        for number, start in enumerate(range(0, len(body), 5 * MIB), 1):
            chunk = {"PartNumber": number, "Body": body[start : start + 5 * MIB], "ChecksumAlgorithm": algorithm}
            part = client.upload_part(**target, UploadId=upload_id, **chunk)
            sums = {name: value for name, value in part.items() if name.startswith("Checksum")}
            parts.append({"PartNumber": number, "ETag": part["ETag"], **sums})
        client.complete_multipart_upload(**target, UploadId=upload_id, MultipartUpload={"Parts": parts})

    return upload


def behind_the_back(bucket: Bucket, body: bytes) -> None:
    """A file that someone laid below the server: it has no checksum, and an ETag that is no MD5."""
    directory = bucket.server.access_log.parent / "buckets" / bucket.name / "m" / "v1"
    directory.mkdir(parents=True)
    (directory / "x").write_bytes(body)
