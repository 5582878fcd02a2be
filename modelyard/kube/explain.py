"""The reading half of diagnose: fetch what a diagnosis needs, events above all, and ask for it."""

from modelyard.errors import ClusterRefused
from modelyard.kube.client import Kube, Manifests
from modelyard.kube.diagnose import diagnose_claim, diagnose_job, diagnose_pod
from modelyard.kube.diagnose_mount import is_multi_attach
from modelyard.kube.diagnosis import Diagnosis
from modelyard.kube.resources import Manifest


def explain_pod(kube: Kube, pod: Manifest) -> Diagnosis | None:
    """Why ``pod`` does not run; None if there is nothing to say."""
    events = events_of(kube, pod)
    neighbours = kube.list("Pod", pod["metadata"]["namespace"]) if is_multi_attach(events) else []
    return diagnose_pod(pod, events, neighbours)


def explain_job(kube: Kube, job: Manifest) -> Diagnosis | None:
    """Why ``job`` has no pod; None if there is nothing to say."""
    return diagnose_job(events_of(kube, job))


def explain_claim(kube: Kube, claim: Manifest) -> Diagnosis:
    """Why ``claim`` is not bound."""
    return diagnose_claim(claim, _classes(kube), events_of(kube, claim))


def _classes(kube: Kube) -> Manifests | None:
    try:
        return kube.list("StorageClass")
    except ClusterRefused:  # accounts that see one namespace may not read them
        return None


def events_of(kube: Kube, live: Manifest) -> Manifests:
    """The events about this very object, not about others that had its name; none where they may not be read."""
    metadata = live["metadata"]
    try:
        return kube.list("Event", metadata["namespace"], field_selector=f"involvedObject.uid={metadata['uid']}")
    except ClusterRefused:  # events are a courtesy
        return []
