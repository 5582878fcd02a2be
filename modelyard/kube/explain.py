"""The reading half of diagnose: fetch what a diagnosis needs, events above all, and ask for it."""

from modelyard.errors import ClusterRefused
from modelyard.kube.client import Kube, Manifests
from modelyard.kube.diagnose import Diagnosis, diagnose_claim, diagnose_job, diagnose_pod
from modelyard.kube.resources import Manifest


def explain_pod(kube: Kube, pod: Manifest) -> Diagnosis | None:
    """Why ``pod`` does not run; None if there is nothing to say."""
    return diagnose_pod(pod, events_of(kube, pod))


def explain_job(kube: Kube, job: Manifest) -> Diagnosis | None:
    """Why ``job`` has no pod; None if there is nothing to say."""
    return diagnose_job(events_of(kube, job))


def explain_claim(kube: Kube, claim: Manifest) -> Diagnosis:
    """Why ``claim`` is not bound."""
    try:
        classes = kube.list("StorageClass")
    except ClusterRefused as error:
        return Diagnosis("the claim is not bound", f"its StorageClass cannot be read: {error}", "")
    return diagnose_claim(claim, classes, events_of(kube, claim))


def events_of(kube: Kube, live: Manifest) -> Manifests:
    """The events about this very object, not about others that had its name."""
    metadata = live["metadata"]
    return kube.list("Event", metadata["namespace"], field_selector=f"involvedObject.uid={metadata['uid']}")
