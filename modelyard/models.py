"""The nouns every layer shares: a model's version, what its source lists, and what lies on a volume.

Values that cross a process (the loader's orders, the manifest) are pydantic models; the hundred thousand
files of a listing are slotted dataclasses, because their memory is counted.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from modelyard.names import name_problem


def _checked_name(text: str) -> str:
    if problem := name_problem(text):
        raise ValueError(problem)
    return text


Name = Annotated[str, AfterValidator(_checked_name)]


class Value(BaseModel):
    """Base of the values that travel: frozen, and unknown fields are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelRef(Value):
    """A version of a model: ``name@version``, an immutable set of files."""

    name: Name
    version: Name

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class WeightPolicy(StrEnum):
    """What is done about files that are loaded by pickle, which runs whatever code its author wanted."""

    ANY = "any"  # they are taken as they are
    SCAN = "scan"  # they may import only what is known to build tensors and plain data
    NO_PICKLE = "no-pickle"  # there must be none

    def covers(self, other: WeightPolicy) -> bool:
        """Whether what passed this policy passes ``other``, too."""
        order = list(WeightPolicy)
        return order.index(self) >= order.index(other)


class Pin(StrEnum):
    """What ties a listed object to its bytes. Flow and loader must use the same, or each lists what the other does not know."""

    VERSION = "version"  # its VersionId where the bucket keeps versions, else its ETag; needs s3:ListBucketVersions
    ETAG = "etag"


class S3Location(Value):
    """Where a model's files lie in an S3 bucket, and how to reach it. Holds no secret."""

    kind: Literal["s3"] = "s3"
    bucket: str = Field(min_length=3)
    prefix: str = ""
    endpoint_url: str | None = None
    region: str = "us-east-1"

    @property
    def uri(self) -> str:
        """``s3://bucket/prefix/`` for people and records."""
        return f"s3://{self.bucket}/{self.directory}"

    @property
    def directory(self) -> str:
        """The prefix as a directory: empty, or ending in exactly one '/', so that ``llama`` never lists ``llama-2``."""
        stripped = self.prefix.strip("/")
        return f"{stripped}/" if stripped else ""

    @property
    def last_name(self) -> str:
        """The last directory of the path: a version's name where none is given."""
        return self.directory.rstrip("/").rpartition("/")[2]


class OciLocation(Value):
    """An image in a registry whose files below ``models/`` are the model's. ``digest`` pins it; ``tag`` must still name that. No secret."""

    kind: Literal["oci"] = "oci"
    host: str
    repository: str
    tag: str | None = None
    digest: str | None = None
    plain_http: bool = False

    @property
    def uri(self) -> str:
        """``oci://host/repository:tag@digest`` for people and records."""
        tag = f":{self.tag}" if self.tag else ""
        return f"oci://{self.host}/{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")

    @property
    def last_name(self) -> str:
        """No version's name: the tag may be ``latest``, and beside a digest there need not be one."""
        return ""


class ClaimLocation(Value):
    """A version that lies on a cache's claim."""

    kind: Literal["pvc"] = "pvc"
    claim: str
    model: ModelRef

    @property
    def uri(self) -> str:
        """``pvc://claim/model/version``, as serving systems write it."""
        return f"pvc://{self.claim}/{self.model.name}/{self.model.version}"

    @property
    def last_name(self) -> str:
        """The version's own name."""
        return self.model.version


#: Where a version on a volume came from.
Origin = Annotated[S3Location | OciLocation, Field(discriminator="kind")]
#: Where a modelcar's files are read.
BuildSource = Annotated[S3Location | OciLocation | ClaimLocation, Field(discriminator="kind")]


class Restore(StrEnum):
    """How far an archived object is on its way back, where somebody asked for it."""

    UNDER_WAY = "under way"
    DONE = "done"  # there is a copy to be read, mostly for some days


@dataclass(frozen=True, slots=True, order=True)
class SourceFile:
    """One file as its source lists it, before any byte is read. ``version_id`` or ``etag`` pins the bytes.

    ``sha256`` (hex) is what the bytes must have, where that is known before they are read. ``restore`` passes, and the file stays the
    same: it is neither compared nor written into plans.
    """

    path: str
    size: int
    etag: str | None = None
    version_id: str | None = None
    storage_class: str | None = None
    sha256: str | None = None
    restore: Annotated[Restore | None, Field(exclude=True)] = field(default=None, compare=False)


class Listing(Value):
    """What a source lists for one model, summed up: the digest changes when any file's name, size or identity does."""

    digest: str
    files: int
    bytes: int


def summarise(files: Iterable[SourceFile]) -> Listing:
    """The listing's digest, count and bytes in one pass; order must be the source's (sorted by path).

    Digest: SHA-256 over ``path NUL size NUL version-id-or-etag LF`` of each file.
    """
    digest, count, total = hashlib.sha256(), 0, 0
    for file in files:
        identity = file.version_id or file.etag or ""
        digest.update(f"{file.path}\0{file.size}\0{identity}\n".encode(errors="surrogateescape"))
        count, total = count + 1, total + file.size
    return Listing(digest=f"sha256:{digest.hexdigest()}", files=count, bytes=total)


class Checksum(Value):
    """The source's own full-object checksum that the arriving bytes were compared with."""

    algorithm: Literal["CRC64NVME", "CRC32", "CRC32C", "SHA1", "SHA256", "MD5"]
    value: str

    @classmethod
    def of_sha256(cls, digest: str) -> Self:
        """The checksum that a SHA-256 in hex is."""
        return cls(algorithm="SHA256", value=base64.b64encode(bytes.fromhex(digest)).decode())


class FileRecord(Value):
    """One file of a manifest: what lies on the volume, and the identity that its source gave these bytes."""

    path: str
    size: int
    sha256: str
    etag: str | None = None
    version_id: str | None = None
    checksum: Checksum | None = None  # None: the source had none that covers the whole object


class Manifest(Value):
    """The completeness marker of a version on a volume: it is there if and only if the version is usable."""

    schema_version: Literal[1] = Field(default=1, alias="schemaVersion")
    model: str
    version: str
    source: Origin
    listing_digest: str = Field(alias="listingDigest")
    digest: str
    bytes: int
    created: datetime
    weights: WeightPolicy = WeightPolicy.ANY  # the strictest policy that the files passed
    digests_from: str | None = Field(default=None, alias="digestsFrom")  # of the author's SHA256SUMS, which all files agreed with
    files: tuple[FileRecord, ...]

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @classmethod
    def of(cls, ref: ModelRef, source: Origin, listing_digest: str, files: Iterable[FileRecord], created: datetime) -> Self:
        """The manifest of ``files``, sorted by path."""
        records = tuple(sorted(files, key=lambda record: record.path.encode()))
        return cls(
            model=ref.name,
            version=ref.version,
            source=source,
            listing_digest=listing_digest,
            digest=content_digest(records),
            bytes=sum(record.size for record in records),
            created=created,
            files=records,
        )


def sha256sums(files: Iterable[FileRecord]) -> Iterator[str]:
    """The lines of a ``SHA256SUMS`` file (coreutils ``sha256sum -c`` reads them), in order of the paths' bytes."""
    for record in sorted(files, key=lambda record: record.path.encode()):
        escaped = record.path.replace("\\", "\\\\")
        yield f"{'' if escaped == record.path else chr(92)}{record.sha256}  {escaped}\n"


def content_digest(files: Iterable[FileRecord]) -> str:
    """A version's digest: the SHA-256 of its ``SHA256SUMS`` file, so that coreutils alone can recompute it."""
    digest = hashlib.sha256()
    for line in sha256sums(files):
        digest.update(line.encode())
    return f"sha256:{digest.hexdigest()}"
