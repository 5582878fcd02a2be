"""The author's own digests: a ``SHA256SUMS`` file beside the model, as coreutils' sha256sum writes and reads it."""

import re
from collections.abc import Mapping, Sequence

from modelyard.errors import DigestMismatch, Problem
from modelyard.plans.paths import MAX_PROBLEMS, shown

#: The file's name, at the root of a version. It is one of the model's files.
SUMS_NAME = "SHA256SUMS"
#: What ``modelyard upload`` writes last beside a model. It is none of the model's files, and never loaded.
MARKER_NAME = ".modelyard-uploaded"
#: A hundred thousand long names fit.
MAX_SUMS_BYTES = 64 * 1024 * 1024
_LINE = re.compile(r"(?P<escaped>\\?)(?P<digest>[0-9a-fA-F]{64}) [ *](?P<path>.+)", re.DOTALL)
_ESCAPES = {"\\\\": "\\", "\\n": "\n", "\\r": "\r"}
_UPLOAD = "upload the model again with its SHA256SUMS (`modelyard upload` writes it)"
RIGHT_OR_WRONG = f"If the files are right, {_UPLOAD}; if not, find out who changed them"


def parse_sums(data: bytes) -> dict[str, str]:
    """Digest (lower-case hex) by path. Escaped names, the ``*`` of binary mode and a leading ``./`` are understood.

    https://www.gnu.org/software/coreutils/manual/html_node/md5sum-invocation.html

    Raises:
        DigestMismatch: it is none, with the first line that is wrong.
    """
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError as error:
        raise DigestMismatch(f"{SUMS_NAME}: is no UTF-8 text ({error}); {_UPLOAD}") from error
    sums: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line and number == len(lines):
            break
        if not (match := _LINE.fullmatch(line)):
            raise DigestMismatch(f"{SUMS_NAME}: line {number} is none of sha256sum's ({shown(line)}); {_UPLOAD}")
        path = _unescaped(match["path"]) if match["escaped"] else match["path"]
        path, digest = path.removeprefix("./"), match["digest"].lower()
        if sums.setdefault(path, digest) != digest:
            raise DigestMismatch(f"{SUMS_NAME}: line {number} gives {shown(path)} a second digest; {_UPLOAD}")
    return sums


def _unescaped(path: str) -> str:
    return re.sub(r"\\[\\nr]", lambda found: _ESCAPES[found[0]], path)


def sums_differences(sums: Mapping[str, str], found: Mapping[str, str], *, all_listed: bool) -> list[str]:
    """How the files that are there (SHA-256 in hex by path) differ from what the author's file lists; each in a few words."""
    wrong = [f"{shown(path)} is listed and not there" for path in sums if path not in found]
    changed = [path for path, digest in sums.items() if found.get(path, digest) != digest]
    wrong += [f"{shown(path)} has the SHA-256 {found[path]}, not {sums[path]}" for path in changed]
    if all_listed:
        wrong += [f"{shown(path)} is not listed" for path in found if path not in sums and path != SUMS_NAME]
    return wrong


def refuse_long_sums(subject: str, size: int) -> None:
    """Raise DigestMismatch if a SHA256SUMS of ``size`` bytes is more than any model's."""
    if size > MAX_SUMS_BYTES:
        raise DigestMismatch(f"{SUMS_NAME} of {subject}: has {size} bytes, the limit is {MAX_SUMS_BYTES}; remove it, or write it anew")


def compare_sums(sums: Mapping[str, str], found: Mapping[str, str], *, all_listed: bool) -> None:
    """Compare what the author's file lists with the SHA-256 (hex) of the files that are there.

    Raises:
        DigestMismatch: files that are missing or of other content, and with ``all_listed`` those that are not listed.
    """
    if wrong := sums_differences(sums, found, all_listed=all_listed):
        raise DigestMismatch(f"{differing(wrong)}. Nothing was published. {RIGHT_OR_WRONG}")


def differing(differences: Sequence[str]) -> str:
    """The first of ``sums_differences``, and how many there are."""
    more = f" and {len(differences) - MAX_PROBLEMS} more" if len(differences) > MAX_PROBLEMS else ""
    return f"{len(differences)} files are not what the author's {SUMS_NAME} says: {'; '.join(differences[:MAX_PROBLEMS])}{more}"


def missing_sums(subject: str) -> Problem:
    """A model without the digests that its cache, or its registry, requires."""
    return Problem(subject, f"has no {SUMS_NAME}, and requireDigests is set", _UPLOAD)
