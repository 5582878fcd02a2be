"""Share a cache with other namespaces, each with a read-only copy of its claim; and take copies away again."""

from datetime import timedelta
from typing import Annotated

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.logging import get_run_logger
from pydantic import Field

from flows.cache_blocks import load_cache
from flows.hooks import end_jobs, end_jobs_never_started
from flows.orders import carry_out, versions_seen
from flows.parameters import ShortText
from flows.plans import publish_plan
from flows.retries import retried
from modelyard.caches import CacheSpec
from modelyard.errors import ClusterUnavailable, LoaderInterrupted, VolumeUnusable
from modelyard.kube.client import Kube
from modelyard.models import Value
from modelyard.names import artifact_key, job_name
from modelyard.orders import InspectResult, InspectSpec, VersionState
from modelyard.plans.sharing import ShareAction, SharePlan, TargetPlan, describe_sharing, plan_sharing, share_table
from modelyard.plans.unsharing import UnsharePlan, describe_unsharing, plan_unsharing
from modelyard.volumes.claims import wait_bound
from modelyard.volumes.sharing import hold_original, make_copy, originals, release_original, remove_copy
from modelyard.volumes.sharing_facts import read_shared, read_source, read_target
from modelyard.volumes.users import Wanted, wanted_namespaces

INSPECT_TIMEOUT = timedelta(minutes=30)
BIND_TIMEOUT = timedelta(minutes=5)
REMOVE_TIMEOUT = timedelta(minutes=5)
Namespaces = Annotated[list[Annotated[str, Field(min_length=1, max_length=63)]], Field(max_length=200)]
Versions = dict[str, str]


class CopyInspection(InspectSpec):
    """An inspection whose Job has one name in every run: the next run joins or replaces what a killed one left."""

    def job_name(self, claim: str, run_id: str) -> str:  # noqa: ARG002 - the same for every run
        return job_name(self.command, f"shared-{claim}", claim)


class SharedNamespace(Value):
    """One namespace after, or before, a run: ``versions`` are those that a pod there sees, by path; None where none looked."""

    namespace: str
    action: str
    changes: tuple[str, ...] = ()
    versions: dict[str, str] | None = None


class ShareReport(Value):
    """What sharing or unsharing did, or would do."""

    cache: str
    claim: str
    namespaces: tuple[SharedNamespace, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@flow(name="share-cache", flow_run_name="share-{cache}", on_cancellation=[end_jobs], on_crashed=[end_jobs_never_started])
def share_cache(
    namespaces: Namespaces = [],  # noqa: B006 - Prefect copies it; a form shows a list
    cache: ShortText = "default",
    cluster: ShortText = "default",
    dry_run: bool = False,  # noqa: FBT001, FBT002 - a flow's parameters are given by name
) -> ShareReport:
    """Give namespaces a read-only copy of a cache's claim, under the same name, and check it from a pod there.

    Safe to run again after any end: what is there is kept, what is missing is made, and what others changed is shown and refused.

    Args:
        namespaces: Namespaces to share with; none: those of the cache's shareWith.
        cache: Name of the Modelyard Model Cache block to share.
        cluster: Name of the Modelyard Cluster block the cache lies in.
        dry_run: Only publish the plan; change nothing.

    Raises:
        Refused: the plan holds problems; all of them are listed, and nothing was changed.
        VolumeUnusable: a pod in one of the namespaces sees other models than the cache holds.
    """
    kube, spec = load_cache(cache, cluster)
    plan = resolve_sharing(spec, tuple(namespaces) or spec.share_with, kube)
    key = artifact_key("share", spec.name, spec.namespace, part="plan")
    publish_plan(describe_sharing(plan), plan.problems, key=key, description=f"Share {spec.name}", dry_run=dry_run)
    if dry_run:
        return report_of(plan)
    return publish_report(plan, share(plan.approved(), plan, kube))


@flow(name="unshare-cache", flow_run_name="unshare-{cache}")
def unshare_cache(
    namespaces: Namespaces = [],  # noqa: B006 - Prefect copies it; a form shows a list
    cache: ShortText = "default",
    cluster: ShortText = "default",
    dry_run: bool = False,  # noqa: FBT001, FBT002 - a flow's parameters are given by name
) -> ShareReport:
    """Take the copies of a cache's claim away, unless something in their namespaces uses them. The cache itself is not touched.

    Args:
        namespaces: Namespaces whose copies go; none: all that have one.
        cache: Name of the Modelyard Model Cache block.
        cluster: Name of the Modelyard Cluster block the cache lies in.
        dry_run: Only publish the plan; change nothing.

    Raises:
        Refused: a copy is in use, or is not as Modelyard made it; all such are listed, and nothing was changed.
    """
    kube, spec = load_cache(cache, cluster)
    plan = resolve_unsharing(spec, tuple(namespaces), kube)
    key = artifact_key("unshare", spec.name, spec.namespace)
    publish_plan(describe_unsharing(plan), plan.problems, key=key, description=f"Unshare {spec.name}", dry_run=dry_run)
    if dry_run:
        return unshare_report(plan)
    removed, notes = unshare(plan.approved(), spec, kube)
    return unshare_report(plan, removed, notes)


def share_where_wanted(cache: str = "default", cluster: str = "default", *, dry_run: bool = False) -> ShareReport:
    """Make the copies that the cache's shareWith and shareOnDemand ask for; for other flows to call.

    A namespace with a problem is left out and told of in the report and the log; those that have a copy are not checked again.
    A dry run only says what would be done.
    """
    log = get_run_logger()
    kube, spec = load_cache(cache, cluster)
    wanted = find_wanted(spec, kube)
    unknown = tuple(map(str, wanted.problems))
    for problem in unknown:
        log.warning("%s", problem)
    if not wanted.namespaces:
        return ShareReport(cache=spec.name, claim=f"{spec.namespace}/{spec.claim}", problems=unknown)
    plan = resolve_sharing(spec, wanted.namespaces, kube)
    for refused in plan.problems:
        log.warning("not shared: %s", refused)
    due = (
        ()
        if plan.source_problems or dry_run
        else tuple(each for each in plan.targets if not each.problems and each.action is not ShareAction.KEEP)
    )
    report = report_of(plan, share(due, plan, kube) if due else ())
    return report.model_copy(update={"problems": (*report.problems, *unknown)})


@task(task_run_name="wanted-{cache.claim}", **retried())
def find_wanted(cache: CacheSpec, kube: Kube) -> Wanted:
    """The namespaces that are to have a copy, and those of which that is not known."""
    return wanted_namespaces(kube, cache)


@task(task_run_name="resolve-{cache.claim}", **retried())
def resolve_sharing(cache: CacheSpec, namespaces: tuple[str, ...], kube: Kube) -> SharePlan:
    """Read the facts once, and plan."""
    source, original = read_source(kube, cache)
    return plan_sharing(cache, source, tuple(read_target(kube, cache, original, name) for name in dict.fromkeys(namespaces)))


@task(task_run_name="resolve-{cache.claim}", **retried())
def resolve_unsharing(cache: CacheSpec, namespaces: tuple[str, ...], kube: Kube) -> UnsharePlan:
    """Read the facts once, and plan."""
    return plan_unsharing(cache, read_shared(kube, cache, tuple(dict.fromkeys(namespaces))))


def share(targets: tuple[TargetPlan, ...], plan: SharePlan, kube: Kube) -> tuple[SharedNamespace, ...]:
    """Make and check the copies of namespaces without problems."""
    cache = plan.cache
    hold(cache, kube)
    changes = {target.namespace: provide_copy(cache, target.namespace, kube) for target in targets}
    hold(cache, kube)  # an unshare that ran beside this one may have given the policy back before it saw the new copies
    held = inspect(cache, kube)
    seen = {target.namespace: check_copy(cache, target.namespace, held, kube) for target in targets}
    return tuple(
        SharedNamespace(namespace=each.namespace, action=each.action, changes=changes[each.namespace], versions=seen[each.namespace])
        for each in targets
    )


@task(task_run_name="hold-{cache.claim}", **retried())
def hold(cache: CacheSpec, kube: Kube) -> None:
    """Hold the original's reclaim policy at Retain, where that is Modelyard's to do."""
    if hold_original(kube, cache):
        get_run_logger().info("the reclaim policy of the cache's PersistentVolume is held at Retain until the last copy is gone")


@task(task_run_name="copy-{namespace}", **retried())
def provide_copy(cache: CacheSpec, namespace: str, kube: Kube) -> tuple[str, ...]:
    """Make the volume and the claim that are missing, and wait until the claim is bound."""
    log = get_run_logger()
    changes = tuple(map(str, make_copy(kube, cache, namespace)))
    for change in changes:
        log.info("%s", change)
    wait_bound(kube, namespace, cache.claim, BIND_TIMEOUT.total_seconds(), on_note=log.warning)
    return changes


@task(task_run_name="inspect-{cache.namespace}", **retried(ClusterUnavailable, LoaderInterrupted))
def inspect(cache: CacheSpec, kube: Kube) -> Versions:
    """The ready versions that a pod beside the claim sees: each one's digest, by its path."""
    report = carry_out(kube, CopyInspection(), cache, InspectResult, timeout=INSPECT_TIMEOUT)
    return {entry.path: entry.digest or "" for entry in versions_seen(report) if entry.state is VersionState.READY}


def check_copy(cache: CacheSpec, namespace: str, held: Versions, kube: Kube) -> Versions:
    """What a pod in ``namespace`` sees on the copy.

    Raises:
        VolumeUnusable: it lacks a version that the cache holds, before and after, or sees another digest of it.
    """
    there = cache.model_copy(update={"namespace": namespace, "base_name": cache.claim, "pvc_name_suffix": "", "service_account": None})
    seen = inspect(there, kube)
    if missing(held, seen):  # versions come and go meanwhile, and either look may have begun for another run
        held, seen = inspect(cache, kube), inspect(there, kube)
    if lost := missing(held, seen):
        raise VolumeUnusable(
            f"a pod in namespace {namespace} sees other models on claim {cache.claim} than the cache holds: {', '.join(lost)};"
            " see that the volume's server and path, and for hostPath the node, are the same there"
        )
    return seen


def missing(held: Versions, seen: Versions) -> tuple[str, ...]:
    """The versions that are not seen with the digest that they are held with."""
    return tuple(path for path, digest in sorted(held.items()) if seen.get(path) != digest)


def unshare(namespaces: tuple[str, ...], cache: CacheSpec, kube: Kube) -> tuple[tuple[SharedNamespace, ...], tuple[str, ...]]:
    """Remove the copies, and give the original its policy back after the last one; gives what was removed, and what is to be known."""
    names = find_originals(cache, kube)
    removed = tuple(
        SharedNamespace(namespace=namespace, action="removed", changes=take_copy_away(cache, namespace, kube)) for namespace in namespaces
    )
    notes = [release(cache, name, kube) for name in sorted(names)]
    return removed, tuple(note for note in notes if note)


@task(task_run_name="originals-{cache.claim}", **retried())
def find_originals(cache: CacheSpec, kube: Kube) -> frozenset[str]:
    """The volumes whose policy may be held for the copies."""
    return originals(kube, cache)


@task(task_run_name="remove-{namespace}", **retried(ClusterUnavailable))
def take_copy_away(cache: CacheSpec, namespace: str, kube: Kube) -> tuple[str, ...]:
    """Remove the claim and then its volume, and wait until they are gone."""
    removed = remove_copy(kube, cache, namespace, REMOVE_TIMEOUT.total_seconds())
    for subject in removed:
        get_run_logger().info("%s removed", subject)
    return removed


@task(task_run_name="release-{name}", **retried())
def release(cache: CacheSpec, name: str, kube: Kube) -> str | None:
    """Give the original its reclaim policy back if the last copy is gone."""
    if note := release_original(kube, cache, name):
        get_run_logger().info("%s", note)
        return note
    return None


def publish_report(plan: SharePlan, shared: tuple[SharedNamespace, ...]) -> ShareReport:
    """What is shared now, as an artifact of the cache: its page is the cache's history."""
    seen = {each.namespace: each for each in shared}
    table = [{**row, "models": _models(seen.get(row["namespace"]))} for row in share_table(plan)]
    create_table_artifact(
        table,
        key=artifact_key("share", plan.cache.name, plan.cache.namespace),
        description=f"Copies of {plan.cache.namespace}/{plan.cache.claim}",
    )
    return report_of(plan, shared)


def _models(shared: SharedNamespace | None) -> str:
    if shared is None or shared.versions is None:
        return "not looked at"
    return ", ".join(sorted(shared.versions)) or "none yet"


def report_of(plan: SharePlan, shared: tuple[SharedNamespace, ...] = ()) -> ShareReport:
    """The flow's result: the namespaces as they are, or are planned."""
    done = {each.namespace: each for each in shared}
    namespaces = (
        done.get(each.namespace) or SharedNamespace(namespace=each.namespace, action="refused" if each.problems else str(each.action))
        for each in plan.targets
    )
    return ShareReport(
        cache=plan.cache.name,
        claim=f"{plan.cache.namespace}/{plan.cache.claim}",
        namespaces=tuple(namespaces),
        problems=tuple(map(str, plan.problems)),
        notes=plan.notes,
    )


def unshare_report(plan: UnsharePlan, removed: tuple[SharedNamespace, ...] = (), notes: tuple[str, ...] = ()) -> ShareReport:
    """The flow's result: what was removed, or would be."""
    planned = tuple(SharedNamespace(namespace=namespace, action="remove") for namespace in plan.namespaces)
    return ShareReport(
        cache=plan.cache.name,
        claim=f"{plan.cache.namespace}/{plan.cache.claim}",
        namespaces=removed or planned,
        problems=tuple(map(str, plan.problems)),
        notes=(*plan.notes, *notes),
    )
