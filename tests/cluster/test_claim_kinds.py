"""Expansion, NFS exports and placement against a real API server, its controllers and a real kubelet."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from modelyard.caches import AccessMode, CacheSpec
from modelyard.errors import ClaimPending
from modelyard.kube.apply import Action
from modelyard.kube.client import Kube
from modelyard.kube.diagnosis import Diagnosis
from modelyard.kube.explain import explain_pod
from modelyard.plans.claim import ClaimAction, ClaimPlan, plan_claim
from modelyard.plans.claim_facts import ClaimFacts
from modelyard.plans.nfs_volume import Export
from modelyard.plans.placement import plan_placement
from modelyard.volumes.claims import ensure_claim, read_claim, wait_bound
from modelyard.volumes.expansion import expand_claim, wait_expanded
from modelyard.volumes.persistent_volumes import read_export_volumes, read_neighbours
from modelyard.volumes.storage_classes import read_storage_classes
from tests.cluster.support import Manifest, cache_spec

pytestmark = pytest.mark.cluster

MIB = 2**20
EXPORT = Export("192.0.2.1", "/models")  # an address for documentation: nobody answers there
T = TypeVar("T")


def until(look: Callable[[], T | None], seconds: float = 180) -> T:
    """What ``look`` gives, as soon as it is anything."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.5)
    return found


def planned(kube: Kube, cache: CacheSpec) -> ClaimPlan:
    claim = read_claim(kube, cache.namespace, cache.claim)
    exports = read_export_volumes(kube, EXPORT) if cache.nfs_server else ()
    plan = plan_claim(cache, claim, read_storage_classes(kube), exports)
    assert isinstance(plan, ClaimPlan), plan
    return plan


def provided(kube: Kube, cache: CacheSpec) -> ClaimFacts:
    ensure_claim(kube, cache, planned(kube, cache))
    return wait_bound(kube, cache.namespace, cache.claim, timeout=120)


@pytest.fixture
def expandable(kube: Kube, namespace: str) -> Iterator[CacheSpec]:
    """A cache on a class that says its volumes can be expanded, by a driver that does not run, with one volume made by hand."""
    name = f"expand-{namespace}"
    head = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}}
    kube.create({**head, "provisioner": "acme.example/fs", "allowVolumeExpansion": True})
    source = {"csi": {"driver": "acme.example", "volumeHandle": name}}
    kube.create(volume(name, source, storageClassName=name, claimRef={"namespace": namespace, "name": "cache"}))
    yield cache_spec(namespace, storage_class_name=name, storage_size=MIB, allow_expansion=True)
    kube.delete("PersistentVolumeClaim", "cache", namespace)
    kube.delete("PersistentVolume", name)
    kube.delete("StorageClass", name)


def volume(name: str, source: Manifest, **spec: Any) -> Manifest:
    fixed = {"capacity": {"storage": str(MIB)}, "accessModes": ["ReadWriteMany"], "persistentVolumeReclaimPolicy": "Retain"}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": {**fixed, **source, **spec}}


def test_an_expansion_is_asked_for_once_awaited_and_told(kube: Kube, expandable: CacheSpec) -> None:
    provided(kube, expandable)
    larger = expandable.model_copy(update={"storage_size": 2 * MIB})
    plan = planned(kube, larger)
    assert (plan.action, plan.size) == (ClaimAction.EXPAND, 2 * MIB)
    assert [expand_claim(kube, plan).action for _ in range(2)] == [Action.CONFIGURED, Action.UNCHANGED]
    assert expand_claim(kube, replace(plan, size=MIB)).action is Action.UNCHANGED, "never smaller"
    notes: list[str] = []
    until(lambda: [event for event in kube.list("Event", expandable.namespace) if event["reason"] == "ExternalExpanding"])
    with pytest.raises(ClaimPending, match=r"was asked to have 2\.0 MiB and has not after 4 s: .*expand"):
        wait_expanded(kube, plan, timeout=4, on_note=notes.append)
    assert "is being expanded" in notes[-1]
    assert planned(kube, larger).action is ClaimAction.EXPAND, "a run that comes after a killed one waits as well"
    kube.patch_merge(
        "PersistentVolumeClaim", "cache", expandable.namespace, {"status": {"capacity": {"storage": "2Mi"}}}, subresource="status"
    )
    wait_expanded(kube, plan, timeout=60)
    assert planned(kube, larger).action is ClaimAction.USE


def test_a_volume_without_a_size_of_its_own_is_never_expanded(kube: Kube, namespace: str) -> None:
    cache = cache_spec(namespace, allow_expansion=True)
    bound = provided(kube, cache)
    refused = plan_claim(
        cache.model_copy(update={"storage_size": 2 * MIB}), read_claim(kube, namespace, "cache"), read_storage_classes(kube)
    )
    assert isinstance(refused, tuple)
    assert "a volume of type hostPath cannot be expanded, whatever allowVolumeExpansion says" in refused[0].what
    neighbours = read_neighbours(kube, bound.volume_name or "")
    assert neighbours
    assert neighbours.volumes >= 1
    assert neighbours.bytes >= MIB


@pytest.fixture
def nfs_cache(kube: Kube, namespace: str) -> Iterator[CacheSpec]:
    """A cache on an export that nobody answers for; its volumes are removed with it."""
    yield cache_spec(namespace, storage_class_name=f"by-hand-{namespace}", nfs_server=EXPORT.server, nfs_path=EXPORT.path)
    kube.delete("PersistentVolumeClaim", "cache", namespace)
    for each in kube.list("PersistentVolume"):
        if each["spec"].get("storageClassName") == f"by-hand-{namespace}":
            kube.delete("PersistentVolume", each["metadata"]["name"])


def test_the_volume_of_an_export_is_made_bound_and_bound_again(kube: Kube, nfs_cache: CacheSpec) -> None:
    first = planned(kube, nfs_cache)
    assert [ensure_claim(kube, nfs_cache, first).action for _ in range(2)] == [Action.CREATED, Action.UNCHANGED]
    bound = wait_bound(kube, nfs_cache.namespace, "cache", timeout=120)
    assert (bound.volume_name, bound.volume_type, bound.export) == (first.volume, "nfs", str(EXPORT))
    live = kube.get("PersistentVolume", first.volume or "")
    assert live
    assert (live["spec"]["persistentVolumeReclaimPolicy"], live["spec"]["accessModes"]) == ("Retain", ["ReadWriteMany"])
    assert planned(kube, nfs_cache).action is ClaimAction.USE
    kube.delete("PersistentVolumeClaim", "cache", nfs_cache.namespace)
    until(lambda: ((kube.get("PersistentVolume", first.volume or "") or {}).get("status") or {}).get("phase") == "Released")
    assert provided(kube, nfs_cache).volume_name == first.volume, "the next claim of that name takes it"


def test_a_volume_that_is_there_and_fits_is_bound(kube: Kube, nfs_cache: CacheSpec) -> None:
    source = {"nfs": {"server": EXPORT.server, "path": EXPORT.path}}
    name = f"by-hand-{nfs_cache.namespace}"
    kube.create(volume(name, source, storageClassName=name))
    until(lambda: ((kube.get("PersistentVolume", name) or {}).get("status") or {}).get("phase") == "Available")
    assert provided(kube, nfs_cache).volume_name == name
    assert [each["metadata"]["name"] for each in kube.list("PersistentVolume") if each["spec"].get("storageClassName") == name] == [name]


def test_a_mount_that_fails_is_told_with_its_node(kube: Kube, nfs_cache: CacheSpec) -> None:
    provided(kube, nfs_cache)
    kube.create(pod(nfs_cache.namespace))

    def mounting() -> Diagnosis | None:
        live = kube.get("Pod", "user", nfs_cache.namespace)
        diagnosis = explain_pod(kube, live) if live else None
        return diagnosis if diagnosis and "cannot be mounted" in diagnosis.summary else None

    told = until(mounting, seconds=300)
    node = (kube.get("Pod", "user", nfs_cache.namespace) or {})["spec"]["nodeName"]
    assert told.summary.startswith(f"node {node}: a volume cannot be mounted")
    assert any(words in told.summary for words in ("no mount helper", "cannot be reached", "(FailedMount)")), told
    assert told.next_step


def pod(namespace: str) -> Manifest:
    container = {"name": "main", "image": "busybox:1.36", "command": ["sleep", "3600"], "volumeMounts": [{"name": "m", "mountPath": "/m"}]}
    volumes = [{"name": "m", "persistentVolumeClaim": {"claimName": "cache"}}]
    spec = {"containers": [container], "volumes": volumes, "terminationGracePeriodSeconds": 0}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "user", "namespace": namespace}, "spec": spec}


@pytest.mark.parametrize("mode", [AccessMode.READ_WRITE_ONCE, AccessMode.READ_WRITE_ONCE_POD])
def test_a_loader_goes_where_the_workload_is_or_waits_until_it_is_gone(kube: Kube, namespace: str, mode: AccessMode) -> None:
    cache = cache_spec(namespace, storage_class_name="devcluster-shared", access_mode=mode)
    provided(kube, cache)
    kube.create(pod(namespace))
    node = until(lambda: (kube.get("Pod", "user", namespace) or {}).get("spec", {}).get("nodeName"))
    placed = plan_placement(cache, read_claim(kube, namespace, "cache"), binds_late=False)
    if mode is AccessMode.READ_WRITE_ONCE:
        assert (placed.node, placed.problems) == (node, ())
    else:
        assert f"mounted by Pod/{namespace}/user" in placed.problems[0].what
    kube.delete("Pod", "user", namespace)
    until(lambda: kube.get("Pod", "user", namespace) is None)
    free = plan_placement(cache, read_claim(kube, namespace, "cache"), binds_late=False)
    assert (free.node, free.problems) == (None, ())
