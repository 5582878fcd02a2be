"""Reconcile: make the catalogue say what is on the caches' volumes, and the volumes hold what the catalogue declares.

Each run looks anew at everything, so nothing is lost with an event: what was declared, deleted, loaded or removed meanwhile is
seen by the next one. Two runs at once do no harm: loads and removals are Jobs of a fixed name, which the second run joins, and a
status is written only on the version of the object that it was decided on.
"""

from typing import Annotated, Any

from prefect import Flow, flow
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import FlowRun, State
from prefect.logging import get_run_logger
from prefect.logging.loggers import LoggingAdapter, flow_run_logger
from pydantic import Field

from blocks import Cluster, load_block
from flows.cache_blocks import CacheBlocks, read_cache_blocks, registry_hosts, source_uris
from flows.parameters import ShortText
from flows.plans import tell_plan
from flows.preload import preload_model
from flows.reconcile_tasks import Catalogue, Planned, correct, look, read_all, remove, still_awaited
from flows.share import share_where_wanted
from modelyard.caches import CacheSpec
from modelyard.errors import ModelyardError
from modelyard.kube.client import Kube
from modelyard.kube.run_loader import end_jobs_of_run
from modelyard.models import Value
from modelyard.names import slug
from modelyard.plans.catalogue import Act, Decision, plan_strays
from modelyard.plans.catalogue_status import Finding, Phase
from modelyard.volumes.catalogue import now, read_again, write_finding
from modelyard.volumes.copies import is_released
from modelyard.volumes.sharing_facts import copies_of

_MOST_ROWS = 1000


class ReconcileReport(Value):
    """What a reconciliation did, or would do: names as ``cache/model@version``."""

    seen: int = 0
    written: int = 0
    loaded: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()  # copies that were made or mended, and why others were not
    planned: tuple[str, ...] = ()  # of a dry run
    note: str | None = None


def end_own_jobs(flow: "Flow[Any, Any]", flow_run: FlowRun, state: "State[Any]") -> None:  # noqa: ARG001 - Prefect calls by these names
    """Delete the Jobs of a cancelled or crashed run. A half removal is finished by the next run."""
    kube, log = Kube(load_block(Cluster, flow_run.parameters.get("cluster", "default")).get_client()), flow_run_logger(flow_run, flow)
    for namespace in sorted({place for cache in read_cache_blocks().specs.values() for place in _places(kube, cache, log)}):
        try:
            end_jobs_of_run(kube, namespace, str(flow_run.id))
        except ModelyardError as error:
            log.warning("Jobs of this run may be left in namespace %s: %s", namespace, error)


def _places(kube: Kube, cache: CacheSpec, log: LoggingAdapter) -> set[str]:
    """Where a run's Jobs may be: beside the cache, and beside its copies, which are looked at."""
    try:
        copies = {volume["spec"]["claimRef"]["namespace"] for volume in copies_of(kube, cache) if not is_released(volume)}
    except ModelyardError as error:
        log.warning("the namespaces that have a copy of cache %s are not known: %s", cache.name, error)
        copies = set()
    return {cache.namespace, *cache.share_with, *copies}


@flow(name="reconcile-caches", on_cancellation=[end_own_jobs], on_crashed=[end_own_jobs])
def reconcile_caches(
    cluster: ShortText = "default",
    caches: Annotated[list[ShortText] | None, Field(max_length=1000)] = None,
    dry_run: bool = False,  # noqa: FBT001, FBT002 - a flow's parameters are given by name
) -> ReconcileReport:
    """Bring the catalogue (CachedModels) and the caches' volumes into agreement; safe to run at any time.

    What is on a volume and has no object gets one. What is declared and not there is loaded. What is declared Absent is removed,
    unless something uses it. Every object's status says where it stands, why, and what to do next.

    Namespaces that are to have a copy of a cache's claim (its shareWith and shareOnDemand) get it.

    Args:
        cluster: Name of the Modelyard Cluster block that the caches lie in.
        caches: Names of the Modelyard Model Cache blocks to look at; empty: all that there are.
        dry_run: Only look, and publish what would be done; no object and no byte is changed.

    Raises:
        ExceptionGroup: caches that could not be looked at; the others were reconciled. What fails for one model is told in its object.
    """
    kube, blocks = Kube(load_block(Cluster, cluster).get_client()), read_cache_blocks(caches)
    catalogue = read_all(kube, blocks.namespaces)
    for reason in catalogue.unread.values():
        get_run_logger().warning("%s", reason)
    planned, failures = plan_all(kube, blocks, catalogue)
    publish(planned)
    report = forecast(planned) if dry_run else act(kube, planned, cluster)
    shared = tuple(line for name, cache in blocks.specs.items() for line in share(name, cache, cluster, dry_run=dry_run))
    unread = f"{len(failures) + len(catalogue.unread)} caches or namespaces could not be read" if failures or catalogue.unread else ""
    tell_plan("\n".join([*shared, *report.planned, unread]).strip() or "nothing is to be done", dry_run=dry_run)
    told = {"planned": (*report.planned, *shared)} if dry_run else {"shared": shared}
    report = report.model_copy(update={**told, "note": "; ".join(dict.fromkeys(catalogue.unread.values())) or None})
    if failures:
        raise ExceptionGroup(f"{len(failures)} of {len(blocks.specs)} caches could not be reconciled", failures)
    return report


def plan_all(kube: Kube, blocks: CacheBlocks, catalogue: Catalogue) -> tuple[list[Planned], list[Exception]]:
    """What each cache needs; one that cannot be looked at does not stop the others, and one whose objects cannot be read has none."""
    sources, registries, planned = source_uris(), registry_hosts(), []
    failures: list[Exception] = list(blocks.failures)
    for name, cache in blocks.specs.items():
        if cache.namespace in catalogue.unread:
            continue
        try:
            planned.append(look(kube, cache, name, catalogue.entries, sources, registries))
        except Exception as error:  # noqa: BLE001 - whatever it is, the other caches are not held up by it
            get_run_logger().error("cache %s: %s", cache.name, error)
            failures.append(error)
    if blocks.complete:
        strays = plan_strays((each.model for each in catalogue.entries), blocks.known, now())
        planned.append(Planned(None, "", strays, catalogue.entries))
    return planned, failures


def forecast(planned: list[Planned]) -> ReconcileReport:
    """What would be done with the models."""
    todo = [each for plan in planned for each in plan.decisions if _acts(each)]
    return ReconcileReport(seen=_seen(planned), planned=tuple(f"{each.act or 'status'} {_told(each)}" for each in todo))


def act(kube: Kube, planned: list[Planned], cluster: str) -> ReconcileReport:
    """First the quick things of all caches, then removals, which make room, then loads."""
    written = sum(correct(kube, plan) for plan in planned)
    loaded: list[str] = []
    removed: list[str] = []
    failed: list[str] = []
    for plan, each in _of(planned, Act.REMOVE):
        (removed if remove(kube, plan, each) else failed).append(_told(each))
    for plan, each in _of(planned, Act.LOAD):
        if (entry := plan.entry_of(each)) and still_awaited(kube, entry):
            (loaded if load(kube, plan, each, cluster) else failed).append(_told(each))
    return ReconcileReport(seen=_seen(planned), written=written, loaded=tuple(loaded), removed=tuple(removed), failed=tuple(failed))


def _of(planned: list[Planned], act: Act) -> list[tuple[Planned, Decision]]:
    return [(plan, each) for plan in planned for each in plan.decisions if each.act is act]


def load(kube: Kube, plan: Planned, decision: Decision, cluster: str) -> bool:
    """Preload what is declared, as a run of its own below this one; whether it is there. A failure stands in the object's status."""
    target, source = decision.target, decision.target.source
    if source is None:  # the plan would not have said LOAD
        return False
    try:
        preload_model(model=target.model, version=target.version, path=source.path, source=source.block, cache=plan.block, cluster=cluster)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other models are not held up by it
        get_run_logger().warning("%s: %s", _told(decision), error)
        _tell_failure(kube, plan, decision, error)
        return False
    return True


def share(block: str, cache: CacheSpec, cluster: str, *, dry_run: bool) -> list[str]:
    """Make the copies that a cache's settings ask for; what was done, or would be, and why others were not, a line each."""
    if not (cache.share_with or cache.share_on_demand):
        return []
    try:
        report = share_where_wanted(block, cluster, dry_run=dry_run)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other caches are not held up by it
        get_run_logger().warning("cache %s is not shared: %s", cache.name, error)
        return [f"{cache.name}: not shared: {error}"]
    done = [f"{cache.name}: {each.action} {each.namespace}" for each in report.namespaces if each.action in {"create", "mend"}]
    return [*done, *(f"{cache.name}: not shared: {problem}" for problem in report.problems)]


def _tell_failure(kube: Kube, plan: Planned, decision: Decision, error: Exception) -> None:
    """The preload tells its failure itself, unless it failed before it knew which version it was about."""
    entry = plan.entry_of(decision)
    try:
        if entry and (live := read_again(kube, entry)).model.status.get("phase") == Phase.PENDING:
            write_finding(kube, live, Finding(Phase.FAILED, type(error).__name__, str(error)))
    except ModelyardError as unwritten:
        get_run_logger().warning("%s", unwritten)


def publish(planned: list[Planned]) -> None:
    """A table a cache: every model, where it stands, and what is done."""
    for plan in planned:
        rows = [_row(each) for each in sorted(plan.decisions, key=lambda each: not _acts(each))]
        if rows:
            create_table_artifact(
                rows[:_MOST_ROWS], key=slug(f"reconcile-{plan.name}", 200), description=f"{len(rows)} models" + _rest(len(rows))
            )


def _rest(count: int) -> str:
    return f", the first {_MOST_ROWS} of them shown" if count > _MOST_ROWS else ""


def _row(decision: Decision) -> dict[str, str]:
    target, status = decision.target, decision.status
    return {
        "model": f"{target.model}@{target.version}",
        "object": f"{target.namespace}/{target.name}" if target.name else "none yet",
        "phase": str(status["phase"]),
        "size": str(status.get("size", "")),
        "used by": ", ".join(status.get("usedBy", ())),
        "done": str(decision.act) or ("status" if decision.changes else ""),
        "message": str(status["message"]),
    }


def _acts(decision: Decision) -> bool:
    return bool(decision.act) or decision.changes


def _told(decision: Decision) -> str:
    target = decision.target
    return f"{target.cache}/{target.model}@{target.version}"


def _seen(planned: list[Planned]) -> int:
    return sum(len(plan.decisions) for plan in planned)
