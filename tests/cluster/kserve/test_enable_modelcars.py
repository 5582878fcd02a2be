"""Enabling modelcars in a KServe whose administrator has not: killed in between, finished by the next run, seen to hold, and undone."""

import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr

import devcluster
from blocks import Cluster
from flows.enable_modelcars import enable_modelcars
from modelyard.errors import Refused
from modelyard.kube.client import Kube
from modelyard.plans.kserve_config import CONFIG_MAP, SECTION
from modelyard.serving.controller import NOTE, RESTART, SELECTOR
from tests.cluster.faults.support import run_flow

pytestmark = pytest.mark.cluster
#: What the other modules of this directory must not meet (see conftest.py).
CHANGES_KSERVE = True
NAMESPACE = "kserve"


def config(kube: Kube) -> dict[str, Any]:
    live = kube.get("ConfigMap", CONFIG_MAP, NAMESPACE)
    assert live
    return live


def section(kube: Kube) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(config(kube)["data"][SECTION])
    return found


def notes(kube: Kube) -> set[str]:
    return {NOTE, RESTART} & (config(kube)["metadata"].get("annotations") or {}).keys()


def controllers(kube: Kube) -> set[str]:
    return {pod["metadata"]["uid"] for pod in kube.list("Pod", NAMESPACE, label_selector=SELECTOR)}


@pytest.fixture
def block(prefect_server: str, kserve: Kube, kserve_cluster: devcluster.Cluster) -> Iterator[str]:
    """A block for the cluster, whose KServe has modelcars disabled, as its documentation says that it is; afterwards as it was."""
    assert prefect_server
    name = f"enable-{secrets.token_hex(4)}"
    Cluster(kubeconfig=SecretStr(kserve_cluster.kubeconfig.read_text())).save(name)
    shipped = config(kserve)["data"][SECTION]
    kept = {key: value for key, value in json.loads(shipped).items() if key not in {"enableModelcar", "uidModelcar"}}
    write(kserve, json.dumps({**kept, "enableModelcar": False}, indent=2))
    yield name
    write(kserve, shipped)


def write(kube: Kube, text: str) -> None:
    annotations = {NOTE: None, RESTART: None}
    kube.patch_merge("ConfigMap", CONFIG_MAP, NAMESPACE, {"metadata": {"annotations": annotations}, "data": {SECTION: text}})


def test_enabled_after_a_kill_held_by_the_webhook_and_undone(kserve: Kube, block: str) -> None:
    before, pods = section(kserve), controllers(kserve)
    wanted: dict[str, Any] = {"cluster": block, "uid": 1234, "cpu": "11m"}
    planned = enable_modelcars(**wanted, dry_run=True)
    changes = ('cpuModelcar: "10m" -> "11m"', "enableModelcar: false -> true", "uidModelcar: not set -> 1234")
    assert (tuple(sorted(planned.changes)), section(kserve), notes(kserve)) == (changes, before, set())

    exit_code, _ = run_flow("flows.enable_modelcars:enable_modelcars", wanted, MODELYARD_KUBE_DIE_AFTER="1")  # written, not restarted
    assert (exit_code, controllers(kserve), notes(kserve)) == (-9, pods, {NOTE, RESTART})
    finished = enable_modelcars(**wanted)
    assert (finished.action, len(finished.restarted)) == ("only restart the controller", len(pods))
    assert finished.admission == "pods get a modelcar with 11m CPU, 15Mi, uid 1234"
    assert section(kserve) == {**before, "enableModelcar": True, "uidModelcar": 1234, "cpuModelcar": "11m"}
    assert (controllers(kserve) & pods, notes(kserve)) == (set(), {NOTE})

    version = config(kserve)["metadata"]["resourceVersion"]
    again = enable_modelcars(**wanted)
    assert (again.action, again.restarted, config(kserve)["metadata"]["resourceVersion"]) == ("nothing to do", (), version)

    undone = enable_modelcars(cluster=block, undo=True)
    assert (section(kserve), notes(kserve), undone.admission) == (before, set(), "pods get no modelcar")
    assert len(undone.restarted) == len(pods)


def test_a_configuration_that_is_no_json_is_refused_and_left(kserve: Kube, block: str) -> None:
    broken = config(kserve)["data"][SECTION].rstrip().removesuffix("}")
    write(kserve, broken)
    with pytest.raises(Refused, match="is not JSON"):
        enable_modelcars(cluster=block)
    assert config(kserve)["data"][SECTION] == broken


def test_a_controller_that_is_nowhere_is_told_of(kserve_namespace: str, block: str) -> None:
    with pytest.raises(Refused, match=f"namespace {kserve_namespace}: has no pod with the label"):
        enable_modelcars(cluster=block, namespace=kserve_namespace)
