"""A storage check's own claim: made for one run, deleted at its end, and its PersistentVolume seen to go.

Only a claim with the check's label is ever deleted here, whatever name is asked for.
"""

import time
from contextlib import suppress
from dataclasses import dataclass

from modelyard.caches import CacheSpec
from modelyard.errors import ClusterRefused, ClusterUnavailable
from modelyard.kube.apply import is_owned, owned, patiently
from modelyard.kube.client import Kube
from modelyard.kube.failures import AlreadyExists, Changed
from modelyard.kube.resources import GROUP, Manifest
from modelyard.names import label_value
from modelyard.plans.check_storage import CheckPlan, Removal, VolumeEnd

CHECK_LABEL = f"{GROUP}/check"
_PAUSE = 1.0


def probe_claim(plan: CheckPlan, cache: CacheSpec) -> Manifest:
    """The claim that ``plan`` wants made for the check."""
    storage_class = {} if plan.storage_class is None else {"storageClassName": plan.storage_class}
    return owned(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {
                "name": plan.claim,
                "namespace": cache.namespace,
                "labels": {"app.kubernetes.io/name": "modelyard-check", CHECK_LABEL: label_value(plan.nonce)},
            },
            "spec": {
                **storage_class,
                "accessModes": [str(plan.access_mode)],
                "volumeMode": "Filesystem",
                "resources": {"requests": {"storage": str(plan.size)}},
            },
        }
    )


def removal_refusal(kube: Kube, namespace: str, name: str) -> str | None:
    """Why this account may not delete the check's claim, which is not there yet: rights are looked at before the object is."""
    try:
        patiently(lambda: kube.delete("PersistentVolumeClaim", name, namespace, dry_run=True))
    except ClusterRefused as error:
        return str(error)
    return None


def make_probe_claim(kube: Kube, plan: CheckPlan, cache: CacheSpec) -> None:
    """Make the claim, unless an earlier try of this run did."""
    with suppress(AlreadyExists):
        patiently(lambda: kube.create(probe_claim(plan, cache)))


@dataclass(frozen=True, slots=True)
class _Volume:
    name: str
    policy: str | None  # None: the account may not read it


def remove_probe_claim(kube: Kube, namespace: str, name: str, timeout: float) -> Removal:
    """Delete the check's claim and see it, and where its policy is Delete its volume, go; ``timeout`` seconds at most for each.

    Raises:
        ClusterUnavailable, ClusterRefused: it could not be asked for.
    """
    live = patiently(lambda: kube.get("PersistentVolumeClaim", name, namespace))
    if live is None or not is_owned(live) or CHECK_LABEL not in live["metadata"]["labels"]:
        return Removal(claim_gone=live is None, volume=None, end=VolumeEnd.NONE)
    volume = _volume(kube, live["spec"].get("volumeName"))
    with suppress(Changed):
        patiently(lambda: kube.delete("PersistentVolumeClaim", name, namespace, uid=live["metadata"]["uid"]))
    gone = _wait_gone(kube, "PersistentVolumeClaim", name, namespace, timeout)
    if volume is None:
        return Removal(gone, None, VolumeEnd.NONE)
    if volume.policy is None:
        return Removal(gone, volume.name, VolumeEnd.UNSEEN)
    if volume.policy != "Delete":
        return Removal(gone, volume.name, VolumeEnd.KEPT)
    went = gone and _wait_gone(kube, "PersistentVolume", volume.name, None, timeout)
    return Removal(gone, volume.name, VolumeEnd.GONE if went else VolumeEnd.LEFT)


def _volume(kube: Kube, name: str | None) -> _Volume | None:
    if not name:
        return None
    try:
        live = patiently(lambda: kube.get("PersistentVolume", name))
    except ClusterRefused:
        return _Volume(name, None)
    return _Volume(name, live["spec"].get("persistentVolumeReclaimPolicy", "Retain")) if live else None


def _wait_gone(kube: Kube, kind: str, name: str, namespace: str | None, timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while True:
        with suppress(ClusterUnavailable):
            if kube.get(kind, name, namespace) is None:
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE)
