"""Check storage: will models be served well from this StorageClass or claim, from every node, and how fast."""

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

from prefect import Flow, flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.schemas.objects import FlowRun, State
from prefect.logging import get_run_logger
from prefect.runtime import flow_run as this_run
from pydantic import Field

from flows.cache_blocks import load_cache
from flows.orders import carry_out
from flows.parameters import KubeName, ShortText
from flows.retries import retried
from modelyard.caches import AccessMode, CacheSpec
from modelyard.errors import ClaimPending, ClaimUnusable, ClusterRefused, ClusterUnavailable, ModelyardError
from modelyard.kube.client import Kube
from modelyard.kube.run_loader import end_jobs_of_run, ensure_job, remove_job, wait_for_job
from modelyard.names import artifact_key
from modelyard.plans.check_storage import (
    CheckFacts,
    CheckPlan,
    CheckRequest,
    Removal,
    VolumeEnd,
    checked_claim,
    plan_check,
    probe_claim_name,
)
from modelyard.plans.storage_report import describe_storage, node_rows
from modelyard.plans.storage_verdict import Seen, Step, StorageReport, judge
from modelyard.quantities import parse_bytes, parse_duration
from modelyard.storage_orders import Ability, CheckResult, CheckSpec, CheckStep
from modelyard.volumes.claims import read_claim, wait_bound
from modelyard.volumes.nodes import read_nodes
from modelyard.volumes.persistent_volumes import read_neighbours
from modelyard.volumes.probe_claims import make_probe_claim, removal_refusal, remove_probe_claim
from modelyard.volumes.storage_classes import read_storage_classes

REMOVE_TIMEOUT = timedelta(minutes=3)
#: A cancelled run's process has little time left.
HOOK_TIMEOUT = timedelta(seconds=60)
#: Slower storage than this is told as a time-out.
SLOWEST_BYTES_PER_SECOND = 1e6


def end_check(flow: "Flow[Any, Any]", flow_run: FlowRun, state: "State[Any]") -> None:  # noqa: ARG001 - Prefect calls by these names
    """Leave nothing of a run that was cancelled or crashed: its Jobs, its own claim, or its files on a claim of others."""
    parameters, run_id = flow_run.parameters, str(flow_run.id)
    kube, cache = load_cache(parameters.get("cache", "default"), parameters.get("cluster", "default"))
    nonce = _nonce(run_id)
    end_jobs_of_run(kube, cache.namespace, run_id)
    if parameters.get("storage_class"):
        remove_probe_claim(kube, cache.namespace, probe_claim_name(nonce), HOOK_TIMEOUT.total_seconds())
        return
    there = _on(cache, parameters.get("claim") or cache.claim)
    handle = ensure_job(kube, CheckSpec(step=CheckStep.CLEAN, nonce=nonce), there, {}, run_id)
    with suppress(ModelyardError):  # what is left is removed by the next check of this claim, a day later
        wait_for_job(kube, handle, CheckResult, lambda _: None, HOOK_TIMEOUT.total_seconds())
    remove_job(kube, handle)


@flow(name="check-storage", flow_run_name="check-storage-{cache}", on_cancellation=[end_check], on_crashed=[end_check])
def check_storage(  # noqa: PLR0913, PLR0917 - these are the fields of the form
    storage_class: KubeName | None = None,
    claim: KubeName | None = None,
    cache: ShortText = "default",
    cluster: ShortText = "default",
    access_mode: AccessMode | None = None,
    size: ShortText = "1Gi",
    measured: ShortText = "256Mi",
    nodes: Annotated[list[KubeName], Field(max_length=1000)] = [],  # noqa: B006 - Prefect copies it; a form shows a list
    patience: ShortText = "10m",
) -> StorageReport:
    """Try storage as a cache would use it: one pod writes and measures, and from every node a pod looks for what it wrote.

    A StorageClass is tried on a small claim of its own, which goes afterwards; a claim that is there is never deleted, and what the
    check wrote is removed. Storage that does not serve is the run's answer, not its failure.

    Args:
        storage_class: Name of the StorageClass to check; with neither this nor a claim, the cache's own claim is checked.
        claim: Name of a claim in the cache's namespace to check.
        cache: Name of the Modelyard Model Cache block: its namespace, loader image, user, group, node selector and tolerations are used.
        cluster: Name of the Modelyard Cluster block the cache lies in.
        access_mode: Access mode that the check's own claim asks for; empty: the cache's.
        size: Size of the check's own claim, as a Kubernetes quantity.
        measured: How much each pod writes or reads, as a Kubernetes quantity.
        nodes: Nodes to try; none: all that are Ready and take the cache's pods.
        patience: How long a volume may take to be made and mounted, as 10m.

    Raises:
        Refused: what was asked for cannot be checked; nothing was changed.
    """
    kube, settings = load_cache(cache, cluster)
    request = CheckRequest(
        cache=settings,
        nonce=_nonce(str(this_run.id)),
        bytes=parse_bytes(measured),
        size=parse_bytes(size),
        storage_class=storage_class,
        claim=claim,
        access_mode=access_mode,
        nodes=tuple(nodes),
    )
    wait = parse_duration(patience)
    plan = plan_check(request, read_facts(request, kube))
    try:
        seen = examine(plan, settings, kube, wait)
    except Exception:  # not a cancellation: its hook cleans up
        tidy(plan, settings, kube, wait, written=True)
        raise
    clean, removal = tidy(plan, settings, kube, wait, written=any(step.result for step in seen.writes))
    report = judge(plan, replace(seen, clean=clean, removal=removal))
    publish(report, plan, settings)
    return report


def read_facts(request: CheckRequest, kube: Kube) -> CheckFacts:
    """What is there now."""
    name = checked_claim(request)
    claim = read_claim(kube, request.cache.namespace, name) if name else None
    own = request.storage_class and probe_claim_name(request.nonce)
    refusal = removal_refusal(kube, request.cache.namespace, own) if own else None
    return CheckFacts(claim, read_storage_classes(kube), read_nodes(kube), refusal)


def examine(plan: CheckPlan, cache: CacheSpec, kube: Kube, wait: timedelta) -> Seen:
    """Make the claim if the check needs its own, write from one node, and look for it from every node, one after the other."""
    there = _on(cache, plan.claim)
    if plan.temporary:
        make_claim(plan, cache, kube)
    if problem := bind(plan, cache, kube, wait):
        return Seen(claim_problem=problem)
    writes: list[Step] = []
    for node in plan.write_nodes:
        writes.append(run_step(CheckStep.WRITE, node, plan, there, kube, wait))
        if writes[-1].result:
            break
    written = writes[-1].result
    reads: list[Step] = []
    if written and written.measured_bytes and Ability.WRITE in written.works:
        reads = [run_step(CheckStep.READ, node, plan, there, kube, wait) for node in plan.read_nodes or (writes[-1].node,)]
    live = read_claim(kube, cache.namespace, plan.claim)
    near = read_neighbours(kube, live.volume_name) if live and live.volume_name else None
    return Seen(tuple(writes), tuple(reads), claimed_bytes=live.bytes if live else 0, neighbours=near)


@task(task_run_name="claim-{plan.claim}", **retried(ClusterUnavailable))
def make_claim(plan: CheckPlan, cache: CacheSpec, kube: Kube) -> None:
    """Make the check's own claim."""
    make_probe_claim(kube, plan, cache)


@task(task_run_name="bind-{plan.claim}", **retried(ClusterUnavailable))
def bind(plan: CheckPlan, cache: CacheSpec, kube: Kube, wait: timedelta) -> str | None:
    """Wait until the claim is bound or only waits for its first pod; why it is not."""
    try:
        wait_bound(kube, cache.namespace, plan.claim, wait.total_seconds(), on_note=get_run_logger().warning)
    except (ClaimPending, ClaimUnusable) as error:
        return str(error)
    return None


@task(task_run_name="{which}-{node}", **retried(ClusterUnavailable))
def run_step(which: CheckStep, node: str | None, plan: CheckPlan, cache: CacheSpec, kube: Kube, wait: timedelta) -> Step:
    """Run one pod of the check. That it does not start, or reports an error, is what is seen of its node."""
    log, notes = get_run_logger(), list[str]()

    def note(text: str) -> None:
        log.warning(text)
        notes.append(text)

    spec = CheckSpec(step=which, nonce=plan.nonce, bytes=plan.bytes, node=node)
    timeout = wait + timedelta(seconds=plan.bytes / SLOWEST_BYTES_PER_SECOND)
    hurried = which is not CheckStep.WRITE or not plan.temporary  # a volume that is still to be made for its first pod takes its time
    try:
        report = carry_out(kube, spec, cache, CheckResult, timeout=timeout, on_note=note, node=node, hurried=hurried)
    except ClusterUnavailable:
        raise
    except ModelyardError as error:
        end_jobs_of_run(kube, cache.namespace, str(this_run.id))
        return Step(node, None, f"{error}; last seen: {notes[-1]}" if notes and notes[-1] not in str(error) else str(error))
    return Step(node, report.result)


def tidy(plan: CheckPlan, cache: CacheSpec, kube: Kube, wait: timedelta, *, written: bool) -> tuple[Step | None, Removal | None]:
    """Remove what the check wrote, and the claim if it is the check's own."""
    end_jobs_of_run(kube, cache.namespace, str(this_run.id))
    clean = run_step(CheckStep.CLEAN, None, plan, _on(cache, plan.claim), kube, wait) if written else None
    return clean, remove_claim(plan, cache, kube) if plan.temporary else None


@task(task_run_name="remove-{plan.claim}", **retried(ClusterUnavailable))
def remove_claim(plan: CheckPlan, cache: CacheSpec, kube: Kube) -> Removal:
    """Delete the check's own claim, and see its volume go; where that is refused by now, the answer is told all the same."""
    try:
        return remove_probe_claim(kube, cache.namespace, plan.claim, REMOVE_TIMEOUT.total_seconds())
    except ClusterRefused as error:
        return Removal(claim_gone=False, volume=None, end=VolumeEnd.NONE, refusal=str(error))


def publish(report: StorageReport, plan: CheckPlan, cache: CacheSpec) -> None:
    """The answer and the table of nodes, as artifacts of what was checked."""
    subject = str(plan.storage_class if plan.temporary else plan.claim)
    create_markdown_artifact(describe_storage(report, plan), key=_key(cache, subject), description=f"{report.subject} {report.verdict}")
    if report.nodes:
        create_table_artifact(node_rows(report.nodes), key=_key(cache, subject, "nodes"), description=f"Rates of {report.subject} by node")
    get_run_logger().info("%s %s%s", report.subject, report.verdict, "".join(f"\n- {finding}" for finding in report.findings))


def _key(cache: CacheSpec, subject: str, part: str = "") -> str:
    return artifact_key("check-storage", subject, cache.namespace, cache.name, part=part)


def _on(cache: CacheSpec, claim: str) -> CacheSpec:
    """The cache's settings for pods beside another claim of its namespace."""
    return cache.model_copy(update={"base_name": claim, "pvc_name_suffix": ""})


def _nonce(run_id: str) -> str:
    """What this run leaves and looks for: its own id, so that a hook knows it as well."""
    return UUID(run_id).hex
