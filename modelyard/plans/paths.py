"""Whether a source's paths can be files on a volume: asked by the planner, and again by the loader before it writes.

Names are hostile: they come from whoever may write to the bucket. What the volume's file system would take is not known
either (NFS and SMB servers may fold case, some normalise Unicode), so two names that any of them would confuse are refused.
"""

import unicodedata
from collections.abc import Iterable, Iterator

from modelyard.errors import Problem
from modelyard.models import SourceFile
from modelyard.names import path_problem

#: A hostile prefix may hold a hundred thousand bad names; a person reads the first few.
MAX_PROBLEMS = 20
_SHOWN_CHARS = 120
_NEXT_STEP = "rename or remove the object at the source, or preload a narrower prefix"


def path_problems(files: Iterable[SourceFile]) -> list[Problem]:
    """Why these files must not be written to a volume: the first ``MAX_PROBLEMS``, then how many more; empty if they may be.

    One pass; keeps one folded string for each file and each directory. No side effects.
    """
    problems: list[Problem] = []
    more = 0
    for path, what in _problems(files):
        if len(problems) < MAX_PROBLEMS:
            problems.append(Problem(shown(path), what, _NEXT_STEP))
        else:
            more += 1
    if more:
        problems.append(Problem(f"{more} more paths", "cannot be files on a volume either", _NEXT_STEP))
    return problems


def _problems(files: Iterable[SourceFile]) -> Iterator[tuple[str, str]]:
    seen: dict[str, str] = {}
    directories: dict[str, str] = {}
    for file in files:
        what = path_problem(file.path) or _collision(file.path, seen, directories)
        if what:
            yield file.path, what


def _collision(path: str, seen: dict[str, str], directories: dict[str, str]) -> str | None:
    """What earlier path this one would meet on some file system, or None; remembers the path and its directories."""
    key = _folded(path)
    if (other := seen.get(key)) is not None:
        return "is listed twice" if other == path else f"differs from {shown(other)} only in case or Unicode form"
    seen[key] = path
    if key in directories:
        return f"is a file, and the directory of {shown(directories[key])}"
    while cut := key.rfind("/") + 1:
        key = key[: cut - 1]
        if key in seen:
            return f"needs a directory where {shown(seen[key])} is a file"
        if key in directories:  # and so are all above it
            return None
        directories[key] = path
    return None


def _folded(path: str) -> str:
    """The same text for all paths that a case-folding or normalising file system takes for one."""
    if path.isascii():
        return path.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())


def shown(path: str) -> str:
    """``path`` for a message: quoted, shortened, control characters escaped, and plain ASCII where its look would mislead."""
    quoted = repr(path) if unicodedata.is_normalized("NFC", path) else ascii(path)
    return quoted if len(quoted) <= _SHOWN_CHARS else f"{quoted[:_SHOWN_CHARS]}... ({len(path)} characters)"
