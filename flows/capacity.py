"""Looking at a claim's volume before a plan is made: its free space and what lies on it, from a pod that mounts it."""

from dataclasses import replace
from datetime import timedelta

from prefect import task
from prefect.logging import get_run_logger

from flows.orders import carry_out, versions_seen
from flows.retries import retried
from modelyard.errors import ClusterUnavailable, ModelyardError
from modelyard.kube.client import Kube
from modelyard.orders import InspectResult, InspectSpec
from modelyard.plans.capacity import VolumeSeen
from modelyard.plans.placement import plan_placement
from modelyard.plans.preload import PreloadFacts, PreloadRequest
from modelyard.volumes.persistent_volumes import read_neighbours
from modelyard.volumes.running_loads import read_running_loads

#: An image may have to be pulled, and a large volume takes a while; a hindrance ends it sooner.
INSPECT_TIMEOUT = timedelta(minutes=15)


@task(task_run_name="measure-{request.cache.claim}", **retried(ClusterUnavailable))
def measure(request: PreloadRequest, facts: PreloadFacts, kube: Kube) -> PreloadFacts:
    """``facts`` with what a pod sees of the claim's volume, or why none could look. Changes nothing on the volume.

    A claim that is not bound has no volume yet. What keeps the pod from looking is no reason to refuse: the loader will meet it as well.
    """
    cache, claim = request.cache, facts.claim
    if claim is None or claim.phase != "Bound" or claim.deleting:
        return facts
    placement = plan_placement(cache, claim, binds_late=False)
    if placement.problems:
        return replace(facts, unmeasured="; ".join(problem.what for problem in placement.problems))
    try:
        report = carry_out(kube, InspectSpec(), cache, InspectResult, timeout=INSPECT_TIMEOUT, node=placement.node, hurried=True)
        versions = versions_seen(report)
        running = read_running_loads(kube, cache.namespace, cache.claim)
    except ClusterUnavailable:
        raise
    except ModelyardError as error:
        get_run_logger().warning("free space was not measured: %s", error)
        return replace(facts, unmeasured=str(error))
    neighbours = read_neighbours(kube, claim.volume_name) if claim.volume_name else None
    return replace(facts, volume=VolumeSeen(report.result.space, versions, report.result.staged_bytes, running, neighbours))
