"""The loads that are at work on a claim now, from their Jobs."""

from modelyard.kube.client import Kube
from modelyard.kube.loader_job import BYTES_ANNOTATION
from modelyard.kube.loader_report import finished
from modelyard.kube.resources import GROUP, Manifest
from modelyard.models import ModelRef
from modelyard.orders import LoadSpec
from modelyard.plans.capacity import RunningLoad


def read_running_loads(kube: Kube, namespace: str, claim: str) -> tuple[RunningLoad, ...]:
    """Preload Jobs of the claim that were let go and have not ended."""
    jobs = kube.list("Job", namespace, label_selector=f"pvc={claim},{GROUP}/command={LoadSpec.command}")
    running = [job for job in jobs if not finished(job) and not job["spec"].get("suspend") and not job["metadata"].get("deletionTimestamp")]
    return tuple(load for job in running if (load := _load(job)))


def _load(job: Manifest) -> RunningLoad | None:
    told = job["metadata"].get("annotations") or {}
    try:
        model = ModelRef(name=told[f"{GROUP}/model"], version=told[f"{GROUP}/version"])
        return RunningLoad(model, int(told[BYTES_ANNOTATION]))
    except (KeyError, ValueError):  # by another release
        return None
