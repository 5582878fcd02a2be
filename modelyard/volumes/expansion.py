"""Expanding a claim in place: ask for more, once, and wait until it is there or only the next mount is missing."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from modelyard.errors import ClaimPending, ClaimUnusable, ClusterUnavailable, ModelyardError
from modelyard.kube.apply import Action, Change
from modelyard.kube.client import Kube
from modelyard.kube.diagnosis import latest
from modelyard.kube.explain import events_of
from modelyard.kube.failures import Changed
from modelyard.kube.resources import Manifest, ObjectRef
from modelyard.kube.wait import Ends, TimedOut, status_text, wait_for
from modelyard.plans.claim import ClaimAction, ClaimPlan
from modelyard.quantities import format_bytes, parse_bytes

_TRIES = 5
#: Why an expansion does not get on, in events. https://kubernetes.io/docs/concepts/storage/persistent-volumes/#expanding-persistent-volumes-claims
_EVENTS = frozenset({"VolumeResizeFailed", "ExternalExpanding", "Resizing", "FileSystemResizeRequired", "FileSystemResizeFailed"})
#: The file system grows when a pod mounts the volume; the loader's is the next one.
_AT_NEXT_MOUNT = frozenset({"NodeResizePending", "NodeResizeInProgress"})
_INFEASIBLE = frozenset({"ControllerResizeInfeasible", "NodeResizeInfeasible"})


def expand_claim(kube: Kube, plan: ClaimPlan) -> Change:
    """Ask for the plan's size if less was asked for until now; a request is never made smaller."""
    ref = ObjectRef("PersistentVolumeClaim", plan.name, plan.namespace)
    for _ in range(_TRIES):
        live = kube.get(ref.kind, ref.name, ref.namespace)
        if live is None:
            raise ClaimUnusable(f"{ref} is not there any more")
        if plan.action is not ClaimAction.EXPAND or _requested(live) >= plan.size:
            return Change(str(ref), Action.UNCHANGED)
        metadata = {"uid": live["metadata"]["uid"], "resourceVersion": live["metadata"]["resourceVersion"]}
        with suppress(Changed):
            kube.patch_merge(ref.kind, ref.name, ref.namespace, {"metadata": metadata, "spec": _request(plan.size)})
            return Change(str(ref), Action.CONFIGURED)
    raise ClusterUnavailable(f"{ref} changes too often to be expanded")


def _request(size: int) -> Manifest:
    return {"resources": {"requests": {"storage": str(size)}}}


def _requested(live: Manifest) -> int:
    return parse_bytes(live["spec"]["resources"]["requests"]["storage"])


def wait_expanded(kube: Kube, plan: ClaimPlan, timeout: float, *, on_note: Callable[[str], None] = lambda _: None) -> Manifest:
    """The claim once it has the plan's size, or will have it at its next mount (FileSystemResizePending).

    Raises:
        ClaimUnusable: its driver says that it can never have this size.
        ClaimPending: ``timeout`` seconds are over; the message holds conditions and events.
    """
    ref = ObjectRef("PersistentVolumeClaim", plan.name, plan.namespace)
    teller = _Teller(kube, ref, on_note)
    ends = Ends(
        done=lambda claim: claim if expanded(claim, plan.size) else None,
        failed=lambda claim: _infeasible(ref, claim),
        deleted=lambda: ClaimUnusable(f"{ref} was deleted while it was expanded"),
    )
    try:
        return wait_for(kube, ref, ends, timeout, on_tick=teller.tick)
    except TimedOut as error:
        told = teller.told or "no event says why; see that a resizer of its driver runs"
        raise ClaimPending(f"{ref} was asked to have {format_bytes(plan.size)} and has not after {timeout:.0f} s: {told}") from error


def expanded(claim: Manifest, size: int) -> bool:
    """Whether the claim has ``size``, or only its file system waits for the next mount. Pure."""
    status: dict[str, Any] = claim.get("status") or {}
    if parse_bytes((status.get("capacity") or {}).get("storage", "0")) >= size:
        return True
    pending = any(each["type"] == "FileSystemResizePending" and each["status"] == "True" for each in status.get("conditions") or [])
    return pending or _resource_status(claim) in _AT_NEXT_MOUNT


def _resource_status(claim: Manifest) -> str:
    return str(((claim.get("status") or {}).get("allocatedResourceStatuses") or {}).get("storage", ""))


def _infeasible(ref: ObjectRef, claim: Manifest) -> ModelyardError | None:
    if (state := _resource_status(claim)) not in _INFEASIBLE:
        return None
    return ClaimUnusable(f"{ref} cannot be expanded ({state}): {status_text(claim)}; set storageSize back, or a new pvcNameSuffix")


class _Teller:
    """Tells conditions and events of an expansion, each state once."""

    def __init__(self, kube: Kube, ref: ObjectRef, on_note: Callable[[str], None]) -> None:
        self.told = ""
        self._kube = kube
        self._ref = ref
        self._on_note = on_note

    def tick(self, claim: Manifest) -> None:
        with suppress(ClusterUnavailable):
            event = latest(events_of(self._kube, claim), _EVENTS)
            words = f"; {event['reason']}: {event.get('message', '')}" if event else ""
            told = f"{status_text(claim)}{words}"
            if told != self.told:
                self.told = told
                self._on_note(f"{self._ref} is being expanded: {told}")
