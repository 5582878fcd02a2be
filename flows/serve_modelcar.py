"""Serve a modelcar: an InferenceService on a model's image, up to pods in which the files were seen."""

from datetime import timedelta
from typing import Annotated

import yaml
from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.logging import get_run_logger
from pydantic import Field

from blocks import Cluster, OciRegistry, load_block
from flows.keychains import keychain_of_block
from flows.model_images import find_image
from flows.parameters import BUSYBOX, ImageText, KubeName, Labels, ShortText, parse_image
from flows.plans import publish_plan
from flows.prepull import prepull_image
from flows.retries import retried
from flows.signing import demand_signature
from modelyard.errors import ClusterUnavailable, LoaderInterrupted, ServingFailed
from modelyard.kube.apply import Action
from modelyard.kube.client import Kube
from modelyard.kube.resources import Manifest
from modelyard.models import Value
from modelyard.names import artifact_key
from modelyard.plans.model_image import ImageFacts
from modelyard.plans.serving import Mode, ServePlan, ServeRequest, describe_serving, plan_serving
from modelyard.plans.serving_pods import Seen, ServingPod, differences, digest_findings, digest_note, pod_findings
from modelyard.quantities import format_bytes, parse_duration
from modelyard.serving.look import NoShell, look
from modelyard.serving.service import apply_service, read_facts, wait_serving
from modelyard.volumes.nodes import read_nodes


class ServeReport(Value):
    """What serving did, or would do."""

    service: str
    uri: str
    digest: str | None = None
    action: str = "planned"
    pods: tuple[ServingPod, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@flow(name="serve-modelcar", flow_run_name="serve-{name}")
def serve_modelcar(  # noqa: PLR0913, PLR0917 - these are the fields of the form
    name: KubeName,
    namespace: KubeName,
    image: ImageText,
    model_format: ShortText,
    mode: Mode = Mode.MODELCAR,
    runtime: KubeName | None = None,
    service_account: KubeName | None = None,
    pull_secrets: Annotated[list[KubeName], Field(max_length=20)] = [],  # noqa: B006 - Prefect copies it; a form shows a list
    nodes_have_credentials: bool = False,  # noqa: FBT001, FBT002 - a flow's parameters are given by name
    resources: Labels = {},  # noqa: B006
    node_selector: Labels = {},  # noqa: B006
    replicas: Annotated[int, Field(ge=1, le=100)] = 1,
    registry: ShortText = "default",
    cluster: ShortText = "default",
    kserve_namespace: KubeName | None = None,
    patience: ShortText = "30m",
    prepull: bool = False,  # noqa: FBT001, FBT002
    holder: ImageText = BUSYBOX,
    look_at_files: bool = True,  # noqa: FBT001, FBT002
    dry_run: bool = False,  # noqa: FBT001, FBT002
) -> ServeReport:
    """Serve a model from its image by KServe, wait until it is Ready, and see that its pods have the image's files.

    Safe to run again after any end: a service that is as it should be is left alone, and looked at again. One that Modelyard did not
    make is never changed.

    Args:
        name: Name of the InferenceService.
        namespace: Namespace to serve in.
        image: Image with a specific tag or a digest, for example registry.example/models/llama:v1; never latest.
        model_format: The model's format, by which KServe finds a runtime, for example sklearn or huggingface.
        mode: modelcar runs the image beside the server (oci://), which needs a shell in it; native mounts it (oci+native://).
        runtime: ServingRuntime or ClusterServingRuntime; empty: the one that KServe finds for the format.
        service_account: Service account of the pods; empty: default.
        pull_secrets: Pull secrets of the pods beside those of their service account.
        nodes_have_credentials: The nodes themselves may pull from the registry, so no pull secret is needed.
        resources: Requests and limits of the server, for example cpu 2, memory 8Gi, nvidia.com/gpu 1.
        node_selector: Labels of the nodes to serve on.
        replicas: Least number of pods.
        registry: Name of the Modelyard OCI Registry block by which the image is looked up. If it has trusted keys, the image must be
            signed by one of them, and is served by its digest.
        cluster: Name of the Modelyard Cluster block.
        kserve_namespace: Namespace of KServe's controller, whose configuration says whether modelcars are enabled; empty: where its
            pods are found.
        patience: How long it may take until the service is Ready, as 30m; a first pull of a large image takes its time.
        prepull: Put the image on all nodes of the selector first, and hold it there for a day, so that new pods start in seconds.
        holder: Image that sleeps beside the mounted one while it is held.
        look_at_files: See from a short-lived pod beside each serving one that the files are there, with the image's sizes.
        dry_run: Only publish the plan; change nothing.

    Raises:
        Refused: the image is not signed by a trusted key, or the plan holds problems; all are listed, and nothing was changed.
        ServingFailed: the service does not come up, or its pods have another image, or not the image's files.
    """
    target = load_block(OciRegistry, registry)
    request = ServeRequest(
        name=name,
        namespace=namespace,
        image=demand_signature(parse_image(image), target),
        mode=mode,
        model_format=model_format,
        runtime=runtime,
        service_account=service_account,
        pull_secrets=tuple(pull_secrets),
        nodes_have_credentials=nodes_have_credentials,
        resources=resources,
        node_selector=node_selector,
        replicas=replicas,
    )
    wait = parse_duration(patience)
    kube = Kube(load_block(Cluster, cluster).get_client())
    plan = resolve(request, find_image(request.image, keychain_of_block(target)), kserve_namespace, kube)
    text, key = describe_serving(plan, yaml.safe_dump(plan.manifest, sort_keys=False)), _key(request, "plan")
    publish_plan(text, plan.problems, key=key, description=f"Serve {request.uri}", dry_run=dry_run)
    if dry_run:
        return report_of(plan)
    found = plan.approved()
    if prepull:
        prepull_image(
            image=str(request.image),
            namespace=namespace,
            node_selector=node_selector,
            pull_secrets=pull_secrets,
            service_account=service_account,
            patience=patience,
            holder=holder,
            registry=registry,
            cluster=cluster,
        )
    action = apply_plan(plan, kube)
    pods = wait_ready(request, wait, kube, changed=action != Action.UNCHANGED)
    seen = tuple(verify(pod, request, found, kube, looking=look_at_files) for pod in one_a_node(pods))
    return publish_report(report_of(plan, action, seen))


@task(task_run_name="resolve-{request.name}", **retried(ClusterUnavailable))
def resolve(request: ServeRequest, image: ImageFacts | None, kserve_namespace: str | None, kube: Kube) -> ServePlan:
    """Read what stands around the service, and plan."""
    return plan_serving(request, read_facts(kube, request, kserve_namespace, image, read_nodes(kube)))


@task(task_run_name="apply-{plan.request.name}", **retried(ClusterUnavailable))
def apply_plan(plan: ServePlan, kube: Kube) -> str:
    """Make the InferenceService; what became of it."""
    done = apply_service(kube, plan)
    get_run_logger().info("%s", done)
    return str(done.action)


@task(task_run_name="wait-{request.name}", **retried(ClusterUnavailable))
def wait_ready(request: ServeRequest, wait: timedelta, kube: Kube, *, changed: bool) -> list[Manifest]:
    """Wait until the pods that serve as asked for are Ready."""
    return wait_serving(kube, request, wait.total_seconds(), get_run_logger().info, changed=changed)


@task(task_run_name="verify", **retried(ClusterUnavailable))
def verify(pod: Manifest, request: ServeRequest, image: ImageFacts, kube: Kube, *, looking: bool) -> ServingPod:
    """Read back what KServe made of the pod, and see the files as it sees them.

    Raises:
        ServingFailed: the pod is not as it should be, or runs another image, or the files are not the image's.
    """
    name, node = pod["metadata"]["name"], pod["spec"]["nodeName"]
    if found := pod_findings(pod, request):
        raise ServingFailed(f"pod {name}: {'; '.join(found)}; look at KServe's configuration and version")
    if found := digest_findings(pod, request, image):
        raise ServingFailed(f"pod {name}: {'; '.join(found)}")
    notes = [note for note in [digest_note(pod, request)] if note]
    seen = None
    if looking:
        try:
            seen = look_from(pod, request, kube)
        except (NoShell, LoaderInterrupted) as error:  # of the look alone: the service is Ready
            notes.append(f"the files were not looked at: {error}")
    for note in notes:
        get_run_logger().warning(note)
    if seen is None:
        return ServingPod(name=name, node=node, notes=tuple(notes))
    if image.files is not None and (differing := differences(image.files, seen)):
        raise ServingFailed(f"node {node}: the files are not those of the image: {'; '.join(differing[:10])}")
    if not seen.files:
        raise ServingFailed(f"node {node}: the image holds no files below /models")
    held = image.files if image.files is not None else seen.listing if seen.whole else ()
    return ServingPod(name=name, node=node, files=seen.files, bytes=sum(file.size for file in held), notes=tuple(notes))


def look_from(pod: Manifest, request: ServeRequest, kube: Kube) -> Seen:
    """See the files with the server's own image or, if that has no shell, with the model's, which in a modelcar has one."""
    try:
        return look(kube, pod, request.name)
    except NoShell:
        if request.mode is not Mode.MODELCAR:
            raise
    return look(kube, pod, request.name, str(request.image))


def one_a_node(pods: list[Manifest]) -> list[Manifest]:
    """The image is pulled once a node, so one of its pods stands for the others."""
    return list({pod["spec"]["nodeName"]: pod for pod in pods}.values())


def publish_report(report: ServeReport) -> ServeReport:
    """What serves, as an artifact of the service: its page is the service's history."""
    rows = [
        {
            "pod": pod.name,
            "node": pod.node,
            "files": "not looked at" if pod.files is None else str(pod.files),
            "bytes": "" if pod.bytes is None else format_bytes(pod.bytes),
            "notes": "; ".join(pod.notes),
        }
        for pod in report.pods
    ]
    create_table_artifact(rows, key=artifact_key("serve", report.service), description=f"{report.service} serves {report.uri}")
    return report


def report_of(plan: ServePlan, action: str = "planned", pods: tuple[ServingPod, ...] = ()) -> ServeReport:
    """The flow's result."""
    return ServeReport(
        service=f"{plan.request.namespace}/{plan.request.name}",
        uri=plan.request.uri,
        digest=plan.image.digest if plan.image else None,
        action="refused" if plan.problems else action,
        pods=pods,
        notes=plan.notes,
        problems=tuple(map(str, plan.problems)),
    )


def _key(request: ServeRequest, part: str) -> str:
    return artifact_key("serve", f"{request.namespace}/{request.name}", part=part)
