"""Verify a cache: read what lies on its claim again, show rot and foreign files, and repair only when told to."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from pydantic import Field

from blocks import OciRegistry, S3Source, load_block
from flows.cache_blocks import load_cache
from flows.hooks import end_jobs, end_jobs_never_started
from flows.orders import carry_out
from flows.parameters import ShortText
from flows.progress import LoadProgress
from flows.retries import retried
from flows.verdicts import tell_catalogue
from modelyard.caches import CacheSpec
from modelyard.errors import ClusterUnavailable, LoaderInterrupted, VolumeUnusable
from modelyard.kube.client import Kube
from modelyard.models import S3Location
from modelyard.names import artifact_key
from modelyard.oci.environment import secret_of
from modelyard.orders import DamageEntry, RegistryAddress, Report, VerifyResult, VerifySpec, VersionVerdict
from modelyard.plans.placement import node_for
from modelyard.plans.verify import damage_error, describe_verification, finding_rows, plan_verification, summary, unrepaired
from modelyard.volumes.claims import read_claim

VERIFY_TIMEOUT = timedelta(hours=24)
Versions = Annotated[list[Annotated[str, Field(min_length=1, max_length=250)]], Field(max_length=200)]
Share = Annotated[float, Field(gt=0, le=1)]


@flow(name="verify-cache", flow_run_name="verify-{cache}", on_cancellation=[end_jobs], on_crashed=[end_jobs_never_started])
def verify_cache(
    cache: ShortText = "default",
    cluster: ShortText = "default",
    source: ShortText = "default",
    registry: ShortText | None = None,
    models: Versions = [],  # noqa: B006 - Prefect copies it; a form shows a list
    share: Share = 1.0,
    repair: bool = False,  # noqa: FBT001, FBT002 - a flow's parameters are given by name
) -> VerifyResult:
    """Read a cache's models again and compare them with what was published; the run fails if damage is left.

    Without repair the volume is mounted read-only. The catalogue (CachedModels) shows what was found, in the condition Verified.

    Args:
        cache: Name of the Modelyard Model Cache block to verify.
        cluster: Name of the Modelyard Cluster block the cache lies in.
        source: Name of the Modelyard S3 Source block to repair from: that of the bucket the models came from. Used with repair only.
        registry: Name of the Modelyard OCI Registry block to repair from instead: that of the images the models came from.
        models: Versions to look at, as model@version; none: all, and what on the volume is no version.
        share: Part of the bytes to read, above 0 up to 1; the day decides which, so that daily runs come round to all of them.
        repair: Fetch damaged and missing files anew. Foreign files are never touched.

    Raises:
        Refused: there is no such claim or model, or no pod can mount the claim now; nothing was read.
        VolumeUnusable: damage was found and not repaired; the table of findings has each file.
    """
    kube, settings = load_cache(cache, cluster)
    origin = (load_block(OciRegistry, registry) if registry else load_block(S3Source, source)) if repair else None
    claim = read_claim(kube, settings.namespace, settings.claim)
    spec = plan_verification(settings, claim, models, share, datetime.now(UTC).date(), _address(origin) if origin else None)
    report = reread(spec, settings, origin, kube, node_for(settings, claim))
    entries = [DamageEntry.model_validate(each) for each in report.entries if "path" in each]
    verdicts = [VersionVerdict.model_validate(each) for each in report.entries if "path" not in each]
    where = f"{settings.namespace}/{settings.claim}"
    publish(settings, where, spec, report.result, entries)
    tell_catalogue(kube, settings, verdicts, entries, spec.share)
    if unrepaired(report.result):
        raise VolumeUnusable(damage_error(where, spec, report.result, entries))
    return report.result


@task(task_run_name="verify-{cache.claim}", **retried(ClusterUnavailable, LoaderInterrupted))
def reread(spec: VerifySpec, cache: CacheSpec, origin: S3Source | OciRegistry | None, kube: Kube, node: str | None) -> Report[VerifyResult]:
    """Run the verification's Job beside the volume to its end."""
    progress = LoadProgress(_key(cache, "progress"), f"verify {cache.claim}")
    report = carry_out(
        kube,
        spec,
        cache,
        VerifyResult,
        timeout=VERIFY_TIMEOUT,
        secret_data=secrets_for(origin),
        on_progress=progress,
        on_note=progress.note,
        node=node,
    )
    progress.finish(summary(report.result))
    return report


def _address(origin: S3Source | OciRegistry) -> S3Location | RegistryAddress:
    return origin.location() if isinstance(origin, S3Source) else RegistryAddress(host=origin.host, plain_http=origin.plain_http)


def secrets_for(origin: S3Source | OciRegistry | None) -> dict[str, str]:
    """What the Job reads good bytes with: of all that a registry's block holds, only what that registry asks for."""
    if origin is None:
        return {}
    return origin.secret_data() if isinstance(origin, S3Source) else secret_of(origin.keychain().only(()))


def publish(cache: CacheSpec, where: str, spec: VerifySpec, result: VerifyResult, entries: list[DamageEntry]) -> None:
    """The result and the table of findings, as artifacts of the cache."""
    create_markdown_artifact(describe_verification(where, spec, result), key=_key(cache), description=summary(result))
    if entries:
        create_table_artifact(finding_rows(entries), key=_key(cache, "findings"), description=f"What is wrong on {where}")


def _key(cache: CacheSpec, part: str = "") -> str:
    return artifact_key("verify", cache.name, cache.namespace, part=part)
