"""Whether a version fits on a volume: what it needs against what a pod on the volume sees. Pure.

A claim's size is what somebody wished for; NFS exports and directories of a node do not enforce it. What counts is the free space
that a pod sees, less what the loads that run now will still write, less the headroom.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from modelyard.errors import Problem
from modelyard.models import Listing, ModelRef
from modelyard.orders import VersionEntry, VersionState, VolumeSpace
from modelyard.plans.claim_facts import ClaimFacts
from modelyard.quantities import format_bytes

_SHOWN, _LISTED = 5, 20
#: A file system's own structures take some of a volume, and a provisioner rounds up; what differs by more enforces no size.
_ENFORCED_WITHIN = 0.25
#: States in which a version's files are in their places under the listing that its manifest names.
_PLACED = frozenset({VersionState.READY, VersionState.PUBLISHING})


@dataclass(frozen=True, slots=True)
class RunningLoad:
    """A preload that is at work on the claim now, and how many bytes its version has."""

    model: ModelRef
    bytes: int


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The PersistentVolumes of one share, this claim's among them: how many there are, and what they add up to in bytes."""

    share: str
    volumes: int
    bytes: int


@dataclass(frozen=True, slots=True)
class VolumeSeen:
    """What a pod on the volume saw, and what else will be written to it. ``staged_bytes`` are those of all half-loaded versions."""

    space: VolumeSpace
    versions: tuple[VersionEntry, ...] = ()
    staged_bytes: int = 0
    running: tuple[RunningLoad, ...] = ()
    neighbours: Neighbours | None = None


@dataclass(frozen=True, slots=True)
class Capacity:
    """How a load stands to a volume, in bytes; ``needed`` is still to be written, ``running`` what other loads will still write."""

    needed: int
    staged: int
    running: int
    headroom: int
    space: VolumeSpace
    versions: tuple[VersionEntry, ...]
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def short(self) -> int:
        """How many bytes are missing; zero or less: it fits."""
        return self.needed + self.running + self.headroom - self.space.free_bytes if self.needed else 0


def plan_capacity(
    model: ModelRef, listing: Listing, headroom: int, seen: VolumeSeen, claim: ClaimFacts, digest: str | None = None
) -> Capacity:
    """How loading ``listing``, whose files' ``digest`` may be known, as ``model`` stands to the volume that was seen. No side effects."""
    seen = replace(seen, versions=tuple(_as_listed(entry, model, listing, digest) for entry in seen.versions))
    own = [entry for entry in seen.versions if (entry.model, entry.version) == (model.name, model.version)]
    there = any(entry.state in _PLACED and entry.listing_digest == listing.digest for entry in own)
    staged = min(sum(entry.bytes for entry in own if entry.state is VersionState.STAGING), seen.staged_bytes, listing.bytes)
    ours = sorted((entry for entry in seen.versions if entry.state is not VersionState.FOREIGN), key=_biggest_first)
    capacity = Capacity(
        needed=0 if there else listing.bytes - staged,
        staged=staged,
        running=_still_to_write(model, seen, seen.staged_bytes - staged),
        headroom=headroom,
        space=seen.space,
        versions=tuple(ours),
    )
    place = _place_problems(model, listing, seen.versions)
    room, notes = ((), ()) if there or place else _room(model, listing, capacity, seen, _subject(claim))
    return replace(capacity, notes=(*notes, *_not_enforced(seen, claim)), problems=(*place, *room))


def _as_listed(entry: VersionEntry, model: ModelRef, listing: Listing, digest: str | None) -> VersionEntry:
    """A version of the very files that are to be loaded is the one of this listing, wherever it came from."""
    same = digest and (entry.model, entry.version, entry.digest) == (model.name, model.version, digest)
    return entry.model_copy(update={"listing_digest": listing.digest}) if same else entry


def _subject(claim: ClaimFacts) -> str:
    return f"claim {claim.namespace}/{claim.name}"


def _biggest_first(entry: VersionEntry) -> tuple[int, str]:
    return -entry.bytes, entry.path


def _still_to_write(model: ModelRef, seen: VolumeSeen, staged: int) -> int:
    """What the other loads will still write; ``staged`` is how much of the staging can be theirs."""
    placed = {(entry.model, entry.version) for entry in seen.versions if entry.state in _PLACED}  # such a load only reads
    staging = {(entry.model, entry.version): entry.bytes for entry in seen.versions if entry.state is VersionState.STAGING}
    total = 0
    for load in seen.running:
        if load.model != model and (load.model.name, load.model.version) not in placed:  # the run would join its own
            has = min(staging.get((load.model.name, load.model.version), 0), load.bytes, staged)
            staged -= has
            total += load.bytes - has
    return total


def _place_problems(model: ModelRef, listing: Listing, versions: Sequence[VersionEntry]) -> tuple[Problem, ...]:
    """What lies where the version would, and is not it: the loader would refuse as well, but only once it runs."""
    place = f"{model.name}/{model.version}"
    return tuple(problem for entry in versions if (problem := _place_problem(place, listing, entry)))


def _place_problem(place: str, listing: Listing, entry: VersionEntry) -> Problem | None:
    if entry.state is VersionState.FOREIGN:
        if entry.path not in {place, place.partition("/")[0]}:
            return None
        what = f"holds {entry.files} files ({format_bytes(entry.bytes)}) that Modelyard did not put there"
        return Problem(entry.path, what, "move them away, or choose another version; they are never overwritten")
    if entry.path != place or entry.state not in {*_PLACED, VersionState.DAMAGED}:
        return None
    if entry.listing_digest and entry.listing_digest != listing.digest:
        what = f"is on the volume already, made from {entry.source} when its listing was {entry.listing_digest}; now it is {listing.digest}"
        return Problem(place, what, "a version never changes in place: preload it under a new version")
    if entry.state is VersionState.DAMAGED:
        return Problem(place, f"is damaged: {entry.problem}", "repair it (deployment verify-cache), or preload it under a new version")
    return None


def _room(
    model: ModelRef, listing: Listing, capacity: Capacity, seen: VolumeSeen, subject: str
) -> tuple[tuple[Problem, ...], tuple[str, ...]]:
    """Refusals, and notes where only the loader can tell."""
    problems, notes = [], []
    if (short := capacity.short) > 0:
        saved = _saved(model, seen.versions)
        if short <= sum(entry.bytes for entry in saved):
            names = ", ".join(entry.path for entry in saved)
            notes.append(f"fits only with what {names} shares with it or gives back; the loader looks before its first byte")
        else:
            problems.append(Problem(subject, _shortage(capacity), _advice(model, capacity.versions)))
    files = listing.files - sum(entry.files for entry in seen.versions if _is_staged(entry, model))
    if seen.space.total_inodes and files > seen.space.free_inodes:
        what = f"has {seen.space.free_inodes:,} free inodes, the model's files need {files:,}"
        problems.append(Problem(subject, what, _advice(model, capacity.versions)))
    return tuple(problems), tuple(notes)


def _is_staged(entry: VersionEntry, model: ModelRef) -> bool:
    return entry.state is VersionState.STAGING and (entry.model, entry.version) == (model.name, model.version)


def _saved(model: ModelRef, versions: Sequence[VersionEntry]) -> list[VersionEntry]:
    """Versions whose bytes may count twice: equal files of the model's other versions are linked, half-done removals are finished."""
    linked = [entry for entry in versions if entry.state is VersionState.READY and entry.model == model.name]
    removed = [
        entry for entry in versions if entry.state is VersionState.REMOVING and (entry.model, entry.version) == (model.name, model.version)
    ]
    return [*linked, *removed]


def _shortage(capacity: Capacity) -> str:
    staged = f" ({format_bytes(capacity.staged)} are staged already)" if capacity.staged else ""
    running = f", the loads that run now will write {format_bytes(capacity.running)}" if capacity.running else ""
    headroom = f", headroom is {format_bytes(capacity.headroom)}" if capacity.headroom else ""
    return (
        f"has {format_bytes(capacity.space.free_bytes)} free of {format_bytes(capacity.space.total_bytes)}; the model needs"
        f" {format_bytes(capacity.needed)} more{staged}{running}{headroom}: {format_bytes(capacity.short)} are missing"
    )


def _advice(model: ModelRef, versions: Sequence[VersionEntry]) -> str:
    others = [entry for entry in versions if (entry.model, entry.version) != (model.name, model.version)]
    more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
    there = ", ".join(f"{entry.path} ({entry.state}, {format_bytes(entry.bytes)})" for entry in others[:_SHOWN])
    remove = f"remove versions from it: {there}{more}; or " if others else ""
    return f"{remove}raise storageSize, with allowExpansion where the class can, else with a new pvcNameSuffix"


def _not_enforced(seen: VolumeSeen, claim: ClaimFacts) -> tuple[str, ...]:
    total, free, notes = seen.space.total_bytes, format_bytes(seen.space.free_bytes), []
    if total > claim.bytes * (1 + _ENFORCED_WITHIN):
        notes.append(
            f"this volume does not enforce its size: the claim says {format_bytes(claim.bytes)}, pods see {format_bytes(total)};"
            f" {free} is free on the whole share"
        )
    elif total < claim.bytes * (1 - _ENFORCED_WITHIN):
        notes.append(f"the claim says {format_bytes(claim.bytes)}, which the volume has not: pods see {format_bytes(total)}, {free} free")
    if (near := seen.neighbours) and near.bytes > total:
        notes.append(
            f"{near.share} is over-allocated: its {near.volumes} PersistentVolumes add up to {format_bytes(near.bytes)},"
            f" it has {format_bytes(total)}"
        )
    return tuple(notes)


def capacity_table(capacity: Capacity) -> str:
    """The numbers as a Markdown table, and below it what lies on the volume, biggest first."""
    space = capacity.space
    inodes = f", {space.free_inodes:,} of {space.total_inodes:,} inodes" if space.total_inodes else ""
    left = space.free_bytes - capacity.needed - capacity.running
    rows = [
        ("Free on the volume", f"{format_bytes(space.free_bytes)} of {format_bytes(space.total_bytes)}{inodes}"),
        ("Still to be written", format_bytes(capacity.needed)),
        ("Staged already", format_bytes(capacity.staged)),
        ("Written by other loads", format_bytes(capacity.running)),
        ("Left after that", f"{format_bytes(left)}, headroom {format_bytes(capacity.headroom)}"),
    ]
    table = "\n".join(("| Capacity | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows)))
    return "\n\n".join(part for part in (table, _versions_table(capacity.versions)) if part)


def _versions_table(versions: Sequence[VersionEntry]) -> str:
    if not versions:
        return ""
    rows = [f"| `{entry.path}` | {entry.state} | {format_bytes(entry.bytes)} |" for entry in versions[:_LISTED]]
    more = [f"| {len(versions) - _LISTED} more | | |"] if len(versions) > _LISTED else []
    return "\n".join(("| On the volume | | |", "|---|---|---|", *rows, *more))
