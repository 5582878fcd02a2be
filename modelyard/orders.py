"""Orders: what the program beside a volume is told to do, and what it reports. One value a command of the loader.

An order is the whole of a Job's content: its JSON is the program's argument, its result comes back in the pod's
termination message. What is too long for that (an inventory, a list of damaged files) goes to the log as entries; the
report counts and hashes them, so that a log that lost a line is not mistaken for a whole one.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Generic, Self, TypeVar

from pydantic import Field, model_validator

from modelyard.models import Listing, ModelRef, Origin, Pin, S3Location, Value, WeightPolicy
from modelyard.names import job_name, preload_job_name


class Order(Value):
    """What a Job's loader is told. ``content`` tells orders apart that would have Jobs of the same name."""

    command: ClassVar[str]

    @abstractmethod
    def job_name(self, claim: str, run_id: str) -> str:
        """The Job's name: a pure function of what is done where, so that a second run finds the first one's Job."""

    @property
    @abstractmethod
    def content(self) -> str:
        """What a Job of the same name must have the same of, to be joined."""

    @property
    def about(self) -> dict[str, str]:
        """What the Job is about, for its labels and annotations: ``model`` and ``version`` of one that has a single one."""
        return {}

    @property
    def reads_again(self) -> bool:
        """Whether it checks more than another of the same content might."""
        return False

    @property
    def writes(self) -> int:
        """Bytes that it may put on the volume, for those who ask what will still be written."""
        return 0

    @property
    def read_only(self) -> bool:
        """Whether the volume is mounted only to read."""
        return False

    @property
    def needs_volume(self) -> bool:
        """Whether the cache's claim is mounted at all."""
        return True

    @property
    def needs_scratch(self) -> bool:
        """Whether there is a place for temporary files."""
        return True


class VerifyLevel(StrEnum):
    """How a version that is on the volume already is checked before it is called there."""

    SIZES = "sizes"  # every file of the manifest is there with its size
    DIGESTS = "digests"  # and is read again and hashed


class LoadResult(Value):
    """What a loader reports when the version is on the volume."""

    digest: str
    files: int
    bytes: int
    fetched_bytes: int
    linked_bytes: int = 0
    resumed_bytes: int = 0
    seconds: float
    unverified_files: int = 0  # files whose source had no checksum of the whole object


class LoadSpec(Order):
    """Bring one version onto the volume. The listing's digest stands for the plan: a loader that lists anything else refuses."""

    command: ClassVar[str] = "preload"

    model: ModelRef
    source: Origin
    listing: Listing
    digest: str | None = None  # of the files, where their SHA-256s are known before they are read
    headroom: int = Field(default=0, ge=0)
    verify: VerifyLevel = VerifyLevel.SIZES
    weights: WeightPolicy = WeightPolicy.SCAN
    require_digests: bool = False  # a SHA256SUMS must be there, and list every file
    pin: Pin | None = None  # None: what this account may list

    def job_name(self, claim: str, run_id: str) -> str:  # noqa: ARG002 - the same for every run
        return preload_job_name(claim, self.model.name, self.model.version)

    @property
    def content(self) -> str:
        weights = "" if self.weights is WeightPolicy.SCAN else f" {self.weights}"
        return f"{self.listing.digest}{weights}{' digests' if self.require_digests else ''}"

    @property
    def about(self) -> dict[str, str]:
        return {"model": self.model.name, "version": self.model.version}

    @property
    def reads_again(self) -> bool:
        return self.verify is VerifyLevel.DIGESTS

    @property
    def writes(self) -> int:
        return self.listing.bytes


class Progress(Value):
    """How far a load is; ``seconds_left`` is None until a rate is known."""

    bytes: int
    total_bytes: int
    files: int
    total_files: int
    bytes_per_second: float = 0.0
    seconds_left: float | None = None

    @classmethod
    def at(cls, there: int, total_bytes: int, files: int, total_files: int, rate: float) -> "Progress":
        """The progress with ``there`` bytes of the total, at ``rate`` bytes a second."""
        left = round((total_bytes - there) / rate, 1) if rate > 0 else None
        return cls(
            bytes=there, total_bytes=total_bytes, files=files, total_files=total_files, bytes_per_second=round(rate, 1), seconds_left=left
        )


#: How a line of the log begins that is an entry.
ENTRY_LINE = '{"event": "entry"'


class Entries(Value):
    """How many entries the log holds, and their digest: SHA-256 over each entry's line of the log with its line feed."""

    count: int
    digest: str

    @classmethod
    def of(cls, lines: Iterable[str]) -> Self:
        """The count and digest of entries as they were printed."""
        digest, count = hashlib.sha256(), 0
        for line in lines:
            digest.update(f"{line}\n".encode())
            count += 1
        return cls(count=count, digest=f"sha256:{digest.hexdigest()}")


Result = TypeVar("Result", bound=Value)


@dataclass(frozen=True, slots=True)
class Report(Generic[Result]):
    """What an order came to: its result, and the entries of its log, each a JSON object with its ``event``."""

    result: Result
    entries: tuple[dict[str, Any], ...] = ()


class VolumeSpace(Value):
    """What a pod on the volume sees of its size (statvfs), in bytes and inodes; 0 inodes where the file system counts none."""

    total_bytes: int
    free_bytes: int
    total_inodes: int = 0
    free_inodes: int = 0


class VersionState(StrEnum):
    """Where a version on a volume stands."""

    READY = "ready"  # its manifest is there, and every file with its size
    DAMAGED = "damaged"  # its manifest is there, and files are missing or of another size
    PUBLISHING = "publishing"  # killed between the renames: the next preload finishes it
    STAGING = "staging"  # half loaded
    REMOVING = "removing"  # half removed: the next removal finishes it
    FOREIGN = "foreign"  # files in a version's place that Modelyard did not put there


class VersionEntry(Value):
    """One version, or one foreign directory or file, as an inspection found it; ``bytes`` are those of its files on the volume."""

    state: VersionState
    path: str  # relative to the volume's root, for example llama/v1
    model: str | None = None
    version: str | None = None
    digest: str | None = None
    listing_digest: str | None = None
    source: str | None = None  # its URI
    files: int = 0
    bytes: int = 0
    created: str | None = None  # ISO 8601
    problem: str | None = None  # what is wrong with a damaged one


class InspectResult(Value):
    """The volume's space; the entries of the log are a ``VersionEntry`` each."""

    space: VolumeSpace
    staged_bytes: int = 0
    trash_bytes: int = 0
    entries: Entries


class InspectSpec(Order):
    """See what is on the volume: its space, and every version (or those of ``models`` only). Changes nothing."""

    command: ClassVar[str] = "inspect"

    models: tuple[str, ...] = ()

    def job_name(self, claim: str, run_id: str) -> str:
        return job_name(self.command, claim, claim, run_id, *self.models)

    @property
    def content(self) -> str:
        return ",".join(self.models)

    @property
    def read_only(self) -> bool:
        return True


class RemoveResult(Value):
    """What a removal did. ``freed_bytes`` counts only files that no other version links to."""

    found: bool
    files: int = 0
    bytes: int = 0
    freed_bytes: int = 0
    seconds: float = 0.0


class RemoveSpec(Order):
    """Remove one version's bytes, published or half loaded; with ``digest`` only if that is the version's digest."""

    command: ClassVar[str] = "remove"

    model: ModelRef
    digest: str | None = None

    def job_name(self, claim: str, run_id: str) -> str:  # noqa: ARG002 - the same for every run
        return job_name(self.command, f"{self.model.name}-{self.model.version}", self.command, claim, self.model.name, self.model.version)

    @property
    def content(self) -> str:
        return self.digest or ""

    @property
    def about(self) -> dict[str, str]:
        return {"model": self.model.name, "version": self.model.version}


class RegistryAddress(Value):
    """Which registry may be read."""

    host: str
    plain_http: bool = False


class DamageEntry(Value):
    """One thing that a verification found: a damaged or missing file of a version, or one that is none of ours."""

    path: str  # relative to the volume's root
    problem: str
    model: str | None = None
    version: str | None = None
    foreign: bool = False
    repaired: bool = False


class VersionVerdict(Value):
    """What a verification came to for one version: ``damaged`` counts the damage that is left, ``digest`` is that of its manifest.

    Without ``digest`` the manifest cannot be believed, or there is none.
    """

    model: str
    version: str
    digest: str | None = None
    files: int = 0
    bytes: int = 0
    damaged: int = 0
    repaired: int = 0


class VerifyResult(Value):
    """What a verification read and found; the entries of the log are a ``VersionVerdict`` for each version that was looked at and
    is there still, and a ``DamageEntry`` for each finding, of these the first few thousand.

    ``damaged`` counts what was repaired as well; ``files`` and ``bytes`` are those of the manifests.
    """

    versions: int
    files: int
    bytes: int
    read_files: int
    read_bytes: int
    damaged: int = 0
    foreign: int = 0
    repaired: int = 0
    seconds: float = 0.0
    entries: Entries


class VerifySpec(Order):
    """Read the volume's versions (or those of ``models``) again and compare with their manifests.

    ``share`` of the bytes, above 0 up to 1, is read; which files, ``seed`` decides, so that many runs come round to all of
    them. With ``repair`` damaged files are fetched anew from what their manifests pin, at ``source`` (its endpoint, region and
    bucket) or from ``registry``; a manifest, which whoever writes to the volume can change, never says whom credentials go to.
    """

    command: ClassVar[str] = "verify"

    models: tuple[ModelRef, ...] = ()
    share: float = Field(default=1.0, gt=0, le=1)
    seed: int = Field(default=0, ge=0)
    repair: bool = False
    source: S3Location | None = None
    registry: RegistryAddress | None = None

    @model_validator(mode="after")
    def _repairs_from_somewhere(self) -> Self:
        if self.repair and self.source is None and self.registry is None:
            raise ValueError("a repair needs a source or a registry to fetch from")
        return self

    def job_name(self, claim: str, run_id: str) -> str:
        return job_name(self.command, claim, claim, run_id)

    @property
    def content(self) -> str:
        return self.model_dump_json()

    @property
    def reads_again(self) -> bool:
        return True

    @property
    def read_only(self) -> bool:
        return not self.repair
