"""Which PersistentVolumes stand for the same bytes, and how they lie to each other, by table."""

from typing import Any

import pytest

from modelyard.plans.same_volume import SAME_ROOT, Nesting, backend, nesting

NFS = {"nfs": {"server": "nas", "path": "/models"}}


def volume(spec: dict[str, Any], *, provisioned: bool = False) -> dict[str, Any]:
    annotations = {"pv.kubernetes.io/provisioned-by": "d"} if provisioned else {}
    return {
        "metadata": {"name": "pv", "annotations": annotations},
        "spec": {"capacity": {"storage": "1Gi"}, "claimRef": {"name": "c"}, **spec},
    }


def csi(driver: str, handle: str, **attributes: str) -> dict[str, Any]:
    identity = {"storage.kubernetes.io/csiProvisionerIdentity": f"{handle}-made", "csi.storage.k8s.io/pv/name": handle}
    return {"csi": {"driver": driver, "volumeHandle": handle, "volumeAttributes": {**identity, **attributes}}}


def nfs_csi(handle: str, **attributes: str) -> dict[str, Any]:
    return csi("nfs.csi.k8s.io", handle, **{"server": "nas", "share": "/models", **attributes})


@pytest.mark.parametrize(
    ("cache", "other", "lie"),
    [
        pytest.param(
            {"nfs": {"server": "s", "path": "/a/"}}, {"nfs": {"server": "S", "path": "/a", "readOnly": True}}, SAME_ROOT, id="nfs copy"
        ),
        pytest.param(NFS, {"nfs": {"server": "t", "path": "/models"}}, None, id="another server"),
        pytest.param(NFS, {"nfs": {"server": "nas", "path": "/"}}, Nesting(above="models"), id="the root above it"),
        pytest.param({"nfs": {"server": "nas", "path": "/a/b"}}, {"nfs": {"server": "nas", "path": "/a"}}, Nesting(above="b"), id="above"),
        pytest.param(NFS, {"nfs": {"server": "nas", "path": "/models/llama"}}, Nesting(below="llama"), id="within"),
        pytest.param({"nfs": {"server": "nas", "path": "/"}}, NFS, Nesting(below="models"), id="within the root"),
        pytest.param({"hostPath": {"path": "/a"}}, {"hostPath": {"path": "/ab"}}, None, id="a longer name"),
        pytest.param({"hostPath": {"path": "/a"}}, {"local": {"path": "/a"}}, SAME_ROOT, id="one directory"),
        pytest.param(csi("d", "h"), csi("d", "h--0123456789ab"), SAME_ROOT, id="csi copy"),
        pytest.param(csi("d", "h"), csi("d", "i"), None, id="csi other"),
        pytest.param(csi("d", "h", root="/a"), csi("d", "i", root="/a"), SAME_ROOT, id="copied by hand"),
        pytest.param(csi("d", "h", root="/a"), csi("d", "i", root="/b"), None, id="other attributes"),
        pytest.param(csi("d", "h", root="/a"), csi("e", "h", root="/a"), None, id="another driver"),
        pytest.param(csi("efs.csi.aws.com", "h", tls="true"), csi("efs.csi.aws.com", "i", tls="true"), None, id="mounted by the handle"),
        pytest.param(nfs_csi("x"), nfs_csi("y"), SAME_ROOT, id="one share of the NFS driver"),
        pytest.param(NFS, nfs_csi("y"), SAME_ROOT, id="the NFS driver and none"),
        pytest.param(NFS, nfs_csi("y", subDir="pvc-1"), Nesting(below="pvc-1"), id="the NFS driver's directory"),
        pytest.param(nfs_csi("y", subDir="${pv}"), nfs_csi("y", subDir="${pv}"), SAME_ROOT, id="one handle, a path not known"),
        pytest.param(
            csi("smb.csi.k8s.io", "x", source="//Nas/share"),
            csi("smb.csi.k8s.io", "y", source="//nas/share/", subDir="m"),
            Nesting(below="m"),
            id="smb",
        ),
        pytest.param({"fc": {"lun": 1}}, {"fc": {"lun": 1}}, SAME_ROOT, id="another kind"),
        pytest.param({"fc": {"lun": 1}}, {"fc": {"lun": 2}}, None, id="another of that kind"),
    ],
)
def test_nesting(cache: dict[str, Any], other: dict[str, Any], lie: Nesting | None) -> None:
    assert nesting(backend(volume(cache)), backend(volume(other))) == lie


def test_volumes_that_a_driver_made_are_each_their_own_whatever_their_attributes() -> None:
    one, other = csi("d", "h", replicas="3"), csi("d", "i", replicas="3")
    assert nesting(backend(volume(one, provisioned=True)), backend(volume(other, provisioned=True))) is None
    assert nesting(backend(volume(one, provisioned=True)), backend(volume(other))) == SAME_ROOT
