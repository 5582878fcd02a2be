"""The auditor beside a real API server: it finds kinds by discovery, and a planted change in any of them."""

from pathlib import Path

import pytest

from modelyard.kube.client import Kube
from tests.auditor import Api, Expected, Snapshot, compare
from tests.cluster.support import config_map

pytestmark = pytest.mark.cluster


def test_discovery_finds_the_kinds_that_matter(kubeconfig: str) -> None:
    kinds = {kind for kind, _ in Api(Path(kubeconfig)).kinds()}
    assert kinds >= {"Pod", "Job", "Secret", "PersistentVolume", "PersistentVolumeClaim", "StorageClass", "CronJob", "ClusterRole"}
    assert not kinds & {"Event", "Lease"}


def test_planted_changes_are_found(kube: Kube, kubeconfig: str, namespace: str) -> None:
    mine = f"*/{namespace}/*"
    kube.create(config_map("theirs", namespace, key="before"))
    before = Snapshot.take(Path(kubeconfig))
    assert f"ConfigMap/{namespace}/theirs" in before.facts
    secret = {"metadata": {"name": "planted", "namespace": namespace}, "stringData": {"a": "b"}}
    kube.create({"apiVersion": "v1", "kind": "Secret", **secret})
    kube.patch_merge("ConfigMap", "theirs", namespace, {"data": {"key": "after"}})
    name = f"planted-{namespace}"
    kube.create({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}, "provisioner": "none/none"})
    after = Snapshot.take(Path(kubeconfig))
    kube.delete("StorageClass", name)
    found = compare(before, after).unexpected
    assert {f"Secret/{namespace}/planted appeared", f"StorageClass/{name} appeared"} <= set(found)
    assert f"ConfigMap/{namespace}/theirs changed: data.key 'before' -> 'after'" in found
    told = compare(before, after, Expected(ignored=[mine, "ServiceAccount/*", "ConfigMap/*"])).unexpected
    assert f"StorageClass/{name} appeared" in told
    assert not [each for each in told if f"/{namespace}/" in each]
