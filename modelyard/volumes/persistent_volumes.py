"""PersistentVolumes as facts: their source, the share that they lie on, and from where they can be reached."""

import posixpath

from modelyard.errors import ClusterRefused
from modelyard.kube.apply import is_owned
from modelyard.kube.client import Kube, Manifests
from modelyard.kube.resources import Manifest
from modelyard.plans.capacity import Neighbours
from modelyard.plans.nfs_volume import Export, ExportVolume
from modelyard.quantities import parse_bytes

_NO_SOURCES = frozenset({"capacity", "claimRef", "nodeAffinity"})


def read_volume(kube: Kube, name: str) -> Manifest | None:
    """The PersistentVolume, or None: also where the account may not read it, for plans can do without its facts."""
    try:
        return kube.get("PersistentVolume", name)
    except ClusterRefused:
        return None


def _list(kube: Kube) -> Manifests | None:
    try:
        return kube.list("PersistentVolume")
    except ClusterRefused:  # accounts that see one namespace may not
        return None


def _source_type(volume: Manifest) -> str | None:
    return next((key for key, value in volume["spec"].items() if isinstance(value, dict) and key not in _NO_SOURCES), None)


def volume_type(volume: Manifest) -> str | None:
    """``nfs``, ``hostPath``, ``csi:<driver>``, or the name of another source in the PersistentVolume's spec."""
    source = _source_type(volume)
    return f"csi:{volume['spec']['csi']['driver']}" if source == "csi" else source


def nfs_export(volume: Manifest) -> str | None:
    """``server:path`` of an NFS volume."""
    nfs = volume["spec"].get("nfs")
    return str(Export(nfs["server"], nfs["path"])) if nfs else None


def reachable_from(volume: Manifest) -> str | None:
    """The volume's node affinity in words; None where every node reaches it."""
    terms = ((volume["spec"].get("nodeAffinity") or {}).get("required") or {}).get("nodeSelectorTerms") or []
    return " or ".join(" and ".join(_words(rule) for rule in term.get("matchExpressions") or []) for term in terms) or None


def _words(rule: Manifest) -> str:
    return " ".join(part for part in (rule["key"], rule["operator"], ", ".join(rule.get("values") or [])) if part)


def share_of(volume: Manifest) -> str | None:
    """What a volume without a size of its own lies on: the NFS export or the directory above it. None for any other volume."""
    spec = volume["spec"]
    attributes = (spec.get("csi") or {}).get("volumeAttributes") or {}
    if "nfs" in spec:
        return f"NFS {spec['nfs']['server']}:{posixpath.dirname(spec['nfs']['path'].rstrip('/')) or '/'}"
    if (spec.get("csi") or {}).get("driver") == "nfs.csi.k8s.io" and "server" in attributes:
        return f"NFS {attributes['server']}:{attributes.get('share', '/')}"
    if "hostPath" in spec:
        return f"directory {posixpath.dirname(spec['hostPath']['path'].rstrip('/')) or '/'} of a node"
    return None


def read_neighbours(kube: Kube, volume_name: str) -> Neighbours | None:
    """The volumes of the share that this one lies on; None for a volume of its own size, and where they may not be listed."""
    volumes = _list(kube)
    own = next((each for each in volumes or () if each["metadata"]["name"] == volume_name), None)
    if volumes is None or own is None or (share := share_of(own)) is None:
        return None
    near = [each for each in volumes if share_of(each) == share]
    return Neighbours(share, len(near), sum(_bytes(each) for each in near))


def read_export_volumes(kube: Kube, export: Export) -> tuple[ExportVolume, ...] | None:
    """The PersistentVolumes of ``export``, by name; None where the account may not list them."""
    volumes = _list(kube)
    if volumes is None:
        return None
    facts = (_export_volume(each) for each in volumes if nfs_export(each) == str(export))
    return tuple(sorted(facts, key=lambda each: each.name))


def _export_volume(volume: Manifest) -> ExportVolume:
    spec, claim = volume["spec"], volume["spec"].get("claimRef")
    return ExportVolume(
        name=volume["metadata"]["name"],
        phase=(volume.get("status") or {}).get("phase", "Pending"),
        storage_class=spec.get("storageClassName", ""),
        access_modes=tuple(spec.get("accessModes") or ()),
        bytes=_bytes(volume),
        claim=f"{claim['namespace']}/{claim['name']}" if claim else None,
        created_by_us=is_owned(volume),
    )


def _bytes(volume: Manifest) -> int:
    return parse_bytes(volume["spec"]["capacity"]["storage"])
