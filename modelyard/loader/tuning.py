"""How the loader works: numbers that were measured (benchmarks/).

``MODELYARD_LOADER_<NAME>`` in the process's environment sets one, as benchmarks and tests do; the Jobs of flows leave the defaults.
"""

from collections.abc import Mapping
from typing import Self

from pydantic import Field

from modelyard.models import Value

_PREFIX = "MODELYARD_LOADER_"


class Tuning(Value):
    """The loader's tuning; the defaults suit a pod of 2 CPUs and 1 GiB."""

    transfers: int = Field(default=24, ge=1, le=1000)
    """Files on their way at a time; more of them help only where the source is far."""
    large_transfers: int = Field(default=4, ge=1, le=100)
    """How many of these may be large: two for each of the engine's two threads that hash, so that neither waits for a file's end."""
    large_bytes: int = Field(default=64 * 1024 * 1024, ge=1)
    """What is large."""
    attempts: int = Field(default=6, ge=1, le=100)
    """Tries in a row that bring a file no further before the load ends; the engine has tried several times within each."""
    retry_seconds: float = Field(default=1.0, ge=0, le=20)
    """The first wait before another try of a file; it doubles each time, up to 20 s, and is shortened by chance."""
    stall_seconds: float = Field(default=300.0, ge=1)
    """A transfer that brings no byte for so long is broken off and tried again. The engine hands over whole parts of 5 MiB, so this
    is also the time that a part may take; a connection that is silent for 30 s it replaces itself."""
    sync_bytes: int = Field(default=512 * 1024 * 1024, ge=1)
    """Finished files are made durable in groups: when so many bytes wait for it; a kill costs at most these once more."""
    sync_seconds: float = Field(default=20.0, gt=0)
    """Or when so many seconds have passed."""
    checkpoint_bytes: int = Field(default=256 * 1024 * 1024, ge=1)
    """A file can be resumed every so many bytes; each checkpoint waits for the volume once."""
    direct_writes: bool = True
    """Large files are written past the page cache where the volume is a block device's file system: it halves the CPU time."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """The tuning that the pod's environment asks for.

        Raises:
            ValueError: a name that there is none of, or a value out of its bounds.
        """
        told = {name.removeprefix(_PREFIX).lower(): value for name, value in environment.items() if name.startswith(_PREFIX)}
        return cls.model_validate(told)
