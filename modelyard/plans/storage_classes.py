"""Which StorageClasses can serve an access mode: what they say of themselves, and what is known of their provisioners. Pure.

A StorageClass does not state which access modes its volumes have. The table below states it for the provisioners that
their makers document; any other is tried and seen when bound.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from modelyard.caches import AccessMode

#: A pattern: the Helm chart names it cluster.local/<release>-nfs-subdir-external-provisioner, without the release where that is its name.
NFS_SUBDIR = "*nfs-subdir-external-provisioner"


@dataclass(frozen=True, slots=True)
class StorageClassFacts:
    """What a StorageClass says of itself."""

    name: str
    provisioner: str
    reclaim_policy: str = "Delete"
    binding_mode: str = "Immediate"
    allow_expansion: bool = False
    is_default: bool = False
    parameters: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a class can serve an access mode, as far as is known, and on what ground."""

    ok: bool
    reason: str


@dataclass(frozen=True, slots=True)
class _Known:
    """Whether many nodes can write to volumes of a provisioner (a pattern); ``parameter`` narrows the row to classes that have it so."""

    pattern: str
    shared: bool
    words: str
    parameter: tuple[str, str] | None = None


# The first row that fits decides. Sources: each project's own documentation of access modes.
_PROVISIONERS = (
    _Known(NFS_SUBDIR, shared=True, words="NFS"),
    _Known("nfs.csi.k8s.io", shared=True, words="NFS"),
    _Known("efs.csi.aws.com", shared=True, words="Amazon EFS"),
    _Known("fsx.csi.aws.com", shared=True, words="FSx for Lustre"),
    _Known("fsx.openzfs.csi.aws.com", shared=True, words="FSx for OpenZFS"),
    _Known("csi.trident.netapp.io", shared=True, words="Trident NAS backend", parameter=("backendType", "*-nas*")),
    _Known("csi.trident.netapp.io", shared=False, words="Trident SAN backend", parameter=("backendType", "*-san*")),
    _Known("*cephfs.csi.ceph.com", shared=True, words="CephFS"),
    _Known("*rbd.csi.ceph.com", shared=False, words="a Ceph block device"),
    _Known("driver.longhorn.io", shared=True, words="Longhorn, through its share-manager (NFS)"),
    _Known("file.csi.azure.com", shared=True, words="Azure Files"),
    _Known("kubernetes.io/azure-file", shared=True, words="Azure Files"),
    _Known("filestore.csi.storage.gke.io", shared=True, words="Filestore"),
    _Known("pxd.portworx.com", shared=True, words="Portworx sharedv4", parameter=("sharedv4", "true")),
    _Known("pxd.portworx.com", shared=False, words="Portworx without the parameter sharedv4"),
    _Known("csi.weka.io", shared=True, words="WEKA"),
    _Known("beegfs.csi.netapp.com", shared=True, words="BeeGFS"),
    _Known("lustre.csi.storage.gke.io", shared=True, words="Managed Lustre"),
    _Known("kubernetes.io/host-path", shared=True, words="directories of one node, for tests"),
    _Known("devcluster.modelyard/volumes", shared=True, words="directories of the devcluster's node"),
    _Known("kubernetes.io/no-provisioner", shared=True, words="PersistentVolumes made by hand, which say themselves"),
    _Known("pd.csi.storage.gke.io", shared=False, words="a Compute Engine disk"),
    _Known("kubernetes.io/gce-pd", shared=False, words="a Compute Engine disk"),
    _Known("ebs.csi.aws.com", shared=False, words="an EBS volume"),
    _Known("ebs.csi.eks.amazonaws.com", shared=False, words="an EBS volume"),
    _Known("kubernetes.io/aws-ebs", shared=False, words="an EBS volume"),
    _Known("disk.csi.azure.com", shared=False, words="an Azure disk"),
    _Known("kubernetes.io/azure-disk", shared=False, words="an Azure disk"),
    _Known("rancher.io/local-path", shared=False, words="a directory of one node"),
    _Known("cinder.csi.openstack.org", shared=False, words="a Cinder volume"),
    _Known("csi.vsphere.vmware.com", shared=True, words="vSAN file volumes", parameter=("csi.storage.k8s.io/fstype", "nfs*")),
    _Known("csi.vsphere.vmware.com", shared=False, words="a vSphere disk"),
    _Known("kubernetes.io/vsphere-volume", shared=False, words="a vSphere disk"),
    _Known("topolvm.io", shared=False, words="a logical volume of one node"),
    _Known("dobs.csi.digitalocean.com", shared=False, words="a DigitalOcean block volume"),
    _Known("csi.hetzner.cloud", shared=False, words="a Hetzner block volume"),
)


def storage_class_verdict(storage_class: StorageClassFacts, access_mode: AccessMode, *, bypass: bool = False) -> Verdict:
    """Whether volumes of ``storage_class`` can have ``access_mode``, as far as its provisioner is known."""
    if bypass:
        return Verdict(ok=True, reason="not checked: bypassStorageCheck is set")
    if access_mode is not AccessMode.READ_WRITE_MANY:
        return Verdict(ok=True, reason=f"{access_mode} asks for one writer only")
    known = next((row for row in _PROVISIONERS if _fits(row, storage_class)), None)
    if known is None:
        return Verdict(ok=True, reason=f"provisioner {storage_class.provisioner} is not known; will be seen when bound")
    return Verdict(ok=known.shared, reason=known.words if known.shared else f"{known.words}: one node at a time")


def _fits(row: _Known, storage_class: StorageClassFacts) -> bool:
    if not fnmatchcase(storage_class.provisioner, row.pattern):
        return False
    return row.parameter is None or fnmatchcase(storage_class.parameters.get(row.parameter[0], ""), row.parameter[1])


def class_table(classes: Sequence[StorageClassFacts] | None, access_mode: AccessMode) -> list[dict[str, str]]:
    """The classes as rows of a table for people, by name, those that can serve ``access_mode`` first; None has no rows."""
    verdicts = [(storage_class_verdict(each, access_mode), each) for each in classes or ()]
    ordered = sorted(verdicts, key=lambda pair: (not pair[0].ok, pair[1].name))
    return [_row(each, verdict, access_mode) for verdict, each in ordered]


def _row(storage_class: StorageClassFacts, verdict: Verdict, access_mode: AccessMode) -> dict[str, str]:
    return {
        "class": storage_class.name,
        "default": "yes" if storage_class.is_default else "no",
        "provisioner": storage_class.provisioner,
        "reclaim policy": storage_class.reclaim_policy,
        "binding": storage_class.binding_mode,
        "expansion": "yes" if storage_class.allow_expansion else "no",
        str(access_mode): "yes" if verdict.ok else "no",
        "why": verdict.reason,
    }
