"""What a storage check's observations mean: works, works with limits, does not work; each with its consequence and next step. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from modelyard.models import Value
from modelyard.plans.capacity import Neighbours
from modelyard.plans.check_storage import CheckPlan, Removal, VolumeEnd
from modelyard.quantities import format_bytes
from modelyard.storage_orders import Ability, CheckResult, Lack

#: A file system's own structures take some of a volume, and provisioners round up.
_FAR_BEYOND = 1.25


class Verdict(StrEnum):
    """Whether models can be served from here."""

    WORKS = "works"
    LIMITS = "works with limits"
    FAILS = "does not work"


class Severity(StrEnum):
    """How much a finding weighs."""

    FATAL = "fatal"
    LIMIT = "limit"
    NOTE = "note"


class StorageFinding(Value):
    """One thing that a user should know before models lie here; ``node`` None where it holds for all."""

    severity: Severity
    what: str
    consequence: str = ""
    next_step: str = ""
    node: str | None = None

    def __str__(self) -> str:
        where = f"node {self.node}: " if self.node else ""
        return where + "; ".join(part for part in (self.what, self.consequence, self.next_step) if part)


class NodeResult(Value):
    """What one node saw: bytes a second of the write and the read, and whether it found what the writing node left."""

    node: str
    sees: bool
    write_bytes_per_second: float | None = None
    written_direct: bool = False
    read_bytes_per_second: float | None = None
    read_direct: bool = False
    problem: str | None = None


class StorageReport(Value):
    """Will it work here, and how fast."""

    subject: str
    verdict: Verdict
    file_system: str = ""
    findings: tuple[StorageFinding, ...] = ()
    nodes: tuple[NodeResult, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """How one step went on one node: its result, or why there is none. ``node`` None: the scheduler's choice."""

    node: str | None
    result: CheckResult | None
    problem: str | None = None

    @property
    def place(self) -> str:
        """The node's name for people."""
        return self.node or "the scheduler's choice"


@dataclass(frozen=True, slots=True)
class Seen:
    """All that a check saw. ``volume`` holds the claim's PersistentVolume and its neighbours where they may be read."""

    writes: tuple[Step, ...] = ()
    reads: tuple[Step, ...] = ()
    clean: Step | None = None
    claim_problem: str | None = None  # why the claim could not be bound
    claimed_bytes: int = 0
    neighbours: Neighbours | None = None
    removal: Removal | None = None


@dataclass(frozen=True, slots=True)
class _Meaning:
    severity: Severity
    consequence: str
    next_step: str = ""


_OTHER_CLASS = "use another StorageClass for the cache"
_MEANINGS = {
    Ability.WRITE: _Meaning(
        Severity.FATAL, "models cannot be loaded", "match the volume's owner and mode with the cache's uid and gid, and mount it read-write"
    ),
    Ability.RENAME: _Meaning(Severity.FATAL, "a version could become visible half-done", _OTHER_CLASS),
    Ability.FSYNC: _Meaning(Severity.FATAL, "a version could be lost by a crash after it was published", _OTHER_CLASS),
    Ability.SYNCFS: _Meaning(Severity.FATAL, "loads make their files durable by it and would fail", _OTHER_CLASS),
    Ability.HARD_LINK: _Meaning(Severity.NOTE, "files that did not change between versions are fetched and stored anew"),
    Ability.LOCK: _Meaning(
        Severity.LIMIT,
        "two pods of one load that meet after a node came back could write one staging directory; checksums would tell",
        "for NFS: serve version 4, or mount without nolock and run the lock daemon",
    ),
    Ability.DIRECT: _Meaning(Severity.NOTE, "large files go through the page cache: loads take about twice the CPU time"),
    Ability.MODE: _Meaning(
        Severity.LIMIT, "workloads of another user and group may not be able to read the files", "set the modes in the mount options"
    ),
    Ability.OWNER: _Meaning(
        Severity.LIMIT,
        "files belong to whom the server says (root squash, fixed owner); a loader with another uid may not be able to go on with them",
        "keep the cache's uid, or let the export map it",
    ),
    Ability.UNLINK_OPEN: _Meaning(
        Severity.LIMIT, "a version that is removed or repaired breaks the replicas that read it", "remove only what is not in use"
    ),
    Ability.LONG_NAMES: _Meaning(Severity.LIMIT, "models with long file names cannot be loaded", _OTHER_CLASS),
    Ability.UNICODE: _Meaning(Severity.LIMIT, "files may have other names than at their source", "keep to ASCII names, or another class"),
    Ability.CASE: _Meaning(Severity.NOTE, "names that differ only in case would be one file; such models are refused anyway"),
    Ability.SPACE: _Meaning(Severity.LIMIT, "plans cannot trust the free space that pods see", "watch the space at the server"),
    Ability.VISIBLE: _Meaning(
        Severity.FATAL, "replicas there would not see what is loaded elsewhere", "see that all nodes mount the same share"
    ),
    Ability.CLEAN: _Meaning(Severity.LIMIT, "the check's files stay in .modelyard/check on the volume", "remove them by hand"),
}


def judge(plan: CheckPlan, seen: Seen) -> StorageReport:
    """The report of a check. No side effects."""
    findings = (*_claim(seen), *_writing(seen), *_reading(seen), *_capacity(plan, seen), *_ending(plan, seen), *_notes(plan))
    written = _written(seen)
    return StorageReport(
        subject=plan.subject,
        verdict=_verdict(findings, seen),
        file_system=written.result.file_system if written and written.result else "",
        findings=findings,
        nodes=tuple(_nodes(seen)),
    )


def _verdict(findings: tuple[StorageFinding, ...], seen: Seen) -> Verdict:
    """What fails on one node of several is a limit; what fails for all, or on all, does not work."""
    everywhere = any(finding.severity is Severity.FATAL and finding.node is None for finding in findings)
    nowhere = not _sees(seen.writes, Ability.WRITE) or (seen.reads and not _sees(seen.reads, Ability.VISIBLE))
    if everywhere or nowhere:
        return Verdict.FAILS
    return Verdict.LIMITS if any(finding.severity is not Severity.NOTE for finding in findings) else Verdict.WORKS


def _sees(steps: tuple[Step, ...], ability: Ability) -> bool:
    return any(step.result and ability in step.result.works for step in steps)


def _written(seen: Seen) -> Step | None:
    """The step that wrote what the others read."""
    return next((step for step in seen.writes if step.result), None)


def _claim(seen: Seen) -> Iterator[StorageFinding]:
    if seen.claim_problem:
        yield StorageFinding(severity=Severity.FATAL, what=seen.claim_problem, consequence="there is no volume to try")


def _writing(seen: Seen) -> Iterator[StorageFinding]:
    for step in seen.writes:
        if step.result is None:
            yield _no_pod(step)
        else:
            yield from (_lacking(each, None) for each in step.result.lacks)


def _reading(seen: Seen) -> Iterator[StorageFinding]:
    for step in seen.reads:
        if step.result is None:
            yield _no_pod(step)
        else:
            yield from (_lacking(each, step.place) for each in step.result.lacks)


def _no_pod(step: Step) -> StorageFinding:
    consequence = "no model can be loaded or served there"
    return StorageFinding(severity=Severity.FATAL, node=step.place, what=step.problem or "nothing is known", consequence=consequence)


def _lacking(lack: Lack, node: str | None) -> StorageFinding:
    meaning = _MEANINGS[lack.ability]
    return StorageFinding(
        severity=meaning.severity,
        what=f"{lack.ability}: {lack.seen}",
        consequence=meaning.consequence,
        next_step=meaning.next_step,
        node=node,
    )


def _capacity(plan: CheckPlan, seen: Seen) -> Iterator[StorageFinding]:
    written = _written(seen)
    space = written.result.space if written and written.result else None
    if space is None:
        return
    claimed = seen.claimed_bytes or plan.size
    if space.total_bytes > claimed * _FAR_BEYOND:
        yield StorageFinding(
            severity=Severity.LIMIT,
            what=f"the size is not enforced: {format_bytes(claimed)} are claimed, pods see {format_bytes(space.total_bytes)}",
            consequence=f"a cache may fill the whole share, of which {format_bytes(space.free_bytes)} are free, and so may others",
            next_step="set a quota at the server, or watch the share's free space; Modelyard plans with what pods see",
        )
    near = seen.neighbours
    if near and near.bytes > space.total_bytes and (near.share.startswith("NFS ") or not _has_own_size(space.total_bytes, claimed)):
        yield StorageFinding(
            severity=Severity.LIMIT,
            what=f"claimed {format_bytes(near.bytes)} by {near.volumes} volumes of {near.share}, of {format_bytes(space.total_bytes)}",
            consequence="the share is over-allocated: it can be full before any claim is",
            next_step="enlarge the share, or delete claims that nobody needs",
        )


def _has_own_size(total: int, claimed: int) -> bool:
    """A directory of a node may be a file system of its own, mounted there, and is then no part of what its neighbours share."""
    return claimed / _FAR_BEYOND <= total <= claimed * _FAR_BEYOND


def _ending(plan: CheckPlan, seen: Seen) -> Iterator[StorageFinding]:
    if seen.clean and seen.clean.result:
        yield from (_lacking(each, None) for each in seen.clean.result.lacks)
    elif seen.clean:
        yield _lacking(Lack(ability=Ability.CLEAN, seen=seen.clean.problem or "nothing is known"), None)
    removal = seen.removal
    if removal is None:
        return
    if not removal.claim_gone:
        why = f": {removal.refusal}" if removal.refusal else ""
        step = f"`kubectl -n {plan.namespace} delete pvc {plan.claim}`"
        yield StorageFinding(severity=Severity.LIMIT, what=f"the check's own claim is still there{why}", next_step=step)
    if text := _VOLUME_ENDS.get(removal.end):
        yield StorageFinding(
            severity=Severity.LIMIT if removal.end is VolumeEnd.LEFT else Severity.NOTE,
            what=text[0].format(volume=removal.volume),
            next_step=text[1].format(volume=removal.volume),
        )


_VOLUME_ENDS = {
    VolumeEnd.KEPT: (
        "PersistentVolume {volume} of the check's claim is kept by its reclaim policy (Retain)",
        "`kubectl delete pv {volume}`, and delete what it stands on at the storage; Modelyard deletes no volume",
    ),
    VolumeEnd.LEFT: (
        "PersistentVolume {volume} is still there, although its reclaim policy is Delete",
        "`kubectl describe pv {volume}` and the provisioner's log say why",
    ),
    VolumeEnd.UNSEEN: (
        "whether PersistentVolume {volume} went was not seen: this account may not read it",
        "grant it get on persistentvolumes, or look yourself",
    ),
}


def _notes(plan: CheckPlan) -> Iterator[StorageFinding]:
    for note in plan.notes:
        yield StorageFinding(severity=Severity.NOTE, what=note)


def _nodes(seen: Seen) -> Iterator[NodeResult]:
    """One a node: the reads, with the write's rate beside the one that wrote; and those that could not even write."""
    written = _written(seen)
    read_on = {step.node for step in seen.reads}
    for step in (*(each for each in seen.writes if each.node not in read_on), *seen.reads):
        result = step.result
        wrote = written.result if written and step.node == written.node else None
        yield NodeResult(
            node=step.place,
            sees=bool(result and Ability.VISIBLE in result.works),
            write_bytes_per_second=wrote.write_bytes_per_second if wrote else None,
            written_direct=wrote.written_direct if wrote else False,
            read_bytes_per_second=result.read_bytes_per_second if result else None,
            read_direct=result.read_direct if result else False,
            problem=step.problem,
        )
