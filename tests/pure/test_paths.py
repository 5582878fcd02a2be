"""Paths that must not be written to a volume: refused by the plan, and again by the loader before it writes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelyard.errors import Refused
from modelyard.loader.preload import preload
from modelyard.loader.tuning import Tuning
from modelyard.models import Checksum, ModelRef, S3Location, SourceFile, summarise
from modelyard.orders import LoadSpec
from modelyard.plans.paths import MAX_PROBLEMS, path_problems, shown
from modelyard.sources.base import Done, Sink, Transfer

HOSTILE = [
    pytest.param(["../x"], "holds '.' or '..'", id="parent directory"),
    pytest.param(["a/../../x"], "holds '.' or '..'", id="parent directory inside"),
    pytest.param(["./x"], "holds '.' or '..'", id="same directory"),
    pytest.param(["/etc/passwd"], "is absolute", id="absolute"),
    pytest.param(["a//b"], "empty directory name", id="empty directory name"),
    pytest.param(["a/"], "empty directory name", id="folder marker with bytes"),
    pytest.param([""], "empty directory name", id="nothing"),
    pytest.param([".modelyard/manifests/m/v.json"], "Modelyard's own", id="our own directory"),
    pytest.param([".ModelYard/x"], "Modelyard's own", id="our own directory in other case"),
    pytest.param(["a\0b"], "control characters", id="zero byte"),
    pytest.param(["a\nb"], "control characters", id="line feed"),
    pytest.param(["a\x1b[2Jb"], "control characters", id="terminal escape"),
    pytest.param(["a\x85b"], "control characters", id="C1"),
    pytest.param(["n" * 256], "a name of 256 bytes", id="name too long"),
    pytest.param(["日" * 86], "a name of 258 bytes", id="name too long in bytes"),
    pytest.param(["d/" * 2000 + "x"], "the limit is", id="path too long"),
    pytest.param(["\ud800"], "not valid Unicode", id="half of a surrogate pair"),
    pytest.param(["a", "a"], "is listed twice", id="twice"),
    pytest.param(["Model.bin", "model.bin"], "differs from 'Model.bin' only in case", id="case"),
    pytest.param(["STRASSE", "straße"], "only in case or Unicode form", id="full case folding"),
    pytest.param(["caf\u00e9", "cafe\u0301"], "only in case or Unicode form", id="composed and decomposed"),
    pytest.param(["a", "a/b"], "needs a directory where 'a' is a file", id="file, then directory"),
    pytest.param(["a/b", "a"], "is a file, and the directory of 'a/b'", id="directory, then file"),
    pytest.param(["a/b/c", "a/b/d", "A"], "is a file, and the directory of 'a/b/c'", id="directory and file in other case"),
]


class Listed:
    """A source that lists what no server would let us upload; nothing may be read from it."""

    def __init__(self, paths: list[str]) -> None:
        self._files = [SourceFile(path, 1, etag='"e"') for path in paths]

    def list(self) -> Iterator[SourceFile]:
        return iter(self._files)

    def stat(self, file: SourceFile) -> Checksum | None:
        raise AssertionError(file)

    def fetch(self, file: SourceFile, sink: Sink, start: int, done: Done) -> Transfer:
        raise AssertionError(file, sink, start, done)


@pytest.mark.parametrize(("paths", "told"), HOSTILE)
def test_a_hostile_path_is_one_problem(paths: list[str], told: str) -> None:
    [problem] = path_problems(SourceFile(path, 1) for path in ["good/file", *paths])
    assert told in problem.what
    assert problem.next_step
    assert str(problem).isprintable()


@pytest.mark.parametrize(("paths", "told"), [case for case in HOSTILE if case.id != "half of a surrogate pair"])
def test_the_loader_refuses_it_before_it_writes(paths: list[str], told: str, tmp_path: Path) -> None:
    source = Listed(["good/file", *paths])
    location = S3Location(bucket="bucket", prefix="m/v1")
    spec = LoadSpec(model=ModelRef(name="m", version="v1"), source=location, listing=summarise(source.list()))
    with pytest.raises(Refused, match="rename or remove the object") as refused:
        preload(spec, tmp_path, source, Tuning())
    assert told in str(refused.value)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"m.lock", "m@v1.lock"}


@pytest.mark.parametrize(
    "paths",
    [
        pytest.param([], id="none"),
        pytest.param(["a.bin", "a/b", "a-b", "ab/c"], id="a name that begins another"),
        pytest.param(["A/x", "a/y"], id="directories in two cases hold different files"),
        pytest.param(["...", "..a", "a..", ".hidden", "modelyard/x", "x/.modelyard/y"], id="dots"),
        pytest.param(["n" * 255, "back\\slash", " ", "~", "-rf", "日本/語"], id="unusual"),
    ],
)
def test_a_good_listing_has_no_problem(paths: list[str]) -> None:
    assert path_problems(SourceFile(path, 1) for path in paths) == []


def test_only_the_first_problems_are_told() -> None:
    problems = path_problems(SourceFile(f"../{number}", 1) for number in range(1000))
    assert len(problems) == MAX_PROBLEMS + 1
    assert str(problems[-1]).startswith("980 more paths: cannot be files on a volume either; rename")


def test_a_long_path_is_shortened() -> None:
    assert shown("n" * 3000) == f"'{'n' * 119}... (3000 characters)"
