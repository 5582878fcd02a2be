"""Pre-pull: put a model's image on chosen nodes before traffic, know when it is there, and let it go again."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any, cast
from uuid import UUID

from prefect import flow, task
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.logging import get_run_logger
from pydantic import Field

from blocks import Cluster, OciRegistry, load_block
from flows.keychains import keychain_of_block
from flows.model_images import find_image
from flows.parameters import BUSYBOX, ImageText, KubeName, Labels, ShortText, parse_image
from flows.plans import publish_plan, tell_plan
from flows.retries import retried
from flows.signing import demand_signature
from modelyard.errors import ClusterUnavailable, LoaderInterrupted
from modelyard.kube.client import Kube
from modelyard.models import Value
from modelyard.names import artifact_key
from modelyard.plans.model_image import ImageFacts
from modelyard.plans.prepull import NodeState, PrepullFacts, PrepullPlan, PrepullRequest, describe_prepull, plan_prepull
from modelyard.quantities import parse_duration
from modelyard.serving.prepull import ensure_jobs, has_image_volumes, let_go, wait_pulled
from modelyard.volumes.nodes import read_nodes

REMOVE_TIMEOUT = timedelta(minutes=5)


class PrepullReport(Value):
    """What pre-pulling, or letting go, did or would do."""

    image: str
    digest: str | None = None
    action: str
    nodes: tuple[NodeState, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@flow(name="prepull-image", flow_run_name="prepull-{image}")
def prepull_image(  # noqa: PLR0913, PLR0917 - these are the fields of the form
    image: ImageText,
    namespace: KubeName,
    node_selector: Labels = {},  # noqa: B006 - Prefect copies it; a form shows an object
    nodes: Annotated[list[KubeName], Field(max_length=1000)] = [],  # noqa: B006
    tolerations: Annotated[list[dict[str, Any]], Field(max_length=50)] = [],  # noqa: B006
    pull_secrets: Annotated[list[KubeName], Field(max_length=20)] = [],  # noqa: B006
    service_account: KubeName | None = None,
    keep: ShortText = "1d",
    patience: ShortText = "1h",
    holder: ImageText = BUSYBOX,
    registry: ShortText = "default",
    cluster: ShortText = "default",
    remove: bool = False,  # noqa: FBT001, FBT002 - a flow's parameters are given by name
    dry_run: bool = False,  # noqa: FBT001, FBT002
) -> PrepullReport:
    """Put an image on nodes, so that a pod that serves it starts in seconds, and hold it there for a while.

    Safe to run again after any end: nodes that have the image are left alone and hold it longer, the others are gone on with.

    Args:
        image: Image with a specific tag or a digest, just as it will be served.
        namespace: Namespace of the pods that hold it: where it will be served, for its pull secrets.
        node_selector: Labels of the nodes; none: all nodes.
        nodes: Names of the nodes; none: all that have the labels.
        tolerations: Tolerations of the pods, as Kubernetes spells them; nodes with other taints are left out.
        pull_secrets: Pull secrets beside those of the service account.
        service_account: Service account of the pods, whose pull secrets are used; empty: default.
        keep: How long the image is held, as 1d, beside the time that the pulls may take; then Kubernetes may remove it when the node's
            disk runs short.
        patience: How long the pulls may take, as 1h.
        holder: Image that sleeps beside the mounted one.
        registry: Name of the Modelyard OCI Registry block by which the image is looked up. If it has trusted keys, the image must be
            signed by one of them, and is pulled by its digest.
        cluster: Name of the Modelyard Cluster block.
        remove: Let the image go from all nodes instead, a tag's also by the digests that were verified; the nodes remove it when they
            need the room.
        dry_run: Only publish the plan; change nothing.

    Raises:
        Refused: the plan holds problems; all of them are listed, and nothing was changed.
        ServingFailed: nodes that cannot get the image; the others have it.
    """
    wait = parse_duration(patience)
    request = PrepullRequest(
        image=parse_image(image),
        namespace=namespace,
        node_selector=node_selector,
        nodes=tuple(nodes),
        tolerations=tuple(tolerations),
        pull_secrets=tuple(pull_secrets),
        service_account=service_account,
        holder=holder,
        keep_seconds=round((wait + parse_duration(keep)).total_seconds()),
    )
    kube = Kube(load_block(Cluster, cluster).get_client())
    if remove:
        tell_plan(f"Jobs in {namespace} that hold {request.image} go, whichever there are.", dry_run=dry_run)
        return PrepullReport(image=str(request.image), action="let go", nodes=() if dry_run else take_away(request, kube))
    target = load_block(OciRegistry, registry)
    request = request.model_copy(update={"image": demand_signature(request.image, target)})
    plan = resolve(request, find_image(request.image, keychain_of_block(target)), kube)
    key, title = _key(request, "plan"), f"Pre-pull {request.image}"
    publish_plan(describe_prepull(plan), plan.problems, key=key, description=title, dry_run=dry_run)
    if dry_run:
        return report_of(plan, "planned")
    make(plan.approved(), kube)
    return publish_report(report_of(plan, "there", follow(plan, wait, kube)), request)


@task(task_run_name="resolve", **retried(ClusterUnavailable))
def resolve(request: PrepullRequest, image: ImageFacts | None, kube: Kube) -> PrepullPlan:
    """Read the nodes and what the cluster can, and plan."""
    return plan_prepull(request, PrepullFacts(image, read_nodes(kube), has_image_volumes(kube, request)))


@task(task_run_name="make", **retried(ClusterUnavailable, LoaderInterrupted))
def make(plan: PrepullPlan, kube: Kube) -> None:
    """Make the Jobs that are not there."""
    made = ensure_jobs(kube, plan)
    get_run_logger().info("%d of %d Jobs made, the others were there", len(made), len(plan.nodes))


@task(task_run_name="follow", **retried(ClusterUnavailable))
def follow(plan: PrepullPlan, wait: timedelta, kube: Kube) -> tuple[NodeState, ...]:
    """Wait until each node has the image, and show how many do."""
    return wait_pulled(kube, plan, wait.total_seconds(), PullProgress(plan))


@task(task_run_name="let-go", **retried(ClusterUnavailable))
def take_away(request: PrepullRequest, kube: Kube) -> tuple[NodeState, ...]:
    """Delete what holds the image."""
    nodes = let_go(kube, request, REMOVE_TIMEOUT.total_seconds())
    return tuple(NodeState(node=node, there=False, told="no longer held") for node in nodes)


class PullProgress:
    """Nodes that have the image, in a progress artifact, and each node's news in the log."""

    def __init__(self, plan: PrepullPlan) -> None:
        self._subject, self._told = str(plan.request.image), dict[str, str]()
        created = create_progress_artifact(progress=0.0, key=_key(plan.request, "progress"), description=self._subject, _sync=True)  # type: ignore[call-arg]  # Prefect's async_dispatch adds _sync
        self._artifact = cast("UUID", created)

    def __call__(self, states: Sequence[NodeState]) -> None:
        for state in states:
            if self._told.get(state.node) != state.told:
                self._told[state.node] = state.told
                get_run_logger().info("%s: %s", state.node, state.told)
        there = sum(state.there for state in states)
        share = round(100.0 * there / len(states), 1) if states else 100.0
        update_progress_artifact(self._artifact, progress=share, description=f"{self._subject}: {there} of {len(states)} nodes")


def publish_report(report: PrepullReport, request: PrepullRequest) -> PrepullReport:
    """Where the image is, as an artifact of the image."""
    rows = [{"node": state.node, "state": state.told} for state in report.nodes]
    create_table_artifact(rows, key=_key(request, "nodes"), description=f"{request.image} on {len(rows)} nodes")
    return report


def report_of(plan: PrepullPlan, action: str, states: tuple[NodeState, ...] = ()) -> PrepullReport:
    """The flow's result."""
    planned = tuple(NodeState(node=node, there=False, told="planned") for node in plan.nodes)
    return PrepullReport(
        image=str(plan.request.image),
        digest=plan.image.digest if plan.image else None,
        action="refused" if plan.problems else action,
        nodes=states or planned,
        notes=plan.notes,
        problems=tuple(map(str, plan.problems)),
    )


def _key(request: PrepullRequest, part: str) -> str:
    return artifact_key("prepull", str(request.image), part=part)
