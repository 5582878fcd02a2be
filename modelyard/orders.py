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

from pydantic import Field

from modelyard.models import Listing, ModelRef, S3Location, Value
from modelyard.names import preload_job_name


class Order(Value):
    """What a Job's loader is told. ``content`` tells orders apart that would have Jobs of the same name."""

    command: ClassVar[str]
    read_only: ClassVar[bool] = False  # whether it needs the volume only to read

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
    source: S3Location
    listing: Listing
    headroom: int = Field(default=0, ge=0)
    verify: VerifyLevel = VerifyLevel.SIZES

    def job_name(self, claim: str, run_id: str) -> str:  # noqa: ARG002 - the same for every run
        return preload_job_name(claim, self.model.name, self.model.version)

    @property
    def content(self) -> str:
        return self.listing.digest

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
