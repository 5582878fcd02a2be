"""Enable modelcars: let KServe serve models from images (``oci://``), and undo it."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Annotated

from prefect import flow, task
from prefect.logging import get_run_logger
from pydantic import Field

from blocks import Cluster, load_block
from flows.parameters import ShortText
from flows.plans import publish_plan
from flows.retries import retried
from modelyard.errors import ClusterUnavailable, Refused
from modelyard.kube.client import Kube
from modelyard.models import Value
from modelyard.names import artifact_key
from modelyard.plans.kserve_config import (
    MAX_UID,
    ConfigFacts,
    ConfigPlan,
    ModelcarSettings,
    describe_config,
    plan_enable,
    plan_undo,
    read_section,
    settings_problems,
)
from modelyard.serving.admission import Admission, wait_admission
from modelyard.serving.controller import find_namespace, read_config, restart_controller, write_config

RESTART_TIMEOUT = timedelta(minutes=10)
ADMISSION_TIMEOUT = timedelta(minutes=3)
Planned = Callable[[ConfigFacts], ConfigPlan]


class EnableReport(Value):
    """What enabling, or undoing it, did or would do."""

    namespace: str
    action: str
    changes: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    admission: str = ""
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@flow(name="enable-modelcars", flow_run_name="enable-modelcars-{cluster}")
def enable_modelcars(  # noqa: PLR0913, PLR0917 - these are the fields of the form
    uid: Annotated[int, Field(ge=0, le=MAX_UID)] | None = 1010,
    cpu: ShortText | None = None,
    memory: ShortText | None = None,
    namespace: ShortText | None = None,
    probe_namespace: ShortText = "default",
    cluster: ShortText = "default",
    undo: bool = False,  # noqa: FBT001, FBT002 - a flow's parameters are given by name
    dry_run: bool = False,  # noqa: FBT001, FBT002
) -> EnableReport:
    """Set modelcars in KServe's live configuration, keeping all else in it, and restart its controller so that they hold.

    Safe to run again after any end: what is set is left alone, and a restart that a killed run owed is made good.

    Args:
        uid: User that a modelcar and the server beside it run as (uidModelcar); 0 is root. Empty: leave it as it is.
        cpu: CPU of a modelcar's container (cpuModelcar), as 10m; it only sleeps. Empty: leave it as it is.
        memory: Memory of a modelcar's container (memoryModelcar), as 15Mi. Empty: leave it as it is.
        namespace: Namespace of KServe's controller; empty: where its pods are found, for an account that may not look everywhere in
            kserve, opendatahub or redhat-ods-applications.
        probe_namespace: Namespace in which a pod's admission is tried, as a dry run; it should be one where models are served. Where the
            account may not create pods (deployments/kubernetes/enable-modelcars/probe) this is left out, and said.
        cluster: Name of the Modelyard Cluster block.
        undo: Put back what was there before the first change instead.
        dry_run: Only publish the plan with the difference; change nothing.

    Raises:
        Refused: the plan holds problems; all of them are listed, and nothing was changed.
        ServingFailed: the controller does not do what its configuration says.
    """
    settings = ModelcarSettings(uid=uid, cpu=cpu, memory=memory)
    if not undo and (problems := settings_problems(settings)):
        raise Refused(problems)
    planned: Planned = plan_undo if undo else partial(plan_enable, settings)
    kube = Kube(load_block(Cluster, cluster).get_client())
    facts = resolve(namespace, kube)
    plan = planned(facts)
    key = artifact_key("modelcars", cluster)
    publish_plan(describe_config(plan), plan.problems, key=key, description=str(plan.action), dry_run=dry_run)
    if dry_run:
        return report_of(plan)
    plan.approved()
    done = change(facts.namespace, planned, kube)
    restarted = restart(facts.namespace, kube)
    return report_of(done, restarted, verify(facts.namespace, planned, probe_namespace, kube))


@task(task_run_name="resolve", **retried())
def resolve(namespace: str | None, kube: Kube) -> ConfigFacts:
    """Find the controller, and read its configuration."""
    return read_config(kube, find_namespace(kube, namespace))


@task(task_run_name="change-{namespace}", **retried(ClusterUnavailable))
def change(namespace: str, planned: Planned, kube: Kube) -> ConfigPlan:
    """Write the configuration; what others wrote since the plan is kept."""
    plan = write_config(kube, namespace, planned)
    for line in (*(plan.changes or (str(plan.action),)), *plan.notes):
        get_run_logger().info("%s", line)
    return plan


@task(task_run_name="restart-{namespace}", **retried(ClusterUnavailable))
def restart(namespace: str, kube: Kube) -> tuple[str, ...]:
    """Replace the controller's pods if a change, of this run or a killed one, asks for it."""
    pods = restart_controller(kube, namespace, RESTART_TIMEOUT.total_seconds(), get_run_logger().info)
    for pod in pods:
        get_run_logger().info("pod %s of the controller was replaced", pod)
    return pods


@task(task_run_name="verify-{namespace}", **retried(ClusterUnavailable))
def verify(namespace: str, planned: Planned, probe_namespace: str, kube: Kube) -> Admission:
    """Read the configuration back, and see that the webhook does as it says.

    Raises:
        Refused: others changed the configuration meanwhile.
    """
    facts = read_config(kube, namespace)
    left = planned(facts)
    if left.changes:
        raise Refused(f"the configuration is not what was written a moment ago: {'; '.join(left.changes)}; {' '.join(left.notes)}".strip())
    admission = wait_admission(kube, probe_namespace, read_section(facts)[0], ADMISSION_TIMEOUT.total_seconds())
    (get_run_logger().info if admission.works else get_run_logger().warning)("%s", admission.told)
    return admission


def report_of(plan: ConfigPlan, restarted: tuple[str, ...] = (), admission: Admission | None = None) -> EnableReport:
    """The flow's result."""
    return EnableReport(
        namespace=plan.namespace,
        action=str(plan.action),
        changes=plan.changes,
        restarted=restarted,
        admission=admission.told if admission else "",
        notes=plan.notes,
        problems=tuple(map(str, plan.problems)),
    )
