"""Copies where the account has exactly the shipped rights: what goes with a namespace, and what one without them holds up."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from modelyard.caches import CacheSpec
from modelyard.kube.client import Kube
from modelyard.names import volume_copy_name
from modelyard.plans.sharing import plan_sharing
from modelyard.plans.unsharing import plan_unsharing
from modelyard.volumes.claims import wait_bound
from modelyard.volumes.references import read_references
from modelyard.volumes.sharing import make_copy, remove_copy
from modelyard.volumes.sharing_facts import read_shared, read_source, read_target
from modelyard.volumes.users import wanted_namespaces
from tests.cluster.support import SECONDS, Manifest, cache_spec, connect
from tests.manifests import rules

pytestmark = pytest.mark.cluster
GROUP = "rbac.authorization.k8s.io"


@dataclass(frozen=True)
class Shared:
    """A cache whose claim is bound, an administrator, and the account that the manifests give their rights to."""

    cache: CacheSpec
    admin: Kube
    account: Kube
    target: str

    def grant(self, namespace: str, *roles: str) -> None:
        """What users install in a namespace that a cache is shared with."""
        for role in roles:
            grant(self.admin, self.cache.namespace, role, rules("target", role), namespace)


def grant(kube: Kube, mark: str, name: str, held: list[Manifest], namespace: str | None = None) -> None:
    """The rules, to the user of ``mark``, in a namespace or the whole cluster."""
    kind, metadata = ("Role", {"name": name, "namespace": namespace}) if namespace else ("ClusterRole", {"name": name})
    head = {"apiVersion": f"{GROUP}/v1", "metadata": metadata}
    kube.create({**head, "kind": kind, "rules": held})
    subjects = [{"apiGroup": GROUP, "kind": "User", "name": f"copies-{mark}"}]
    kube.create({**head, "kind": f"{kind}Binding", "roleRef": {"apiGroup": GROUP, "kind": kind, "name": name}, "subjects": subjects})


@pytest.fixture
def shared(kube: Kube, kubeconfig: str, namespace: str) -> Iterator[Shared]:
    target, cluster_role = f"{namespace}-a", f"copies-{namespace}"
    cache = cache_spec(namespace, storage_class_name="")
    kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": target}})
    kube.create(original(cache))
    kube.create(claim(cache))
    wait_bound(kube, namespace, cache.claim, SECONDS)
    made = Shared(cache, kube, connect(kubeconfig, impersonate=f"copies-{namespace}"), target)
    grant(kube, namespace, cluster_role, rules("share", "modelyard-share"))
    made.grant(namespace, "modelyard-copies", "modelyard-references")
    made.grant(target, "modelyard-copies", "modelyard-references")
    wait_until(lambda: read_references(made.account, target, "none").unknown == ())  # until the rights are known
    yield made
    kube.delete("Namespace", target)
    for kind in ("ClusterRoleBinding", "ClusterRole"):
        kube.delete(kind, cluster_role)
    for name in (f"copies-{namespace}", volume_copy_name(namespace, cache.claim, target)):
        kube.delete("PersistentVolume", name)


def original(cache: CacheSpec) -> Manifest:
    spec = {
        "capacity": {"storage": "1Mi"},
        "accessModes": ["ReadWriteMany"],
        "persistentVolumeReclaimPolicy": "Retain",
        "hostPath": {"path": f"/nowhere/{cache.namespace}"},
        "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": cache.namespace, "name": cache.claim},
    }
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"copies-{cache.namespace}"}, "spec": spec}


def claim(cache: CacheSpec) -> Manifest:
    spec = {"accessModes": ["ReadWriteMany"], "storageClassName": "", "resources": {"requests": {"storage": "1Mi"}}}
    metadata = {"name": cache.claim, "namespace": cache.namespace}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata,
        "spec": {**spec, "volumeName": f"copies-{cache.namespace}"},
    }


def wait_until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline, f"not within {SECONDS} s"
        time.sleep(0.2)


def test_a_namespace_that_was_deleted_holds_up_neither_removal_nor_unshare(shared: Shared) -> None:
    cache, copy = shared.cache, volume_copy_name(shared.cache.namespace, shared.cache.claim, shared.target)
    make_copy(shared.admin, cache, shared.target)
    wait_bound(shared.admin, shared.target, cache.claim, SECONDS)
    shared.admin.delete("Namespace", shared.target)
    wait_until(lambda: shared.admin.get("Namespace", shared.target) is None)
    wait_until(lambda: (shared.admin.get("PersistentVolume", copy) or {"status": {}})["status"].get("phase") == "Released")
    assert read_references(shared.account, cache.namespace, cache.claim).unknown == ()
    plan = plan_unsharing(cache, read_shared(shared.account, cache, ()))
    assert plan.approved() == (shared.target,)
    assert remove_copy(shared.account, cache, shared.target, SECONDS) == (f"PersistentVolume/{copy}",)
    assert shared.admin.get("PersistentVolume", copy) is None


def test_a_namespace_without_rights_holds_up_no_other(shared: Shared, kube: Kube, namespace: str) -> None:
    """``namespace``-b exists and has no Role of ours."""
    closed = f"{namespace}-b"
    kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": closed}})
    try:
        volumes = [{"name": "m", "persistentVolumeClaim": {"claimName": shared.cache.claim}}]
        pod = {"schedulerName": "nobody", "containers": [{"name": "c", "image": "busybox:1.36"}], "volumes": volumes}
        kube.create({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": shared.target}, "spec": pod})
        on_demand = shared.cache.model_copy(update={"share_with": ("first",), "share_on_demand": (closed, f"{namespace}-?")})
        wanted = wanted_namespaces(shared.account, on_demand)
        assert wanted.namespaces == ("first", shared.target)
        [problem] = wanted.problems
        assert problem.subject == f"Namespace/{closed}"
        source, volume = read_source(shared.account, shared.cache)
        targets = tuple(read_target(shared.account, shared.cache, volume, name) for name in (closed, shared.target))
        refused, free = plan_sharing(shared.cache, source, targets).targets
        assert [each.subject for each in refused.problems] == [f"PersistentVolumeClaim/{closed}/{shared.cache.claim}"]
        assert free.problems == ()
    finally:
        kube.delete("Namespace", closed)
