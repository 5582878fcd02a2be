"""Which namespaces get a copy of a cache's claim, and what stands against it. Pure.

A copy is a PersistentVolume of the same backend, and a claim of the same name in the other namespace, read-only. Copies
never delete data: their reclaim policy is Retain. The volume behind the cache is the one object that can, so its policy is
held at Retain while copies are there.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from modelyard.caches import CacheSpec
from modelyard.errors import Problem, Refused
from modelyard.plans.storage_classes import Verdict


class Hold(StrEnum):
    """What becomes of the volume's reclaim policy while it is shared."""

    NOT_NEEDED = "not needed"  # it is Retain already
    HELD = "held"  # Modelyard has set it to Retain
    POSSIBLE = "possible"  # made dynamically for a claim of ours, and the account may change it
    NOT_OURS = "not ours"  # the claim or the volume was made by others
    DENIED = "denied"  # the account may not change volumes


@dataclass(frozen=True, slots=True)
class SharedVolume:
    """The PersistentVolume behind a cache's claim. ``bound_back``: its claimRef names this very claim."""

    name: str
    kind: str
    backend: str | None
    reclaim_policy: str
    bound_back: bool
    verdict: Verdict
    hold: Hold
    unlimited: bool = False  # the account may make volumes of any directory of the nodes


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """The cache's claim: ``phase`` None if there is none; ``volume`` None if it has none or may not read it, which ``unreadable`` tells."""

    phase: str | None
    deleting: bool = False
    volume: SharedVolume | None = None
    unreadable: str | None = None


class Owner(StrEnum):
    """Whose an object of a copy's name is."""

    NOBODY = "nobody"  # there is none
    COPY = "copy"  # this cache's copy
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class CopyFacts:
    """One object of a copy; ``drift`` is what is other than Modelyard made it."""

    subject: str
    owner: Owner = Owner.NOBODY
    phase: str = ""
    deleting: bool = False
    drift: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """One namespace; ``refusals`` is what the API server answered to a dry run of the objects that are missing."""

    namespace: str
    exists: bool
    volume: CopyFacts
    claim: CopyFacts
    terminating: bool = False
    pod_security: str = ""
    refusals: tuple[Problem, ...] = ()


class ShareAction(StrEnum):
    """What becomes of a namespace's copy."""

    CREATE = "create"
    MEND = "mend"  # its claim was deleted, alone or with the namespace: the volume is given to a new one
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class TargetPlan:
    """One namespace's part of the plan."""

    facts: TargetFacts
    action: ShareAction
    problems: tuple[Problem, ...]

    @property
    def namespace(self) -> str:
        """Its name."""
        return self.facts.namespace


@dataclass(frozen=True, slots=True)
class SharePlan:
    """What sharing will do, or why it will not."""

    cache: CacheSpec
    source: SourceFacts
    source_problems: tuple[Problem, ...]
    targets: tuple[TargetPlan, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All that stands against it, of all namespaces."""
        return (*self.source_problems, *(problem for target in self.targets for problem in target.problems))

    def approved(self) -> tuple[TargetPlan, ...]:
        """The namespaces, none of which has a problem.

        Raises:
            Refused: with every problem of the plan.
        """
        if self.problems:
            raise Refused(self.problems)
        return self.targets


def plan_sharing(cache: CacheSpec, source: SourceFacts, targets: tuple[TargetFacts, ...]) -> SharePlan:
    """The plan for copies of ``cache`` in ``targets``, given what is there. No side effects."""
    problems = _source_problems(cache, source)
    if not targets:
        problems = (*problems, Problem(f"cache {cache.name}", "no namespace is named", "name one, or set shareWith in the cache's block"))
    planned = tuple(TargetPlan(facts, _action(facts), tuple(_target_problems(cache, facts))) for facts in targets)
    return SharePlan(cache, source, problems, planned, _notes(cache, source))


def _source_problems(cache: CacheSpec, source: SourceFacts) -> tuple[Problem, ...]:
    subject = f"PersistentVolumeClaim/{cache.namespace}/{cache.claim}"
    if source.phase is None:
        return (Problem(subject, "does not exist", "preload a model first: it makes the claim"),)
    if source.deleting:
        return (Problem(subject, "is being deleted", "copies of it would outlive it: preload into a new claim first"),)
    if source.phase != "Bound":
        return (Problem(subject, f"is {source.phase}, not Bound", "preload a model first, or see `kubectl describe` of the claim"),)
    if source.volume is None:
        step = "grant the account the verb get on persistentvolumes by a ClusterRole: a copy is made from what the volume says"
        return (Problem(subject, f"its PersistentVolume cannot be read ({source.unreadable})", step),)
    return tuple(_volume_problems(source.volume))


def _volume_problems(volume: SharedVolume) -> list[Problem]:
    subject, found = f"PersistentVolume/{volume.name}", []
    if not volume.bound_back:
        found.append(Problem(subject, "is bound to another claim than the cache's", "see its claimRef; the cache's claim has lost it"))
    if not volume.verdict.ok:
        step = "share from a cache on NFS, or set bypassStorageCheck if you know that several volumes of this backend can be mounted"
        found.append(Problem(subject, f"cannot be shared by copies: {volume.verdict.reason}", step))
    return found


def _action(facts: TargetFacts) -> ShareAction:
    if Owner.NOBODY not in {facts.volume.owner, facts.claim.owner} and facts.claim.phase == "Bound":
        return ShareAction.KEEP
    return ShareAction.MEND if facts.volume.phase in {"Released", "Failed"} else ShareAction.CREATE


def _target_problems(cache: CacheSpec, facts: TargetFacts) -> list[Problem]:
    subject = f"Namespace/{facts.namespace}"
    if facts.namespace == cache.namespace:
        return [Problem(subject, "is the cache's own", "leave it out: workloads there mount the cache's claim itself")]
    found = []
    if not facts.exists:
        found.append(Problem(subject, "does not exist", f"create it (`kubectl create namespace {facts.namespace}`), or leave it out"))
    if facts.terminating:
        found.append(Problem(subject, "is being deleted", "leave it out, or wait until it is gone and create it again"))
    return [*found, *_copy_problems(facts.volume, "PersistentVolume"), *_copy_problems(facts.claim, "claim"), *facts.refusals]


def _copy_problems(copy: CopyFacts, word: str) -> list[Problem]:
    if copy.owner is Owner.FOREIGN:
        return [
            Problem(
                copy.subject, f"has the name of the copy and is not this cache's {word}", "delete or rename it, or leave this namespace out"
            )
        ]
    found = [
        Problem(copy.subject, f"was changed: {drift}", "undo the change, or unshare the namespace and share it again")
        for drift in copy.drift
    ]
    if copy.deleting:
        found.append(Problem(copy.subject, "is being deleted", "run again when it is gone; pods that mount the claim hold it"))
    if copy.phase == "Lost":
        found.append(Problem(copy.subject, "has lost its PersistentVolume", "unshare the namespace and share it again"))
    return found


_UNLIMITED = (
    "this account may make volumes of any directory of the nodes, which are the rights of root there: unless it is an administrator's,"
    " apply deployments/kubernetes/policies, and name its namespace or user in the policy's matchConditions"
)


def _notes(cache: CacheSpec, source: SourceFacts) -> tuple[str, ...]:
    if source.volume is None:
        return ()
    volume, claim = source.volume, f"{cache.namespace}/{cache.claim}"
    enforced = {
        "nfs": "the volumes are mounted read-only, whatever a pod asks for",
        "hostPath": "hostPath has no read-only flag: nothing but `readOnly: true` in the pods keeps them from writing",
    }
    first = enforced.get(volume.kind, f"{volume.verdict.reason}; the copies ask the driver for read-only mounts")
    return (first, *_hold_note(volume, claim), *((_UNLIMITED,) if volume.unlimited else ()))


def _hold_note(volume: SharedVolume, claim: str) -> tuple[str, ...]:
    of_volume = f"PersistentVolume {volume.name} has reclaim policy {volume.reclaim_policy}"
    danger = f"deleting the claim {claim} deletes the data of every namespace ({of_volume})"
    by_hand = f"""hold it off: `kubectl patch pv {volume.name} -p '{{"spec":{{"persistentVolumeReclaimPolicy":"Retain"}}}}'`"""
    words = {
        Hold.NOT_NEEDED: (),
        Hold.HELD: (f"the reclaim policy of PersistentVolume {volume.name} is held at Retain until the last copy is gone",),
        Hold.POSSIBLE: (f"{danger}: its policy is set to Retain until the last copy is gone",),
        Hold.NOT_OURS: (f"{danger}, and Modelyard did not make it; {by_hand}",),
        Hold.DENIED: (f"{danger}, and this account may not patch PersistentVolumes; {by_hand}",),
    }
    return words[volume.hold]


def share_table(plan: SharePlan) -> list[dict[str, str]]:
    """The plan as rows for people, a namespace each."""
    return [
        {
            "namespace": target.namespace,
            "action": "refused" if target.problems else str(target.action),
            "claim": target.facts.claim.phase or "none",
            "volume": f"{target.facts.volume.subject.rpartition('/')[2]} ({target.facts.volume.phase or 'none'})",
            "Pod Security": target.facts.pod_security or "as the cluster has it",
            "problems": "; ".join(map(str, target.problems)),
        }
        for target in plan.targets
    ]


def describe_sharing(plan: SharePlan) -> str:
    """The plan as Markdown, for the run's artifact."""
    cache, volume = plan.cache, plan.source.volume
    rows = [
        ("Cache", f"`{cache.name}`: claim `{cache.namespace}/{cache.claim}`"),
        ("Volume", f"`{volume.name}`, {volume.kind}, `{volume.backend or 'no text'}`, {volume.reclaim_policy}" if volume else "unknown"),
        *((target.namespace, "refused" if target.problems else str(target.action)) for target in plan.targets),
    ]
    head = "\n".join(f"| {name} | {text} |" for name, text in rows)
    notes = "".join(f"\n- {note}" for note in plan.notes)
    refusals = "".join(f"\n- {problem}" for problem in plan.problems)
    verdict = f"\n\n**Refused**, nothing was changed:\n{refusals}" if plan.problems else ""
    return f"# Share cache {cache.name}\n\n| | |\n|---|---|\n{head}\n{notes}{verdict}\n"
