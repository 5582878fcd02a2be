"""Which claim a cache gets: make it, use the one that is there, or say everything that stands against it. Pure.

A StorageClass does not state which access modes its volumes have. The table below states it for the provisioners that
their makers document; any other is tried and seen when bound. A claim that Modelyard did not make is used as it is: it is
never resized, relabelled or deleted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase

from modelyard.caches import AccessMode, CacheSpec
from modelyard.errors import Problem
from modelyard.quantities import format_bytes


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
class ClaimFacts:
    """What is seen of a claim. ``volume_type`` is ``nfs``, ``hostPath``, ``csi:<driver>`` or another; None if not bound or not readable."""

    name: str
    namespace: str
    phase: str
    storage_class: str | None
    access_modes: tuple[str, ...]
    requested_bytes: int
    capacity_bytes: int | None = None
    volume_name: str | None = None
    volume_type: str | None = None
    created_by_us: bool = False
    deleting: bool = False
    mounted_by: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """The size that counts: a bound volume may be larger than what was asked for."""
        return max(self.requested_bytes, self.capacity_bytes or 0)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a class can serve an access mode, as far as is known, and on what ground."""

    ok: bool
    reason: str


class ClaimAction(StrEnum):
    """What becomes of a claim."""

    CREATE = "create"
    USE = "use"


@dataclass(frozen=True, slots=True)
class ClaimPlan:
    """The claim that a cache will stand on. ``storage_class`` None leaves the choice to the cluster's default."""

    action: ClaimAction
    namespace: str
    name: str
    storage_class: str | None
    access_mode: AccessMode
    size: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Known:
    """Whether many nodes can write to volumes of a provisioner (a pattern); ``parameter`` narrows the row to classes that have it so."""

    pattern: str
    shared: bool
    words: str
    parameter: tuple[str, str] | None = None


# The first row that fits decides. Sources: each project's own documentation of access modes.
_PROVISIONERS = (
    _Known("*/nfs-subdir-external-provisioner", shared=True, words="NFS"),
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


def plan_claim(cache: CacheSpec, claim: ClaimFacts | None, classes: Sequence[StorageClassFacts] | None) -> ClaimPlan | tuple[Problem, ...]:
    """The claim that ``cache`` stands on, or all that stands against it. No side effects.

    ``claim`` is what has its name now; ``classes`` is None where the account may not list them.
    """
    if claim is not None:
        return _plan_existing(cache, claim)
    return _plan_unseen(cache) if classes is None else _plan_new(cache, classes)


def _plan_existing(cache: CacheSpec, claim: ClaimFacts) -> ClaimPlan | tuple[Problem, ...]:
    subject = _subject(cache)
    if claim.deleting:
        held = f", held by {', '.join(claim.mounted_by)}" if claim.mounted_by else ""
        return (Problem(subject, f"is being deleted{held}", _OTHER_SUFFIX),)
    if claim.phase == "Lost":
        return (Problem(subject, f"has lost its PersistentVolume {claim.volume_name}", _OTHER_SUFFIX),)
    if problems := tuple(Problem(subject, what, _OTHER_SUFFIX) for what in _differences(cache, claim)):
        return problems
    notes = () if claim.created_by_us else ("the claim was not made by Modelyard: it is used as it is",)
    return ClaimPlan(ClaimAction.USE, cache.namespace, cache.claim, claim.storage_class, cache.access_mode, claim.bytes, notes)


_OTHER_SUFFIX = "set another pvcNameSuffix for a new claim, or change the cache's settings to what is there"


def _differences(cache: CacheSpec, claim: ClaimFacts) -> list[str]:
    """What the settings ask for and the claim does not give; more than was asked for is no difference."""
    found = []
    if cache.storage_class_name is not None and cache.storage_class_name != claim.storage_class:
        found.append(
            f"has StorageClass {claim.storage_class!r}, storageClassName asks for {cache.storage_class_name!r}, which cannot change"
        )
    if claim.bytes < cache.storage_size:
        found.append(f"has {format_bytes(claim.bytes)}, storageSize asks for {format_bytes(cache.storage_size)}")
    if not {cache.access_mode, AccessMode.READ_WRITE_MANY} & set(claim.access_modes):
        found.append(f"has access modes {', '.join(claim.access_modes)}, accessMode asks for {cache.access_mode}")
    return found


def _plan_new(cache: CacheSpec, classes: Sequence[StorageClassFacts]) -> ClaimPlan | tuple[Problem, ...]:
    if cache.storage_class_name is None:
        return _plan_default(cache, classes)
    found = next((each for each in classes if each.name == cache.storage_class_name), None)
    if found is not None:
        return _plan_with(cache, found, classes)
    if cache.storage_class_name and not cache.bypass_storage_check:
        step = f"name one that does: {_names(classes)}; for a PersistentVolume made by hand with this class, set bypassStorageCheck"
        return (Problem(_subject(cache), f"StorageClass {cache.storage_class_name!r} does not exist", step),)
    note = f"only a PersistentVolume made by hand with storageClassName {cache.storage_class_name!r} can be bound"
    return _create(cache, cache.storage_class_name, note)


def _plan_unseen(cache: CacheSpec) -> ClaimPlan | tuple[Problem, ...]:
    if cache.storage_class_name is not None:
        return _create(cache, cache.storage_class_name, "classes cannot be read by this account; will be seen when bound")
    step = "set storageClassName, or grant the account the verb list on storageclasses.storage.k8s.io by a ClusterRole"
    return (Problem(_subject(cache), "no StorageClass is named, and this account may not list the classes", step),)


def _plan_default(cache: CacheSpec, classes: Sequence[StorageClassFacts]) -> ClaimPlan | tuple[Problem, ...]:
    defaults = [each for each in classes if each.is_default]
    if not defaults:
        table = "; ".join(_sentence(each, cache.access_mode) for each in classes) or "the cluster has none"
        return (Problem(_subject(cache), "no StorageClass is named and none is the default", f"set storageClassName: {table}"),)
    if len(defaults) == 1:
        return _plan_with(cache, defaults[0], classes)
    return _create(cache, None, f"several classes are the default ({_names(defaults)}); Kubernetes takes the newest")


def _plan_with(cache: CacheSpec, chosen: StorageClassFacts, classes: Sequence[StorageClassFacts]) -> ClaimPlan | tuple[Problem, ...]:
    verdict = storage_class_verdict(chosen, cache.access_mode, bypass=cache.bypass_storage_check)
    if verdict.ok:
        return _create(cache, chosen.name, f"StorageClass {chosen.name}: {verdict.reason}", *_policy_note(chosen))
    fit = [each for each in classes if storage_class_verdict(each, cache.access_mode).ok]
    step = f"classes that may: {_names(fit)}; or ask for ReadWriteOnce, or set bypassStorageCheck if you know better"
    return (Problem(_subject(cache), f"StorageClass {chosen.name} cannot serve {cache.access_mode} ({verdict.reason})", step),)


def _policy_note(chosen: StorageClassFacts) -> tuple[str, ...]:
    return ("deleting the claim deletes its models (reclaim policy Delete)",) if chosen.reclaim_policy == "Delete" else ()


def _create(cache: CacheSpec, storage_class: str | None, *notes: str) -> ClaimPlan:
    return ClaimPlan(ClaimAction.CREATE, cache.namespace, cache.claim, storage_class, cache.access_mode, cache.storage_size, notes)


def _sentence(storage_class: StorageClassFacts, access_mode: AccessMode) -> str:
    verdict = storage_class_verdict(storage_class, access_mode)
    return (
        f"{storage_class.name} ({storage_class.provisioner}, {storage_class.reclaim_policy}, {storage_class.binding_mode},"
        f" {access_mode} {'yes' if verdict.ok else 'no'}: {verdict.reason})"
    )


def _names(classes: Sequence[StorageClassFacts]) -> str:
    return ", ".join(sorted(each.name for each in classes)) or "none"


def _subject(cache: CacheSpec) -> str:
    return f"PersistentVolumeClaim/{cache.namespace}/{cache.claim}"
