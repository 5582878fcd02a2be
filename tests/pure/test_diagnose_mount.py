"""Mount errors in the words of kubelets and mount helpers, and what they are told as."""

from typing import Any

import pytest

from modelyard.kube.diagnose import diagnose_pod
from modelyard.kube.diagnosis import Diagnosis

_HEAD = (
    'MountVolume.SetUp failed for volume "models-pv" : mount failed: exit status 32\nMounting command: mount\n'
    "Mounting arguments: -t nfs 192.0.2.1:/models /var/lib/kubelet/pods/0a/volumes/kubernetes.io~nfs/models-pv\nOutput: "
)


def pod(node: str | None = "node-a", name: str = "load", claim: str = "cache", phase: str = "Pending") -> dict[str, Any]:
    volumes = [{"name": "models", "persistentVolumeClaim": {"claimName": claim}}]
    return {
        "metadata": {"name": name, "uid": name},
        "spec": {"volumes": volumes, **({"nodeName": node} if node else {})},
        "status": {"phase": phase},
    }


def event(message: str, reason: str = "FailedMount", at: str = "2026-11-21T08:00:00Z") -> dict[str, Any]:
    return {"metadata": {}, "reason": reason, "message": message, "lastTimestamp": at}


def diagnosed(message: str, reason: str = "FailedMount", **more: Any) -> Diagnosis:
    diagnosis = diagnose_pod(pod(), [event(message, reason)], **more)
    assert diagnosis
    assert diagnosis.summary.startswith("node node-a: ")
    return diagnosis


@pytest.mark.parametrize(
    ("output", "words", "step", "permanent"),
    [
        pytest.param("mount.nfs: Connection timed out", "cannot be reached from the node", "TCP 2049", False, id="timed out"),
        pytest.param("mount.nfs: Connection refused", "cannot be reached from the node", "that it runs", False, id="refused"),
        pytest.param("mount.nfs: No route to host for 192.0.2.1:/models on /x", "cannot be reached", "address", False, id="no route"),
        pytest.param(
            "mount.nfs: Failed to resolve server nfs.storage.svc: Name or service not known", "cannot resolve", "DNS", False, id="name"
        ),
        pytest.param(
            "mount: /var/lib/kubelet/x: bad option; for several filesystems (e.g. nfs, cifs) you might need a /sbin/mount.<type> helper"
            " program.",
            "no mount helper",
            "nfs-common",
            True,
            id="no helper",
        ),
        pytest.param("mount: /x: unknown filesystem type 'nfs4'.", "no mount helper", "nfs-common", True, id="no file system"),
        pytest.param(
            "mount.nfs: access denied by server while mounting 192.0.2.1:/models", "denies the node", "export's clients", True, id="denied"
        ),
        pytest.param(
            "mount.nfs: mounting 192.0.2.1:/models failed, reason given by server: No such file or directory",
            "no such export",
            "showmount",
            True,
            id="no export",
        ),
        pytest.param("mount.nfs: Stale file handle", "stale handle", "mounted anew", False, id="stale"),
        pytest.param("mount.nfs: Protocol not supported", "NFS version", "NFS 4", False, id="version"),
    ],
)
def test_mount_errors(output: str, words: str, step: str, permanent: bool) -> None:  # noqa: FBT001 - a table's column
    diagnosis = diagnosed(_HEAD + output)
    assert words in diagnosis.summary
    assert step in diagnosis.next_step
    assert (diagnosis.permanent, diagnosis.detail) == (permanent, f"volume models-pv: {output}")


@pytest.mark.parametrize(
    ("message", "words"),
    [
        pytest.param(
            'MountVolume.MountDevice failed for volume "pv" : kubernetes.io/csi: attacher.MountDevice failed to create newCsiDriverClient:'
            " driver name efs.csi.aws.com not found in the list of registered CSI drivers",
            "driver does not run on the node",
            id="driver",
        ),
        pytest.param(
            'MountVolume.SetUp failed for volume "pv" : hostPath type check failed: /models is not a directory',
            "no such directory",
            id="hostPath",
        ),
        pytest.param(
            'MountVolume.NewMounter initialization failed for volume "pv" : path "/mnt/m" does not exist', "no such directory", id="local"
        ),
        pytest.param(
            "Unable to attach or mount volumes: unmounted volumes=[models], unattached volumes=[], failed to process volumes=[]:"
            " timed out waiting for the condition",
            "a volume cannot be mounted (FailedMount)",
            id="nothing but a summary",
        ),
    ],
)
def test_other_errors(message: str, words: str) -> None:
    diagnosis = diagnosed(message)
    assert words in diagnosis.summary
    assert diagnosis.detail == message


def test_the_cause_is_told_and_not_the_later_summary() -> None:
    later = "Unable to attach or mount volumes: unmounted volumes=[models]: timed out waiting for the condition"
    events = [event(f"{_HEAD}mount.nfs: Connection timed out"), event(later, at="2026-11-21T09:00:00Z")]
    diagnosis = diagnose_pod(pod(), events)
    assert diagnosis
    assert "cannot be reached" in diagnosis.summary


def test_the_node_that_has_the_volume_is_named() -> None:
    message = 'Multi-Attach error for volume "pv" Volume is already exclusively attached to one node and can\'t be attached to another'
    others = [pod("node-b", "web-0", phase="Running"), pod("node-c", "db-0", claim="other"), pod("node-d", "old", phase="Succeeded")]
    told = diagnosed(message, "FailedAttachVolume", neighbours=others)
    assert told.summary == "node node-a: the volume is still attached to node node-b"
    assert "run both on node node-b" in told.next_step
    unknown = diagnosed('Multi-Attach error for volume "pv" Volume is already used by pod(s) web-0', "FailedAttachVolume")
    assert unknown.summary == "node node-a: the volume is still attached to another node"
    assert "web-0" in unknown.detail
