"""Which nodes could run a cache's pods: what the scheduler would say of labels, taints and readiness. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelyard.caches import CacheSpec

#: Taints of this effect only make a node less liked.
_SOFT = "PreferNoSchedule"


@dataclass(frozen=True, slots=True)
class Taint:
    """A node's taint, as the API spells it."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What is seen of a node."""

    name: str
    ready: bool = True
    schedulable: bool = True
    labels: dict[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()


def eligible_nodes(nodes: Iterable[NodeFacts], cache: CacheSpec) -> tuple[str, ...]:
    """The names of the nodes that take the cache's pods, by name."""
    return tuple(sorted(node.name for node in nodes if hindrance(node, cache) is None))


def hindrance(node: NodeFacts, cache: CacheSpec) -> str | None:
    """Why the cache's pods cannot run on ``node``, or None."""
    if not node.ready:
        return "is not Ready"
    if not node.schedulable:
        return "is cordoned"
    lacking = [f"{key}={value}" for key, value in cache.node_selector.items() if node.labels.get(key) != value]
    if lacking:
        return f"lacks {', '.join(lacking)} of the cache's nodeSelector"
    taint = unbearable(node, cache.tolerations)
    return f"has the taint {taint}, which the cache does not tolerate" if taint else None


def unbearable(node: NodeFacts, tolerations: Iterable[Mapping[str, Any]]) -> str | None:
    """The key of a taint that keeps pods with these tolerations off the node, or None."""
    bearing = tuple(tolerations)
    hard = (taint.key for taint in node.taints if taint.effect != _SOFT and not any(_tolerates(each, taint) for each in bearing))
    return next(hard, None)


def _tolerates(toleration: Mapping[str, Any], taint: Taint) -> bool:
    """https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/#concepts"""
    if toleration.get("effect") not in {None, "", taint.effect}:
        return False
    exists = toleration.get("operator") == "Exists"
    if not toleration.get("key"):
        return exists
    return toleration["key"] == taint.key and (exists or toleration.get("value", "") == taint.value)
