"""What Python's own unpickler would do with bytes that the strict parser cannot read, up to the first import, which is not carried out.

The unpickler takes more than pickletools does: numbers of any base, text in any encoding, lines of any length. A file whose name
is no pickle's is only refused if the unpickler would come to an import: raw weights begin like a pickle now and then.
"""

import pickle
from typing import IO, Any, ClassVar, NoReturn, cast

from modelyard.weights.pickles import PickleStream

_LONGEST_LINE = 16 * 1024 * 1024
_MOST_READS = 1_000_000


class _Import(Exception):
    """The unpickler came to an import."""


class _Reader:
    """The stream for the unpickler: long payloads are passed over, long lines read, and not for ever."""

    def __init__(self, stream: PickleStream) -> None:
        self._stream = stream

    def read(self, count: int) -> bytes:
        self._count()
        return self._stream.read(count)

    def readline(self) -> bytes:
        self._count()
        return self._stream.whole_line(_LONGEST_LINE)

    def _count(self) -> None:
        if self._stream.reads > _MOST_READS:
            raise _Import


class _UpToAnImport(pickle._Unpickler):  # noqa: SLF001 - the C one cannot be told to ignore frames
    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.FRAME[0]: lambda self: self.read(8)}  # noqa: SLF001

    def find_class(self, _module: str, _name: str) -> NoReturn:
        raise _Import

    def persistent_load(self, _identity: object) -> None:
        """As torch has it: what is referred to lies elsewhere."""


def position_after(stream: PickleStream, start: int) -> int | None:
    """Where the pickle at ``start`` ends for the unpickler; ``start`` if it would import something; None if it is no pickle."""
    stream.begin(start)
    try:
        _UpToAnImport(cast("IO[bytes]", _Reader(stream)), encoding="latin1").load()
    except _Import:
        return start
    except Exception:  # noqa: BLE001 - whatever it is, the unpickler ends here
        return None
    return stream.tell()
