"""How the builder works: numbers that were measured (benchmarks/)."""

from pydantic import Field

from modelyard.models import Value
from modelyard.oci.http import Patience

_MIB = 1024 * 1024


class Tuning(Value):
    """The builder's tuning; the defaults suit 2 CPUs and 512 MiB."""

    layers: int = Field(default=4, ge=1, le=100)
    """Layers on their way at a time: two for each of the source engine's two threads, so that neither waits for a layer's end."""
    buffer_bytes: int = Field(default=10 * _MIB, ge=1)
    """How much of a weight file waits between source and registry; one part of the source's engine (5 MiB) may come on top."""
    ahead_bytes: int = Field(default=32 * _MIB, ge=1)
    """How many bytes of small files are fetched ahead of the one that is being sent."""
    ahead_files: int = Field(default=16, ge=1)
    """And how many files."""
    attempts: int = Field(default=8, ge=1, le=100)
    """Tries in a row that bring a file, a layer or a request no further before the build ends."""
    retry_seconds: float = Field(default=1.0, ge=0, le=20)
    """The first wait before another try; it doubles each time, up to 20 s, and is shortened by chance."""
    answer_seconds: float = Field(default=45.0, gt=0)
    """A registry that says nothing for so long is asked again, four times in a row at most; only what it commits may take longer."""
    stall_seconds: float = Field(default=300.0, ge=1)
    """A file that brings no byte for so long is asked for again from where it stopped."""

    @property
    def patience(self) -> Patience:
        return Patience(self.attempts, self.retry_seconds, answer=self.answer_seconds)
