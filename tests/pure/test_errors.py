"""Errors: the tree that is drawn is the tree that exists, and every leaf survives the way from the loader's pod to the flow."""

import inspect
import json
import re

import pytest

from modelyard import errors
from modelyard.errors import MAX_MESSAGE_CHARS, LoaderFailed, ModelyardError, Permanent, Problem, Refused, Temporary, from_data

LEAVES = [*Temporary.__subclasses__(), *Permanent.__subclasses__()]


def drawn_tree() -> dict[str, str]:
    """Each class of the docstring's drawing with its parent, read from the depth of its branch."""
    path: list[str] = []
    tree: dict[str, str] = {}
    for line in inspect.cleandoc(errors.__doc__ or "").splitlines():
        if not (match := re.match(r"    (?P<branch>[│├└─ ]*)(?P<name>\w+)(\s{2,}|$)", line)):
            continue
        depth = len(match["branch"]) // 4
        path[depth:] = [match["name"]]
        tree[match["name"]] = path[depth - 1] if depth else "Exception"
    return tree


def test_the_drawing_is_the_tree() -> None:
    classes = [value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, ModelyardError)]
    assert drawn_tree() == {kind.__name__: kind.__base__.__name__ for kind in classes if kind.__base__}


@pytest.mark.parametrize("kind", LEAVES)
def test_every_leaf_crosses_processes(kind: type[ModelyardError]) -> None:
    error = kind("bucket models: 3 < 5; buy more")
    data = json.loads(json.dumps(error.to_data()))
    arrived = from_data(data)
    assert type(arrived) is kind
    assert str(arrived) == str(error)
    assert arrived.to_data() == error.to_data()
    assert arrived.retryable is issubclass(kind, Temporary)


def test_the_delay_crosses_too() -> None:
    arrived = from_data(errors.SourceUnavailable("slow down", delay=42).to_data())
    assert isinstance(arrived, Temporary)
    assert arrived.delay == 42


def test_a_refusal_lists_all_its_problems_and_crosses_as_text() -> None:
    refused = Refused([Problem("cache a", "disabled", "enable it"), Problem("model b", "archived", "restore it")])
    assert str(refused) == "cache a: disabled; enable it\nmodel b: archived; restore it"
    arrived = from_data(refused.to_data())
    assert isinstance(arrived, Refused)
    assert str(arrived) == str(refused)


@pytest.mark.parametrize(
    "data",
    [{}, {"error": "FromTheFuture", "message": "x"}, {"error": None}, {"error": "ModelyardError"}, {"error": "Exception", "message": "x"}],
)
def test_what_is_unknown_is_a_failure_of_the_loader(data: dict[str, object]) -> None:
    assert type(from_data(data)) is LoaderFailed


@pytest.mark.parametrize("letter", ["x", "ü", '"', "模", "\n"])
def test_the_longest_message_fits_a_termination_message(letter: str) -> None:
    data = errors.SourceUnavailable(letter * 10_000).to_data()
    assert len(data["message"]) <= MAX_MESSAGE_CHARS
    assert len(json.dumps(data, ensure_ascii=False).encode()) <= 4096
    assert len(json.dumps(data).encode()) <= 4096
