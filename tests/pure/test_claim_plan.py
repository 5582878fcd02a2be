"""Claim plans by table."""

from dataclasses import replace
from typing import Any

import pytest

from modelyard.caches import AccessMode, CacheSpec
from modelyard.errors import Problem
from modelyard.plans.claim import ClaimAction, ClaimPlan, plan_claim
from modelyard.plans.claim_facts import ClaimFacts, Mount
from modelyard.plans.storage_classes import StorageClassFacts, Verdict, class_table, storage_class_verdict

RWX, RWO = AccessMode.READ_WRITE_MANY, AccessMode.READ_WRITE_ONCE
NFS = StorageClassFacts("nfs-client", "cluster.local/nfs-subdir-external-provisioner", allow_expansion=True)
DISK = StorageClassFacts("premium-rwo", "pd.csi.storage.gke.io", binding_mode="WaitForFirstConsumer", is_default=True)
KEPT = StorageClassFacts("kept", "efs.csi.aws.com", reclaim_policy="Retain")
ODD = StorageClassFacts("odd", "acme.example/fs", reclaim_policy="Retain")
SUBJECT = "PersistentVolumeClaim/models/cache-v2"
OTHER = "set another pvcNameSuffix for a new claim, or change the cache's settings to what is there"
CLAIM = ClaimFacts("cache-v2", "models", "Bound", "nfs-client", ("ReadWriteMany",), 300, 300, "pv-1", "nfs", created_by_us=True)
USED = ClaimPlan(ClaimAction.USE, "models", "cache-v2", "nfs-client", RWX, 300)


def cache(**settings: Any) -> CacheSpec:
    fixed = {"name": "main", "namespace": "models", "base_name": "cache", "pvc_name_suffix": "v2", "storage_size": 300}
    return CacheSpec.model_validate({**fixed, "storage_class_name": "nfs-client", "loader_image": "loader:1", **settings})


def create(storage_class: str | None, *notes: str, mode: AccessMode = RWX) -> ClaimPlan:
    return ClaimPlan(ClaimAction.CREATE, "models", "cache-v2", storage_class, mode, 300, notes)


DELETES = "deleting the claim deletes its models (reclaim policy Delete)"


@pytest.mark.parametrize(
    ("settings", "classes", "expected"),
    [
        pytest.param({}, [NFS, DISK], create("nfs-client", "StorageClass nfs-client: NFS", DELETES), id="the class named"),
        pytest.param(
            {"storage_class_name": None},
            [NFS, replace(KEPT, is_default=True)],
            create("kept", "StorageClass kept: Amazon EFS"),
            id="none named: the default, written out",
        ),
        pytest.param(
            {"storage_class_name": None},
            [replace(NFS, is_default=True), replace(KEPT, is_default=True)],
            create(None, "several classes are the default (kept, nfs-client); Kubernetes takes the newest"),
            id="several defaults: Kubernetes chooses",
        ),
        pytest.param(
            {"storage_class_name": None},
            [NFS, replace(DISK, is_default=False)],
            (
                Problem(
                    SUBJECT,
                    "no StorageClass is named and none is the default",
                    "set storageClassName:"
                    " nfs-client (cluster.local/nfs-subdir-external-provisioner, Delete, Immediate, ReadWriteMany yes: NFS);"
                    " premium-rwo (pd.csi.storage.gke.io, Delete, WaitForFirstConsumer,"
                    " ReadWriteMany no: a Compute Engine disk: one node at a time)",
                ),
            ),
            id="no default: every class with its verdict",
        ),
        pytest.param(
            {"storage_class_name": "nsf-client"},
            [NFS, DISK],
            (
                Problem(
                    SUBJECT,
                    "StorageClass 'nsf-client' does not exist",
                    "name one that does: nfs-client, premium-rwo;"
                    " for a PersistentVolume made by hand with this class, set bypassStorageCheck",
                ),
            ),
            id="class does not exist: those that do",
        ),
        pytest.param(
            {"storage_class_name": "manual", "bypass_storage_check": True},
            [],
            create("manual", "only a PersistentVolume made by hand with storageClassName 'manual' can be bound"),
            id="a volume made by hand under a class that does not exist",
        ),
        pytest.param(
            {"storage_class_name": ""},
            [NFS],
            create("", "only a PersistentVolume made by hand with storageClassName '' can be bound"),
            id="the empty class is a volume made by hand",
        ),
        pytest.param(
            {"storage_class_name": "premium-rwo"},
            [NFS, DISK, KEPT],
            (
                Problem(
                    SUBJECT,
                    "StorageClass premium-rwo cannot serve ReadWriteMany (a Compute Engine disk: one node at a time)",
                    "classes that may: kept, nfs-client; or ask for ReadWriteOnce, or set bypassStorageCheck if you know better",
                ),
            ),
            id="class cannot be shared: those that may",
        ),
        pytest.param(
            {"storage_class_name": "premium-rwo", "bypass_storage_check": True},
            [DISK],
            create("premium-rwo", "StorageClass premium-rwo: not checked: bypassStorageCheck is set", DELETES),
            id="bypassed",
        ),
        pytest.param(
            {"storage_class_name": "premium-rwo", "access_mode": RWO},
            [DISK],
            create("premium-rwo", "StorageClass premium-rwo: ReadWriteOnce asks for one writer only", DELETES, mode=RWO),
            id="one writer only",
        ),
        pytest.param(
            {"storage_class_name": "odd"},
            [ODD],
            create("odd", "StorageClass odd: provisioner acme.example/fs is not known; will be seen when bound"),
            id="unknown provisioner is tried",
        ),
        pytest.param(
            {},
            None,
            create("nfs-client", "classes cannot be read by this account; will be seen when bound"),
            id="classes cannot be read: the named one is tried",
        ),
        pytest.param(
            {"storage_class_name": None},
            None,
            (
                Problem(
                    SUBJECT,
                    "no StorageClass is named, and this account may not list the classes",
                    "set storageClassName, or grant the account the verb list on storageclasses.storage.k8s.io by a ClusterRole",
                ),
            ),
            id="classes cannot be read and none is named",
        ),
    ],
)
def test_new_claim(settings: dict[str, Any], classes: list[StorageClassFacts] | None, expected: ClaimPlan | tuple[Problem, ...]) -> None:
    assert plan_claim(cache(**settings), None, classes) == expected


@pytest.mark.parametrize(
    ("settings", "claim", "expected"),
    [
        pytest.param({}, CLAIM, USED, id="as asked for"),
        pytest.param({"storage_class_name": None}, CLAIM, USED, id="any class will do"),
        pytest.param({"access_mode": RWO}, CLAIM, replace(USED, access_mode=RWO), id="more access than asked for"),
        pytest.param({"storage_size": 200}, CLAIM, USED, id="larger than asked for"),
        pytest.param({}, replace(CLAIM, requested_bytes=100), USED, id="the bound volume's size counts"),
        pytest.param(
            {},
            replace(CLAIM, created_by_us=False),
            replace(USED, notes=("the claim was not made by Modelyard: it is used as it is",)),
            id="another's claim is used as it is",
        ),
        pytest.param(
            {"storage_class_name": "kept", "storage_size": 2048},
            replace(CLAIM, access_modes=("ReadWriteOnce",)),
            (
                Problem(SUBJECT, "has StorageClass 'nfs-client', storageClassName asks for 'kept', which cannot change", OTHER),
                Problem(SUBJECT, "has access modes ReadWriteOnce, accessMode asks for ReadWriteMany", OTHER),
                Problem(
                    SUBJECT,
                    "has 300 B, storageSize asks for 2.0 KiB, and a volume of type nfs"
                    " cannot be expanded, whatever allowVolumeExpansion says",
                    "set a new pvcNameSuffix for a claim of that size; models are loaded again there",
                ),
            ),
            id="all differences at once",
        ),
        pytest.param(
            {},
            replace(CLAIM, deleting=True, mounted_by=(Mount("Pod/models/web-0"),)),
            (Problem(SUBJECT, "is being deleted, held by Pod/models/web-0", OTHER),),
            id="being deleted, and by whom it is held",
        ),
        pytest.param({}, replace(CLAIM, phase="Lost"), (Problem(SUBJECT, "has lost its PersistentVolume pv-1", OTHER),), id="lost"),
    ],
)
def test_existing_claim(settings: dict[str, Any], claim: ClaimFacts, expected: ClaimPlan | tuple[Problem, ...]) -> None:
    assert plan_claim(cache(**settings), claim, [NFS, KEPT]) == expected


@pytest.mark.parametrize(
    ("provisioner", "parameters", "expected"),
    [
        pytest.param("k8s-sigs.io/nfs-subdir-external-provisioner", {}, Verdict(ok=True, reason="NFS"), id="nfs-subdir by any prefix"),
        pytest.param(
            "cluster.local/models-nfs-subdir-external-provisioner", {}, Verdict(ok=True, reason="NFS"), id="nfs-subdir of any release"
        ),
        pytest.param("rook-ceph.cephfs.csi.ceph.com", {}, Verdict(ok=True, reason="CephFS"), id="rook's CephFS"),
        pytest.param(
            "rook-ceph.rbd.csi.ceph.com", {}, Verdict(ok=False, reason="a Ceph block device: one node at a time"), id="rook's RBD"
        ),
        pytest.param("csi.trident.netapp.io", {"backendType": "ontap-nas"}, Verdict(ok=True, reason="Trident NAS backend"), id="NAS"),
        pytest.param(
            "csi.trident.netapp.io",
            {"backendType": "ontap-san"},
            Verdict(ok=False, reason="Trident SAN backend: one node at a time"),
            id="Trident SAN",
        ),
        pytest.param(
            "csi.trident.netapp.io",
            {},
            Verdict(ok=True, reason="provisioner csi.trident.netapp.io is not known; will be seen when bound"),
            id="Trident by selector",
        ),
        pytest.param("rancher.io/local-path", {}, Verdict(ok=False, reason="a directory of one node: one node at a time"), id="local-path"),
    ],
)
def test_verdict(provisioner: str, parameters: dict[str, str], expected: Verdict) -> None:
    assert storage_class_verdict(StorageClassFacts("c", provisioner, parameters=parameters), RWX) == expected


def test_table_shows_usable_classes_first() -> None:
    assert class_table([DISK, NFS], RWX) == [
        {
            "class": "nfs-client",
            "default": "no",
            "provisioner": "cluster.local/nfs-subdir-external-provisioner",
            "reclaim policy": "Delete",
            "binding": "Immediate",
            "expansion": "yes",
            "ReadWriteMany": "yes",
            "why": "NFS",
        },
        {
            "class": "premium-rwo",
            "default": "yes",
            "provisioner": "pd.csi.storage.gke.io",
            "reclaim policy": "Delete",
            "binding": "WaitForFirstConsumer",
            "expansion": "no",
            "ReadWriteMany": "no",
            "why": "a Compute Engine disk: one node at a time",
        },
    ]


def test_a_claim_that_is_there_needs_no_classes() -> None:
    assert plan_claim(cache(), CLAIM, None) == USED


def test_classes_that_cannot_be_read_have_no_rows() -> None:
    assert class_table(None, RWX) == []
