"""Whether two PersistentVolumes stand for the same bytes, and how paths on the one are called on the other. Pure.

Known are volumes of one NFS export, SMB share or directory, also where one lies within the other and one is of a CSI driver, and
volumes of one driver with the same handle or attributes. Not known are two names of one server, links on the volume, and volumes
that a pod names itself (``nfs`` or ``hostPath`` in its spec), without a claim: whoever mounts a cache so is not seen.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelyard.plans.backends import PROVISIONER_IDENTITY
from modelyard.plans.sharing_rules import mounts_by_handle

_PROVISIONED = "pv.kubernetes.io/provisioned-by"
_NO_SOURCES = frozenset({"capacity", "claimRef", "nodeAffinity"})
_TREES = frozenset({"nfs", "smb", "path"})


@dataclass(frozen=True, slots=True)
class Backend:
    """What a PersistentVolume stands for: of a tree the place (a server) and the path there, of others a driver, handle and attributes."""

    kind: str
    place: str = ""
    path: str = ""
    attributes: str = ""
    provisioned: bool = False


@dataclass(frozen=True, slots=True)
class Nesting:
    """How another volume lies to the cache's: its root is ``below`` the cache's, or ``above`` says where in it the cache's root is."""

    below: str = ""
    above: str = ""

    def on_cache(self, path: str) -> str | None:
        """The path on the cache's volume for one on the other; empty for all of it, None for what lies beside the cache."""
        if not self.above:
            return "/".join(part for part in (self.below, path) if part)
        if not path or f"{self.above}/".startswith(f"{path}/"):
            return ""
        return path.removeprefix(f"{self.above}/") if path.startswith(f"{self.above}/") else None


SAME_ROOT = Nesting()


def backend(volume: Mapping[str, Any]) -> Backend:
    """What a PersistentVolume stands for."""
    spec = volume.get("spec") or {}
    if nfs := spec.get("nfs"):
        return Backend("nfs", str(nfs.get("server")).lower(), tidy(str(nfs.get("path"))))
    if host := spec.get("hostPath") or spec.get("local"):
        return Backend("path", "", tidy(str(host.get("path"))))
    if csi := spec.get("csi"):
        return _tree(csi) or _of_driver(csi, provisioned=_PROVISIONED in (volume["metadata"].get("annotations") or {}))
    source = {key: value for key, value in spec.items() if isinstance(value, Mapping) and key not in _NO_SOURCES}
    return Backend("other", attributes=json.dumps(source, sort_keys=True))


def _tree(csi: Mapping[str, Any]) -> Backend | None:
    """Drivers that mount a path of a server by their attributes (names in any case); None where that needs more than these say.

    https://github.com/kubernetes-csi/csi-driver-nfs/blob/master/docs/driver-parameters.md, and of the same name for csi-driver-smb
    """
    told = {key.lower(): str(value) for key, value in (csi.get("volumeAttributes") or {}).items()}
    below = told.get("subdir", "")
    if "$" in below or ".." in below:
        return None
    if csi.get("driver") == "nfs.csi.k8s.io" and told.get("server") and told.get("share"):
        return Backend("nfs", told["server"].lower(), tidy(f"{told['share']}/{below}"))
    if csi.get("driver") == "smb.csi.k8s.io" and told.get("source"):
        server, _, share = told["source"].lstrip("/").partition("/")
        return Backend("smb", server.lower(), tidy(f"{share}/{below}"))
    return None


def _of_driver(csi: Mapping[str, Any], *, provisioned: bool) -> Backend:
    """A copy's handle has an end of its own (plans.sharing_rules.copied_handle)."""
    attributes = {
        key: value
        for key, value in (csi.get("volumeAttributes") or {}).items()
        if key != PROVISIONER_IDENTITY and not key.startswith("csi.storage.k8s.io/")  # names of the claim that it was made for
    }
    handle = re.sub(r"--[0-9a-f]{12}$", "", str(csi.get("volumeHandle")))
    return Backend("csi", str(csi.get("driver")), handle, json.dumps(attributes, sort_keys=True) if attributes else "", provisioned)


def nesting(cache: Backend, other: Backend) -> Nesting | None:
    """How ``other`` lies to the cache's volume; None if they share no bytes."""
    if (cache.kind, cache.place) != (other.kind, other.place):
        return None
    if cache.kind in _TREES:
        return _in_tree(cache.path, other.path)
    same = cache.path == other.path and cache.attributes == other.attributes if cache.kind == "other" else _same_of_driver(cache, other)
    return SAME_ROOT if same else None


def _in_tree(cache: str, other: str) -> Nesting | None:
    if cache == other:
        return SAME_ROOT
    if not cache or other.startswith(f"{cache}/"):
        return Nesting(below=other.removeprefix(f"{cache}/") if cache else other)
    if not other or cache.startswith(f"{other}/"):
        return Nesting(above=cache.removeprefix(f"{other}/") if other else cache)
    return None


def _same_of_driver(cache: Backend, other: Backend) -> bool:
    """By the handle, or the attributes where the driver mounts by those: but what it provisioned is never one volume twice."""
    if cache.path == other.path:
        return True
    if mounts_by_handle(cache.place) or (cache.provisioned and other.provisioned):
        return False
    return bool(cache.attributes) and cache.attributes == other.attributes


def tidy(path: str) -> str:
    """``path`` without empty segments and slashes at its ends; empty, which is all, for one that leads up."""
    segments = [segment for segment in path.split("/") if segment not in {"", "."}]
    return "" if ".." in segments else "/".join(segments)
