"""Whether an unpickler would come to an import in bytes that the strict parser cannot read.

Unpicklers take more than pickletools does, each something else: numbers of any base or with a NUL in them, text in any encoding, lines
of any length. So nothing is read into values here. Where one instruction ends and the next begins is the same for all of them, and
what one of them does before it fails is the beginning of this walk. Raw weights begin like a pickle now and then: bytes that are no
instruction, or one that takes from an empty stack, before any import, end it for every unpickler.
"""

import pickletools

from modelyard.weights.pickles import PickleStream, is_importable

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
_TEXTS = frozenset({"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"})
_EXTENSIONS = frozenset({"EXT1", "EXT2", "EXT4"})


def position_after(stream: PickleStream, start: int) -> int | None:
    """Where the pickle at ``start`` ends for an unpickler; ``start`` if it may import something; None if it is no pickle."""
    stream.begin(start)
    named, first, stack = False, True, _Stack()
    while (opcode := _OPCODES.get(stream.read(1))) is not None and opcode.name != "STOP":
        if opcode.name in {"GLOBAL", "INST"}:
            return start if all([_importable(stream), _importable(stream)]) else None
        if opcode.name == "STACK_GLOBAL":
            return start if named and stack.can_do(opcode) else None  # without texts before it, it fails
        if opcode.name in _EXTENSIONS:  # a number that hardly a process knows: at the very beginning it rather is raw weights
            return None if first else start
        if not stack.can_do(opcode) or not _pass_argument(stream, opcode):
            return None
        if stream.reads > _MOST_READS:
            return start
        named, first = named or opcode.name in _TEXTS, False
    return stream.tell() if opcode else None


class _Stack:
    """How much is at most on an unpickler's stack, marks counted: what some unpickler could do is never said to be impossible."""

    def __init__(self) -> None:
        self._height = 0
        self._marks: list[int] = []

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
        if self._height < len(taken):
            return False
        self._height += len(opcode.stack_after) - len(taken)
        if opcode.name == "MARK":
            self._marks.append(self._height - 1)
        return True


def _importable(stream: PickleStream) -> bool:
    line = stream.whole_line(_LONGEST_LINE)
    try:
        return is_importable(line.rstrip(b"\n").decode())
    except UnicodeDecodeError:  # where any unpickler ends
        return False


def _pass_argument(stream: PickleStream, opcode: pickletools.OpcodeInfo) -> bool:
    """Go behind an instruction's argument; whether all of it is there."""
    if opcode.arg is None:
        return True
    length = opcode.arg.n
    if length == pickletools.UP_TO_NEWLINE:
        return bool(stream.whole_line(_LONGEST_LINE))
    if length in _COUNTED:
        length = int.from_bytes(stream.read(_COUNTED[length]), "little")
    return len(stream.read(length)) == length
