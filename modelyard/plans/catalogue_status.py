"""A CachedModel's status as the API spells it, from what was found and the status before. Pure.

The status is stated as a whole at each write (server-side apply takes away what is no longer stated), so what stays is
carried over from the one before: when it was last used and verified, what a load counted, since when a condition holds.

Two things that were seen are not forgotten by those who look at sizes only: damage that a verification left, and the digest that
was loaded. Both make ``Ready`` a ``Damaged``, until the bytes are read and found whole, are loaded anew, or are gone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from modelyard.errors import is_permanent
from modelyard.orders import Progress
from modelyard.quantities import format_bytes

Status = Mapping[str, Any]

#: While a model is in use, ``lastUsedAt`` is written anew no more often than this: each write goes to etcd and to all who watch.
USE_RESOLUTION = timedelta(hours=1)
#: The condition of a load that failed for a reason that a person must remove; since when tells how long no other is tried.
LOAD_FAILED = "LoadFailed"
_MOST_USERS = 20
_MOST_TEXT = 2000
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
class Verification:
    """What reading a version's bytes again came to. ``whole``: every byte was read and equals the manifest.

    ``all_read`` is for those that are not whole; ``message`` says what is wrong and what to do next.
    """

    whole: bool
    message: str
    reason: str
    all_read: bool = True


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
    verification: Verification | None = None  # None: the bytes were not read, what was known of them stays
    retold: bool = False  # what was told of a failed load before; since when stays
    anew: bool = False  # they were loaded just now: what was known of those before is void

    @property
    def void(self) -> bool:
        """Whether the bytes that were known are gone, or others come in their place."""
        fetching = self.phase is Phase.LOADING and self.progress is not None
        return self.anew or fetching or self.phase in {Phase.PENDING, Phase.ABSENT}


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
    finding = _settled(finding, previous)
    verified = (
        context.now if finding.verification and finding.verification.all_read else None if finding.void else previous.get("verifiedAt")
    )
    status = {
        "observedGeneration": context.generation,
        "phase": str(finding.phase),
        "message": finding.message[:_MOST_TEXT],
        **({"verifiedAt": verified} if verified else {}),
        **({"flowRun": previous["flowRun"]} if "flowRun" in previous else {}),
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


def read_and_whole(words: str = "") -> Verification:
    """Every byte was read and equals the manifest; ``words`` say more."""
    return Verification(whole=True, message=f"every byte was read and equals the manifest{words}", reason="EveryByteRead")


def _settled(finding: Finding, previous: Status) -> Finding:
    """A version that is on the volume, held against what is known of its bytes."""
    if finding.anew or finding.phase not in {Phase.READY, Phase.DAMAGED}:
        return finding
    known, seen = previous.get("digest"), finding.content.digest if finding.content else None
    if known and seen and known != seen:
        words = (
            f"its manifest has digest {seen}, and {known} was there before: somebody replaced the version and its manifest;"
            " set state Absent and load it again, or delete this object if what is there now is meant to be"
        )
        all_read = bool(finding.verification and finding.verification.all_read)
        told = Verification(whole=False, message=words, reason="Replaced", all_read=all_read)
        return replace(_damaged(finding, "Replaced", words), content=None, verification=told)
    if finding.phase is Phase.READY and not finding.verification and (held := _condition(previous, "Verified")).get("status") == "False":
        return _damaged(finding, str(held["reason"]), str(held["message"]))
    return finding


def _damaged(finding: Finding, reason: str, words: str) -> Finding:
    return replace(finding, phase=Phase.DAMAGED, reason=reason, message=f"{finding.message}; {words}" if finding.refusal else words)


def timestamp(moment: datetime) -> str:
    """``moment`` as the API writes times."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _content(finding: Finding, previous: Status) -> dict[str, Any]:
    if finding.content is None and finding.void:
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
    was = bool(previous.get("usedBy")) or _condition(previous, "InUse").get("status") == "Unknown"
    if (usage.any and (not last or _older(last, context.now))) or (was and not usage.any):  # it ended a moment ago
        last = context.now
    return {**({"usedBy": _few(usage.users)} if usage.users else {}), **({"lastUsedAt": last} if last else {})}


def _older(last: str, now: str) -> bool:
    return datetime.fromisoformat(now) - datetime.fromisoformat(last) >= USE_RESOLUTION


def _few(users: tuple[str, ...]) -> list[str]:
    rest = len(users) - _MOST_USERS
    return [*users[:_MOST_USERS], *([f"and {rest} more"] if rest > 0 else [])]


def _condition(status: Status, kind: str) -> dict[str, Any]:
    return next((dict(each) for each in status.get("conditions") or () if each.get("type") == kind), {})


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
        yield from filter(None, [_condition(context.previous, "InUse")])
    if told := finding.verification:
        yield condition("Verified", str(told.whole), told.reason, told.message)
    elif not finding.void and _still_holds(held := _condition(context.previous, "Verified"), finding.phase):
        yield held
    if finding.refusal:
        yield condition("RemovalRefused", "True", *finding.refusal)
    if finding.retold:
        yield from filter(None, [_condition(context.previous, LOAD_FAILED)])
    elif finding.phase is Phase.FAILED and is_permanent(finding.reason):
        yield {**condition(LOAD_FAILED, "True", finding.reason, finding.message), "lastTransitionTime": context.now}
    if finding.conflict:
        yield condition("Conflict", "True", "DeclaredTwice", finding.conflict)


def _still_holds(verified: Status, phase: Phase) -> bool:
    """Whether what a verification found is true still: damage stays; that all is well ends where sizes alone tell otherwise."""
    return bool(verified) and (verified["status"] == "False" or phase in {Phase.READY, Phase.LOADING, Phase.REMOVING})


def _in_use(usage: Usage) -> tuple[str, str, str]:
    if usage.users:
        return "True", "Referenced", f"used by {usage}"
    if usage.unknown:
        return "Unknown", "CannotBeListed", f"counts as in use: {usage}"
    return "False", "NotReferenced", "no workload and no live pod uses it"


def _since(context: Context, kind: str, status: str) -> str:
    """When the condition became what it is."""
    before = _condition(context.previous, kind)
    return str(before["lastTransitionTime"]) if before.get("status") == status else context.now
