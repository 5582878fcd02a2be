"""What a storage check will try, where, and on which claim: decided without side effects."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from modelyard.caches import AccessMode, CacheSpec
from modelyard.errors import Problem, Refused
from modelyard.plans.claim_facts import ClaimFacts
from modelyard.plans.nodes import NodeFacts, eligible_nodes, hindrance
from modelyard.plans.storage_classes import StorageClassFacts, storage_class_verdict
from modelyard.quantities import format_bytes

#: Less is measured in no time.
LEAST_BYTES = 1024 * 1024
#: What a file system's own structures may take of a small claim.
MARGIN_BYTES = 64 * 1024 * 1024
#: A volume is written from the first of so many nodes that can mount it; the others are told as they are.
WRITE_NODES = 3
_NONCE_CHARS = 12


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """What the user asked for. Neither class nor claim: the cache's own claim. No nodes: all that can run the cache's pods."""

    cache: CacheSpec
    nonce: str
    bytes: int
    size: int
    storage_class: str | None = None
    claim: str | None = None
    access_mode: AccessMode | None = None
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckFacts:
    """What is there now. None: the account may not list them; or, for the claim, there is none or it is not asked for."""

    claim: ClaimFacts | None
    classes: tuple[StorageClassFacts, ...] | None
    nodes: tuple[NodeFacts, ...] | None
    removal_refusal: str | None = None  # why the check's own claim could not be deleted again


@dataclass(frozen=True, slots=True)
class CheckPlan:
    """The claim to check, and the nodes to check it from; a node of None leaves the choice to the scheduler."""

    nonce: str
    namespace: str
    claim: str
    temporary: bool
    storage_class: str | None
    access_mode: AccessMode
    size: int
    bytes: int
    write_nodes: tuple[str | None, ...]
    read_nodes: tuple[str | None, ...]  # empty: the node that wrote, and no other
    notes: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        """What is checked, for people."""
        return f"StorageClass {self.storage_class}" if self.temporary else f"claim {self.claim}"


class VolumeEnd(Enum):
    """What became of a temporary claim's PersistentVolume."""

    NONE = auto()  # there was none
    GONE = auto()
    KEPT = auto()  # by its policy Retain
    LEFT = auto()  # its policy is Delete, and it is still there
    UNSEEN = auto()  # this account may not read it


@dataclass(frozen=True, slots=True)
class Removal:
    """What became of the temporary claim and its volume."""

    claim_gone: bool
    volume: str | None
    end: VolumeEnd
    refusal: str = ""  # why the claim may not be deleted


def probe_claim_name(nonce: str) -> str:
    """The name of a check's own claim: a pure function of the run."""
    return f"modelyard-check-{nonce[:_NONCE_CHARS]}"


def checked_claim(request: CheckRequest) -> str | None:
    """The claim that is there already and will be checked; None where a class is."""
    return None if request.storage_class else request.claim or request.cache.claim


def plan_check(request: CheckRequest, facts: CheckFacts) -> CheckPlan:
    """What will be tried, given what is there.

    Raises:
        Refused: with all that stands against it.
    """
    nodes, problems = _nodes(request, facts.nodes)
    if request.storage_class and request.claim:
        problems.append(Problem("the form", "names a StorageClass and a claim", "name one of them"))
    if request.bytes < LEAST_BYTES:
        what = f"measures with {format_bytes(request.bytes)}, which says nothing"
        problems.append(Problem("the form", what, f"measure with {format_bytes(LEAST_BYTES)} or more"))
    problems += _class_problems(request, facts.classes) if request.storage_class else _claim_problems(request, facts.claim)
    if facts.removal_refusal:
        problems.append(_removal_problem(request, facts.removal_refusal))
    if problems:
        raise Refused(problems)
    mode, mode_notes = _access_mode(request, facts)
    chosen: tuple[str | None, ...] = nodes or (None,)
    pinned = _mounted_on(facts.claim) if mode is not AccessMode.READ_WRITE_MANY else ()
    return CheckPlan(
        nonce=request.nonce,
        namespace=request.cache.namespace,
        claim=checked_claim(request) or probe_claim_name(request.nonce),
        temporary=request.storage_class is not None,
        storage_class=request.storage_class or (facts.claim.storage_class if facts.claim else None),
        access_mode=mode,
        size=facts.claim.bytes if facts.claim else request.size,
        bytes=request.bytes,
        write_nodes=pinned or chosen[:WRITE_NODES],
        read_nodes=chosen if mode is AccessMode.READ_WRITE_MANY else (),
        notes=(*_node_notes(nodes, facts.nodes), *mode_notes),
    )


def _nodes(request: CheckRequest, nodes: Sequence[NodeFacts] | None) -> tuple[tuple[str, ...], list[Problem]]:
    if nodes is None:
        return request.nodes, []
    if not request.nodes:
        found = eligible_nodes(nodes, request.cache)
        step = "make a node Ready, or change the cache's nodeSelector and tolerations"
        reasons = "; ".join(f"{node.name} {hindrance(node, request.cache)}" for node in nodes[:3])
        return found, [] if found else [Problem("nodes", f"none of {len(nodes)} takes the cache's pods: {reasons}", step)]
    known = {node.name: node for node in nodes}
    problems = []
    for name in request.nodes:
        what = hindrance(known[name], request.cache) if name in known else "does not exist"
        if what:
            problems.append(Problem(f"node {name}", what, "leave it out, or change the node or the cache's settings"))
    return request.nodes, problems


def _node_notes(nodes: tuple[str, ...], facts: Sequence[NodeFacts] | None) -> tuple[str, ...]:
    if facts is not None or nodes:
        return ()
    where = "this account may not list nodes, so the check ran where the scheduler put it and says nothing of other nodes"
    return (f"{where}; grant it list on nodes, or name the nodes",)


def _class_problems(request: CheckRequest, classes: Sequence[StorageClassFacts] | None) -> list[Problem]:
    problems = []
    if request.size < request.bytes + MARGIN_BYTES:
        least = format_bytes(request.bytes + MARGIN_BYTES)
        what = f"size {format_bytes(request.size)} is too small to measure with {format_bytes(request.bytes)}"
        problems.append(Problem("the form", what, f"ask for {least} or more, or measure with less"))
    if classes is not None and request.storage_class not in {each.name for each in classes}:
        names = ", ".join(sorted(each.name for each in classes)) or "none"
        problems.append(Problem(f"StorageClass {request.storage_class!r}", "does not exist", f"name one that does: {names}"))
    return problems


def _removal_problem(request: CheckRequest, refusal: str) -> Problem:
    """A claim that could not be deleted again is not made."""
    what = f"the check's own claim in namespace {request.cache.namespace} would stay there: {refusal}"
    step = "grant deployments/kubernetes/check-storage in that namespace, or name a claim that is there"
    return Problem(f"StorageClass {request.storage_class!r}", what, step)


def _claim_problems(request: CheckRequest, claim: ClaimFacts | None) -> list[Problem]:
    subject = f"PersistentVolumeClaim/{request.cache.namespace}/{checked_claim(request)}"
    if claim is None:
        return [Problem(subject, "is not there", "name a StorageClass to check that, or a claim that is there")]
    if claim.deleting or claim.phase == "Lost":
        return [Problem(subject, "is being deleted" if claim.deleting else "has lost its PersistentVolume", "name another claim")]
    return []


def _access_mode(request: CheckRequest, facts: CheckFacts) -> tuple[AccessMode, tuple[str, ...]]:
    if facts.claim is None:
        mode = request.access_mode or request.cache.access_mode
    else:
        modes = [each for each in AccessMode if each in facts.claim.access_modes]
        mode = modes[0] if modes else AccessMode.READ_WRITE_ONCE
    notes = []
    if mode is not AccessMode.READ_WRITE_MANY:
        notes.append(f"with {mode} one node at a time mounts the volume, so only one was tried: replicas on other nodes cannot mount it")
    found = next((each for each in facts.classes or () if each.name == request.storage_class), None)
    if found and not (verdict := storage_class_verdict(found, mode)).ok:
        notes.append(f"{found.provisioner} is known not to serve {mode} ({verdict.reason}); it was tried all the same")
    return mode, tuple(notes)


def _mounted_on(claim: ClaimFacts | None) -> tuple[str, ...]:
    """The node that holds a claim which no other can mount now."""
    return tuple(sorted({mount.node for mount in claim.mounted_by if mount.node}))[:1] if claim else ()
