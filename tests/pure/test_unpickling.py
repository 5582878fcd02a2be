"""Bytes that the strict parser refuses: wherever one of Python's two unpicklers comes to an import, the walk says so too."""

import copyreg
import io
import pickle
import pickletools
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import IO, Any, Self, cast

import pytest

from modelyard.weights.pickles import PickleStream, Unscannable, read_pickle
from modelyard.weights.unpickling import position_after

_OPCODES = pickletools.opcodes
#: The number of copyreg that stands for ``Registered``.
_NUMBER = 1
_LIKELY = [
    b"clib-dynload\n__name__\n",
    b"cos\nsystem\n",
    b"ios\nsystem\n",
    b"\x93",
    b"(",
    b"\x8c\x02os",
    b"\x8c\x06system",
    b"U\x01a",
    b"0",
    b"2",
    b"]",
    b"\x82\x01",
    b"q\x01h\x01",
    b"c!os\nsystem\n",
]
_LINES = [b"1\n", b"0x1\n", b"'a'\n", b"a\n", b"\n", b"\xff\n"]
#: Arguments that are of use.
_OWN: dict[str, Callable[[random.Random], bytes]] = {
    "GLOBAL": lambda _: b"os\nsystem\n",
    "INST": lambda _: b"os\nsystem\n",
    "FRAME": lambda chance: chance.randrange(16).to_bytes(8, "little"),
    "LONG_BINPUT": lambda chance: chance.randrange(4).to_bytes(4, "little"),  # a memo of its length is made
}
_COUNTS = {pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT8U: 8}


class Imported(Exception):
    """An unpickler came to an import."""


class _Calls(type):
    def __setitem__(cls, key: object, value: object) -> None:
        raise Imported("used")


class Registered(metaclass=_Calls):
    """What the loading program registered with copyreg: whatever is done with it is as bad as an import."""

    def __new__(cls, *_: object, **__: object) -> Self:
        raise Imported("used")

    @classmethod
    def _used(cls, *_: object) -> None:
        raise Imported("used")

    append = extend = add = __setstate__ = _used


class PythonUnpickler(pickle._Unpickler):  # the one in Python, which does some things in another order
    """Tells of an import in the place of doing it."""

    def find_class(self, module: str, name: str) -> Any:
        return found(module, name)


class CUnpickler(pickle.Unpickler):
    """The same, in C."""

    def find_class(self, module: str, name: str) -> Any:
        return found(module, name)


def found(module: str, name: str) -> object:
    """What an unpickler gets; a module whose name is none may be there all the same."""
    if name == "Registered":
        return Registered
    if module in {"lib-dynload", "!os"}:
        return module
    raise Imported(f"{module}.{name}")


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    copyreg.add_extension(__name__, "Registered", _NUMBER)
    yield
    copyreg.remove_extension(__name__, "Registered", _NUMBER)


def program(chance: random.Random) -> bytes:
    """Some instructions, of which most fail."""
    return b"".join(_instruction(chance) for _ in range(chance.randrange(1, 9))) + b"."


def _instruction(chance: random.Random) -> bytes:
    if chance.random() < 0.4:
        return chance.choice(_LIKELY)
    opcode = chance.choice(_OPCODES)
    code = opcode.code.encode("latin-1")
    if opcode.arg is None:
        return code
    if opcode.name in _OWN:
        return code + _OWN[opcode.name](chance)
    if opcode.arg.n == pickletools.UP_TO_NEWLINE:
        return code + chance.choice(_LINES)
    if opcode.arg.n < 0:
        length = chance.randrange(3)
        return code + length.to_bytes(_COUNTS.get(opcode.arg.n, 4), "little") + b"a" * length
    return code + bytes(chance.choice([0, 0, 1, 1, 2, 4]) for _ in range(opcode.arg.n))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("unpickler", [PythonUnpickler, CUnpickler])
def test_what_an_unpickler_imports_is_found(unpickler: type[Any]) -> None:
    met = 0
    for seed in range(8000):
        body = program(random.Random(seed))  # noqa: S311
        try:
            with suppress(*_FAILURES):
                unpickler(io.BytesIO(body)).load()
        except Imported:
            met += 1
            assert position_after(_stream(body), 0) == 0, (seed, body)
    assert met > 300


_FAILURES = (
    pickle.UnpicklingError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    OverflowError,
    AssertionError,
    MemoryError,
)


def _stream(body: bytes) -> PickleStream:
    return PickleStream(cast("IO[bytes]", io.BytesIO(body)), len(body))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\x92cos\nsystem\n.", id="an object of nothing"),
        pytest.param(b"Ntcos\nsystem\n.", id="a tuple without a mark"),
        pytest.param(b"(0bcos\nsystem\n.", id="the mark itself was taken"),
        pytest.param(b"\x8c\x02os\x93.", id="one text, where an import takes two"),
        pytest.param(b"h\x01cos\nsystem\n.", id="what was never kept"),
        pytest.param(b"q\x01cos\nsystem\n.", id="nothing to keep"),
        pytest.param(b"\x82\x01\xff)R.", id="a number that is never used"),
    ],
)
def test_what_fails_before_it_imports_is_no_pickle(body: bytes) -> None:
    assert position_after(_stream(body), 0) is None


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(b"\x80\x02clib-dynload\n__name__\n0", id="a module whose name is no identifier"),
        pytest.param(b"V" + b"a" * (16 * 1024 * 1024 + 5) + b"\n", id="a line longer than is read"),
    ],
)
def test_what_stands_before_an_import_does_not_hide_it(before: bytes) -> None:
    assert position_after(_stream(before + b"cposix\ngetpid\n(tR."), 0) == 0


@pytest.mark.parametrize(
    "body",
    [
        b"\x82\x01)R.",
        b"(0\x83\x01\x00)\x81.",
        b"(\x84\x01\x00\x00\x00o.",
        b"\x82\x01Nb.",
        b"\x82\x01Na.",
        b"\x82\x01Q.",
        b"\x82\x01\x8c\x06system\x93.",
    ],
)
def test_what_uses_a_number_of_copyreg_is_as_an_import(body: bytes) -> None:
    assert position_after(_stream(body), 0) == 0


def test_a_number_of_copyreg_that_is_only_named_does_nothing() -> None:
    assert position_after(_stream(b"]\x82\x01."), 0) == 4


def test_one_unpickler_keeps_its_memo_from_one_pickle_to_the_next() -> None:
    two = b"Nq\x01.h\x01cos\nsystem\n."
    unpickler = CUnpickler(io.BytesIO(two))
    assert unpickler.load() is None
    with pytest.raises(Imported):
        unpickler.load()
    assert position_after(_stream(two), 0) == 4
    assert position_after(_stream(two), 4) == 4


def _framed(length: int) -> bytes:
    return b"\x95" + length.to_bytes(8, "little")


_CODE = b"cos\nsystem\n(S'true'\ntR."


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(_framed(2) + b"c!os\nsystem\n(S'true'\ntR.", id="a name whose beginning is forgotten"),
        pytest.param(
            b"\x80\x04" + _framed(2) + b"X" + (len(_CODE) + 1).to_bytes(4, "little") + b"\0" + _CODE + b"0N.", id="a text that is none"
        ),
        pytest.param(_framed(11) + b"N" + _framed(3) + b"NN" + _CODE, id="a frame in a frame"),
    ],
)
def test_frames_that_cut_instructions_are_as_an_import(body: bytes) -> None:
    with pytest.raises(Imported):
        CUnpickler(io.BytesIO(body)).load()
    assert position_after(_stream(body), 0) == 0
    with pytest.raises(Unscannable, match="frames that cut its instructions"):
        read_pickle(_stream(body), 0)


def test_a_pickle_that_ends_before_its_frame_hides_where_the_next_begins() -> None:
    first = _framed(4) + b"N.X\xff"
    body = first + _CODE
    file = io.BytesIO(body)
    assert CUnpickler(file).load() is None
    with pytest.raises(Imported):
        CUnpickler(file).load()
    assert position_after(_stream(body), 0) == 0
    with pytest.raises(Unscannable, match="frames that cut its instructions"):
        read_pickle(_stream(body), 0)


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("dumps", [pickle.dumps, pickle._dumps])  # type: ignore[attr-defined]  # the one in Python
def test_picklers_frames_are_taken(dumps: Any, protocol: int) -> None:
    body = dumps([["a" * 100] * 3000, b"b" * 200_000, [f"c{number}" for number in range(30_000)]], protocol)
    assert body.count(b"\x95") > 2
    for written in (body, pickletools.optimize(body)):
        stream = _stream(written)
        assert read_pickle(stream, 0) == ([], False)
        assert stream.tell() == len(written) == position_after(_stream(written), 0)
