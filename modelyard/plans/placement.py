"""Where a loader must run so that the claim can be mounted there, and what is not possible beside it. Pure.

https://kubernetes.io/docs/concepts/storage/persistent-volumes/#access-modes: ReadWriteOnce is one node at a time, ReadWriteOncePod one pod.
"""

from dataclasses import dataclass

from modelyard.caches import AccessMode, CacheSpec
from modelyard.errors import Problem, Refused
from modelyard.orders import Order
from modelyard.plans.claim_facts import ClaimFacts

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Placement:
    """The one node for the loader; None leaves it to the scheduler."""

    node: str | None = None
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def plan_placement(cache: CacheSpec, claim: ClaimFacts | None, *, binds_late: bool, own_job: str | None = None) -> Placement:
    """Where the loader runs; ``binds_late`` says that the claim is bound at its first pod, which is the loader's.

    ``own_job`` is the loader's own Job: one that is there already is joined where it is, and says nothing of where to go.
    """
    modes = set(claim.access_modes) if claim else {str(cache.access_mode)}
    if AccessMode.READ_WRITE_MANY in modes:
        return Placement(notes=_reach(claim))
    late = _late_note(cache) if binds_late else ()
    if AccessMode.READ_WRITE_ONCE not in modes and AccessMode.READ_WRITE_ONCE_POD in modes:
        return _one_pod(claim, late)
    return _one_node(claim, late, own_job)


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


def _late_note(cache: CacheSpec) -> tuple[str, ...]:
    where = "the loader's nodeSelector says where" if cache.node_selector else "set nodeSelector to where the workload will run"
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
