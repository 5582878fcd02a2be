"""Nodes of a cluster, as facts for plans."""

from modelyard.errors import ClusterRefused
from modelyard.kube.client import Kube
from modelyard.kube.resources import Manifest
from modelyard.plans.nodes import NodeFacts, Taint


def read_nodes(kube: Kube) -> tuple[NodeFacts, ...] | None:
    """All nodes; None where the account may not list them."""
    try:
        return tuple(node_facts(live) for live in kube.list("Node"))
    except ClusterRefused:
        return None


def node_facts(live: Manifest) -> NodeFacts:
    """What one node says of itself."""
    spec, conditions = live.get("spec") or {}, (live.get("status") or {}).get("conditions") or []
    return NodeFacts(
        name=live["metadata"]["name"],
        ready=any(each["type"] == "Ready" and each["status"] == "True" for each in conditions),
        schedulable=not spec.get("unschedulable"),
        labels=dict(live["metadata"].get("labels") or {}),
        taints=tuple(Taint(each["key"], each.get("value", ""), each["effect"]) for each in spec.get("taints") or []),
    )
