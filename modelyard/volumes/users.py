"""Who names a claim: pods, and workloads whose pods will. For what must not be taken away, and for what is wanted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from modelyard.caches import CacheSpec
from modelyard.errors import ClusterRefused, Problem
from modelyard.kube.apply import OWNERSHIP, patiently
from modelyard.kube.client import Kube, Manifests
from modelyard.kube.failures import NotFound
from modelyard.kube.loader_report import finished
from modelyard.kube.resources import GROUP, Manifest, ref_of
from modelyard.orders import InspectSpec

#: The kinds that are looked at, in the order in which they are told.
KINDS = ("Deployment", "StatefulSet", "Job", "InferenceService", "Pod")
_ENDED = frozenset({"Succeeded", "Failed"})
_PATTERN = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Users:
    """Those who name the claim, and why some kinds could not be looked at."""

    named: tuple[str, ...] = ()
    unseen: tuple[Problem, ...] = ()


def users_of(kube: Kube, namespace: str, claim: str) -> Users:
    """Pods that have not ended and workloads in ``namespace`` that name ``claim``; a kind that the cluster lacks has none."""
    named: list[str] = []
    unseen: list[Problem] = []
    for kind in KINDS:
        try:
            found = _listed(kube, kind, namespace)
        except ClusterRefused as error:
            what = f"cannot be looked at for users of claim {claim} ({error})"
            unseen.append(Problem(f"{kind}s of namespace {namespace}", what, "grant the account the verb list there"))
            continue
        named += [str(ref_of(live)) for live in found if is_active(live) and names_claim(live.get("spec"), claim)]
    return Users(tuple(named), tuple(unseen))


def _listed(kube: Kube, kind: str, namespace: str | None) -> Manifests:
    try:
        return patiently(lambda: kube.list(kind, namespace))
    except NotFound:  # the cluster has no such kind
        return []


#: Labels of the Jobs and pods by which Modelyard looks at a volume, which never keep a claim.
INSPECTION = {**OWNERSHIP, f"{GROUP}/command": InspectSpec.command}


def is_active(live: Manifest) -> bool:
    """Whether it has or will have pods of its own: not ended, and no inspection of ours."""
    if INSPECTION.items() <= (live["metadata"].get("labels") or {}).items():
        return False
    if live["kind"] == "Pod":
        return (live.get("status") or {}).get("phase") not in _ENDED
    return not (live["kind"] == "Job" and finished(live))


def names_claim(spec: Any, claim: str) -> bool:  # noqa: ANN401 - whatever JSON holds
    """Whether a workload's spec names ``claim`` anywhere: as a pod's volume, or as KServe's ``storageUri: pvc://<claim>/<path>``."""
    if isinstance(spec, list):
        return any(names_claim(each, claim) for each in spec)
    if not isinstance(spec, dict):
        return False
    mounted = spec.get("persistentVolumeClaim")
    if isinstance(mounted, dict) and mounted.get("claimName") == claim:
        return True
    uri = spec.get("storageUri")
    if isinstance(uri, str) and (uri == f"pvc://{claim}" or uri.startswith(f"pvc://{claim}/")):
        return True
    return any(names_claim(each, claim) for each in spec.values())


def wanted_namespaces(kube: Kube, cache: CacheSpec) -> tuple[str, ...]:
    """The namespaces that are to have a copy of the cache's claim: those of ``share_with``, and those of ``share_on_demand``
    where a workload names a claim of this name that is not there.

    Raises:
        ClusterRefused: the account may not list namespaces (for patterns), or workloads there.
    """
    on_demand = (name for name in _candidates(kube, cache) if name not in cache.share_with and _lacks_it(kube, name, cache.claim))
    return (*cache.share_with, *on_demand)


def _candidates(kube: Kube, cache: CacheSpec) -> Iterator[str]:
    plain = [name for name in cache.share_on_demand if not _PATTERN & set(name)]
    patterns = [name for name in cache.share_on_demand if _PATTERN & set(name)]
    names = {*plain, *(_matching(kube, patterns) if patterns else ())}
    yield from sorted(names - {cache.namespace})


def _matching(kube: Kube, patterns: Sequence[str]) -> set[str]:
    live = patiently(lambda: kube.list("Namespace"))
    names = [each["metadata"]["name"] for each in live if not each["metadata"].get("deletionTimestamp")]
    return {name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)}


def _lacks_it(kube: Kube, namespace: str, claim: str) -> bool:
    if patiently(lambda: kube.get("PersistentVolumeClaim", claim, namespace)) is not None:
        return False
    users = users_of(kube, namespace, claim)
    if not users.named and users.unseen:
        raise ClusterRefused("; ".join(map(str, users.unseen)))
    return bool(users.named)
