"""The steps of a reconciliation: look at one cache, correct what the catalogue says, remove one version."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta

from prefect import task
from prefect.logging import get_run_logger

from flows.orders import carry_out, versions_seen
from flows.retries import retried
from modelyard.caches import CacheSpec
from modelyard.errors import ClaimUnusable, ClusterRefused, ClusterUnavailable, LoaderInterrupted, ModelyardError
from modelyard.kube.client import Kube
from modelyard.kube.failures import Changed, NotFound
from modelyard.models import ModelRef
from modelyard.orders import InspectResult, InspectSpec, RemoveResult, RemoveSpec, VersionEntry
from modelyard.plans.catalogue import Act, CacheFacts, Decision, plan_catalogue
from modelyard.plans.catalogue_status import Finding, Phase, Usage, removed
from modelyard.plans.placement import node_for
from modelyard.quantities import format_bytes
from modelyard.volumes.catalogue import CatalogueMissing, Entry, drop, now, project, read_again, read_catalogue, write_finding, write_status
from modelyard.volumes.claims import read_claim
from modelyard.volumes.references import read_references
from modelyard.volumes.running_loads import read_running_loads

INSPECT_TIMEOUT = timedelta(minutes=30)
REMOVE_TIMEOUT = timedelta(hours=6)
#: Requests at once; the API server's default share for one account takes many more.
_WRITERS = 4


@dataclass(frozen=True, slots=True)
class Planned:
    """What one cache needs; None and no block for the objects that speak of no cache."""

    cache: CacheSpec | None
    block: str
    decisions: tuple[Decision, ...]
    entries: tuple[Entry, ...]

    @property
    def name(self) -> str:
        """For people."""
        return self.cache.name if self.cache else "unknown-caches"

    def entry_of(self, decision: Decision) -> Entry | None:
        """The object that a decision is about, as it was read; None for one that is still to be made."""
        target = (decision.target.namespace, decision.target.name)
        return next((each for each in self.entries if (each.model.namespace, each.model.name) == target), None)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The objects that could be read, and why those of other namespaces could not."""

    entries: tuple[Entry, ...] = ()
    unread: Mapping[str, str] = field(default_factory=dict)


@task(task_run_name="read-catalogue", **retried(ClusterUnavailable))
def read_all(kube: Kube, namespaces: frozenset[str]) -> Catalogue:
    """The objects of all namespaces, or of the caches' where the account may not list all: its Role for them is optional in each."""
    try:
        return Catalogue(read_catalogue(kube, None))
    except CatalogueMissing as error:
        return Catalogue(unread=dict.fromkeys(namespaces, str(error)))
    except ClusterRefused:
        return _of_each(kube, namespaces)


def _of_each(kube: Kube, namespaces: frozenset[str]) -> Catalogue:
    entries: list[Entry] = []
    unread: dict[str, str] = {}
    for namespace in sorted(namespaces):
        try:
            entries += read_catalogue(kube, namespace)
        except (CatalogueMissing, ClusterRefused) as error:
            unread[namespace] = str(error)
    return Catalogue(tuple(entries), unread)


@task(task_run_name="look-{cache.name}", **retried(ClusterUnavailable, LoaderInterrupted))
def look(
    kube: Kube, cache: CacheSpec, block: str, entries: tuple[Entry, ...], sources: Mapping[str, str], registries: Mapping[str, str]
) -> Planned:
    """See what is on one cache's volume, who uses it, what is being loaded; decide. Changes nothing."""
    mine = tuple(each for each in entries if (each.model.cache, each.model.namespace) == (cache.name, cache.namespace))
    facts = CacheFacts(
        cache=cache.name,
        namespace=cache.namespace,
        claim=cache.claim,
        models=tuple(each.model for each in mine),
        entries=_on_volume(kube, cache),
        loading=frozenset((load.model.name, load.model.version) for load in read_running_loads(kube, cache.namespace, cache.claim)),
        references=read_references(kube, cache.namespace, cache.claim),
        sources=sources,
        registries=registries,
        now=now(),
    )
    return Planned(cache, block, plan_catalogue(facts), mine)


def _on_volume(kube: Kube, cache: CacheSpec) -> tuple[VersionEntry, ...]:
    """What a pod sees on the claim; a claim that is not there, or was never bound, holds nothing."""
    claim = read_claim(kube, cache.namespace, cache.claim)
    if claim is None or claim.phase == "Pending":
        return ()
    if claim.phase != "Bound" or claim.deleting:
        phase = "being deleted" if claim.deleting else claim.phase
        raise ClaimUnusable(f"PersistentVolumeClaim/{cache.namespace}/{cache.claim} is {phase}; use another pvcNameSuffix")
    node = node_for(cache, claim)
    return versions_seen(carry_out(kube, InspectSpec(), cache, InspectResult, timeout=INSPECT_TIMEOUT, node=node, hurried=True))


@task(task_run_name="correct-{plan.name}", **retried(ClusterUnavailable))
def correct(kube: Kube, plan: Planned) -> int:
    """Make the objects that are missing and write what has changed; how many were written.

    What somebody else changed meanwhile is left to the next run.
    """
    todo = [each for each in plan.decisions if each.changes or each.act is Act.DROP]
    with ThreadPoolExecutor(_WRITERS) as pool:
        told = list(pool.map(lambda each: _write(kube, each, plan.entry_of(each)), todo))
    log = get_run_logger()
    for problem in filter(None, told):
        log.warning("left to the next run: %s", problem)
    return told.count(None)


def _write(kube: Kube, decision: Decision, entry: Entry | None) -> str | None:
    """Write one object; what kept us from it."""
    try:
        if decision.act is Act.DROP and entry:
            return None if drop(kube, entry) else f"{decision.target} has changed"
        write_status(kube, entry or project(kube, decision.target), dict(decision.status))
    except ClusterUnavailable:
        raise
    except ClusterRefused as error:
        return str(error)
    return None


@task(task_run_name="remove-{decision.target.model}@{decision.target.version}", **retried(ClusterUnavailable))
def remove(kube: Kube, plan: Planned, decision: Decision) -> bool:
    """Remove one version's bytes, unless something began to use it or a person took it back meanwhile; whether they are gone.

    A failure stands in the object's status.
    """
    cache, entry, target = plan.cache, plan.entry_of(decision), decision.target
    if cache is None or entry is None or not _still_to_go(kube, entry):
        return False
    references = read_references(kube, cache.namespace, cache.claim)
    if Usage(references.of(target.model, target.version), references.unknown).any:
        get_run_logger().warning("%s: something uses it since a moment ago; the next run says what", target)
        return False
    order = RemoveSpec(model=ModelRef(name=target.model, version=target.version), digest=decision.entry.digest if decision.entry else None)
    try:
        node = node_for(cache, read_claim(kube, cache.namespace, cache.claim), order)
        result = carry_out(kube, order, cache, RemoveResult, timeout=REMOVE_TIMEOUT, node=node).result
    except ClusterUnavailable:
        raise
    except ModelyardError as error:
        get_run_logger().warning("%s: %s", target, error)
        _tell(
            kube, entry, Finding(Phase.REMOVING, type(error).__name__, f"its removal failed, and is tried again by the next run: {error}")
        )
        return False
    get_run_logger().info("%s removed: %d files, %s freed", target, result.files, format_bytes(result.freed_bytes))
    _tell(kube, entry, removed())
    return True


def still_awaited(kube: Kube, entry: Entry) -> bool:
    """Whether a load that was decided on is due still: other runs, and people, do not wait while it stands in its queue."""
    try:
        live = read_again(kube, entry).model
    except NotFound as error:
        get_run_logger().warning("not loaded: %s", error)
        return False
    if live.state != "Absent" and live.status.get("phase") == Phase.PENDING:
        return True
    get_run_logger().info("%s is %s by now: not loaded by this run", live, live.status.get("phase"))
    return False


def _still_to_go(kube: Kube, entry: Entry) -> bool:
    """Whether the object is there and says as it did when it was looked at: removals stand in a queue, and inspections before them."""
    try:
        live = read_again(kube, entry).model
    except NotFound as error:
        get_run_logger().warning("not removed: %s", error)
        return False
    if live.to_be_removed and (live.cache, live.key) == (entry.model.cache, entry.model.key):
        return True
    get_run_logger().warning("%s was changed since it was looked at: not removed", live)
    return False


def _tell(kube: Kube, entry: Entry, finding: Finding) -> None:
    try:
        write_finding(kube, entry, finding)
    except (Changed, NotFound) as error:  # the next run finds the version gone and says so
        get_run_logger().warning("%s", error)
