"""What the catalogue shall say of a version after a verification. Pure."""

from collections.abc import Sequence

from modelyard.orders import DamageEntry, VersionVerdict
from modelyard.plans.catalogue_status import Content, Finding, Phase, Status, Verification, read_and_whole, ready

_SHOWN = 3
_MOST_PROBLEM = 250
#: The object speaks of no version that is there, so it was removed since it was read, or is about to be.
_NOT_THERE = frozenset({Phase.ABSENT, Phase.PENDING, Phase.REMOVING})


def verdict_finding(
    verdict: VersionVerdict, damage: Sequence[DamageEntry], previous: Status, *, claim: str, share: float
) -> Finding | None:
    """What to write on an object whose status is ``previous``; None: nothing.

    ``damage`` are the findings that are left of this version, ``share`` the part of the bytes that was read: less than all of
    them proves no version whole, and takes back no damage that was found before.
    """
    phase = previous.get("phase")
    verification = _verification(verdict, damage, share)
    replaced = bool(verdict.digest and previous.get("digest") and verdict.digest != previous["digest"])
    if phase in _NOT_THERE or not (verification or replaced):
        return None
    content = Content(verdict.bytes, verdict.files, verdict.digest) if verdict.digest else None
    refusal = _refusal(previous)
    if phase == Phase.LOADING:  # what a Job is at work on keeps its words
        return Finding(Phase.LOADING, _reason(previous), str(previous.get("message", "")), verification=verification, refusal=refusal)
    if verification and not verification.whole:
        return Finding(Phase.DAMAGED, verification.reason, verification.message, content, verification=verification, refusal=refusal)
    if phase == Phase.READY or content is None:
        words = str(previous.get("message", ""))
        return Finding(Phase.READY, _reason(previous), words, content, verification=verification, refusal=refusal)
    whole = ready(content, claim, f"{verdict.model}/{verdict.version}")
    return Finding(whole.phase, whole.reason, whole.message, content, verification=verification, refusal=refusal)


def _verification(verdict: VersionVerdict, damage: Sequence[DamageEntry], share: float) -> Verification | None:
    all_read = share >= 1
    if verdict.damaged:
        return Verification(whole=False, message=_words(verdict, damage), reason="Damaged", all_read=all_read)
    if not all_read or verdict.digest is None:
        return None
    return read_and_whole(f"; {verdict.repaired} files were repaired" if verdict.repaired else "")


def _words(verdict: VersionVerdict, damage: Sequence[DamageEntry]) -> str:
    shown = "; ".join(f"{each.path} {each.problem}"[:_MOST_PROBLEM] for each in damage[:_SHOWN])
    count = f"{verdict.damaged} of {verdict.files} files are damaged" if verdict.files else "it is damaged"
    more = f"; and {verdict.damaged - _SHOWN} more" if verdict.damaged > _SHOWN else ""
    step = f"run verify-cache with models {verdict.model}@{verdict.version} and repair, or set state Absent and load it again"
    return f"{count}: {shown}{more}. To mend it {step}" if shown else f"{count}. To mend it {step}"


def _refusal(previous: Status) -> tuple[str, str] | None:
    held = next((each for each in previous.get("conditions") or () if each.get("type") == "RemovalRefused"), None)
    return (str(held["reason"]), str(held["message"])) if held else None


def _reason(previous: Status) -> str:
    return next((str(each["reason"]) for each in previous.get("conditions") or () if each.get("type") == "Ready"), "Unknown")
