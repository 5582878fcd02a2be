"""In use, read from a real cluster: workloads and pods of every kind, also where the volume is shared; and what may not be listed."""

import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from modelyard.kube.client import Kube
from modelyard.volumes.references import KINDS, read_references
from tests.cluster.support import Manifest, connect, until_allowed

pytestmark = pytest.mark.cluster
LABELS = {"app": "w"}
IMAGE = "busybox:1.36"


def pod_spec(sub_path: str = "", claim: str = "cache", restart: str = "Always") -> Manifest:
    """A pod that is not scheduled anywhere: what it mounts is read, not run."""
    mount = {"name": "m", "mountPath": "/m", "readOnly": True, **({"subPath": sub_path} if sub_path else {})}
    return {
        "schedulerName": "nobody",
        "restartPolicy": restart,
        "volumes": [{"name": "m", "persistentVolumeClaim": {"claimName": claim}}],
        "containers": [{"name": "c", "image": IMAGE, "volumeMounts": [mount]}],
    }


def template(spec: Manifest, **annotations: str) -> Manifest:
    return {"template": {"metadata": {"labels": LABELS, "annotations": annotations}, "spec": spec}}


def workload(kind: str, namespace: str, name: str, spec: Manifest) -> Manifest:
    versions = {"Pod": "v1", "ReplicationController": "v1", "Job": "batch/v1", "CronJob": "batch/v1"}
    return {
        "apiVersion": versions.get(kind, "apps/v1"),
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def selected(spec: Manifest, **more: Any) -> Manifest:
    return {"selector": {"matchLabels": LABELS}, **template(spec), **more}


@pytest.fixture
def shared(kube: Kube, namespace: str) -> Iterator[str]:
    """A second namespace with a copy of the volume of ``namespace``'s claim ``cache``, under another name there; both bound by hand."""
    other, mark = f"{namespace}-b", secrets.token_hex(4)
    kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}})
    places = ((namespace, "cache"), (other, "copy"))
    for place, claim in places:
        kube.create(volume(f"references-{mark}-{claim}", place, claim, f"/nowhere/{mark}"))
    yield other
    for _, claim in places:
        kube.delete("PersistentVolume", f"references-{mark}-{claim}")
    kube.delete("Namespace", other)


def volume(name: str, namespace: str, claim: str, path: str) -> Manifest:
    spec = {
        "capacity": {"storage": "1Mi"},
        "accessModes": ["ReadOnlyMany"],
        "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": "",
        "hostPath": {"path": path},
        "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": claim},
    }
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}


def test_every_kind_that_the_cluster_has(kube: Kube, namespace: str) -> None:
    zero = {"replicas": 0}
    objects = [
        workload("Deployment", namespace, "d", selected(pod_spec("m/v1"), **zero)),
        workload("ReplicaSet", namespace, "r", selected(pod_spec("m/v1"), **zero)),
        workload("StatefulSet", namespace, "s", selected(pod_spec("m/v1"), serviceName="s", **zero)),
        workload("DaemonSet", namespace, "n", selected(pod_spec("m"))),
        workload("ReplicationController", namespace, "c", {"selector": LABELS, **template(pod_spec("m/v1")), **zero}),
        workload("Job", namespace, "j", {"suspend": True, **template(pod_spec("m/v1", restart="Never"))}),
        workload(
            "CronJob", namespace, "t", {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": template(pod_spec("m/v1", restart="Never"))}}
        ),
        workload("Pod", namespace, "p", pod_spec()),
    ]
    for each in objects:
        kube.create(each)
    found = read_references(kube, namespace, "cache")
    assert found.unknown == (), "kinds whose CRD is not installed are none"
    expected = {f"{each['kind']}/{namespace}/{each['metadata']['name']}" for each in objects}
    assert set(found.of("m", "v1")) >= expected
    of_daemon_set = f"Pod/{namespace}/n-"
    assert not any(who.startswith(of_daemon_set) for who in found.of("m", "v1")), "its owner says it already"
    assert set(found.of("m", "v2")) == {f"DaemonSet/{namespace}/n", f"Pod/{namespace}/p"}
    assert set(found.of("other", "v1")) == {f"Pod/{namespace}/p"}


def test_an_annotation_narrows_a_mount_of_the_whole(kube: Kube, namespace: str) -> None:
    spec = {"selector": {"matchLabels": LABELS}, "replicas": 0, **template(pod_spec(), **{"modelyard.dev/models": "a@v1"})}
    kube.create(workload("Deployment", namespace, "d", spec))
    found = read_references(kube, namespace, "cache")
    assert (found.of("a", "v1"), found.of("a", "v2")) == ((f"Deployment/{namespace}/d",), ())


def test_where_the_volume_is_shared_its_users_count_too(kube: Kube, namespace: str, shared: str) -> None:
    kube.create(workload("Deployment", shared, "d", selected(pod_spec("m/v1", claim="copy"), replicas=0)))
    kube.create(workload("Deployment", shared, "e", selected(pod_spec("m/v1", claim="cache"), replicas=0)))
    assert read_references(kube, namespace, "cache").of("m", "v1") == (f"Deployment/{shared}/d",)


def test_what_may_not_be_listed_is_told(kube: Kube, kubeconfig: str, namespace: str, shared: str) -> None:
    everything = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["list"]}
    account(kube, namespace, [everything], cluster=[{"apiGroups": [""], "resources": ["persistentvolumes"], "verbs": ["list"]}])
    reader = connect(kubeconfig, impersonate=f"reader-{namespace}")
    for kind, place in (("Pod", namespace), ("PersistentVolume", None)):
        until_allowed(lambda kind=kind, place=place: reader.list(kind, place))  # type: ignore[misc]  # bound now
    found = read_references(reader, namespace, "cache")
    told = [text for text in found.unknown if shared in text]
    assert len(told) == len(found.unknown) == len(KINDS), "a right is looked at before whether there is such a kind"
    assert "Deployments of namespace" in " ".join(told)
    nobody = read_references(connect(kubeconfig, impersonate=f"nobody-{namespace}"), namespace, "cache")
    assert "where the volume is shared" in nobody.unknown[0]


@pytest.fixture(autouse=True)
def no_roles_are_left(kube: Kube, namespace: str) -> Iterator[None]:
    """What ``account`` makes for the whole cluster goes again."""
    yield
    for kind in ("ClusterRoleBinding", "ClusterRole"):
        kube.delete(kind, f"references-{namespace}")


def account(kube: Kube, namespace: str, rules: list[Manifest], cluster: list[Manifest]) -> None:
    """The user ``reader-<namespace>`` with these rights there and in the cluster."""
    group = "rbac.authorization.k8s.io"
    subjects = [{"apiGroup": group, "kind": "User", "name": f"reader-{namespace}"}]
    for prefix, where, held in (("", {"namespace": namespace}, rules), ("Cluster", {}, cluster)):
        head = {"apiVersion": f"{group}/v1", "metadata": {"name": f"references-{namespace}", **where}}
        kube.create({**head, "kind": f"{prefix}Role", "rules": held})
        role = {"apiGroup": group, "kind": f"{prefix}Role", "name": f"references-{namespace}"}
        kube.create({**head, "kind": f"{prefix}RoleBinding", "roleRef": role, "subjects": subjects})
