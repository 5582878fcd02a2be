"""Preload: bring one version of a model from its source onto a cache's claim, verified."""

from datetime import timedelta
from typing import Annotated

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.logging import get_run_logger
from pydantic import Field

from blocks import Cluster, ModelCache, load_block
from flows.capacity import measure
from flows.catalogue import Catalogued, catalogued
from flows.hooks import end_jobs, end_jobs_never_started
from flows.model_sources import BucketSource, ImageSource, model_source, version_of
from flows.orders import carry_out
from flows.parameters import ShortText
from flows.plans import publish_plan
from flows.progress import LoadProgress
from flows.retries import retried
from modelyard.errors import ClusterUnavailable, LoaderInterrupted
from modelyard.kube.client import Kube
from modelyard.models import Value
from modelyard.names import artifact_key
from modelyard.orders import LoadResult, LoadSpec, VerifyLevel
from modelyard.plans.catalogue import Source
from modelyard.plans.claim import ClaimAction, ClaimPlan
from modelyard.plans.nfs_volume import export_of
from modelyard.plans.placement import decides_place
from modelyard.plans.preload import PreloadFacts, PreloadPlan, PreloadRequest, describe, plan_preload
from modelyard.plans.storage_classes import class_table
from modelyard.quantities import format_bytes, format_duration
from modelyard.volumes.claims import ensure_claim, read_claim, wait_bound
from modelyard.volumes.expansion import expand_claim, wait_expanded
from modelyard.volumes.persistent_volumes import read_export_volumes
from modelyard.volumes.storage_classes import read_storage_classes
from modelyard.volumes.users import scheduling_for

LOAD_TIMEOUT = timedelta(hours=24)
BIND_TIMEOUT = timedelta(minutes=5)


class PreloadReport(Value):
    """What a preload did, or would do."""

    model: str
    claim: str
    plan: str
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    result: LoadResult | None = None


@flow(name="preload-model", flow_run_name="preload-{model}", on_cancellation=[end_jobs], on_crashed=[end_jobs_never_started])
def preload_model(  # noqa: PLR0913, PLR0917 - these are the fields of the form
    model: ShortText,
    path: Annotated[str, Field(max_length=1000)],
    version: ShortText | None = None,
    source: ShortText = "default",
    cache: ShortText = "default",
    cluster: ShortText = "default",
    verify: VerifyLevel = VerifyLevel.SIZES,
    dry_run: bool = False,  # noqa: FBT001, FBT002 - a flow's parameters are given by name
) -> PreloadReport:
    """Bring one version of a model onto a cache's claim, every byte checked on its way.

    Safe to run again after any end: a version that is there already is left alone, a load that is under way is joined,
    and one that was killed goes on where it stopped.

    Args:
        model: Name of the model; it becomes a directory on the volume.
        path: Path of the version's files below the source's prefix, for example all-minilm-l6-v2/v1; or an image whose files below
            models/ are the version's, for example oci://registry.example/models/all-minilm-l6-v2:v1.
        version: Name of this version; empty: the last directory of the path, or the image's tag.
        source: Name of the Modelyard S3 Source block to read from; for an image, of the Modelyard OCI Registry block.
        cache: Name of the Modelyard Model Cache block to write to.
        cluster: Name of the Modelyard Cluster block the cache lies in.
        verify: How a version that is there already is checked: by the sizes of its files, or by reading and hashing them.
        dry_run: Only publish the plan, for which a pod looks at the volume; change nothing.

    Raises:
        Refused: the plan holds problems; all of them are listed, and nothing was changed.
    """
    files, kube = model_source(source, path), Kube(load_block(Cluster, cluster).get_client())
    request = PreloadRequest(model, version or version_of(path), files.location, load_block(ModelCache, cache).spec(), verify)
    plan = plan_preload(request, measure(request, resolve(request, files, kube), kube))
    publish_plan(describe(plan), plan.problems, key=_key(plan, "plan"), description=f"Plan {plan.digest}", dry_run=dry_run)
    publish_classes(plan)
    if dry_run:
        return report_of(plan)
    with catalogued(kube, plan, Source(source, path)) as entry:
        spec, claim = plan.approved()
        entry.loading()
        provide_claim(plan, claim, kube)
        result = load(spec, plan, files, kube, entry)
        entry.ready(result)
    publish_result(plan, result)
    return report_of(plan, result)


@task(task_run_name="resolve-{request.model}", **retried())
def resolve(request: PreloadRequest, source: BucketSource | ImageSource, kube: Kube) -> PreloadFacts:
    """Read the facts once: what the source lists, the claim, the classes, the volumes of an NFS export that the cache names."""
    cache = request.cache
    seen = source.list(cache)
    claim, export = read_claim(kube, cache.namespace, cache.claim), export_of(cache)
    exports = read_export_volumes(kube, export) if export else ()
    classes = read_storage_classes(kube)
    workloads = scheduling_for(kube, cache.namespace, cache.claim) if decides_place(cache, claim) else ()
    return PreloadFacts(
        seen.listing,
        seen.problems,
        claim,
        classes,
        seen.pin,
        exports,
        source=seen.source,
        digest=seen.digest,
        told=seen.told,
        workloads=workloads,
    )


@task(task_run_name="claim-{plan.request.cache.claim}", **retried(ClusterUnavailable))
def provide_claim(plan: PreloadPlan, claim: ClaimPlan, kube: Kube) -> None:
    """Create or expand the claim as planned, and wait until it is bound and large enough, or only waits for its first pod."""
    cache, seconds = plan.request.cache, BIND_TIMEOUT.total_seconds()
    log = get_run_logger()
    log.info("%s", ensure_claim(kube, cache, claim))
    wait_bound(kube, cache.namespace, cache.claim, seconds, on_note=log.warning)
    if claim.action is ClaimAction.EXPAND:
        log.info("%s", expand_claim(kube, claim))
        wait_expanded(kube, claim, seconds, on_note=log.warning)


@task(task_run_name="load-{plan.model}", **retried(ClusterUnavailable, LoaderInterrupted))
def load(spec: LoadSpec, plan: PreloadPlan, source: BucketSource | ImageSource, kube: Kube, entry: Catalogued) -> LoadResult:
    """Run the loader's Job beside the volume, or join the one that runs; returns when the version is there."""
    progress = LoadProgress(_key(plan, "progress"), plan.model, entry)
    cache, secrets = plan.placement.on(plan.request.cache), source.secret_data()
    report = carry_out(
        kube,
        spec,
        cache,
        LoadResult,
        timeout=LOAD_TIMEOUT,
        secret_data=secrets,
        on_progress=progress,
        on_note=progress.note,
        node=plan.placement.node,
    )
    progress.finish(summary(report.result))
    return report.result


def publish_classes(plan: PreloadPlan) -> None:
    """The classes to choose from, as an artifact of the cache, where it names none."""
    cache = plan.request.cache
    if not cache.storage_class_name and plan.facts.classes is not None:
        table = class_table(plan.facts.classes, cache.access_mode)
        create_table_artifact(
            table, key=artifact_key("storage-classes", cache.name, cache.namespace), description="Classes this cache could have"
        )


def publish_result(plan: PreloadPlan, result: LoadResult) -> None:
    """What was done, as an artifact of the model: its page is the model's history."""
    cache = plan.request.cache
    text = (
        f"# {plan.model} is on `{cache.namespace}/{cache.claim}`\n\n{summary(result)}\n\n"
        f"Mount the claim read-only; the files are in `{plan.model.replace('@', '/')}`.\n\n"
        f"Digest (SHA-256 of its SHA256SUMS): `{result.digest}`\n"
    )
    create_markdown_artifact(text, key=_key(plan), description=summary(result))


def _key(plan: PreloadPlan, part: str = "") -> str:
    """The key of the model's artifacts: one page of history a model and cache."""
    cache = plan.request.cache
    return artifact_key("preload", plan.request.model, cache.namespace, cache.base_name, part=part)


def summary(result: LoadResult) -> str:
    """What a load did, in one line."""
    if not result.fetched_bytes and not result.linked_bytes and not result.resumed_bytes:
        return f"was there already: {result.files} files, {format_bytes(result.bytes)}; nothing was read from the source"
    rate = result.fetched_bytes / result.seconds / 1e6 if result.seconds else 0.0
    parts = [f"fetched {format_bytes(result.fetched_bytes)} in {format_duration(result.seconds)} ({rate:.0f} MB/s)"]
    if result.linked_bytes:
        parts.append(f"{format_bytes(result.linked_bytes)} linked from another version")
    if result.resumed_bytes:
        parts.append(f"{format_bytes(result.resumed_bytes)} kept from an earlier try")
    if result.unverified_files:
        parts.append(f"{result.unverified_files} files had no checksum of the whole at their source")
    return f"{result.files} files, {format_bytes(result.bytes)}: {', '.join(parts)}"


def report_of(plan: PreloadPlan, result: LoadResult | None = None) -> PreloadReport:
    """The flow's result."""
    cache = plan.request.cache
    return PreloadReport(
        model=plan.model,
        claim=f"{cache.namespace}/{cache.claim}",
        plan=plan.digest,
        problems=tuple(str(problem) for problem in plan.problems),
        notes=plan.notes,
        result=result,
    )
