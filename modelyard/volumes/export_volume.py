"""The PersistentVolume of an NFS export that a cache names: made for its claim, and freed for the next claim of that name."""

from modelyard.caches import AccessMode, CacheSpec
from modelyard.errors import ClusterRefused
from modelyard.kube.apply import Action, Change, is_owned, owned
from modelyard.kube.client import Kube
from modelyard.kube.failures import AlreadyExists
from modelyard.kube.resources import GROUP, Manifest, ref_of
from modelyard.names import label_value
from modelyard.plans.claim import ClaimPlan


def export_volume_manifest(cache: CacheSpec, plan: ClaimPlan) -> Manifest:
    """The volume that ``plan`` wants made. Retain: deleting a claim deletes no file of the export."""
    if plan.export is None or plan.volume is None:
        raise ValueError(f"{plan.namespace}/{plan.name}: the plan names no export")
    return owned(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {
                "name": plan.volume,
                "labels": {"app.kubernetes.io/name": "modelyard-cache", f"{GROUP}/cache": label_value(cache.name)},
                "annotations": {f"{GROUP}/cache": cache.name},
            },
            "spec": {
                "capacity": {"storage": str(plan.size)},
                "accessModes": sorted({AccessMode.READ_WRITE_MANY, plan.access_mode}),
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": plan.storage_class or "",
                "claimRef": {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "namespace": plan.namespace,
                    "name": plan.name,
                },
                "nfs": {"server": plan.export.server, "path": plan.export.path},
            },
        }
    )


def ensure_export_volume(kube: Kube, cache: CacheSpec, plan: ClaimPlan) -> Change:
    """Make the volume, or take the one of an earlier run.

    Raises:
        ClusterRefused: one of this name is there that is not ours.
    """
    wanted = export_volume_manifest(cache, plan)
    ref = ref_of(wanted)
    try:
        kube.create(wanted)
    except AlreadyExists:
        live = kube.get("PersistentVolume", ref.name)
        if live is None or not is_owned(live):
            raise ClusterRefused(f"{ref} is there and was not made by Modelyard; rename it, or set another pvcNameSuffix") from None
        return Change(str(ref), _free(kube, live))
    return Change(str(ref), Action.CREATED)


def _free(kube: Kube, live: Manifest) -> Action:
    """A volume whose claim is gone keeps that claim's uid and waits for it for ever: without the uid the next of its name is taken.

    https://kubernetes.io/docs/concepts/storage/persistent-volumes/#retain
    """
    if (live.get("status") or {}).get("phase") != "Released":
        return Action.UNCHANGED
    metadata = {"uid": live["metadata"]["uid"], "resourceVersion": live["metadata"]["resourceVersion"]}
    kube.patch_merge(
        "PersistentVolume",
        live["metadata"]["name"],
        None,
        {"metadata": metadata, "spec": {"claimRef": {"uid": None, "resourceVersion": None}}},
    )
    return Action.CONFIGURED
