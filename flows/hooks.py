"""What becomes of the Jobs of a run that ends before its time, where the run's parameters name the cache and the cluster."""

from typing import Any

from prefect import Flow
from prefect.client.schemas.objects import FlowRun, State

from flows.cache_blocks import load_cache
from modelyard.kube.client import Kube
from modelyard.kube.run_loader import end_jobs_of_run, end_never_started


def end_jobs(flow: "Flow[Any, Any]", flow_run: FlowRun, state: "State[Any]") -> None:  # noqa: ARG001 - Prefect calls by these names
    """Delete the Jobs of a cancelled run, and with them their pods and Secrets. What they made stays for the next run, and is whole."""
    kube, namespaces = _places_of(flow_run)
    for namespace in namespaces:
        end_jobs_of_run(kube, namespace, str(flow_run.id))


def end_jobs_never_started(flow: "Flow[Any, Any]", flow_run: FlowRun, state: "State[Any]") -> None:  # noqa: ARG001 - Prefect's names
    """Delete the Jobs of a crashed run that never began, and with them their Secrets. One that runs goes on: the next run joins it."""
    kube, namespaces = _places_of(flow_run)
    for namespace in namespaces:
        end_never_started(kube, namespace, str(flow_run.id))


def _places_of(run: FlowRun) -> tuple[Kube, tuple[str, ...]]:
    """Where a run's Jobs may be: beside the cache and, if it deals with other namespaces, beside the copies there."""
    parameters = run.parameters
    kube, cache = load_cache(parameters.get("cache", "default"), parameters.get("cluster", "default"))
    others = parameters["namespaces"] or cache.share_with if "namespaces" in parameters else ()
    return kube, (cache.namespace, *others)
