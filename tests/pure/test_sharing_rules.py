"""Which volumes can be shared by static copies, by table."""

import pytest

from modelyard.plans.sharing_rules import VolumeFacts, copied_handle, share_verdict

NFS_CSI = VolumeFacts("pv", "csi", "nfs.csi.k8s.io", ("ReadWriteMany",), attributes={"server": "a", "share": "/m"}, handle="a#m#")
EFS = VolumeFacts("pv", "csi", "efs.csi.aws.com", ("ReadWriteMany",), handle="fs-1::fsap-2")
AZURE = {"shareName": "models"}


@pytest.mark.parametrize(
    ("volume", "ok", "word"),
    [
        pytest.param(VolumeFacts("pv", "nfs"), True, "NFS", id="NFS"),
        pytest.param(VolumeFacts("pv", "hostPath"), True, "readOnly", id="hostPath, which cannot hold writes off"),
        pytest.param(NFS_CSI, True, "handle of its own", id="csi-driver-nfs"),
        pytest.param(VolumeFacts("pv", "csi", "nfs.csi.k8s.io", attributes={"server": "a"}), False, "share", id="without a share"),
        pytest.param(EFS, True, "two of the copies", id="EFS"),
        pytest.param(VolumeFacts("pv", "csi", "file.csi.azure.com", attributes=AZURE, handle="x"), True, "shareName", id="Azure, static"),
        pytest.param(VolumeFacts("pv", "csi", "file.csi.azure.com", handle="rg#a#s#"), False, "sharename", id="Azure, dynamic"),
        pytest.param(
            VolumeFacts("pv", "csi", "file.csi.azure.com", attributes=AZURE, handle="rg#a#s#"), False, "'#'", id="Azure, handle with #"
        ),
        pytest.param(VolumeFacts("pv", "csi", "rook-ceph.cephfs.csi.ceph.com"), False, "staticvolume", id="CephFS, dynamic"),
        pytest.param(
            VolumeFacts("pv", "csi", "cephfs.csi.ceph.com", attributes={"staticVolume": "true", "rootPath": "/m"}),
            True,
            "rootPath",
            id="CephFS, static",
        ),
        pytest.param(VolumeFacts("pv", "csi", "filestore.csi.storage.gke.io"), False, "one volume", id="Filestore"),
        pytest.param(VolumeFacts("pv", "csi", "acme.example/fs"), False, "no rule", id="unknown driver"),
        pytest.param(VolumeFacts("pv", "local"), False, "no rule", id="local"),
    ],
)
def test_verdict(volume: VolumeFacts, ok: bool, word: str) -> None:  # noqa: FBT001 - a table's column
    verdict = share_verdict(volume, bypass=False)
    assert verdict.ok is ok
    assert word in verdict.reason


def test_bypass_takes_the_unknown_and_says_so() -> None:
    verdict = share_verdict(VolumeFacts("pv", "csi", "acme.example/fs"), bypass=True)
    assert verdict.ok
    assert "bypassStorageCheck" in verdict.reason


@pytest.mark.parametrize(
    "volume",
    [
        pytest.param(VolumeFacts("pv", "csi", "ebs.csi.aws.com", ("ReadWriteOnce",)), id="EBS"),
        pytest.param(VolumeFacts("pv", "csi", "csi.vsphere.vmware.com", ("ReadWriteOnce",)), id="vSphere disk"),
        pytest.param(VolumeFacts("pv", "iscsi"), id="iSCSI"),
        pytest.param(VolumeFacts("pv", "nfs", volume_mode="Block"), id="raw block"),
    ],
)
def test_block_devices_are_refused_even_with_bypass(volume: VolumeFacts) -> None:
    assert not share_verdict(volume, bypass=True).ok


def test_handles() -> None:
    assert copied_handle(EFS, "copy-a") == "fs-1::fsap-2"
    assert copied_handle(NFS_CSI, "copy-a") == copied_handle(NFS_CSI, "copy-a") != copied_handle(NFS_CSI, "copy-b")
    assert copied_handle(NFS_CSI, "copy-a").startswith("a#m#--")
