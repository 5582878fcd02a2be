"""What an upload meets at its destination, decided without side effects."""

from collections.abc import Iterable, Mapping

from modelyard.errors import Problem
from modelyard.plans.digests import MARKER_NAME, SUMS_NAME
from modelyard.plans.paths import MAX_PROBLEMS, shown

_NEXT_STEP = "a version never changes: upload under another prefix, or remove what is there"


def destination_problems(uri: str, local: Mapping[str, int], there: Mapping[str, int]) -> list[Problem]:
    """Why the objects that are there (size by path) are not a part of this upload: the first few, then how many more."""
    ours = {*local, SUMS_NAME, MARKER_NAME}
    problems = [Problem(uri + path, "is there, and not in the directory", _NEXT_STEP) for path in there if path not in ours]
    for path, size in local.items():
        if there.get(path, size) != size:
            problems.append(Problem(uri + path, f"is there with {there[path]} bytes, the file has {size}", _NEXT_STEP))
    return _first(problems)


def content_problems(uri: str, differing: Iterable[str]) -> list[Problem]:
    """Why objects of the right size are not a part of this upload: their checksum is another one, or none."""
    what = "is there with another checksum, or with none of the whole (CRC64NVME)"
    return _first([Problem(uri + path, what, _NEXT_STEP) for path in differing])


def sums_problem(subject: str, listed: Iterable[str], local: Iterable[str]) -> list[Problem]:
    """Why a ``SHA256SUMS`` that is there is not that of these files: it lists others. Their digests are compared when they are known."""
    differing = sorted(set(listed) ^ (set(local) - {SUMS_NAME}))
    names = ", ".join(shown(path) for path in differing[:3]) + (" and more" if len(differing) > 3 else "")  # noqa: PLR2004
    return [Problem(subject, f"does not list just the files of the directory ({names})", _NEXT_STEP)] if differing else []


def _first(problems: list[Problem]) -> list[Problem]:
    if len(problems) <= MAX_PROBLEMS:
        return problems
    return [*problems[:MAX_PROBLEMS], Problem(f"{len(problems) - MAX_PROBLEMS} more objects", "are not of this upload either", _NEXT_STEP)]
