"""Sharing: what a copy is made of, what of it is drift, and what the plans refuse."""

from dataclasses import replace
from typing import Any

import pytest

from modelyard.caches import CacheSpec
from modelyard.errors import Problem, Refused
from modelyard.kube.apply import OWNERSHIP
from modelyard.names import volume_copy_name
from modelyard.plans.backends import backend_text
from modelyard.plans.sharing import (
    CopyFacts,
    Hold,
    Owner,
    ShareAction,
    SharedVolume,
    SourceFacts,
    TargetFacts,
    describe_sharing,
    plan_sharing,
    share_table,
)
from modelyard.plans.storage_classes import Verdict
from modelyard.plans.unsharing import SharedFacts, describe_unsharing, plan_unsharing
from modelyard.volumes.copies import PRIOR_POLICY, claim_copy, copy_facts, hold_of, volume_copy

CACHE = CacheSpec(name="main", namespace="models", base_name="cache", storage_size=2**20, loader_image="loader:1")
NAME = volume_copy_name("models", "cache", "team-a")
NFS = {"nfs": {"server": "nas", "path": "/exports/models"}}
FILES = {
    "driver": "nfs.csi.k8s.io",
    "volumeHandle": "nas#exports#pvc-1##",
    "volumeAttributes": {"share": "/exports", "server": "nas", "storage.kubernetes.io/csiProvisionerIdentity": "1-nfs.csi.k8s.io"},
    "controllerExpandSecretRef": {"name": "expand", "namespace": "kube-system"},
    "nodeStageSecretRef": {"name": "stage", "namespace": "kube-system"},
}
VOLUME = SharedVolume(
    "pv-1", "nfs", "nfs:nas:/exports/models", "Delete", bound_back=True, verdict=Verdict(ok=True, reason="NFS"), hold=Hold.POSSIBLE
)
SOURCE = SourceFacts("Bound", volume=VOLUME)
PV, PVC = f"PersistentVolume/{NAME}", "PersistentVolumeClaim/team-a/cache"
TARGET = TargetFacts("team-a", exists=True, volume=CopyFacts(PV), claim=CopyFacts(PVC), pod_security="restricted")


def original(source: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """The volume behind the cache, as a provisioner and the server left it."""
    claim = {"kind": "PersistentVolumeClaim", "namespace": "models", "name": "cache", "uid": "1", "resourceVersion": "2"}
    fixed = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany"], "persistentVolumeReclaimPolicy": "Delete", "claimRef": claim}
    annotations = {"pv.kubernetes.io/provisioned-by": "nfs.csi.k8s.io", "volume.kubernetes.io/provisioner-deletion-secret-name": "s"}
    metadata = {
        "name": "pv-1",
        "uid": "u",
        "annotations": annotations,
        "finalizers": ["external-provisioner.volume.kubernetes.io/finalizer"],
    }
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": metadata,
        "spec": {**fixed, "storageClassName": "nfs", **source, **spec},
    }


def test_a_volumes_copy_holds_what_decides_the_mount_and_nothing_else() -> None:
    affinity: dict[str, Any] = {"required": {"nodeSelectorTerms": []}}
    copy = volume_copy(CACHE, original(NFS, mountOptions=["hard"], nodeAffinity=affinity), "team-a")
    labels = {
        "app.kubernetes.io/name": "modelyard-copy",
        "modelyard.dev/cache": "main",
        "modelyard.dev/shared-from": "models.cache",
        **OWNERSHIP,
    }
    annotations = {"modelyard.dev/cache": "main", "modelyard.dev/shared-from": "models/cache", "modelyard.dev/copy-of": "pv-1"}
    assert copy == {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": NAME, "labels": labels, "annotations": annotations},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadOnlyMany"],
            "volumeMode": "Filesystem",
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "team-a", "name": "cache"},
            "mountOptions": ["hard"],
            "nodeAffinity": affinity,
            "nfs": {**NFS["nfs"], "readOnly": True},
        },
    }
    claim = claim_copy(CACHE, original(NFS), "team-a")
    assert claim["metadata"] == {"name": "cache", "namespace": "team-a", "labels": labels, "annotations": annotations}
    assert claim["spec"] == {
        "accessModes": ["ReadOnlyMany"],
        "volumeMode": "Filesystem",
        "storageClassName": "",
        "volumeName": NAME,
        "resources": {"requests": {"storage": "1Gi"}},
    }


def test_a_csi_copy_has_a_handle_of_its_own_and_no_mark_of_the_provisioner() -> None:
    first, second = (volume_copy(CACHE, original({"csi": FILES}), name)["spec"]["csi"] for name in ("team-a", "team-b"))
    assert first["volumeHandle"].startswith("nas#exports#pvc-1##--")
    assert first["volumeHandle"] != second["volumeHandle"]
    assert {**first, "volumeHandle": ""} == {
        "driver": "nfs.csi.k8s.io",
        "volumeHandle": "",
        "readOnly": True,
        "volumeAttributes": {"share": "/exports", "server": "nas"},
        "nodeStageSecretRef": {"name": "stage", "namespace": "kube-system"},
    }


def test_names_fit_and_tell_apart() -> None:
    names = [volume_copy_name(*each) for each in (("a", "b-c", "d"), ("a", "b", "c-d"), ("a-b", "c", "d"), ("n" * 63, "c" * 63, "t" * 63))]
    assert len(set(names)) == 4
    assert max(map(len, names)) <= 63


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        pytest.param(NFS, "nfs:nas:/exports/models", id="nfs"),
        pytest.param({**NFS, "mountOptions": ["nfsvers=4.2", "hard"]}, "nfs:nas:/exports/models options=nfsvers=4.2,hard", id="options"),
        pytest.param({"hostPath": {"path": "/data", "type": ""}}, "hostPath:/data", id="hostPath"),
        pytest.param(
            {"capacity": {"storage": "1"}, "local": {"path": "/mnt/a"}, "nodeAffinity": {"required": {}}}, "local:/mnt/a", id="local"
        ),
        pytest.param(
            {"csi": FILES},
            "csi:nfs.csi.k8s.io:nas#exports#pvc-1## server=nas share=/exports nodeStageSecretRef=kube-system/stage",
            id="csi",
        ),
        pytest.param({"hostPath": {"path": "/a b"}}, None, id="a space would be ambiguous"),
        pytest.param({"iscsi": {"iqn": "iqn.1"}}, None, id="a source without a text"),
        pytest.param({"capacity": {"storage": "1"}}, None, id="no source"),
    ],
)
def test_a_backend_in_words(spec: dict[str, Any], text: str | None) -> None:
    assert backend_text(spec) == text


def nfs_text(server: str) -> str:
    return f'{{"path": "/exports/models", "readOnly": true, "server": "{server}"}}'


def bound(manifest: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """``manifest`` as the server keeps it once it is bound."""
    reference = manifest["spec"].get("claimRef")
    held = {"claimRef": {**reference, "uid": "9", "resourceVersion": "7"}} if reference else {}
    return {**manifest, "spec": {**manifest["spec"], **held, **spec}, "status": {"phase": "Bound"}}


@pytest.mark.parametrize(
    ("changed", "drift"),
    [
        pytest.param({}, (), id="as it was made"),
        pytest.param({"capacity": {"storage": "2Gi"}}, (), id="the original grew"),
        pytest.param(
            {"nfs": {"server": "other", "path": "/exports/models", "readOnly": True}},
            (f"spec.nfs is {nfs_text('other')}, not {nfs_text('nas')}",),
            id="another backend",
        ),
        pytest.param(
            {"persistentVolumeReclaimPolicy": "Delete"},
            ('spec.persistentVolumeReclaimPolicy is "Delete", not "Retain"',),
            id="would delete",
        ),
        pytest.param({"mountOptions": ["hard"]}, ('spec.mountOptions is ["hard"], which no copy has',), id="an option more"),
        pytest.param({"storageClassName": "nfs"}, ('spec.storageClassName is "nfs", which no copy has',), id="a class"),
    ],
)
def test_drift(changed: dict[str, Any], drift: tuple[str, ...]) -> None:
    wanted = volume_copy(CACHE, original(NFS), "team-a")
    assert copy_facts(bound(wanted, **changed), wanted, CACHE) == CopyFacts(PV, Owner.COPY, "Bound", drift=drift)


def test_whose_an_object_is() -> None:
    wanted = claim_copy(CACHE, original(NFS), "team-a")
    assert copy_facts(None, wanted, CACHE) == CopyFacts(PVC)
    other = {**wanted, "metadata": {**wanted["metadata"], "labels": {}}}
    assert copy_facts(other, wanted, CACHE) == CopyFacts(PVC, Owner.FOREIGN, "Pending")
    on_another_volume = {**wanted, "spec": {**wanted["spec"], "volumeName": "pv-of-others"}}
    assert copy_facts(on_another_volume, wanted, CACHE).owner is Owner.FOREIGN, "by its labels it is the copy, and its data are others'"
    of_another_cache = claim_copy(CACHE.model_copy(update={"namespace": "llms"}), original(NFS), "team-a")
    assert copy_facts(of_another_cache, wanted, CACHE).owner is Owner.FOREIGN


@pytest.mark.parametrize(
    ("policy", "annotations", "hold"),
    [
        ("Retain", {}, Hold.NOT_NEEDED),
        ("Retain", {PRIOR_POLICY: "Delete"}, Hold.HELD),
        ("Delete", {"pv.kubernetes.io/provisioned-by": "x"}, Hold.POSSIBLE),
        ("Delete", {}, Hold.NOT_OURS),
        ("Recycle", {"pv.kubernetes.io/provisioned-by": "x"}, Hold.NOT_OURS),
        ("Recycle", {PRIOR_POLICY: "Delete"}, Hold.NOT_OURS),
    ],
)
def test_what_may_become_of_the_originals_policy(policy: str, annotations: dict[str, str], hold: Hold) -> None:
    volume = original(NFS, persistentVolumeReclaimPolicy=policy)
    volume["metadata"]["annotations"] = annotations
    assert hold_of({"metadata": {"labels": {**OWNERSHIP}}}, volume) is hold
    if policy == "Delete":
        assert hold_of({"metadata": {}}, volume) is Hold.NOT_OURS, "the claim is not ours"


def test_what_recycle_does_is_said() -> None:
    recycled = replace(VOLUME, reclaim_policy="Recycle", hold=Hold.NOT_OURS)
    note = plan_sharing(CACHE, replace(SOURCE, volume=recycled), (TARGET,)).notes[-1]
    assert "deletes the data of every namespace (PersistentVolume pv-1 has reclaim policy Recycle)" in note


@pytest.mark.parametrize(
    ("volume", "claim", "action"),
    [
        (CopyFacts(PV), CopyFacts(PVC), ShareAction.CREATE),
        (CopyFacts(PV, Owner.COPY, "Available"), CopyFacts(PVC), ShareAction.CREATE),
        (CopyFacts(PV, Owner.COPY, "Available"), CopyFacts(PVC, Owner.COPY, "Pending"), ShareAction.CREATE),
        (CopyFacts(PV, Owner.COPY, "Released"), CopyFacts(PVC), ShareAction.MEND),
        (CopyFacts(PV, Owner.COPY, "Bound"), CopyFacts(PVC, Owner.COPY, "Bound"), ShareAction.KEEP),
    ],
)
def test_what_becomes_of_a_namespace(volume: CopyFacts, claim: CopyFacts, action: ShareAction) -> None:
    [target] = plan_sharing(CACHE, SOURCE, (replace(TARGET, volume=volume, claim=claim),)).approved()
    assert target.action is action


@pytest.mark.parametrize(
    ("source", "words"),
    [
        pytest.param(SourceFacts(None), "does not exist; preload a model first", id="no claim"),
        pytest.param(SourceFacts("Pending"), "is Pending, not Bound", id="not bound"),
        pytest.param(replace(SOURCE, deleting=True), "is being deleted", id="deleting"),
        pytest.param(SourceFacts("Bound", unreadable="forbidden"), r"cannot be read \(forbidden\); grant", id="no right"),
        pytest.param(replace(SOURCE, volume=replace(VOLUME, bound_back=False)), "bound to another claim", id="bound to another"),
        pytest.param(
            replace(SOURCE, volume=replace(VOLUME, verdict=Verdict(ok=False, reason="a block device"))),
            "by copies: a block device",
            id="verdict",
        ),
    ],
)
def test_what_stands_against_a_source(source: SourceFacts, words: str) -> None:
    plan = plan_sharing(CACHE, source, (TARGET,))
    with pytest.raises(Refused, match=words):
        plan.approved()
    assert "Refused" in describe_sharing(plan)


def test_all_problems_of_all_namespaces_are_told() -> None:
    quota = Problem(PVC, "would be refused: exceeded quota", "raise it")
    targets = (
        replace(TARGET, namespace="models"),
        replace(TARGET, namespace="gone", exists=False),
        replace(TARGET, namespace="going", terminating=True),
        replace(
            TARGET, claim=CopyFacts(PVC, Owner.FOREIGN, "Bound"), volume=CopyFacts(PV, Owner.COPY, "Bound", drift=("spec.nfs is other",))
        ),
        replace(TARGET, claim=CopyFacts(PVC, Owner.COPY, "Lost", deleting=True), refusals=(quota,)),
    )
    plan = plan_sharing(CACHE, SOURCE, targets)
    told = [str(problem) for problem in plan.problems]
    expected = (
        "Namespace/models: is the cache's own",
        "Namespace/gone: does not exist; create it (`kubectl create namespace gone`)",
        "Namespace/going: is being deleted",
        f"{PV}: was changed: spec.nfs is other",
        f"{PVC}: has the name of the copy and is not this cache's claim",
        f"{PVC}: is being deleted",
        f"{PVC}: has lost its PersistentVolume",
        f"{PVC}: would be refused: exceeded quota; raise it",
    )
    assert [each.startswith(start) for each, start in zip(told, expected, strict=True)] == [True] * len(expected), told
    assert {row["action"] for row in share_table(plan)} == {"refused"}
    assert [str(each) for each in plan_sharing(CACHE, SOURCE, ()).problems] == [
        "cache main: no namespace is named; name one, or set shareWith in the cache's block"
    ]


@pytest.mark.parametrize(
    ("volume", "words"),
    [
        (replace(VOLUME, hold=Hold.NOT_NEEDED), ()),
        (replace(VOLUME, hold=Hold.HELD), ("is held at Retain until the last copy is gone",)),
        (replace(VOLUME, hold=Hold.POSSIBLE), ("deletes the data of every namespace", "is set to Retain until the last copy is gone")),
        (
            replace(VOLUME, hold=Hold.NOT_OURS),
            ("deletes the data of every namespace", "Modelyard did not make it", "kubectl patch pv pv-1 -p"),
        ),
        (replace(VOLUME, hold=Hold.NOT_NEEDED, unlimited=True), ("any directory of the nodes", "deployments/kubernetes/policies")),
        (replace(VOLUME, hold=Hold.DENIED), ("deletes the data of every namespace", "may not patch", "kubectl patch pv pv-1 -p")),
    ],
)
def test_what_deleting_the_original_would_do_is_said(volume: SharedVolume, words: tuple[str, ...]) -> None:
    notes = plan_sharing(CACHE, replace(SOURCE, volume=volume), (TARGET,)).notes
    assert len(notes) == 1 + bool(words)
    assert all(word in notes[-1] for word in words)


@pytest.mark.parametrize(
    ("kind", "words"),
    [("nfs", "mounted read-only"), ("hostPath", "`readOnly: true` in the pods"), ("csi (nfs.csi.k8s.io)", "ask the driver")],
)
def test_how_far_read_only_goes_is_said(kind: str, words: str) -> None:
    assert words in plan_sharing(CACHE, replace(SOURCE, volume=replace(VOLUME, kind=kind)), (TARGET,)).notes[0]


COPY = SharedFacts("team-a", CopyFacts(PV, Owner.COPY, "Bound"), CopyFacts(PVC, Owner.COPY, "Bound"))


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        pytest.param(replace(COPY, users=("Pod/team-a/server",)), "is used by Pod/team-a/server; delete them", id="in use"),
        pytest.param(
            replace(COPY, retained=False), "would delete the data of every namespace; set it back: `kubectl patch pv", id="would delete"
        ),
        pytest.param(
            replace(COPY, unseen=(Problem("Jobs", "cannot be looked at", "grant"),)), "Jobs: cannot be looked at; grant", id="unseen"
        ),
        pytest.param(replace(COPY, claim=CopyFacts(PVC, Owner.FOREIGN)), "is not a copy of this cache's", id="foreign"),
    ],
)
def test_a_copy_that_stays(facts: SharedFacts, words: str) -> None:
    plan = plan_unsharing(CACHE, (facts, replace(COPY, namespace="team-b")))
    with pytest.raises(Refused, match=words):
        plan.approved()
    assert words in describe_unsharing(plan)


def test_copies_that_go() -> None:
    volume_only = replace(COPY, namespace="team-b", claim=CopyFacts(PVC))
    nothing = SharedFacts("team-c", CopyFacts(PV), CopyFacts(PVC))
    plan = plan_unsharing(CACHE, (COPY, volume_only, nothing))
    assert (plan.approved(), plan.notes) == (("team-a", "team-b"), ("team-c: no copy is there",))
    cache = CACHE.model_copy(update={"share_with": ("team-b", "team-c")})
    told = plan_unsharing(cache, (COPY, volume_only, nothing))
    assert told.notes[1].startswith("team-b: shareWith of the cache's block names it, so reconcile-caches will make the copy again")
    assert (len(told.notes), told.notes[1] in describe_unsharing(told)) == (2, True)
    assert plan_unsharing(CACHE, ()).notes == ("the cache has no copies",)
