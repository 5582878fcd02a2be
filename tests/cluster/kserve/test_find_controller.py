"""KServe's controller is found with the rights that users install, where it usually is; else they are told to name its namespace."""

from collections.abc import Iterator
from typing import Any

import pytest

import devcluster
from blocks import OciRegistry
from flows.enable_modelcars import EnableReport, enable_modelcars
from flows.serve_modelcar import ServeReport, serve_modelcar
from modelyard.errors import Refused
from modelyard.kube.client import Kube
from modelyard.serving.controller import find_namespace
from tests.cluster.kserve.images import push_model
from tests.cluster.kserve.rights import limited_account
from tests.cluster.kserve.support import TURN, apply_all

pytestmark = [pytest.mark.cluster, TURN]
#: A second controller is one too many for the other modules of this directory (see conftest.py).
CHANGES_KSERVE = True
OTHER = "opendatahub"
CONTROLLER = {"control-plane": "kserve-controller-manager"}  # as KServe's manifests label it


def enable(name: str, **more: Any) -> EnableReport:
    report: EnableReport = enable_modelcars(cluster=name, dry_run=True, **more)
    return report


def serve(name: str, image: str, **more: Any) -> ServeReport:
    """A plan in the namespace and with the blocks of this name."""
    told = {"registry": name, "cluster": name, "dry_run": True, **more}
    report: ServeReport = serve_modelcar(name="m", namespace=name, image=image, model_format="sklearn", **told)
    return report


@pytest.fixture
def image(prefect_server: str, kserve: Kube, kserve_cluster: devcluster.Cluster, kserve_namespace: str) -> str:
    assert prefect_server
    OciRegistry(host=kserve_cluster.registry, plain_http=True).save(kserve_namespace)
    return push_model(kserve_cluster, kserve, f"models/{kserve_namespace}", based=True)


@pytest.fixture
def other(kserve: Kube, kserve_cluster: devcluster.Cluster) -> Iterator[str]:
    """A controller's pod where Open Data Hub would put it, which is never scheduled."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "controller", "namespace": OTHER, "labels": CONTROLLER},
        "spec": {"nodeSelector": {"no": "node"}, "containers": [{"name": "manager", "image": "busybox:1.36"}]},
    }
    apply_all(kserve_cluster, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OTHER}})
    apply_all(kserve_cluster, pod)
    yield OTHER
    kserve.delete("Pod", "controller", OTHER)
    kserve.delete("Namespace", OTHER)


def test_the_default_finds_it_with_the_rights_that_users_install(
    image: str, kserve: Kube, kserve_cluster: devcluster.Cluster, kserve_namespace: str
) -> None:
    name = kserve_namespace
    with limited_account(kserve_cluster, kserve, name, "accounts", "serve-modelcar", "enable-modelcars"):
        assert enable(name).namespace == "kserve"
        assert serve(name, image).notes == ()


def test_it_is_found_in_another_usual_namespace(
    image: str, other: str, kserve: Kube, kserve_cluster: devcluster.Cluster, kserve_namespace: str
) -> None:
    name = kserve_namespace
    with limited_account(kserve_cluster, kserve, name, "accounts", "serve-modelcar", "enable-modelcars", controller=other):
        assert enable(name).namespace == other
        [problem] = serve(name, image).problems
        assert f"{other}/inferenceservice-config: is not there" in problem
    with pytest.raises(
        Refused, match=rf"the cluster: has controllers of KServe in kserve, {other}; name the one that is meant \(namespace\)"
    ):
        find_namespace(kserve)


def test_who_may_look_nowhere_is_told_to_name_it(
    image: str, kserve: Kube, kserve_cluster: devcluster.Cluster, kserve_namespace: str
) -> None:
    name = kserve_namespace
    nowhere = (
        r"controller of KServe: is not found: not all namespaces may be looked through \(.* lacks the verb 'list' on 'pods' for the cluster"
        r".*\); kserve may not be looked into; opendatahub may not be .*; redhat-ods-applications may not be .*; give its namespace"
    )
    with limited_account(kserve_cluster, kserve, name, "accounts", "serve-modelcar"):
        with pytest.raises(Refused, match=nowhere):
            enable(name)
        [note] = serve(name, image).notes
        assert note.startswith("whether modelcars are enabled is not known: controller of KServe: is not found")
        [note] = serve(name, image, kserve_namespace="kserve").notes
        assert "configmaps" in note


def test_a_namespace_without_it_is_told_as_such(kserve: Kube, kserve_namespace: str) -> None:
    assert find_namespace(kserve) == "kserve"
    with pytest.raises(Refused, match=f"namespace {kserve_namespace}: has no pod with the label"):
        find_namespace(kserve, kserve_namespace)
