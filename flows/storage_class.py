"""Clone a StorageClass with reclaim policy Retain, so that models outlive their claim."""

from typing import Annotated

import yaml
from prefect import flow, task
from pydantic import Field

from blocks import Cluster, load_block
from flows.plans import publish_plan
from flows.retries import retried
from modelyard.kube.apply import owned
from modelyard.kube.client import Kube
from modelyard.kube.failures import AlreadyExists
from modelyard.kube.resources import GROUP, Manifest
from modelyard.models import Value
from modelyard.names import slug
from modelyard.plans.clone_class import ClonePlan, describe_clone, plan_clone

CLONED_FROM = f"{GROUP}/cloned-from"
ClassName = Annotated[str, Field(min_length=1, max_length=253)]


class CloneReport(Value):
    """What cloning did, or would do."""

    source: str
    name: str
    action: str
    problems: tuple[str, ...] = ()


@flow(name="clone-storage-class", flow_run_name="clone-{storage_class}")
def clone_storage_class(
    storage_class: ClassName,
    new_name: ClassName | None = None,
    cluster: Annotated[str, Field(min_length=1, max_length=100)] = "default",
    dry_run: bool = False,  # noqa: FBT001, FBT002 - a flow's parameters are given by name
) -> CloneReport:
    """Make a StorageClass like another one, but with reclaim policy Retain: its volumes stay when their claims are deleted.

    Safe to run again: a class that is there and the same is left alone; one that differs is refused, with the differences.

    Args:
        storage_class: Name of the class to copy.
        new_name: Name of the new class; empty: the source's with -retain.
        cluster: Name of the Modelyard Cluster block.
        dry_run: Only publish the plan with the new class as YAML; change nothing.

    Raises:
        Refused: the plan holds problems; nothing was changed.
    """
    kube = Kube(load_block(Cluster, cluster).get_client())
    plan = read_and_plan(storage_class, new_name, kube)
    key = slug(f"storage-class-{plan.name}", 200)
    publish_plan(describe_clone(plan, yaml_of(plan)), plan.problems, key=key, description=str(plan.action), dry_run=dry_run)
    if not dry_run:
        make_class(plan, kube)
    return CloneReport(
        source=plan.source, name=plan.name, action=str(plan.action), problems=tuple(str(problem) for problem in plan.problems)
    )


@task(task_run_name="plan-{storage_class}", **retried())
def read_and_plan(storage_class: str, new_name: str | None, kube: Kube) -> ClonePlan:
    """The plan, from the classes as they are now."""
    return plan_clone(kube.list("StorageClass"), storage_class, new_name)


@task(task_run_name="make-{plan.name}", **retried())
def make_class(plan: ClonePlan, kube: Kube) -> None:
    """Create the class as planned. One that somebody made meanwhile, or an earlier try of ours, must be the same."""
    manifest = plan.approved()
    if manifest is None:
        return
    try:
        kube.create(_marked(plan, manifest))
    except AlreadyExists:
        plan_clone(kube.list("StorageClass"), plan.source, plan.name).approved()


def _marked(plan: ClonePlan, manifest: Manifest) -> Manifest:
    return owned({**manifest, "metadata": {**manifest["metadata"], "annotations": {CLONED_FROM: plan.source}}})


def yaml_of(plan: ClonePlan) -> str:
    """The new class as it will be created; empty if none is."""
    return yaml.safe_dump(_marked(plan, plan.manifest), sort_keys=False) if plan.manifest else ""
