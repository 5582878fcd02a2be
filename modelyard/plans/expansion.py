"""Whether a claim that is smaller than wanted may be expanded in place. Pure.

Some provisioners cannot expand, whatever ``allowVolumeExpansion`` of their class says: an attempt leaves the claim in an error
state that nothing takes back. For these the way is a new claim. A claim is never made smaller.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from modelyard.caches import CacheSpec
from modelyard.errors import Problem
from modelyard.plans.claim_facts import ClaimFacts
from modelyard.plans.storage_classes import NFS_SUBDIR, StorageClassFacts
from modelyard.quantities import format_bytes

#: nfs-subdir: https://github.com/kubernetes-sigs/nfs-subdir-external-provisioner#limitations--pitfalls;
#: local-path: https://github.com/rancher/local-path-provisioner#cons; the others make no volumes that have a size.
_NEVER = (NFS_SUBDIR, "rancher.io/local-path", "kubernetes.io/host-path", "kubernetes.io/no-provisioner")
_NEVER_TYPES = frozenset({"nfs", "hostPath", "local"})
_NEW_CLAIM = "set a new pvcNameSuffix for a claim of that size; models are loaded again there"


def expansion_problem(cache: CacheSpec, claim: ClaimFacts, classes: Sequence[StorageClassFacts] | None) -> Problem | None:
    """Why ``claim`` may not be expanded to the cache's size, with what to set; None if it may."""
    found = next((each for each in classes or () if each.name == claim.storage_class), None)
    refusal = _by_nature(claim, found) or _by_settings(cache, claim, found)
    if refusal is None:
        return None
    what, step = refusal
    size = f"has {format_bytes(claim.bytes)}, storageSize asks for {format_bytes(cache.storage_size)}"
    return Problem(f"PersistentVolumeClaim/{claim.namespace}/{claim.name}", f"{size}{what}", f"{step}{_NEW_CLAIM}")


def _by_nature(claim: ClaimFacts, storage_class: StorageClassFacts | None) -> tuple[str, str] | None:
    """What no setting can change, and what to do besides a new claim."""
    if claim.volume_type in _NEVER_TYPES:
        return f", and a volume of type {claim.volume_type} cannot be expanded, whatever allowVolumeExpansion says", ""
    if storage_class and any(fnmatchcase(storage_class.provisioner, pattern) for pattern in _NEVER):
        return f", and provisioner {storage_class.provisioner} cannot expand volumes, whatever allowVolumeExpansion says", ""
    if not claim.created_by_us:
        return "; Modelyard did not make it, so it is never resized", "let its owner expand it, or "
    return None


def _by_settings(cache: CacheSpec, claim: ClaimFacts, storage_class: StorageClassFacts | None) -> tuple[str, str] | None:
    if storage_class is None:
        what = f"; whether StorageClass {claim.storage_class!r} can expand volumes is not to be seen"
        return what, "grant the verbs get and list on storageclasses.storage.k8s.io, or "
    if not storage_class.allow_expansion:
        what = f", and StorageClass {storage_class.name} has allowVolumeExpansion false"
        return what, f"have it set to true if provisioner {storage_class.provisioner} can expand volumes, or "
    if not cache.allow_expansion:
        return "", "set allowExpansion to expand it in place, or "
    if claim.phase != "Bound":
        return ", and it is not bound yet: only a bound claim can be expanded", "wait until it is, or "
    return None
