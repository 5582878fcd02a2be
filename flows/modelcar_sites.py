"""Where a modelcar is built: in the flow run, or in a Job beside the data. Both plan, then bring the layers into the registry."""

from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from prefect import Flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import FlowRun, State
from prefect.logging import get_run_logger

from blocks import OciRegistry, S3Source, load_block
from flows.cache_blocks import load_cache
from flows.hooks import end_jobs, end_jobs_never_started
from flows.keychains import keychain_of_block
from flows.orders import carry_out
from flows.progress import LoadProgress
from flows.retries import retried
from modelyard.caches import CacheSpec
from modelyard.errors import ClusterUnavailable, LoaderInterrupted, Problem, Refused, SourceUnavailable
from modelyard.kube.client import Kube
from modelyard.modelcar.build import Built, build_layers
from modelyard.modelcar.order import BuildResult, BuildSpec, built, listing_of, planned
from modelyard.modelcar.report import summary
from modelyard.modelcar.resolve import read_facts
from modelyard.modelcar.tuning import Tuning
from modelyard.models import ClaimLocation, Listing, ModelRef, S3Location
from modelyard.names import artifact_key, name_problem
from modelyard.oci.access import Keychain
from modelyard.oci.environment import VOUCHER_VARIABLE, secret_of
from modelyard.orders import Report
from modelyard.plans.modelcar import ModelcarFacts, ModelcarPlan, ModelcarRequest, plan_modelcar, vouching_problems
from modelyard.plans.placement import node_for
from modelyard.signing.trust import Trust
from modelyard.sources.s3 import S3Source as S3Files
from modelyard.volumes.claims import read_claim

CLAIM = "pvc://"
PLAN_TIMEOUT = timedelta(minutes=30)
BUILD_TIMEOUT = timedelta(hours=24)


def end_build(flow: "Flow[Any, Any]", flow_run: FlowRun, state: "State[Any]") -> None:
    """Delete the Job of a cancelled run, if it had one. The layers that it finished stay for the next run."""
    if flow_run.parameters.get("cache"):
        end_jobs(flow, flow_run, state)


def end_build_never_started(flow: "Flow[Any, Any]", flow_run: FlowRun, state: "State[Any]") -> None:
    """Delete the Job of a crashed run that never began, if it had one."""
    if flow_run.parameters.get("cache"):
        end_jobs_never_started(flow, flow_run, state)


@dataclass(frozen=True, slots=True)
class InRun:
    """The flow run reads the bucket and sends to the registry itself."""

    source: S3Source
    location: S3Location
    keychain: Keychain
    trust: Trust | None

    def plan(self, request: ModelcarRequest) -> ModelcarPlan:
        """What will be done."""
        return plan_modelcar(request, resolve(request, self.source, self.location, self.keychain))

    def build(self, plan: ModelcarPlan) -> tuple[ModelcarPlan, Built]:
        """Do the approved plan: the layers are in the registry."""
        return plan, build(plan, self.source, self.location, self.keychain, self.trust)


@task(task_run_name="resolve-{request.model}", **retried(SourceUnavailable))
def resolve(request: ModelcarRequest, source: S3Source, location: S3Location, keychain: Keychain) -> ModelcarFacts:
    """Read the facts once: what the source lists, the base, the tag, layers that earlier builds left. Registries are tried again within."""
    with closing(source.client()) as client:
        return read_facts(request, S3Files(location, client), keychain)


@task(task_run_name="build-{plan.request.model}", cache_policy=NO_CACHE)
def build(plan: ModelcarPlan, source: S3Source, location: S3Location, keychain: Keychain, trust: Trust | None) -> Built:
    """Stream the new layers from the source into the registry. What failed here was tried again within, so not once more as a whole."""
    progress = LoadProgress(image_key(plan.request, "progress"), str(plan.request.image))
    with closing(source.client()) as client:
        files = S3Files(location, client, access=source.access())
        vouch = trust.vouch if trust else None
        made = build_layers(plan, files, keychain, Tuning(), progress, get_run_logger().info, vouch=vouch)
    progress.finish(summary(made))
    return made


@dataclass(frozen=True, slots=True)
class BesideData:
    """A Job with the cache's loader image reads the claim, or a bucket that is near it. It plans anew, and follows its own plan."""

    kube: Kube
    cache: CacheSpec
    location: S3Location | ClaimLocation
    source: S3Source | None
    registry: OciRegistry
    trust: Trust | None

    def plan(self, request: ModelcarRequest) -> ModelcarPlan:
        """What will be done, as a first Job sees it."""
        return planned(carry_out_build(self._order(request, None), self, PLAN_TIMEOUT))

    def build(self, plan: ModelcarPlan) -> tuple[ModelcarPlan, Built]:
        """Do the approved plan: the layers are in the registry. Refused if the source lists anything else by now."""
        return built(carry_out_build(self._order(plan.request, listing_of(plan)), self, BUILD_TIMEOUT))

    def _order(self, request: ModelcarRequest, listing: Listing | None) -> BuildSpec:
        request, registry = request.model_copy(update={"source": self.location}), self.registry
        return BuildSpec(request=request, listing=listing, plain_http=registry.plain_http, resume_uploads=registry.resume_uploads)


@task(task_run_name="{order.command}-{order.request.model}", **retried(ClusterUnavailable, LoaderInterrupted))
def carry_out_build(order: BuildSpec, site: BesideData, timeout: timedelta) -> Report[BuildResult]:
    """Run the Job, or join the one that runs."""
    cache = site.cache
    claim = read_claim(site.kube, cache.namespace, cache.claim) if order.needs_volume else None
    if order.needs_volume and claim is None:
        subject = f"PersistentVolumeClaim/{cache.namespace}/{cache.claim}"
        raise Refused([Problem(subject, "is not there", "preload the model first, or name the block of another cache")])
    progress = LoadProgress(image_key(order.request, "progress"), str(order.request.image))
    secrets = (site.source.secret_data() if site.source else {}) | secret_of(keychain_for(order.request, site.registry))
    if site.trust and (voucher := site.trust.record_secret(order.request.image)):
        secrets[VOUCHER_VARIABLE] = voucher.hex()
    report = carry_out(
        site.kube,
        order,
        cache,
        BuildResult,
        timeout=timeout,
        secret_data=secrets,
        on_progress=progress,
        on_note=progress.note,
        node=node_for(cache, claim) if claim else None,
    )
    progress.finish("planned" if order.listing is None else summary(built(report)[1]))
    return report


def keychain_for(request: ModelcarRequest, registry: OciRegistry) -> Keychain:
    """What a Job's Secret holds of the registry's block: where it sends to and what it builds upon, and of a docker config no others."""
    named = (request.image, request.base, request.previous)
    return registry.keychain().only(each for each in named if each)


def site_of(path: str, source: str, registry: OciRegistry, cache: str | None, cluster: str, trust: Trust | None) -> InRun | BesideData:
    """Where ``path`` is read and the image built.

    Raises:
        Refused: the path is on a claim, and no cache is named whose claim it is; or somebody is to trust what is built from it.
    """
    on_claim = path.startswith(CLAIM)
    files = None if on_claim else load_block(S3Source, source)
    if not cache:
        if files is None:
            raise Refused([Problem("cache", "is empty, and the path is on a claim", "name the cache whose claim it is")])
        return InRun(files, files.location(path), keychain_of_block(registry), trust)
    kube, spec = load_cache(cache, cluster)
    location = files.location(path) if files else claim_location(path, spec.claim)
    if trust and (problems := vouching_problems(location)):
        raise Refused(problems)
    return BesideData(kube, spec, location, files, registry, trust)


def claim_location(path: str, claim: str) -> ClaimLocation:
    """The version that ``pvc://claim/model/version`` names.

    Raises:
        Refused: it is no such path, or of another claim than the cache's.
    """
    parts = path.removeprefix(CLAIM).strip("/").split("/")
    if len(parts) != 3 or name_problem(parts[1]) or name_problem(parts[2]):  # noqa: PLR2004 - claim, model, version
        raise Refused([Problem("path", f"{path!r} names no version on a claim", f"write pvc://{claim}/<model>/<version>")])
    if parts[0] != claim:
        raise Refused([Problem("path", f"is on claim {parts[0]}; the cache's is {claim}", "name that claim's cache, or correct the path")])
    return ClaimLocation(claim=claim, model=ModelRef(name=parts[1], version=parts[2]))


def image_key(request: ModelcarRequest, part: str = "") -> str:
    """The key of the model's artifacts: one page of history a repository."""
    return artifact_key("modelcar", request.image.repository, request.image.host, part=part)
