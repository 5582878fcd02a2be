"""A CachedModel's status as the API spells it, from what was found and the status before. Pure.

The status is stated as a whole at each write (server-side apply takes away what is no longer stated), so what stays is
carried over from the one before: when it was last used and verified, what a load counted, since when a condition holds.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from modelyard.orders import Progress
from modelyard.quantities import format_bytes

Status = Mapping[str, Any]

#: While a model is in use, ``lastUsedAt`` is written anew no more often than this: each write goes to etcd and to all who watch.
USE_RESOLUTION = timedelta(hours=1)
_MOST_USERS = 20
_MOST_TEXT = 2000
_KEPT = ("verifiedAt", "flowRun")
_CONTENT = ("bytes", "size", "files", "digest", "loadedAt")


class Phase(StrEnum):
    """Where a version stands, as the CRD spells it."""

    PENDING = "Pending"
    LOADING = "Loading"
    READY = "Ready"
    FAILED = "Failed"
    DAMAGED = "Damaged"
    REMOVING = "Removing"
    ABSENT = "Absent"


@dataclass(frozen=True, slots=True)
class Content:
    """What lies on the volume; ``loaded_at`` is ISO 8601."""

    bytes: int
    files: int
    digest: str | None = None
    loaded_at: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Who uses a version, and what could not be listed, which counts as in use."""

    users: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def any(self) -> bool:
        """Whether it is in use, or may be."""
        return bool(self.users or self.unknown)

    def __str__(self) -> str:
        return ", ".join(_few(self.users)) or "; ".join(self.unknown) or "nothing"


@dataclass(frozen=True, slots=True)
class Finding:
    """Where a version stands: the phase, why in one word (a condition's reason) and in a sentence that says what to do next."""

    phase: Phase
    reason: str
    message: str
    content: Content | None = None  # None: what was known before, if anything is on the volume
    progress: Progress | None = None
    flow_run: str | None = None
    refusal: tuple[str, str] | None = None  # reason and words of why state Absent is not carried out
    conflict: str | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """What a status is written on: the one before, the spec's generation, the time (ISO 8601), and who uses the version.

    ``usage`` is None where it was not looked at: then what was known stays.
    """

    previous: Status = field(default_factory=dict)
    generation: int = 1
    now: str = ""
    usage: Usage | None = None


def ready(content: Content, claim: str, path: str, *, flow_run: str | None = None) -> Finding:
    """A version that workloads can mount."""
    words = f"{content.files} files, {format_bytes(content.bytes)} are on the volume; mount claim {claim} read-only, they are in {path}"
    return Finding(Phase.READY, "OnVolume", words, content, flow_run=flow_run)


def removed() -> Finding:
    """A version that is declared Absent, and is."""
    return Finding(Phase.ABSENT, "Removed", "not on the volume; delete this object, or set state Present to load it")


def next_status(finding: Finding, context: Context) -> dict[str, Any]:
    """The whole status; equal to the one before if nothing but time has passed."""
    previous = context.previous
    status = {
        "observedGeneration": context.generation,
        "phase": str(finding.phase),
        "message": finding.message[:_MOST_TEXT],
        **{key: previous[key] for key in _KEPT if key in previous},
        **_content(finding, previous),
        **_use(context),
        "conditions": list(_conditions(finding, context)),
    }
    if finding.phase is Phase.LOADING and (progress := progress_status(finding.progress) if finding.progress else previous.get("progress")):
        status["progress"] = progress
    if finding.flow_run:
        status["flowRun"] = finding.flow_run
    return status


def progress_status(seen: Progress) -> dict[str, Any]:
    """How far a load is; the percent is rounded down, so that 100 means all of it."""
    percent = 100 * seen.bytes // seen.total_bytes if seen.total_bytes else 100
    left = {} if seen.seconds_left is None else {"secondsLeft": round(seen.seconds_left)}
    amounts = {"bytes": seen.bytes, "totalBytes": seen.total_bytes, "bytesPerSecond": round(seen.bytes_per_second)}
    return {"text": f"{percent} %", "percent": percent, **amounts, **left}


def timestamp(moment: datetime) -> str:
    """``moment`` as the API writes times."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _content(finding: Finding, previous: Status) -> dict[str, Any]:
    if finding.phase is Phase.ABSENT:
        return {}
    if finding.content is None:
        return {key: previous[key] for key in _CONTENT if key in previous}
    content = finding.content
    loaded = timestamp(datetime.fromisoformat(content.loaded_at)) if content.loaded_at else previous.get("loadedAt")
    return {
        "bytes": content.bytes,
        "size": format_bytes(content.bytes),
        "files": content.files,
        **({"digest": content.digest} if content.digest else {}),
        **({"loadedAt": loaded} if loaded else {}),
    }


def _use(context: Context) -> dict[str, Any]:
    previous, usage = context.previous, context.usage
    if usage is None:
        return {key: previous[key] for key in ("usedBy", "lastUsedAt") if key in previous}
    last = previous.get("lastUsedAt")
    was = bool(previous.get("usedBy")) or _held(previous, "InUse") == "Unknown"
    if (usage.any and (not last or _older(last, context.now))) or (was and not usage.any):  # it ended a moment ago
        last = context.now
    return {**({"usedBy": _few(usage.users)} if usage.users else {}), **({"lastUsedAt": last} if last else {})}


def _older(last: str, now: str) -> bool:
    return datetime.fromisoformat(now) - datetime.fromisoformat(last) >= USE_RESOLUTION


def _few(users: tuple[str, ...]) -> list[str]:
    rest = len(users) - _MOST_USERS
    return [*users[:_MOST_USERS], *([f"and {rest} more"] if rest > 0 else [])]


def _held(status: Status, kind: str) -> str | None:
    return next((str(each["status"]) for each in status.get("conditions") or () if each.get("type") == kind), None)


def _conditions(finding: Finding, context: Context) -> Iterator[dict[str, Any]]:
    def condition(kind: str, status: str, reason: str, message: str) -> dict[str, Any]:
        return {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message[:_MOST_TEXT],
            "lastTransitionTime": _since(context, kind, status),
            "observedGeneration": context.generation,
        }

    yield condition("Ready", str(finding.phase is Phase.READY), finding.reason, finding.message)
    if context.usage is not None:
        yield condition("InUse", *_in_use(context.usage))
    else:
        yield from (dict(each) for each in context.previous.get("conditions") or () if each.get("type") == "InUse")
    if finding.refusal:
        yield condition("RemovalRefused", "True", *finding.refusal)
    if finding.conflict:
        yield condition("Conflict", "True", "DeclaredTwice", finding.conflict)


def _in_use(usage: Usage) -> tuple[str, str, str]:
    if usage.users:
        return "True", "Referenced", f"used by {usage}"
    if usage.unknown:
        return "Unknown", "CannotBeListed", f"counts as in use: {usage}"
    return "False", "NotReferenced", "no workload and no live pod uses it"


def _since(context: Context, kind: str, status: str) -> str:
    """When the condition became what it is."""
    before = next((each for each in context.previous.get("conditions") or () if each.get("type") == kind), None)
    return str(before["lastTransitionTime"]) if before and before.get("status") == status else context.now
