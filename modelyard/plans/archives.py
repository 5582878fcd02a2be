"""Objects that S3 keeps in an archive: they answer no GET until they are restored, which makes a copy for some days. Pure.

A restored object keeps its storage class, so the restore's status decides with it. Of the archive tiers of S3 Intelligent-Tiering a
listing tells nothing; they are met by the first read (``sources.s3_answers``), because a HEAD for each object is too dear for a plan.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/archived-objects.html (GLACIER_IR is not among them)
"""

import shlex
from collections.abc import Iterable

from modelyard.errors import Problem
from modelyard.models import BuildSource, Restore, S3Location, SourceFile
from modelyard.plans.paths import shown

_ARCHIVED = frozenset({"GLACIER", "DEEP_ARCHIVE"})
_TIERED = "INTELLIGENT_TIERING"
_SHOWN = 3


def is_archived(file: SourceFile) -> bool:
    """Whether it cannot be read, and nothing is known of a restore."""
    return file.storage_class in _ARCHIVED and file.restore is None


def archive_problems(files: Iterable[SourceFile], source: BuildSource) -> list[Problem]:
    """Why these files cannot be read yet, with the command that restores them or when to come back; empty if they can."""
    if not isinstance(source, S3Location):
        return []
    away = [file for file in files if file.restore is Restore.UNDER_WAY or is_archived(file)]
    archived, coming = [file for file in away if file.restore is None], [file for file in away if file.restore]
    problems = []
    if archived:
        others = "; the others in the same way" if archived[1:] else ""
        step = f"restore first: `{restore_command(source, archived[0])}`{others}; run this again when that is done, {_ready(archived)}"
        problems.append(Problem(_subjects(archived), f"cannot be read: archived ({_classes(archived)})", step))
    if coming:
        what = f"cannot be read yet: being restored ({_classes(coming)})"
        problems.append(Problem(_subjects(coming), what, f"run this again when that is done, {_ready(coming)}"))
    return problems


def unreadable(location: S3Location, file: SourceFile, storage_class: str | None) -> str:
    """What to do about an object that a server would not give because it is archived; ``storage_class`` is what the server said."""
    found = SourceFile(file.path, file.size, file.etag, file.version_id, storage_class or file.storage_class)
    command, ready = restore_command(location, found), _ready([found])
    return f"the object is archived: restore it first, if nobody has yet (`{command}`), and run this again when that is done, {ready}"


def restore_command(location: S3Location, file: SourceFile) -> str:
    """The command that restores ``file``, for a shell as it stands. What Intelligent-Tiering restores, it keeps: it takes no days."""
    options = {
        "--endpoint-url": location.endpoint_url,
        "--region": None if location.endpoint_url else location.region,
        "--bucket": location.bucket,
        "--key": location.directory + file.path,
        "--version-id": file.version_id,
        "--restore-request": "{}" if file.storage_class == _TIERED else "Days=7",
    }
    return " ".join(["aws s3api restore-object", *(_option(name, value) for name, value in options.items() if value)])


def _option(name: str, value: str) -> str:
    between = "=" if value.startswith("-") else " "
    if value.isprintable():
        return f"{name}{between}{shlex.quote(value)}"
    escaped = (char if char.isprintable() and char not in "\\'" else f"\\U{ord(char):08x}" for char in value)
    return f"{name}{between}$'{''.join(escaped)}'"


def _subjects(files: list[SourceFile]) -> str:
    more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
    return ", ".join(shown(file.path) for file in files[:_SHOWN]) + more


def _classes(files: list[SourceFile]) -> str:
    return ", ".join(sorted({file.storage_class or "storage class not told" for file in files}))


def _ready(files: list[SourceFile]) -> str:
    """https://docs.aws.amazon.com/AmazonS3/latest/userguide/restoring-objects-retrieval-options.html"""
    if {file.storage_class for file in files} == {"GLACIER"}:
        return "at AWS within 5 hours (a bulk restore: 12)"
    return "at AWS within 12 hours (a bulk restore: 48)"
