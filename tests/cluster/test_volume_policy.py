"""The policy on PersistentVolumes: what a service account of Modelyard's can do to them although RBAC lets it do everything."""

import json
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import devcluster
from modelyard.errors import ClusterRefused, ModelyardError
from modelyard.kube.apply import OWNERSHIP
from modelyard.kube.client import Kube
from modelyard.kube.failures import AlreadyExists
from modelyard.plans.backends import backend_text
from modelyard.volumes.copies import PRIOR_POLICY, volume_copy
from modelyard.volumes.sharing_facts import refusal_of
from tests.cluster.support import SECONDS, Manifest, cache_spec, connect
from tests.manifests import DIRECTORY

pytestmark = pytest.mark.cluster
POLICIES = DIRECTORY / "policies"
LIST = "modelyard-shareable-volumes"


def kubectl(kubeconfig: str, cluster: devcluster.Cluster, *arguments: str, stdin: str | None = None) -> str:
    command = [str(cluster.kubectl), f"--kubeconfig={kubeconfig}", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    return done.stdout


def policies(namespace: str) -> str:
    """The manifests of the policy under names of the test's own, for the accounts of ``namespace``."""
    text = "---\n".join((POLICIES / name).read_text() for name in ("volumes.yaml", "shareable-volumes.yaml"))
    for name in ("modelyard-volumes", LIST):
        text = text.replace(name, f"{namespace}-{name}")
    text = text.replace("serviceaccounts:modelyard", f"serviceaccounts:{namespace}").replace("['modelyard']", f"['{namespace}']")
    return text.replace("namespace: modelyard\n", f"namespace: {namespace}\n")


def all_rights(namespace: str) -> str:
    """By RBAC the account may do anything to PersistentVolumes."""
    head = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": f"{namespace}-volumes"}}
    rules = [{"apiGroups": [""], "resources": ["persistentvolumes"], "verbs": ["*"]}]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": f"{namespace}-volumes"}
    account = {"kind": "ServiceAccount", "name": "modelyard", "namespace": namespace}
    binding = {**head, "kind": "ClusterRoleBinding", "roleRef": role, "subjects": [account]}
    return yaml.safe_dump_all([{**head, "kind": "ClusterRole", "rules": rules}, binding])


@dataclass(frozen=True)
class Limits:
    """The policy at work: the limited account, the administrator, and how the administrator runs kubectl."""

    namespace: str
    account: Kube
    admin: Kube
    kubectl: Callable[..., str]

    def volume(self, name: str = "copy", *, source: Manifest | None = None, **metadata: Any) -> Manifest:
        """A volume as the policy allows it, if its backend is listed."""
        claim = {"namespace": self.namespace, "name": "cache"}
        spec: Manifest = {"capacity": {"storage": "1Mi"}, "accessModes": ["ReadOnlyMany"], "persistentVolumeReclaimPolicy": "Retain"}
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"{self.namespace}-{name}", "labels": {**OWNERSHIP}, **metadata},
            "spec": {**spec, "storageClassName": "", "claimRef": claim, **(source or {"hostPath": {"path": f"/{self.namespace}/models"}})},
        }

    def refused(self, act: Callable[[], object]) -> str:
        """Why the API server refuses ``act``."""
        with pytest.raises(ClusterRefused) as caught:
            act()
        assert not isinstance(caught.value, AlreadyExists)
        return str(caught.value)

    def list(self, text: str) -> None:
        """List a backend, as an administrator does."""
        patch = json.dumps([{"op": "add", "path": "/rules/0/resourceNames/-", "value": text}])
        self.kubectl("patch", "clusterrole", f"{self.namespace}-{LIST}", "--type=json", f"--patch={patch}")

    def made(self, volume: Manifest) -> Manifest:
        """Create, as soon as the list is known to the server."""
        return eventually(lambda: self.account.create(volume))


def eventually(act: Callable[[], Manifest], seconds: float = SECONDS) -> Manifest:
    """What ``act`` gives once it is no longer refused: the API server learns of policies and rights within moments."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return act()
        except ModelyardError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@pytest.fixture
def limits(kube: Kube, kubeconfig: str, cluster: devcluster.Cluster, namespace: str, tmp_path: Path) -> Iterator[Limits]:
    manifests = tmp_path / "policy.yaml"
    manifests.write_text(f"{policies(namespace)}---\n{all_rights(namespace)}")

    def run(*arguments: str) -> str:
        return kubectl(kubeconfig, cluster, *arguments)

    run("apply", f"--filename={manifests}")
    account = connect(kubeconfig, impersonate=f"system:serviceaccount:{namespace}:modelyard")
    made = Limits(namespace, account, kube, run)
    deadline = time.monotonic() + SECONDS
    while "not in the list" not in _words(lambda: account.create(made.volume("probe"), dry_run=True)):  # until policy and rights are known
        assert time.monotonic() < deadline
        time.sleep(0.2)
    yield made
    run("delete", f"--filename={manifests}")
    for volume in kube.list("PersistentVolume"):
        if volume["metadata"]["name"].startswith(f"{namespace}-"):
            kube.delete("PersistentVolume", volume["metadata"]["name"])


def _words(act: Callable[[], object]) -> str:
    try:
        act()
    except ClusterRefused as error:
        return str(error)
    return ""


def test_only_listed_backends_become_volumes(limits: Limits) -> None:
    path = f"/{limits.namespace}/models"
    limits.list(f"hostPath:{path}")
    assert limits.made(limits.volume("listed"))["metadata"]["name"] == f"{limits.namespace}-listed"
    for other in ("/", f"/{limits.namespace}", f"{path}/", f"{path}/..data", f"{path}-2", "/etc", f"{path} options=ro"):
        words = limits.refused(lambda other=other: limits.account.create(limits.volume("wide", source={"hostPath": {"path": other}})))  # type: ignore[misc]
        assert "not in the list" in words or "text that an administrator" in words, words
    for source in ({"local": {"path": path}}, {"nfs": {"server": limits.namespace, "path": path}}, {"iscsi": _iscsi()}):
        assert limits.refused(lambda source=source: limits.account.create(limits.volume("other", source=source)))  # type: ignore[misc]


def _iscsi() -> Manifest:
    return {"targetPortal": "192.0.2.1:3260", "iqn": "iqn.2026-01.test:storage", "lun": 0}


@pytest.mark.parametrize(
    "source",
    [
        pytest.param({"nfs": {"server": "192.0.2.1", "path": "/exports/models"}}, id="nfs"),
        pytest.param(
            {"nfs": {"server": "192.0.2.1", "path": "/exports/models"}, "mountOptions": ["nfsvers=4.2", "hard"]}, id="nfs with options"
        ),
        pytest.param({"csi": {"driver": "nfs.csi.k8s.io", "volumeHandle": "nas#exports#pvc-1##"}}, id="csi"),
        pytest.param({"csi": {"driver": "efs.csi.aws.com", "volumeHandle": "fs-1::fsap-0123--0123456789ab"}}, id="a handle like a copy's"),
        pytest.param(
            {
                "csi": {
                    "driver": "nfs.csi.k8s.io",
                    "volumeHandle": "nas#exports#pvc-1##",
                    "fsType": "ext4",
                    "volumeAttributes": {
                        "subdir": "pvc-1",
                        "share": "/exports",
                        "server": "nas",
                        "storage.kubernetes.io/csiProvisionerIdentity": "7",
                    },
                    "nodeStageSecretRef": {"name": "stage", "namespace": "kube-system"},
                    "nodePublishSecretRef": {"name": "publish", "namespace": "kube-system"},
                },
                "mountOptions": ["ro"],
            },
            id="csi with everything",
        ),
    ],
)
def test_python_and_the_policy_have_one_text_for_a_backend(limits: Limits, source: Manifest) -> None:
    original = limits.volume("original", source=source)
    text = backend_text(original["spec"])
    assert text
    copy = volume_copy(cache_spec(limits.namespace, name=limits.namespace), original, limits.namespace)
    assert "is not in the list" in limits.refused(lambda: limits.account.create(copy))
    limits.list(text)
    eventually(lambda: limits.account.create(copy, dry_run=True))
    for widened in _widened(copy["spec"]):
        limits.refused(lambda widened=widened: limits.account.create({**copy, "spec": widened}, dry_run=True))  # type: ignore[misc]


def _widened(spec: Manifest) -> Iterator[Manifest]:
    """The same volume with each thing that decides what is mounted left out or changed."""
    yield {**spec, "mountOptions": [*spec.get("mountOptions", ()), "only-dir=/"]}
    if "nfs" in spec:
        yield {**spec, "nfs": {**spec["nfs"], "path": "/exports"}}
        yield {**spec, "nfs": {**spec["nfs"], "server": "192.0.2.2"}}
        return
    csi = spec["csi"]
    yield {**spec, "csi": {**csi, "volumeHandle": csi["volumeHandle"].rpartition("--")[0] + "--0123456789abcdef"}}
    yield {**spec, "csi": {**csi, "driver": "other.csi.k8s.io"}}
    yield {**spec, "csi": {**csi, "volumeAttributes": {**csi.get("volumeAttributes", {}), "share": "/"}}}
    for key in csi.get("volumeAttributes", ()):
        yield {**spec, "csi": {**csi, "volumeAttributes": {name: value for name, value in csi["volumeAttributes"].items() if name != key}}}
    for key in ("controllerExpandSecretRef", "nodeExpandSecretRef"):
        yield {**spec, "csi": {**csi, key: {"name": "other", "namespace": "kube-system"}}}
    for key in ("nodeStageSecretRef", "nodePublishSecretRef"):
        if key in csi:
            yield {**spec, "csi": {**csi, key: {"name": "other", "namespace": "kube-system"}}}


def test_a_volume_of_ours_has_our_label_one_claim_and_retain(limits: Limits) -> None:
    limits.list(f"hostPath:/{limits.namespace}/models")
    limits.made(limits.volume("first"))
    good = limits.volume("second")
    spec = good["spec"]
    unclaimed = {key: value for key, value in spec.items() if key != "claimRef"}
    tricks: list[tuple[Manifest, str]] = [
        ({**good, "metadata": {"name": good["metadata"]["name"]}}, "managed-by=modelyard"),
        (limits.volume("second", labels={**OWNERSHIP, "app.kubernetes.io/managed-by": "someone"}), "managed-by=modelyard"),
        ({**good, "spec": {**spec, "persistentVolumeReclaimPolicy": "Delete"}}, "Retain"),
        ({**good, "spec": {**spec, "persistentVolumeReclaimPolicy": "Recycle"}}, "Retain"),
        ({**good, "spec": unclaimed}, "claimRef"),
        (limits.volume("second", annotations={"pv.kubernetes.io/provisioned-by": "devcluster.modelyard/volumes"}), "provisioner"),
    ]
    for manifest, words in tricks:
        assert words in limits.refused(lambda manifest=manifest: limits.account.create(manifest))  # type: ignore[misc]


def patched(limits: Limits, name: str, patch: Manifest) -> Callable[[], Manifest]:
    return lambda: limits.account.patch_merge("PersistentVolume", name, None, patch)


def test_what_is_ours_may_be_mended_and_deleted_and_no_more(limits: Limits) -> None:
    limits.list(f"hostPath:/{limits.namespace}/models")
    name = limits.made(limits.volume())["metadata"]["name"]
    patched(limits, name, {"spec": {"claimRef": {"uid": "1"}}})()
    patched(limits, name, {"spec": {"claimRef": {"uid": None}}})()
    assert "Retain" in limits.refused(patched(limits, name, {"spec": {"persistentVolumeReclaimPolicy": "Delete"}}))
    assert "Retain" in limits.refused(
        patched(limits, name, {"metadata": {"annotations": {PRIOR_POLICY: "Delete"}}, "spec": {"persistentVolumeReclaimPolicy": "Delete"}})
    )
    assert "managed-by" in limits.refused(patched(limits, name, {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}}))
    assert "claimRef" in limits.refused(patched(limits, name, {"spec": {"claimRef": None}}))
    assert "provisioner" in limits.refused(patched(limits, name, {"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": "x"}}}))
    assert "Retain" in limits.refused(patched(limits, name, {"spec": {"persistentVolumeReclaimPolicy": "Recycle"}}))
    widened: list[Manifest] = [
        {"spec": {"mountOptions": ["only-dir=/"]}},
        {"spec": {"accessModes": ["ReadWriteMany"]}},
        {"spec": {"capacity": {"storage": "1Gi"}}},
        {"spec": {"storageClassName": "other"}},
        {"spec": {"nodeAffinity": _on_node("other")}},
        {"spec": {"claimRef": {"namespace": "other"}}},
        {"spec": {"claimRef": {"name": "other"}}},
        {"metadata": {"finalizers": ["test/held"]}},
        {"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Namespace", "name": "other", "uid": "1"}]}},
    ]
    for patch in widened:
        assert "stay as they were made" in limits.refused(patched(limits, name, patch)), patch
    assert limits.account.delete("PersistentVolume", name)


def _on_node(name: str) -> Manifest:
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": [name]}
    return {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}


def test_no_secret_for_expansion_is_added_to_a_volume(limits: Limits) -> None:
    """Of a volume's source the API server lets these change."""
    source: Manifest = {"csi": {"driver": "nfs.csi.k8s.io", "volumeHandle": f"{limits.namespace}#models"}}
    limits.list(f"csi:nfs.csi.k8s.io:{limits.namespace}#models")
    ours = limits.made(limits.volume("ours", source=source))["metadata"]["name"]
    foreign = limits.volume("foreign", source=source, labels={})
    foreign["spec"]["persistentVolumeReclaimPolicy"] = "Delete"
    theirs = limits.admin.create(foreign)["metadata"]["name"]
    hold: Manifest = {"metadata": {"annotations": {PRIOR_POLICY: "Delete"}}, "spec": {"persistentVolumeReclaimPolicy": "Retain"}}
    secret = {"controllerExpandSecretRef": {"name": "s", "namespace": "kube-system"}}
    added = {"csi": {**source["csi"], **secret}}
    assert "never expanded" in limits.refused(lambda: limits.account.create(limits.volume("new", source=added), dry_run=True))
    assert "stay as they were made" in limits.refused(patched(limits, ours, {"spec": {"csi": secret}}))
    assert "managed-by" in limits.refused(patched(limits, theirs, {**hold, "spec": {**hold["spec"], "csi": secret}}))
    patched(limits, theirs, hold)()


def test_of_others_volumes_only_the_reclaim_policy_changes_and_back(limits: Limits) -> None:
    foreign = limits.volume("foreign", labels={"team": "a"}, annotations={"team": "a"})
    foreign["spec"]["persistentVolumeReclaimPolicy"] = "Delete"
    name = limits.admin.create(foreign)["metadata"]["name"]
    note = {"annotations": {PRIOR_POLICY: "Delete"}}
    hold = {"metadata": note, "spec": {"persistentVolumeReclaimPolicy": "Retain"}}
    give_back = {"metadata": {"annotations": {PRIOR_POLICY: None}}, "spec": {"persistentVolumeReclaimPolicy": "Delete"}}
    tricks: list[Manifest] = [
        {"metadata": {"labels": {**OWNERSHIP}}},
        {"metadata": note},
        {"spec": {"persistentVolumeReclaimPolicy": "Retain"}},
        {**hold, "metadata": {"annotations": {PRIOR_POLICY: "Recycle"}}},
        {**hold, "metadata": {**note, "labels": {**OWNERSHIP}}},
        {**hold, "metadata": {**note, "finalizers": ["test/held"]}},
        {**hold, "metadata": {"annotations": {PRIOR_POLICY: "Delete", "team": "b"}}},
        {**hold, "metadata": {"annotations": {PRIOR_POLICY: "Delete", "team": None}}},
        {**hold, "spec": {"persistentVolumeReclaimPolicy": "Retain", "claimRef": {"namespace": "other"}}},
        {**hold, "spec": {"persistentVolumeReclaimPolicy": "Retain", "mountOptions": ["ro"]}},
        {**hold, "spec": {"persistentVolumeReclaimPolicy": "Retain", "storageClassName": "other"}},
    ]
    for trick in tricks:
        assert "managed-by" in limits.refused(patched(limits, name, trick)), trick
    assert "managed-by" in limits.refused(lambda: limits.account.delete("PersistentVolume", name))
    patched(limits, name, hold)()
    assert "managed-by" in limits.refused(patched(limits, name, {"spec": {"persistentVolumeReclaimPolicy": "Delete"}}))
    patched(limits, name, give_back)()
    retained = limits.volume("retained", labels={})
    limits.admin.create(retained)
    assert "managed-by" in limits.refused(patched(limits, retained["metadata"]["name"], give_back)), "it never was Delete"
    assert "managed-by" in limits.refused(patched(limits, retained["metadata"]["name"], {"metadata": note}))


def test_other_accounts_never_meet_it(limits: Limits, kubeconfig: str) -> None:
    volume = limits.volume("others", source={"hostPath": {"path": "/"}}, labels={})
    volume["spec"] = {key: value for key, value in volume["spec"].items() if key != "claimRef"}
    created = limits.admin.create({**volume, "spec": {**volume["spec"], "persistentVolumeReclaimPolicy": "Delete"}})
    limits.admin.patch_merge("PersistentVolume", created["metadata"]["name"], None, {"metadata": {"labels": {"team": "a"}}})
    assert limits.admin.delete("PersistentVolume", created["metadata"]["name"])
    user = connect(kubeconfig, impersonate=f"system:serviceaccount:{limits.namespace}x:modelyard")
    words = limits.refused(lambda: user.create(limits.volume("others")))
    assert "lacks the verb" in words, "a namespace with a longer name is another's: RBAC answers it, not the policy"


def test_a_refusal_names_the_command_that_lists_the_volume(limits: Limits) -> None:
    volume = limits.volume("copy", source={"hostPath": {"path": f"/{limits.namespace}/it's"}})
    problem = refusal_of(limits.account, volume)
    assert problem
    command = problem.next_step.partition("once: ")[2]
    limits.kubectl(*shlex.split(command)[1:])
    eventually(lambda: limits.account.create(volume, dry_run=True))
    assert refusal_of(limits.account, volume) is None
