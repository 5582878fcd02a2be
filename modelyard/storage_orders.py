"""The orders of a storage check: what its pods try on a volume, and what they saw."""

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from modelyard.models import Value
from modelyard.names import job_name
from modelyard.orders import Order, VolumeSpace


class CheckStep(StrEnum):
    """What one pod of a storage check does."""

    WRITE = "write"  # try every operation that a loader needs, measure, leave a nonce and a file to read
    READ = "read"  # find the nonce from another pod or node, measure
    CLEAN = "clean"  # remove what the check wrote


class Ability(StrEnum):
    """What a check tries on a volume. What it means that one is missing is the plan's to say (plans/check_storage.py)."""

    WRITE = "write"  # directories and files are made, written, cut and read back
    RENAME = "rename"  # a file over a file, a directory over an empty one
    FSYNC = "fsync"  # of a file and of a directory
    SYNCFS = "syncfs"
    HARD_LINK = "hard-link"
    LOCK = "lock"  # a second process does not get a flock that the first one holds
    DIRECT = "direct-io"  # O_DIRECT
    MODE = "mode"  # mode bits are kept as they were set
    OWNER = "owner"  # files belong to the uid and a gid of the process
    UNLINK_OPEN = "unlink-open"  # an open file is read on after its name is gone
    LONG_NAMES = "long-names"  # names of 255 bytes
    UNICODE = "unicode"  # names are kept byte for byte
    CASE = "case"  # names that differ in case are two
    SPACE = "space"  # free space falls by about what was written
    VISIBLE = "visible"  # what another pod wrote is there, and equal
    CLEAN = "clean"  # all of it can be removed again


class Lack(Value):
    """An ability that a volume lacks, and what was seen, in a few words: many of them fit one termination message."""

    ability: Ability
    seen: str


class CheckResult(Value):
    """What one pod of a storage check saw; a rate is None where nothing was measured."""

    step: CheckStep
    file_system: str = ""
    space: VolumeSpace | None = None
    uid: int = 0
    gid: int = 0
    works: tuple[Ability, ...] = ()
    lacks: tuple[Lack, ...] = ()
    measured_bytes: int = 0
    write_bytes_per_second: float | None = None  # the last fsync included
    written_direct: bool = False  # past the page cache
    read_bytes_per_second: float | None = None
    read_direct: bool = False  # past the page cache; else the file was dropped from it first


class CheckSpec(Order):
    """One step of a storage check; ``nonce`` is what the writer leaves and readers look for, ``bytes`` how much is measured with."""

    command: ClassVar[str] = "check"

    step: CheckStep
    nonce: str = Field(pattern=r"^[0-9a-f]{16,64}$")
    bytes: int = Field(default=256 * 1024 * 1024, ge=1024 * 1024)
    patience: float = Field(default=90.0, ge=0)  # seconds a reader looks for the nonce; nfs(5) may hide a file for a minute (acdirmax)
    node: str | None = None

    def job_name(self, claim: str, run_id: str) -> str:
        return job_name(self.command, f"{self.step}-{claim}", claim, run_id, self.step, self.node or "")

    @property
    def content(self) -> str:
        return self.model_dump_json()

    @property
    def writes(self) -> int:
        return self.bytes if self.step is CheckStep.WRITE else 0

    @property
    def read_only(self) -> bool:
        return self.step is CheckStep.READ
