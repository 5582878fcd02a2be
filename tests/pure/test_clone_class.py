"""Clones of StorageClasses, by table."""

from typing import Any

import pytest

from modelyard.errors import Refused
from modelyard.plans.clone_class import CloneAction, describe_clone, plan_clone

TOPOLOGY = [{"matchLabelExpressions": [{"key": "topology.kubernetes.io/zone", "values": ["a"]}]}]
GP3: dict[str, Any] = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {
        "name": "gp3-csi",
        "uid": "0a",
        "resourceVersion": "7",
        "creationTimestamp": "2026-11-21T08:00:00Z",
        "labels": {"app.kubernetes.io/instance": "storage"},
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "storageclass.kubernetes.io/is-default-class": "true"},
    },
    "provisioner": "ebs.csi.aws.com",
    "parameters": {"type": "gp3"},
    "mountOptions": ["noatime"],
    "allowVolumeExpansion": True,
    "volumeBindingMode": "WaitForFirstConsumer",
    "allowedTopologies": TOPOLOGY,
    "reclaimPolicy": "Delete",
}
CLONE = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {"name": "gp3-csi-retain"},
    "provisioner": "ebs.csi.aws.com",
    "parameters": {"type": "gp3"},
    "mountOptions": ["noatime"],
    "allowVolumeExpansion": True,
    "volumeBindingMode": "WaitForFirstConsumer",
    "allowedTopologies": TOPOLOGY,
    "reclaimPolicy": "Retain",
}


def test_what_decides_how_volumes_are_made_is_copied_and_nothing_else() -> None:
    plan = plan_clone([GP3], "gp3-csi")
    assert (plan.action, plan.approved()) == (CloneAction.CREATE, CLONE)
    assert "app.kubernetes.io/instance" in plan.notes[1]
    assert "reclaimPolicy: Retain" in describe_clone(plan, "reclaimPolicy: Retain\n")


@pytest.mark.parametrize(
    ("there", "name", "word"),
    [
        pytest.param([GP3, CLONE], None, "there already and the same", id="the same is there"),
        pytest.param([GP3, {**CLONE, "metadata": {"name": "kept"}}], "kept", "there already", id="the same under another name"),
        pytest.param([{**GP3, "reclaimPolicy": "Retain"}], None, "reclaim policy Retain itself", id="the source keeps volumes itself"),
    ],
)
def test_nothing_to_do(there: list[dict[str, Any]], name: str | None, word: str) -> None:
    plan = plan_clone(there, "gp3-csi", name)
    assert (plan.action, plan.approved()) == (CloneAction.NOTHING, None)
    assert word in plan.notes[0]


def test_what_the_api_fills_in_is_no_difference() -> None:
    bare = {key: GP3[key] for key in ("metadata", "provisioner")}
    filled = {**bare, "metadata": {"name": "gp3-csi-retain"}, "reclaimPolicy": "Retain", "volumeBindingMode": "Immediate"}
    assert plan_clone([bare, filled], "gp3-csi").approved() is None


@pytest.mark.parametrize(
    ("there", "source", "name", "word"),
    [
        pytest.param([GP3], "gp3", None, "classes that exist: gp3-csi", id="no such class"),
        pytest.param([GP3], "gp3-csi", "gp3-csi", "the source itself", id="its own name"),
        pytest.param([GP3], "gp3-csi", "GP3_retain", "lower-case", id="no name"),
        pytest.param(
            [GP3, {**CLONE, "parameters": {"type": "io2"}, "reclaimPolicy": "Delete"}],
            "gp3-csi",
            None,
            "parameters is {'type': 'io2'}, the copy's would be {'type': 'gp3'}; reclaimPolicy is 'Delete'",
            id="another class of that name",
        ),
    ],
)
def test_refusals(there: list[dict[str, Any]], source: str, name: str | None, word: str) -> None:
    plan = plan_clone(there, source, name)
    with pytest.raises(Refused) as refused:
        plan.approved()
    assert word in str(refused.value)
    assert word in describe_clone(plan, "")
