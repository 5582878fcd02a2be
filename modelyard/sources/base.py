"""What every kind of source gives: a pinned listing, and each file's bytes in order.

A source pushes (``fetch`` calls the sink from its own threads), because the fastest S3 engine does, and because a pull
through a Python iterator would copy each byte once more. Other kinds (hf://, file://, pvc://, oci://) fit the same shape.
"""

from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

from modelyard.errors import ModelyardError
from modelyard.models import Checksum, SourceFile

#: Called once per fetch, from any thread: None, or why the file did not arrive whole.
Done = Callable[[ModelyardError | None], None]


class Sink(Protocol):
    """Where one file's bytes go. Calls come one at a time, in order of ``offset``, without gaps."""

    def expect(self, checksum: Checksum | None) -> None:
        """The source's checksum of the whole object, told before the first byte; None if it has none of the whole."""

    def write(self, chunk: bytes, offset: int) -> None:
        """The file's bytes at ``offset``. An error that it raises ends the fetch and is given to ``done``."""


class Transfer(Protocol):
    """A fetch under way."""

    def cancel(self) -> None:
        """Stop soon; ``done`` is still called, with an error."""


class Source(Protocol):
    """Where a model's files come from."""

    def list(self) -> Iterator[SourceFile]:
        """Every file, sorted by path, each pinned to the bytes that it has now.

        Raises:
            SourceMissing, SourceDenied, SourceUnavailable.
        """

    def stat(self, file: SourceFile) -> Checksum | None:
        """The checksum of the whole object, for a fetch that does not begin at the first byte.

        Raises:
            SourceChanged: these bytes are no longer there.
        """

    def fetch(self, file: SourceFile, sink: Sink, start: int, done: Done) -> Transfer:
        """Push the bytes of ``file`` from offset ``start`` on into ``sink``; returns at once."""


@runtime_checkable
class RandomAccess(Protocol):
    """A source that gives a few bytes from anywhere without a fetch, which would be cancelled for them.

    One whose fetches share threads has to: a fetch that waits for its reader would hold up the one that the reader waits for.
    """

    def read(self, file: SourceFile, start: int, count: int) -> bytes:
        """The ``count`` bytes of ``file`` at ``start``, or fewer.

        Raises:
            SourceChanged: these bytes are no longer there.
            SourceUnavailable, SourceDenied.
        """
