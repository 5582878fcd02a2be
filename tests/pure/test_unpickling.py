"""Bytes that the strict parser refuses: wherever one of Python's two unpicklers comes to an import, the walk says so too."""

import io
import pickle
import pickletools
import random
from contextlib import suppress
from typing import IO, Any, cast

import pytest

from modelyard.weights.pickles import PickleStream
from modelyard.weights.unpickling import position_after

#: Registered numbers differ from process to process: they have cases of their own.
_OPCODES = [opcode for opcode in pickletools.opcodes if not opcode.name.startswith("EXT")]
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
]
_LINES = [b"1\n", b"0x1\n", b"'a'\n", b"a\n", b"\n", b"\xff\n"]
_COUNTS = {pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT8U: 8}


class Imported(Exception):
    """An unpickler came to an import."""


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
    if module == "lib-dynload":
        return module
    raise Imported(f"{module}.{name}")


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
    if opcode.name in {"GLOBAL", "INST"}:
        return code + b"os\nsystem\n"
    if opcode.arg.n == pickletools.UP_TO_NEWLINE:
        return code + chance.choice(_LINES)
    if opcode.arg.n < 0:
        length = chance.randrange(3)
        return code + length.to_bytes(_COUNTS.get(opcode.arg.n, 4), "little") + b"a" * length
    return code + bytes(chance.choice([0, 0, 1, 2, 4]) for _ in range(opcode.arg.n))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("unpickler", [PythonUnpickler, CUnpickler])
def test_what_an_unpickler_imports_is_found(unpickler: type[Any]) -> None:
    met = 0
    for seed in range(4000):
        body = program(random.Random(seed))  # noqa: S311
        try:
            with suppress(*_FAILURES):
                unpickler(io.BytesIO(body)).load()
        except Imported:
            met += 1
            assert position_after(_stream(body), 0) == 0, (seed, body)
    assert met > 300


_FAILURES = (pickle.UnpicklingError, ValueError, LookupError, TypeError, AttributeError, EOFError, OverflowError, AssertionError)


def _stream(body: bytes) -> PickleStream:
    return PickleStream(cast("IO[bytes]", io.BytesIO(body)), len(body))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\x92\x82\x01.", id="an object of nothing"),
        pytest.param(b"Nt\x82\x01.", id="a tuple without a mark"),
        pytest.param(b"(0b\x82\x01.", id="the mark itself was taken"),
        pytest.param(b"\x8c\x02os\x93.", id="one text, where an import takes two"),
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


@pytest.mark.parametrize("body", [b"(0\x82\x01.", b"N0\x82\x01.", b"(Nt\x82\x01.", b"NN\x86\x82\x01."])
def test_what_comes_to_a_number_of_copyreg_may_import(body: bytes) -> None:
    assert position_after(_stream(body), 0) == 0
