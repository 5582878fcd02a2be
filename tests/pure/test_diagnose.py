"""Diagnoses by table: what the API shows goes in, the whole diagnosis is compared."""

from typing import Any

import pytest

from modelyard.kube.diagnose import diagnose_claim, diagnose_job, diagnose_pod
from modelyard.kube.diagnosis import Diagnosis

Manifest = dict[str, Any]


def pod(status: Manifest) -> Manifest:
    limits = {"limits": {"memory": "512Mi"}}
    return {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "loader", "resources": limits}]}, "status": status}


def container(**state: Manifest) -> Manifest:
    return {"containerStatuses": [{"name": "loader", "image": "registry/loader:1", "state": state}]}


def condition(kind: str, status: str, reason: str, message: str) -> Manifest:
    return {"conditions": [{"type": kind, "status": status, "reason": reason, "message": message}]}


def event(reason: str, message: str, time: str = "2026-11-21T08:00:00Z") -> Manifest:
    return {"metadata": {}, "reason": reason, "message": message, "lastTimestamp": time}


@pytest.mark.parametrize(
    ("status", "events", "expected"),
    [
        pytest.param({"phase": "Running", **container(running={})}, [], None, id="a running pod is well"),
        pytest.param({"phase": "Pending"}, [], None, id="a pod that has just been made is well"),
        pytest.param(
            condition("PodScheduled", "False", "Unschedulable", "0/1 nodes are available: 1 Insufficient cpu."),
            [],
            Diagnosis("no node takes the pod (Unschedulable)", "0/1 nodes are available: 1 Insufficient cpu.", ""),
            id="unschedulable, in the scheduler's words",
        ),
        pytest.param(
            container(waiting={"reason": "ImagePullBackOff", "message": "Back-off pulling image"}),
            [],
            Diagnosis(
                "image registry/loader:1 cannot be pulled",
                "ImagePullBackOff: Back-off pulling image",
                "check the image's name and tag, and that the node may pull it (pull secrets are its account's)",
                permanent=True,
            ),
            id="image cannot be pulled",
        ),
        pytest.param(
            container(waiting={"reason": "RegistryUnavailable", "message": "connection refused"}),
            [],
            Diagnosis(
                "image registry/loader:1 cannot be pulled, its registry is not available",
                "RegistryUnavailable: connection refused",
                "the kubelet tries again by itself; look at the registry",
            ),
            id="a registry that restarts is no end",
        ),
        pytest.param(
            container(waiting={"reason": "ImagePullBackOff", "message": "Back-off pulling image: RegistryUnavailable: connection refused"}),
            [],
            Diagnosis(
                "image registry/loader:1 cannot be pulled, its registry is not available",
                "ImagePullBackOff: Back-off pulling image: RegistryUnavailable: connection refused",
                "the kubelet tries again by itself; look at the registry",
            ),
            id="nor while the kubelet waits for it",
        ),
        pytest.param(
            container(waiting={"reason": "CreateContainerConfigError", "message": 'secret "s" not found'}),
            [],
            Diagnosis(
                "container loader cannot be made (CreateContainerConfigError)",
                'secret "s" not found',
                "check what the container refers to (Secret, ConfigMap, user)",
                permanent=True,
            ),
            id="what the container refers to is missing",
        ),
        pytest.param(
            container(waiting={"reason": "ContainerCreating"}),
            [
                event("FailedMount", "old", "2026-11-21T07:00:00Z"),
                event("FailedMount", "mount failed: exit status 32"),
                event("Pulled", "ok"),
            ],
            Diagnosis(
                "node unknown: a volume cannot be mounted (FailedMount)",
                "mount failed: exit status 32",
                "the kubelet tries again by itself; look at the volume's driver on the node",
            ),
            id="mount fails: the newest event speaks",
        ),
        pytest.param(container(running={}), [event("FailedMount", "was slow")], None, id="a mount that failed before the start is over"),
        pytest.param(
            container(terminated={"reason": "OOMKilled", "exitCode": 137}),
            [],
            Diagnosis(
                "container loader was killed for using more memory than its limit (OOMKilled)",
                "memory limit 512Mi",
                "raise loaderMemoryLimit of the cache",
            ),
            id="out of memory, with the limit",
        ),
        pytest.param(
            {"reason": "Evicted", "message": "The node was low on resource: memory.", **container(terminated={"exitCode": 137})},
            [],
            Diagnosis(
                "the kubelet evicted the pod",
                "The node was low on resource: memory.",
                "the node ran short of what the message names",
                interrupted=True,
            ),
            id="evicted goes before the exit code",
        ),
        pytest.param(
            condition("DisruptionTarget", "True", "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint"),
            [],
            Diagnosis(
                "the pod was taken away (DeletionByTaintManager)", "Taint manager: deleting due to NoExecute taint", "", interrupted=True
            ),
            id="node lost",
        ),
        pytest.param(
            container(terminated={"reason": "Error", "exitCode": 2, "message": "usage: loader\n"}),
            [],
            Diagnosis("container loader ended with exit code 2", "usage: loader", ""),
            id="exit code with the termination message",
        ),
        pytest.param(
            container(terminated={"reason": "Error", "exitCode": 143}),
            [],
            Diagnosis("container loader was stopped by signal 15 (exit code 143)", "", "", interrupted=True),
            id="stopped by a signal",
        ),
        pytest.param(container(terminated={"reason": "Completed", "exitCode": 0}), [], None, id="ended well"),
    ],
)
def test_pod(status: Manifest, events: list[Manifest], expected: Diagnosis | None) -> None:
    assert diagnose_pod(pod(status), events) == expected


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param([], None, id="no event, nothing to say"),
        pytest.param([event("SuccessfulCreate", "Created pod")], None, id="a pod was made"),
        pytest.param(
            [event("FailedCreate", 'pods "x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true')],
            Diagnosis(
                "the namespace's Pod Security level refuses the pod",
                'pods "x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true',
                "",
                permanent=True,
            ),
            id="Pod Security",
        ),
        pytest.param(
            [event("FailedCreate", 'pods "x" is forbidden: exceeded quota: pods')],
            Diagnosis(
                "the namespace's ResourceQuota leaves no room for the pod",
                'pods "x" is forbidden: exceeded quota: pods',
                "ask for less, or raise the quota",
            ),
            id="quota may free itself",
        ),
        pytest.param(
            [event("FailedCreate", 'serviceaccount "x" not found')],
            Diagnosis("the pod cannot be created", 'serviceaccount "x" not found', ""),
            id="anything else in the API's words",
        ),
    ],
)
def test_job_without_pod(events: list[Manifest], expected: Diagnosis | None) -> None:
    assert diagnose_job(events) == expected


def claim(spec: Manifest, *, phase: str = "Pending", **metadata: Any) -> Manifest:
    return {"metadata": {"name": "c", **metadata}, "spec": spec, "status": {"phase": phase}}


def storage_class(name: str, provisioner: str = "nfs.csi.k8s.io", binding: str = "Immediate") -> Manifest:
    return {"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": binding}


CLASSES = [
    storage_class("nfs"),
    storage_class("late", binding="WaitForFirstConsumer"),
    storage_class("by-hand", "kubernetes.io/no-provisioner"),
]


@pytest.mark.parametrize(
    ("live", "events", "expected"),
    [
        pytest.param(
            claim({"storageClassName": "nsf"}),
            [event("ProvisioningFailed", 'storageclass.storage.k8s.io "nsf" not found')],
            Diagnosis(
                "there is no StorageClass 'nsf'",
                'ProvisioningFailed: storageclass.storage.k8s.io "nsf" not found',
                "classes that exist: by-hand, late, nfs; or make a PersistentVolume with storageClassName 'nsf' by hand",
                permanent=True,
            ),
            id="no such class: those that exist",
        ),
        pytest.param(
            claim({}),
            [event("FailedBinding", "no persistent volumes available for this claim and no storage class is set")],
            Diagnosis(
                "the claim names no StorageClass and no class is the default",
                "FailedBinding: no persistent volumes available for this claim and no storage class is set",
                "set storageClassName to one of the classes: by-hand, late, nfs",
                permanent=True,
            ),
            id="no class and no default",
        ),
        pytest.param(
            claim({"storageClassName": "late"}),
            [event("WaitForFirstConsumer", "waiting for first consumer to be created before binding")],
            Diagnosis("the claim waits for the first pod that uses it (WaitForFirstConsumer)", "this is not a fault", ""),
            id="WaitForFirstConsumer is not a fault",
        ),
        pytest.param(
            claim({"storageClassName": "late"}, annotations={"volume.kubernetes.io/selected-node": "n1"}),
            [
                event("WaitForFirstConsumer", "before"),
                event("ExternalProvisioning", "Waiting for a volume to be created", "2026-11-21T08:00:01Z"),
            ],
            Diagnosis(
                "provisioner nfs.csi.k8s.io has made no volume yet",
                "ExternalProvisioning: Waiting for a volume to be created",
                "see that a pod of provisioner nfs.csi.k8s.io runs",
                usual=True,
            ),
            id="a pod came, the provisioner is silent",
        ),
        pytest.param(
            claim({"storageClassName": "nfs"}),
            [event("Provisioning", "External provisioner is provisioning volume"), event("Throttled", "try later", "2026-11-21T08:00:01Z")],
            Diagnosis(
                "provisioner nfs.csi.k8s.io has made no volume yet",
                "Throttled: try later",
                "see that a pod of provisioner nfs.csi.k8s.io runs",
            ),
            id="the provisioner says why it has none yet",
        ),
        pytest.param(
            claim({"storageClassName": "nfs"}),
            [event("ProvisioningFailed", "rpc error: access denied by server", "2026-11-21T08:00:01Z"), event("Provisioning", "again")],
            Diagnosis(
                "provisioner nfs.csi.k8s.io could not make the volume",
                "rpc error: access denied by server",
                "StorageClass nfs: look at its parameters and at the log of provisioner nfs.csi.k8s.io, which goes on trying",
            ),
            id="provisioning failed, in the provisioner's words",
        ),
        pytest.param(
            claim({"storageClassName": "by-hand"}),
            [],
            Diagnosis(
                "StorageClass by-hand makes no volumes and none fits",
                "no event says why",
                "make a PersistentVolume with storageClassName 'by-hand'",
                permanent=True,
            ),
            id="a class without provisioner",
        ),
        pytest.param(
            claim({"storageClassName": "", "volumeName": "pv-1"}),
            [event("VolumeMismatch", 'Cannot bind to requested volume "pv-1": requested PV is too small')],
            Diagnosis(
                "the claim names PersistentVolume pv-1 and is not bound to it",
                'VolumeMismatch: Cannot bind to requested volume "pv-1": requested PV is too small',
                "compare class, access modes, size and claimRef of PersistentVolume pv-1 with the claim",
            ),
            id="the named volume does not fit",
        ),
        pytest.param(
            claim({"storageClassName": "nfs"}, phase="Lost"),
            [],
            Diagnosis("the claim's PersistentVolume is gone (Lost)", "", "set another pvcNameSuffix for a new claim", permanent=True),
            id="lost",
        ),
        pytest.param(
            claim({"storageClassName": "nfs"}, deletionTimestamp="2026-11-21T08:00:00Z"),
            [],
            Diagnosis("the claim is being deleted", "pods that use it hold it", "wait, or set another pvcNameSuffix", permanent=True),
            id="being deleted",
        ),
    ],
)
def test_claim(live: Manifest, events: list[Manifest], expected: Diagnosis) -> None:
    assert diagnose_claim(live, CLASSES, events) == expected


@pytest.mark.parametrize(
    ("events", "words", "usual"),
    [
        pytest.param([event("FailedBinding", "no volume")], "FailedBinding: no volume", False, id="the claim's own event"),
        pytest.param([], "no event says why", True, id="events cannot be read either"),
    ],
)
def test_claim_whose_class_cannot_be_read(events: list[Manifest], words: str, usual: bool) -> None:  # noqa: FBT001
    expected = Diagnosis("the claim is not bound", words, "its StorageClass cannot be read by this account", usual=usual)
    assert diagnose_claim(claim({"storageClassName": "nfs"}), None, events) == expected
