"""Whether an unpickler would come to an import in bytes that the strict parser cannot read.

Unpicklers take more than pickletools does, each something else: numbers of any base or with a NUL in them, text in any encoding, lines
of any length. So nothing is read into values here. Where one instruction ends and the next begins is the same for all of them, and
what one of them does before it fails is the beginning of this walk. Raw weights begin like a pickle now and then: bytes that are no
instruction, or one that takes from an empty stack or memo, before any import, end it for every unpickler of Python 3.

A number of copyreg stands for what the loading program registered itself: to name it does nothing, to use it may do anything.
"""

import pickletools
from dataclasses import dataclass
from enum import Enum, auto

from modelyard.weights.pickles import BY_LINES, EXTENSIONS, Frames, PickleStream, is_importable

_LONGEST_LINE = 16 * 1024 * 1024
_MOST_READS = 1_000_000
_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
#: How many bytes tell an argument's length.
_COUNTED = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
#: What may push a text: what an import gives may be one.
_TEXTS = BY_LINES | {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
#: What may call a function or a method of something on the stack.
_CALLS = frozenset({"REDUCE", "BUILD", "OBJ", "NEWOBJ", "NEWOBJ_EX", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BINPERSID"})
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_FRAME_BYTES = 8


def position_after(stream: PickleStream, start: int) -> int | None:
    """Where the pickle at ``start`` ends for an unpickler; ``start`` if it may import something; None if it is no pickle."""
    try:
        return _end_of(stream, start)
    except _Endless:
        return start


def _end_of(stream: PickleStream, start: int) -> int | None:
    stream.begin(start)
    position, met, stack, frames = start, _Met(), _Stack(kept=start > 0), Frames(stream.size)  # an unpickler may read several pickles
    while (opcode := _OPCODES.get(stream.read(1))) is not None:
        goes_on = stack.can_do(opcode) or opcode.name == "INST"  # imports before it takes its mark
        step = _after(stream, opcode, met) if goes_on else _Step.FAILS
        end = stream.tell()
        if step is _Step.MAY_IMPORT or frames.cut(opcode.name, position, end) or stream.reads > _MOST_READS:
            return start
        if step is _Step.FAILS:
            return None
        if opcode.name == "STOP":
            return end
        if opcode.name == "FRAME":
            frames.open(end, _number_before(stream, end))
        position = end
    return None


@dataclass(slots=True)
class _Met:
    """What was pushed so far: ``text``, which may name an import, and ``extension``, which the loading program registered."""

    text: bool = False
    extension: bool = False


class _Step(Enum):
    """What an instruction does to an unpickler."""

    GOES_ON = auto()
    MAY_IMPORT = auto()
    FAILS = auto()


def _after(stream: PickleStream, opcode: pickletools.OpcodeInfo, met: _Met) -> _Step:
    """What it does, and go behind its argument."""
    if opcode.name in BY_LINES:
        module, name = _line(stream), _line(stream)
        if module is None or name is None:
            return _Step.FAILS
        met.text = True
        # A module whose name is none may be on disk all the same, as lib-dynload is: then it goes on.
        return _Step.MAY_IMPORT if is_importable(module) and is_importable(name) else _Step.GOES_ON
    if opcode.name == "STACK_GLOBAL":
        return _Step.MAY_IMPORT if met.text else _Step.FAILS  # without texts before it
    if opcode.name in _CALLS and met.extension:
        return _Step.MAY_IMPORT
    if opcode.name in EXTENSIONS:
        met.text = met.extension = True  # what is registered may be a text, too
    met.text = met.text or opcode.name in _TEXTS
    return _Step.GOES_ON if _pass_argument(stream, opcode) else _Step.FAILS


class _Stack:
    """How much is at most on an unpickler's stack, marks counted, and whether anything is in its memo.

    What some unpickler could do is never said to be impossible.
    """

    def __init__(self, *, kept: bool) -> None:
        self._height = 0
        self._marks: list[int] = []
        self._kept = kept

    def can_do(self, opcode: pickletools.OpcodeInfo) -> bool:
        """Do what ``opcode`` does to the stack; whether what it takes is there."""
        taken = [each for each in opcode.stack_before if each is not pickletools.stackslice]
        if pickletools.markobject in taken:
            if not self._marks:
                return False
            self._height = min(self._height, self._marks.pop())
            taken = taken[: taken.index(pickletools.markobject)]
        elif opcode.name == "POP" and self._marks and self._marks[-1] == self._height - 1:  # it may take a mark
            self._marks.pop()
        if self._height < (1 if opcode.name in _PUTS else len(taken)) or (opcode.name in _GETS and not self._kept):
            return False
        self._kept = self._kept or opcode.name in _PUTS
        self._height += len(opcode.stack_after) - len(taken)
        if opcode.name == "MARK":
            self._marks.append(self._height - 1)
        return True


class _Endless(Exception):
    """A line is too long to see what stands behind it."""


def _line(stream: PickleStream) -> str | None:
    """A name of an import; None where any unpickler ends."""
    try:
        return _whole_line(stream).rstrip(b"\n").decode()
    except UnicodeDecodeError:
        return None


def _whole_line(stream: PickleStream) -> bytes:
    line = stream.whole_line(_LONGEST_LINE)
    if len(line) == _LONGEST_LINE and not line.endswith(b"\n"):
        raise _Endless
    return line


def _number_before(stream: PickleStream, end: int) -> int:
    stream.seek(end - _FRAME_BYTES)
    return int.from_bytes(stream.read(_FRAME_BYTES), "little")


def _pass_argument(stream: PickleStream, opcode: pickletools.OpcodeInfo) -> bool:
    """Go behind an instruction's argument; whether all of it is there."""
    if opcode.arg is None:
        return True
    length = opcode.arg.n
    if length == pickletools.UP_TO_NEWLINE:
        return bool(_whole_line(stream))
    if length in _COUNTED:
        length = int.from_bytes(stream.read(_COUNTED[length]), "little")
    return len(stream.read(length)) == length
