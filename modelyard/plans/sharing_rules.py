"""Whether a volume can be shared into other namespaces by static copies of its PersistentVolume. Pure.

A copy is a second PersistentVolume of the same backend. NFS and hostPath name the backend in the PersistentVolume itself,
so a copy is as good as the original. A CSI driver is asked for a ``volumeHandle``: whether two of them may stand for one
backend, and whether the node mounts by the handle or by the attributes, only its maker can say. The table holds what they say.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase

from modelyard.plans.storage_classes import Verdict


@dataclass(frozen=True, slots=True)
class VolumeFacts:
    """What a PersistentVolume says of itself. ``source_type`` is the key of its source in the spec: ``nfs``, ``hostPath``, ``csi``."""

    name: str
    source_type: str
    driver: str | None = None
    access_modes: tuple[str, ...] = ()
    reclaim_policy: str = "Delete"
    attributes: Mapping[str, str] = field(default_factory=dict)
    handle: str | None = None
    volume_mode: str = "Filesystem"

    @property
    def kind(self) -> str:
        """For people: ``nfs``, or ``csi (nfs.csi.k8s.io)``."""
        return f"{self.source_type} ({self.driver})" if self.driver else self.source_type


class HandleRule(StrEnum):
    """What the ``volumeHandle`` of a copy must be."""

    UNIQUE = "unique"  # the node mounts by the attributes, and the handle must differ from any other's
    SAME = "same"  # the node mounts by the handle


@dataclass(frozen=True, slots=True)
class _Driver:
    """What is known of one driver (a pattern). ``needs`` are attributes (any case) by which its node program finds the backend."""

    pattern: str
    ok: bool
    words: str
    handle: HandleRule = HandleRule.UNIQUE
    needs: tuple[str, ...] = ()


_DRIVERS = (
    # deploy/example/pv-nfs-csi.yaml: "make sure this value is unique for every share in the cluster"; issues 369 and 428
    _Driver("nfs.csi.k8s.io", ok=True, words="mounts by server and share; each copy gets a handle of its own", needs=("server", "share")),
    # deploy/example/pv-smb.yaml: unique as above; issue 675 solved by different handles
    _Driver("smb.csi.k8s.io", ok=True, words="mounts by source; each copy gets a handle of its own", needs=("source",)),
    # deploy/example/pv-azurefile-csi.yaml: unique, and "#" is reserved: such a handle is taken apart for the share's name
    _Driver("file.csi.azure.com", ok=True, words="mounts by shareName; each copy gets a handle of its own", needs=("sharename",)),
    # issue 254: several volumes of one file system, each for another namespace; issue 852: not two of them in one pod
    _Driver("efs.csi.aws.com", ok=True, words="mounts by its handle; no pod can mount two of the copies", handle=HandleRule.SAME),
    # openshift/csi-driver-manila-operator pull request 164: the storage tests with several volumes of one handle pass
    _Driver("manila.csi.openstack.org", ok=True, words="takes several volumes of one handle", handle=HandleRule.SAME),
    # docs/static-pvc.md: static volumes mount by rootPath, the handle "can be anything"; issue 2238: two copies on one node
    _Driver(
        "*cephfs.csi.ceph.com",
        ok=True,
        words="mounts by rootPath; a node that had two of the copies may keep one mounted until it restarts",
        needs=("rootpath", "staticvolume"),
    ),
    # issue 464: the second volume of one handle cannot be mounted on a node; no other handle is documented
    _Driver("filestore.csi.storage.gke.io", ok=False, words="a node mounts one volume of an instance's share only"),
    # examples/kubernetes/static_provisioning: the handle is the file system's id; several volumes of one are not documented (issue 151)
    _Driver("fsx.csi.aws.com", ok=False, words="several volumes of one file system are not documented"),
)

_BLOCK_DRIVERS = (
    "*rbd.csi.ceph.com",
    "pd.csi.storage.gke.io",
    "ebs.csi.*",
    "disk.csi.azure.com",
    "cinder.csi.openstack.org",
    "csi.vsphere.vmware.com",
    "topolvm.io",
    "dobs.csi.digitalocean.com",
    "csi.hetzner.cloud",
)
_BLOCK_SOURCES = frozenset({"awsElasticBlockStore", "azureDisk", "cinder", "fc", "gcePersistentDisk", "iscsi", "rbd", "vsphereVolume"})
_COPIED_AS_THEY_ARE = frozenset({"nfs", "hostPath"})
_MANY = frozenset({"ReadWriteMany", "ReadOnlyMany"})
_SUFFIX_CHARS = 12


def share_verdict(volume: VolumeFacts, *, bypass: bool) -> Verdict:
    """Whether static copies of ``volume`` can be mounted in other namespaces; ``bypass`` (bypassStorageCheck) takes unknown drivers.

    A block device is refused in any case: two nodes that mount its file system destroy it.
    """
    if refusal := _block(volume):
        return Verdict(ok=False, reason=refusal)
    if volume.source_type in _COPIED_AS_THEY_ARE:
        return Verdict(ok=True, reason=_read_only_words(volume))
    known = _known(volume)
    verdict = _by_driver(volume, known) if known else Verdict(ok=False, reason=f"no rule is known for {volume.kind} volumes")
    if verdict.ok or not bypass:
        return verdict
    return Verdict(ok=True, reason=f"not checked, bypassStorageCheck is set, although {verdict.reason}")


def copied_handle(volume: VolumeFacts, copy: str) -> str:
    """The ``volumeHandle`` of the copy named ``copy``: the same every time, and for most drivers ``<handle>--<12 hex digits>``."""
    known = _known(volume)
    if known and known.handle is HandleRule.SAME:
        return volume.handle or ""
    return f"{volume.handle or ''}--{hashlib.sha256(copy.encode()).hexdigest()[:_SUFFIX_CHARS]}"


def mounts_by_handle(driver: str) -> bool:
    """Whether the node is known to mount this driver's volumes by their handle alone."""
    return any(row.handle is HandleRule.SAME and fnmatchcase(driver, row.pattern) for row in _DRIVERS)


def _block(volume: VolumeFacts) -> str | None:
    if volume.volume_mode == "Block":
        return "it is a raw block volume, which has no files"
    device = volume.source_type in _BLOCK_SOURCES or any(fnmatchcase(volume.driver or "", pattern) for pattern in _BLOCK_DRIVERS)
    if device and not (volume.driver == "csi.vsphere.vmware.com" and _MANY & set(volume.access_modes)):  # vSAN file volumes are shared
        return f"it is a block device ({volume.kind}): a second node that mounts its file system damages it"
    return None


def _read_only_words(volume: VolumeFacts) -> str:
    if volume.source_type == "hostPath":
        return "a directory of the node: nothing but the pod's own readOnly mount holds its writes off"
    return "an NFS export, mounted read-only"


def _known(volume: VolumeFacts) -> _Driver | None:
    return next((row for row in _DRIVERS if volume.source_type == "csi" and fnmatchcase(volume.driver or "", row.pattern)), None)


def _by_driver(volume: VolumeFacts, known: _Driver) -> Verdict:
    if not known.ok:
        return Verdict(ok=False, reason=f"{volume.driver}: {known.words}")
    held = {key.lower() for key, value in volume.attributes.items() if value}
    if missing := [key for key in known.needs if key not in held]:
        return Verdict(ok=False, reason=f"{volume.driver}: the volume has no attribute {', '.join(missing)}, by which a copy is mounted")
    if volume.driver == "file.csi.azure.com" and "#" in (volume.handle or ""):
        return Verdict(ok=False, reason=f"{volume.driver}: the handle holds '#', so the driver takes it apart; a copy's would not fit")
    return Verdict(ok=True, reason=f"{volume.driver}: {known.words}")
