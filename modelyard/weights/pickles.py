"""What one pickle imports. A pickle is a program; what it can do is decided by the functions that it imports and calls.

picklescan tells the imports, with years of evasions behind its parser. Its verdict on them is a list of the dangerous, which
is beaten by any function that it does not know yet (a dozen advisories a year). So here what is not known to be harmless is
refused (``harmless``).
"""

import io
import logging
import os
import pickletools
import struct
from dataclasses import dataclass
from typing import IO, cast

from picklescan.scanner import SafetyLevel, scan_pickle_bytes

from modelyard.weights.harmless import HARMLESS

logging.getLogger("picklescan").addHandler(logging.NullHandler())
logging.getLogger("picklescan").propagate = False  # the findings are told once, by us

#: picklescan keeps each instruction of a pickle: 1,000,000 are about 200 MB. A checkpoint has some 50 a tensor.
MOST_READS = 1_000_000
#: So much of what imports nothing is read through, in a minute or two: plain data may be long, a scan without an end must not be.
MOST_PLAIN_READS = 50_000_000
#: Longer payloads are passed over, for no import has such a name: memory stays small whatever is pickled.
_LONGEST = 64 * 1024
#: Opcodes that import by two lines of text, and those that import by a number of copyreg.
BY_LINES = frozenset({"GLOBAL", "INST"})
EXTENSIONS = frozenset({"EXT1", "EXT2", "EXT4"})


class Unscannable(Exception):
    """What a pickle does cannot be told; ``imports``: whether it does anything before the place where reading ended."""

    def __init__(self, message: str, *, imports: bool) -> None:
        super().__init__(message)
        self.imports = imports


@dataclass(frozen=True, slots=True)
class Import:
    """Something that a pickle imports and that is not known to be harmless."""

    name: str
    dangerous: bool  # known as such

    def __str__(self) -> str:
        return f"imports {self.name}, {'which is known to be dangerous' if self.dangerous else 'which is not known to be harmless'}"


class _Skipped(bytes):
    """A payload that was passed over: nothing but its length."""

    length: int

    def __len__(self) -> int:
        return self.length


class PickleStream(io.RawIOBase):
    """A file for two readers of opcodes, pickletools and picklescan: counts their reads, passes long payloads over."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        super().__init__()
        self._file = file
        self.size = size
        self.reads = 0
        self._at_end = False

    def begin(self, position: int) -> None:
        """Go to ``position`` with a fresh count."""
        self._file.seek(position)
        self.reads = 0

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if (offset, whence) == (-1, os.SEEK_CUR) and self._at_end:  # picklescan takes back a byte that it did not get
            return self.tell()
        return self._file.seek(offset, whence)

    def read(self, count: int = -1) -> bytes:
        self.reads += 1
        if count > _LONGEST:
            return self._skip(count)
        found = self._file.read(max(count, 0))
        self._at_end = not found
        return found

    def _skip(self, count: int) -> bytes:
        there = min(count, self.size - self.tell())
        self._file.seek(there, os.SEEK_CUR)
        skipped = _Skipped()
        skipped.length = there
        return skipped

    def readline(self, _limit: int | None = -1) -> bytes:
        self.reads += 1
        line = self._file.readline(_LONGEST)
        if len(line) == _LONGEST:
            raise ValueError("a line without an end")
        return line

    def whole_line(self, longest: int) -> bytes:
        """A line of up to ``longest`` bytes."""
        self.reads += 1
        return self._file.readline(longest)


class Frames:
    """Whether frames and instructions keep to each other, as every pickler writes them.

    Where one ends within the other, what is read next depends on the unpickler: the one in C forgets what it has of a frame
    when an instruction needs more (CPython's ``_Unpickler_ReadImpl``), the one in Python fails, ``loads`` minds no frames.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._end = 0

    def cut(self, opcode: str, begin: int, end: int) -> bool:
        """Whether a frame ends within the instruction from ``begin`` to ``end``, or goes on behind one that must be its last."""
        if begin >= self._end:
            return False
        return end > self._end or (opcode in {"STOP", "FRAME"} and end < self._end)

    def open(self, end: int, length: int) -> None:
        """A frame of ``length`` bytes begins at ``end``. One that is longer than the file hides nothing: it fails, or is all there is."""
        self._end = end + length if end + length <= self._size else 0


def read_pickle(stream: PickleStream, start: int) -> tuple[list[Import], bool]:
    """What the pickle that begins at ``start`` imports beyond the harmless, and whether it imports at all; the stream is behind it then.

    Raises:
        Unscannable: it is no pickle, or a broken one, or too long.
    """
    imports = _walk(stream, start)
    end = stream.tell()
    if not imports:
        return [], False
    if stream.reads > MOST_READS:
        raise Unscannable(f"imports, and has {stream.reads} instructions, too many to scan", imports=True)
    stream.begin(start)
    try:
        found = scan_pickle_bytes(cast("IO[bytes]", stream), "", multiple_pickles=False, strict=True).globals
    except ValueError as error:
        raise Unscannable(f"hides what it imports ({error})", imports=True) from error
    stream.begin(end)
    suspects = [
        Import(f"{each.module}.{each.name}", _is_dangerous(each.module, each.name))
        for each in found
        if each.safety is not SafetyLevel.Innocuous and each.name not in HARMLESS.get(each.module, ())
    ]
    return sorted(suspects, key=lambda suspect: (not suspect.dangerous, suspect.name)), True


def _walk(stream: PickleStream, start: int) -> bool:
    """Read the opcodes of one pickle up to its STOP; whether any of them imports."""
    imports, frames = False, Frames(stream.size)
    stream.begin(start)
    try:
        for opcode, argument, position in pickletools.genops(cast("IO[bytes]", stream)):
            if frames.cut(opcode.name, cast("int", position), stream.tell()):
                raise Unscannable("has frames that cut its instructions, which each unpickler reads differently", imports=True)
            if opcode.name == "FRAME":
                frames.open(stream.tell(), cast("int", argument))
            if opcode.name in EXTENSIONS:
                raise Unscannable("imports by a number of copyreg, whose meaning only its loader knows", imports=True)
            if opcode.name in BY_LINES:
                module, _, name = str(argument).partition(" ")
                if not is_importable(module) or not is_importable(name):
                    raise Unscannable("imports what has no name", imports=imports)
                imports = True
            imports = imports or opcode.name == "STACK_GLOBAL"
            if stream.reads > MOST_PLAIN_READS:
                raise Unscannable(f"has more than {MOST_PLAIN_READS} instructions, too many to scan", imports=imports)
    except (ValueError, LookupError, ArithmeticError, TypeError, struct.error) as error:
        raise Unscannable(f"is no whole pickle ({error})"[:200], imports=imports) from error
    return imports


def is_importable(dotted: str) -> bool:
    """Whether it can be the name of a module, or of something in one."""
    return all(part.isidentifier() or part == "<lambda>" for part in dotted.split("."))


def _is_dangerous(module: str, name: str) -> bool:
    """Whether picklescan knows it as dangerous, not merely as unknown."""
    return "unknown" in {module, name} or _rated(module, name)


def _rated(module: str, name: str) -> bool:
    program = b"c" + f"{module}\n{name}\n".encode() + b"."
    rated = scan_pickle_bytes(io.BytesIO(program), "", multiple_pickles=False).globals
    return any(each.safety is SafetyLevel.Dangerous for each in rated)
