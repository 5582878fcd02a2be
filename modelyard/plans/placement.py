"""Where a loader must run so that the claim can be mounted there, and what is not possible beside it. Pure.

https://kubernetes.io/docs/concepts/storage/persistent-volumes/#access-modes: ReadWriteOnce is one node at a time, ReadWriteOncePod one pod.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from modelyard.caches import AccessMode, CacheSpec
from modelyard.errors import Problem, Refused
from modelyard.orders import Order
from modelyard.plans.claim_facts import ClaimFacts
from modelyard.plans.scheduling import Scheduling

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Placement:
    """The one node for the loader; None leaves it to the scheduler, which keeps to ``selector`` and ``tolerations`` of the workload's."""

    node: str | None = None
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()

    def on(self, cache: CacheSpec) -> CacheSpec:
        """The cache's settings for a pod that is placed so."""
        if not self.selector:
            return cache
        tolerations = (*cache.tolerations, *(dict(each) for each in self.tolerations if each not in cache.tolerations))
        return cache.model_copy(update={"node_selector": dict(self.selector), "tolerations": tolerations})


def plan_placement(
    cache: CacheSpec, claim: ClaimFacts | None, *, binds_late: bool, own_job: str | None = None, workloads: Sequence[Scheduling] = ()
) -> Placement:
    """Where the loader runs; ``binds_late`` says that the claim is bound at its first pod, which is the loader's.

    ``own_job`` is the loader's own Job: one that is there already is joined where it is, and says nothing of where to go. The
    ``workloads`` that name the claim say where its first pod goes, unless the cache does.
    """
    modes = set(claim.access_modes) if claim else {str(cache.access_mode)}
    if AccessMode.READ_WRITE_MANY in modes:
        return Placement(notes=_reach(claim))
    followed = _followed(cache, workloads) if binds_late else None
    late = _late_note(cache, followed, workloads) if binds_late else ()
    if AccessMode.READ_WRITE_ONCE not in modes and AccessMode.READ_WRITE_ONCE_POD in modes:
        placement = _one_pod(claim, late)
    else:
        placement = _one_node(claim, late, own_job)
    if followed is None or placement.node:
        return placement
    return replace(placement, selector=followed.node_selector, tolerations=followed.tolerations)


def decides_place(cache: CacheSpec, claim: ClaimFacts | None) -> bool:
    """Whether the loader may be the claim's first pod, and has no word on where to go: then its workloads are asked."""
    return not cache.node_selector and cache.access_mode is not AccessMode.READ_WRITE_MANY and not (claim and claim.phase == "Bound")


def _followed(cache: CacheSpec, workloads: Sequence[Scheduling]) -> Scheduling | None:
    """The workload whose nodes are the loader's; None: the cache says where, or they say nothing, or different things."""
    told = [each for each in workloads if each.node_selector]
    return told[0] if told and not cache.node_selector and all(each.node_selector == told[0].node_selector for each in told) else None


def node_for(cache: CacheSpec, claim: ClaimFacts | None, order: Order | None = None) -> str | None:
    """The node on which a pod must run beside a claim that was bound before; None leaves it to the scheduler.

    ``order`` is given where its Job has one name in every run, which is then joined where it runs.

    Raises:
        Refused: no pod can mount the claim now.
    """
    placement = plan_placement(cache, claim, binds_late=False, own_job=order.job_name(cache.claim, "") if order else None)
    if placement.problems:
        raise Refused(placement.problems)
    return placement.node


def _reach(claim: ClaimFacts | None) -> tuple[str, ...]:
    return (f"the volume can be reached from {claim.reachable_from} only",) if claim and claim.reachable_from else ()


def _late_note(cache: CacheSpec, followed: Scheduling | None, workloads: Sequence[Scheduling]) -> tuple[str, ...]:
    if cache.node_selector:
        where = "the loader's nodeSelector says where"
    elif followed:
        labels = ", ".join(f"{key}={value}" for key, value in sorted(followed.node_selector.items()))
        where = f"as {followed.who} will, on a node with {labels}"
        where += "; its affinity or topology is not followed: set nodeSelector if that says more" if followed.more else ""
        lacking = [dict(each) for each in followed.tolerations if each not in cache.tolerations]
        where += f"; set its tolerations in the cache, too: later loaders must come there ({json.dumps(lacking)})" if lacking else ""
    else:
        differ = f" ({_names([each.who for each in workloads])} name it, and say different things or nothing)" if workloads else ""
        where = f"set nodeSelector to where the workload will run{differ}"
    return (f"the loader's pod decides where the volume is made (WaitForFirstConsumer), and the workload must run there: {where}",)


def _one_pod(claim: ClaimFacts | None, late: tuple[str, ...]) -> Placement:
    notes = ("ReadWriteOncePod: one pod at a time; the workload can start when the loader is gone, with one replica", *late, *_reach(claim))
    theirs = [mount for mount in claim.mounted_by if not mount.loader] if claim else []
    if not theirs:
        return Placement(notes=notes)
    subject = f"PersistentVolumeClaim/{claim.namespace}/{claim.name}" if claim else ""
    what = f"is ReadWriteOncePod and mounted by {_names([mount.pod for mount in theirs])}, so no loader can mount it"
    return Placement(notes=notes, problems=(Problem(subject, what, "stop that pod first (scale its workload to 0), then run again"),))


def _one_node(claim: ClaimFacts | None, late: tuple[str, ...], own_job: str | None) -> Placement:
    mounts = [mount for mount in claim.mounted_by if mount.node and (mount.loader is None or mount.loader != own_job)] if claim else []
    workloads_first = sorted(mounts, key=lambda mount: (mount.loader is not None, mount.node))
    head = "ReadWriteOnce: one node at a time; replicas on other nodes cannot mount it"
    if workloads_first:
        node = workloads_first[0].node
        pods = _names([mount.pod for mount in mounts if mount.node == node])
        return Placement(node, (f"{head}; the loader runs on node {node}, where {pods} mounts it", *_reach(claim)))
    free = "nor, while the loader runs, can any pod on another node"
    return Placement(notes=(f"{head}, {free}", *late, *_reach(claim)))


def _names(pods: list[str]) -> str:
    more = f" and {len(pods) - _SHOWN} more" if len(pods) > _SHOWN else ""
    return ", ".join(pods[:_SHOWN]) + more
