"""Where the pods of a claim's workloads may run, as their templates say: also those of a workload that is scaled to 0. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from modelyard.plans.references import is_ended, is_loader, pods_with, used_paths

#: What else keeps a pod from a node, and is not followed.
_MORE = ("affinity", "topologySpreadConstraints", "nodeName")


@dataclass(frozen=True, slots=True)
class Scheduling:
    """A workload's nodeSelector and tolerations; ``more``: its template says more than these about nodes."""

    who: str
    node_selector: Mapping[str, str]
    tolerations: tuple[Mapping[str, Any], ...] = ()
    more: bool = False


def scheduling_of(manifests: Iterable[Mapping[str, Any]], claim: str) -> tuple[Scheduling, ...]:
    """Of each workload among the objects of a namespace that names ``claim``; what others own is as its owner says."""
    found = []
    for manifest in manifests:
        metadata = manifest["metadata"]
        if metadata.get("ownerReferences") or is_loader(metadata) or is_ended(manifest) or not used_paths(manifest, {claim}):
            continue
        who = f"{manifest['kind']}/{metadata['namespace']}/{metadata['name']}"
        found += [_scheduling(who, spec) for spec in pods_with(manifest, claim)] or [Scheduling(who, {}, more=True)]
    return tuple(found)


def _scheduling(who: str, spec: Mapping[str, Any]) -> Scheduling:
    tolerations = tuple(dict(each) for each in spec.get("tolerations") or ())
    return Scheduling(who, dict(spec.get("nodeSelector") or {}), tolerations, any(spec.get(key) for key in _MORE))
