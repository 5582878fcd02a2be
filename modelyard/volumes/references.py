"""What uses a cache's volume: workloads and live pods in every namespace that has a claim of it.

A workload names claims of its own namespace only, so the namespaces are those of the claims whose PersistentVolumes have the
cache's backend (a shared cache is copies of its PersistentVolume). A kind whose CRD is not installed uses nothing. What cannot be
listed is told, and counts as in use.
"""

from collections import defaultdict

from modelyard.errors import ClusterRefused, ClusterUnavailable, ModelyardError
from modelyard.kube.apply import patiently
from modelyard.kube.client import Kube, Manifests
from modelyard.kube.failures import NotFound
from modelyard.plans.references import References, uses_in
from modelyard.plans.same_volume import SAME_ROOT, Nesting, backend, nesting
from modelyard.volumes.copies import is_released

#: Owners before what they own.
KINDS = (
    "InferenceService",
    "LLMInferenceService",
    "MLService",
    "SimpleMLService",
    "KnativeService",
    "KnativeRevision",
    "Rollout",
    "Deployment",
    "StatefulSet",
    "DaemonSet",
    "CronJob",
    "ReplicaSet",
    "ReplicationController",
    "Job",
    "Pod",
)


#: By how they lie to the cache's volume, then by namespace.
_Claims = dict[Nesting, dict[str, frozenset[str]]]


def read_references(kube: Kube, namespace: str, claim: str) -> References:
    """Who uses the volume of ``claim``, and what could not be listed."""
    claims, unknown = _claims_of_volume(kube, namespace, claim)
    objects: Manifests = []
    for place in sorted({namespace for places in claims.values() for namespace in places}):
        found, unlisted = list_users(kube, place, (ClusterRefused, ClusterUnavailable))
        objects += found
        unknown += [f"{kind}s of namespace {place} cannot be listed ({error})" for kind, error in unlisted.items()]
    uses = (use for lie, places in claims.items() for use in uses_in(objects, places, lie))
    return References(tuple(uses), tuple(unknown))


def list_users(
    kube: Kube, namespace: str, tolerated: tuple[type[ModelyardError], ...] = (ClusterRefused,)
) -> tuple[Manifests, dict[str, ModelyardError]]:
    """The objects of all KINDS in a namespace, and by kind the error of ``tolerated`` for which it could not be listed."""
    found: Manifests = []
    unlisted: dict[str, ModelyardError] = {}
    for kind in KINDS:
        try:
            found += _of_kind(kube, kind, namespace)
        except tolerated as error:
            unlisted[kind] = error
    return found, unlisted


def _of_kind(kube: Kube, kind: str, namespace: str) -> Manifests:
    """The objects of a kind; none where the cluster has no such kind."""
    try:
        return patiently(lambda: kube.list(kind, namespace))
    except NotFound:
        return []


def _claims_of_volume(kube: Kube, namespace: str, claim: str) -> tuple[_Claims, list[str]]:
    """The claims that have the volume of ``claim``, or one within or around it; and why there may be more."""
    found: _Claims = {SAME_ROOT: defaultdict(frozenset[str], {namespace: frozenset({claim})})}
    try:
        volumes = patiently(lambda: kube.list("PersistentVolume"))
    except (ClusterRefused, ClusterUnavailable) as error:
        return found, [f"PersistentVolumes cannot be listed, so it is not known where the volume is shared ({error})"]
    bound = [(backend(volume), volume["spec"]["claimRef"], is_released(volume)) for volume in volumes if volume["spec"].get("claimRef")]
    own = [place for place, ref, _ in bound if (ref.get("namespace"), ref.get("name")) == (namespace, claim)]
    for place, ref, released in bound:  # a claim that is gone has no users, and its namespace may be gone as well
        for lie in {nesting(mine, place) for mine in own if not released}:
            if lie is not None:
                found.setdefault(lie, defaultdict(frozenset[str]))[ref["namespace"]] |= {ref["name"]}
    return found, []
