"""StorageClasses of a cluster, as facts for the plan."""

from modelyard.errors import ClusterRefused
from modelyard.kube.client import Kube
from modelyard.kube.resources import Manifest
from modelyard.plans.storage_classes import StorageClassFacts

#: The second is older and still honoured. https://kubernetes.io/docs/concepts/storage/storage-classes/#default-storageclass
_DEFAULT = ("storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class")


def read_storage_classes(kube: Kube) -> tuple[StorageClassFacts, ...] | None:
    """All StorageClasses, by name; None where the account may not list them, as one that sees a single namespace."""
    try:
        live = kube.list("StorageClass")
    except ClusterRefused:
        return None
    return tuple(sorted((storage_class_facts(each) for each in live), key=lambda facts: facts.name))


def storage_class_facts(live: Manifest) -> StorageClassFacts:
    """What one StorageClass says of itself; the API's defaults fill what it leaves out."""
    annotations = live["metadata"].get("annotations") or {}
    return StorageClassFacts(
        name=live["metadata"]["name"],
        provisioner=live["provisioner"],
        reclaim_policy=live.get("reclaimPolicy", "Delete"),
        binding_mode=live.get("volumeBindingMode", "Immediate"),
        allow_expansion=bool(live.get("allowVolumeExpansion")),
        is_default=any(annotations.get(key) == "true" for key in _DEFAULT),
        parameters=dict(live.get("parameters") or {}),
    )
