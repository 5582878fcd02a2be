"""PersistentVolumeClaims of caches: read, make, and wait until bound. Nothing here changes or deletes a claim (see expansion.py)."""

from collections.abc import Callable

from modelyard.caches import CacheSpec
from modelyard.errors import ClaimPending, ClaimUnusable, ClusterRefused, ClusterUnavailable, ModelyardError
from modelyard.kube.apply import Action, Change, is_owned, owned, patiently
from modelyard.kube.client import Kube
from modelyard.kube.diagnose import waits_for_consumer
from modelyard.kube.diagnosis import Course
from modelyard.kube.explain import explain_claim
from modelyard.kube.failures import AlreadyExists
from modelyard.kube.loader_job import LOADER_JOB_TYPE
from modelyard.kube.resources import GROUP, Manifest, ObjectRef, ref_of
from modelyard.kube.wait import Ends, TimedOut, wait_for
from modelyard.names import label_value
from modelyard.plans.claim import ClaimAction, ClaimPlan
from modelyard.plans.claim_facts import ClaimFacts, Mount
from modelyard.quantities import parse_bytes
from modelyard.volumes.export_volume import ensure_export_volume
from modelyard.volumes.persistent_volumes import nfs_export, reachable_from, read_volume, volume_type

_PHASES_OF_ENDED_PODS = frozenset({"Succeeded", "Failed"})


def read_claim(kube: Kube, namespace: str, name: str) -> ClaimFacts | None:
    """What is seen of the claim, or None where there is none."""
    live = kube.get("PersistentVolumeClaim", name, namespace)
    if live is None:
        return None
    volume_name = live["spec"].get("volumeName")
    return claim_facts(live, read_volume(kube, volume_name) if volume_name else None, _mounted_by(kube, namespace, name))


def claim_facts(live: Manifest, volume: Manifest | None, mounted_by: tuple[Mount, ...] = ()) -> ClaimFacts:
    """The facts of a claim, its PersistentVolume and the pods that mount it."""
    spec, status = live["spec"], live.get("status") or {}
    capacity = (status.get("capacity") or {}).get("storage")
    return ClaimFacts(
        name=live["metadata"]["name"],
        namespace=live["metadata"]["namespace"],
        phase=status.get("phase", "Pending"),
        storage_class=spec.get("storageClassName"),
        access_modes=tuple(spec.get("accessModes") or ()),
        requested_bytes=parse_bytes(spec["resources"]["requests"]["storage"]),
        capacity_bytes=parse_bytes(capacity) if capacity else None,
        volume_name=spec.get("volumeName"),
        volume_type=volume_type(volume) if volume else None,
        created_by_us=is_owned(live),
        deleting="deletionTimestamp" in live["metadata"],
        mounted_by=mounted_by,
        export=nfs_export(volume) if volume else None,
        reachable_from=reachable_from(volume) if volume else None,
    )


def _mounted_by(kube: Kube, namespace: str, claim: str) -> tuple[Mount, ...]:
    pods = [pod for pod in kube.list("Pod", namespace) if (pod.get("status") or {}).get("phase") not in _PHASES_OF_ENDED_PODS]
    return tuple(sorted((_mount(pod) for pod in pods if claim in _claims(pod)), key=lambda mount: mount.pod))


def _mount(pod: Manifest) -> Mount:
    labels = pod["metadata"].get("labels") or {}
    job = labels.get("batch.kubernetes.io/job-name") if labels.get("job-type") == LOADER_JOB_TYPE else None
    return Mount(str(ref_of(pod)), pod["spec"].get("nodeName"), job)


def _claims(pod: Manifest) -> set[str]:
    return {volume["persistentVolumeClaim"]["claimName"] for volume in pod["spec"].get("volumes", []) if "persistentVolumeClaim" in volume}


def claim_manifest(cache: CacheSpec, plan: ClaimPlan) -> Manifest:
    """The claim that ``plan`` wants made."""
    storage_class = {} if plan.storage_class is None else {"storageClassName": plan.storage_class}
    return owned(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {
                "name": plan.name,
                "namespace": plan.namespace,
                "labels": {"app.kubernetes.io/name": "modelyard-cache", f"{GROUP}/cache": label_value(cache.name)},
                "annotations": {f"{GROUP}/cache": cache.name},
            },
            "spec": {
                **storage_class,
                **({"volumeName": plan.volume} if plan.volume else {}),
                "accessModes": [str(plan.access_mode)],
                "volumeMode": "Filesystem",
                "resources": {"requests": {"storage": str(plan.size)}},
            },
        }
    )


def ensure_claim(kube: Kube, cache: CacheSpec, plan: ClaimPlan) -> Change:
    """Make the claim if the plan says so and nobody has made one meanwhile; a claim that is there is not touched.

    It is created, not applied: applying would put our labels on a claim that another made between plan and act. The
    PersistentVolume of an NFS export comes first, for a claim that names it.
    """
    subject = str(ObjectRef("PersistentVolumeClaim", plan.name, plan.namespace))
    if plan.action is not ClaimAction.CREATE:
        return Change(subject, Action.UNCHANGED)
    if plan.export and plan.volume:
        ensure_export_volume(kube, cache, plan)
    try:
        kube.create(claim_manifest(cache, plan))
    except AlreadyExists:
        return Change(subject, Action.UNCHANGED)
    return Change(subject, Action.CREATED)


def wait_bound(
    kube: Kube,
    namespace: str,
    name: str,
    timeout: float,
    *,
    patience: float = 15.0,
    on_note: Callable[[str], None] = lambda _: None,
) -> ClaimFacts:
    """The claim once it is bound, or at once where it binds only when a pod uses it (WaitForFirstConsumer), or may.

    Raises:
        ClaimUnusable: it is gone or lost, or can never be bound: the same permanent reason held for ``patience`` seconds.
        ClaimPending: ``timeout`` seconds are over; the message says what is seen.
    """
    ref = ObjectRef("PersistentVolumeClaim", name, namespace)
    watcher = _Watcher(kube, ref, patience, on_note)
    ends = Ends(done=watcher.settled, failed=_lost(ref), deleted=lambda: ClaimUnusable(f"{ref} is not there; it was deleted or never made"))
    try:
        live = wait_for(kube, ref, ends, timeout, on_tick=watcher.tick)
    except TimedOut as error:
        raise ClaimPending(f"{ref} is not bound after {timeout:.0f} s: {watcher.course.last or error}") from error
    return claim_facts(live, read_volume(kube, live["spec"]["volumeName"]) if live["spec"].get("volumeName") else None)


def _lost(ref: ObjectRef) -> Callable[[Manifest], ModelyardError | None]:
    def check(claim: Manifest) -> ModelyardError | None:
        lost = (claim.get("status") or {}).get("phase") == "Lost"
        return ClaimUnusable(f"{ref} has lost its PersistentVolume; use another pvcNameSuffix") if lost else None

    return check


class _Watcher:
    """Knows whether a claim is settled, and the last reason why it is not."""

    def __init__(self, kube: Kube, ref: ObjectRef, patience: float, on_note: Callable[[str], None]) -> None:
        self.course = Course()
        self._kube = kube
        self._ref = ref
        self._patience = patience
        self._on_note = on_note

    def settled(self, claim: Manifest) -> Manifest | None:
        """The claim, if there is nothing to wait for."""
        bound = (claim.get("status") or {}).get("phase") == "Bound"
        return claim if bound or self._binds_later(claim) else None

    def _binds_later(self, claim: Manifest) -> bool:
        name = claim["spec"].get("storageClassName")
        if not name or claim["spec"].get("volumeName"):
            return False
        try:
            storage_class = patiently(lambda: self._kube.get("StorageClass", name))
        except ClusterRefused:  # it may bind at its first pod only, so waiting might never end: the pod's own wait tells of it
            return True
        return storage_class is not None and waits_for_consumer(storage_class)

    def tick(self, claim: Manifest) -> None:
        """Find the reason anew; a permanent one that stays ends the wait."""
        try:
            diagnosis = explain_claim(self._kube, claim)
        except ClusterUnavailable:
            return
        if self.course.see(diagnosis):
            self._on_note(f"{self._ref}: {diagnosis}")
        if diagnosis.permanent and self.course.seconds >= self._patience:
            raise ClaimUnusable(f"{self._ref} cannot be bound: {diagnosis}")
