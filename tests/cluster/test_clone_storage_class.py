"""Cloning a StorageClass on a real cluster, by the flow."""

import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr

import devcluster
from blocks import Cluster
from flows.storage_class import CLONED_FROM, clone_storage_class
from modelyard.errors import Refused
from modelyard.kube.client import Kube

pytestmark = pytest.mark.cluster


@pytest.fixture
def name(kube: Kube, prefect_server: str, cluster: devcluster.Cluster | None) -> Iterator[str]:
    """A StorageClass of the test's own, and a block of the same name for the cluster; a clone of it goes as well."""
    assert prefect_server
    assert cluster
    made = f"test-{secrets.token_hex(4)}"
    Cluster(kubeconfig=SecretStr(cluster.kubeconfig.read_text())).save(made)
    annotations = {"storageclass.kubernetes.io/is-default-class": "false", "kubectl.kubernetes.io/last-applied-configuration": "{}"}
    kube.create(
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": made, "annotations": annotations, "labels": {"team": "storage"}},
            "provisioner": "acme.example/none",
            "parameters": {"speed": "high"},
            "mountOptions": ["noatime"],
            "volumeBindingMode": "WaitForFirstConsumer",
        }
    )
    yield made
    for each in (made, f"{made}-retain"):
        kube.delete("StorageClass", each)


def spec(live: dict[str, Any] | None) -> dict[str, Any]:
    assert live
    return {key: value for key, value in live.items() if key != "metadata"}


def test_planned_made_and_left_alone(kube: Kube, name: str) -> None:
    planned = clone_storage_class(name, cluster=name, dry_run=True)
    assert (planned.action, kube.get("StorageClass", f"{name}-retain")) == ("create", None)
    assert clone_storage_class(name, cluster=name).action == "create"
    clone = kube.get("StorageClass", f"{name}-retain")
    assert clone
    assert spec(clone) == {**spec(kube.get("StorageClass", name)), "reclaimPolicy": "Retain"}
    assert clone["metadata"]["annotations"] == {CLONED_FROM: name}
    assert set(clone["metadata"]["labels"]) == {"app.kubernetes.io/managed-by", "app.kubernetes.io/part-of"}
    assert clone_storage_class(name, cluster=name).action == "nothing to do"
    again = kube.get("StorageClass", f"{name}-retain")
    assert again
    assert again["metadata"]["resourceVersion"] == clone["metadata"]["resourceVersion"]


def test_another_class_of_that_name_is_refused_with_the_differences(kube: Kube, name: str) -> None:
    head = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": f"{name}-retain"}}
    kube.create({**head, "provisioner": "acme.example/none", "parameters": {"speed": "low"}, "reclaimPolicy": "Retain"})
    with pytest.raises(Refused, match=r"parameters is .*low.*; mountOptions .*; volumeBindingMode is 'Immediate'"):
        clone_storage_class(name, cluster=name)
    left = kube.get("StorageClass", f"{name}-retain")
    assert left
    assert left["parameters"] == {"speed": "low"}
