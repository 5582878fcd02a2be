"""Enabling modelcars in a KServe whose administrator has not: killed in between, finished by the next run, seen to hold, and undone."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

import devcluster
from flows.enable_modelcars import enable_modelcars
from modelyard.errors import Refused
from modelyard.kube.client import Kube
from modelyard.plans.kserve_config import CONFIG_MAP, SECTION
from modelyard.serving.controller import NOTE, RESTART, SELECTOR
from tests.cluster.faults.support import run_flow
from tests.cluster.kserve.rights import limited_account, rights_in
from tests.cluster.kserve.support import TURN
from tests.cluster.test_rights import Recorder

pytestmark = [pytest.mark.cluster, TURN]
#: What the other modules of this directory must not meet (see conftest.py).
CHANGES_KSERVE = True
NAMESPACE = "kserve"
ROOTS = ("accounts", "enable-modelcars", "enable-modelcars/probe")


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
def block(prefect_server: str, kserve: Kube, kserve_cluster: devcluster.Cluster, kserve_namespace: str) -> Iterator[str]:
    """A block for the cluster, whose KServe has modelcars disabled, as its documentation says that it is; afterwards as it was.

    Its account has the rights of enable-modelcars/ and, in the namespace of the same name, those of its probe/.
    """
    assert prefect_server
    name = kserve_namespace
    shipped = config(kserve)["data"][SECTION]
    kept = {key: value for key, value in json.loads(shipped).items() if key not in {"enableModelcar", "uidModelcar"}}
    write(kserve, json.dumps({**kept, "enableModelcar": False}, indent=2))
    with limited_account(kserve_cluster, kserve, name, *ROOTS):
        yield name
    write(kserve, shipped)


def write(kube: Kube, text: str) -> None:
    annotations = {NOTE: None, RESTART: None}
    kube.patch_merge("ConfigMap", CONFIG_MAP, NAMESPACE, {"metadata": {"annotations": annotations}, "data": {SECTION: text}})


def test_enabled_after_a_kill_held_by_the_webhook_and_undone(kserve: Kube, block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, pods = section(kserve), controllers(kserve)
    there: dict[str, Any] = {"cluster": block, "probe_namespace": block}
    wanted = {**there, "uid": 1234, "cpu": "11m"}
    recorder = Recorder(monkeypatch)
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

    undone = enable_modelcars(**there, undo=True)
    assert (section(kserve), notes(kserve), undone.admission) == (before, set(), "pods get no modelcar")
    assert len(undone.restarted) == len(pods)
    recorder.hold(rights_in(*ROOTS[1:]), "enable-modelcars")


def test_a_configuration_that_is_no_json_is_refused_and_left(kserve: Kube, block: str) -> None:
    broken = config(kserve)["data"][SECTION].rstrip().removesuffix("}")
    write(kserve, broken)
    with pytest.raises(Refused, match="is not JSON"):
        enable_modelcars(cluster=block, namespace=NAMESPACE)
    assert config(kserve)["data"][SECTION] == broken


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_enabling_and_undoing_killed_after_each_of_their_writes(kserve: Kube, block: str) -> None:
    """Wherever both were killed, the next run ends what was begun, and in the end all is as it was before."""
    before = section(kserve)
    there: dict[str, Any] = {"cluster": block, "namespace": NAMESPACE, "probe_namespace": block}
    k, killed = 1, True
    while killed:
        pods = controllers(kserve)
        killed = _dies(k, **there)
        enabled = enable_modelcars(**there)
        assert (section(kserve)["uidModelcar"], notes(kserve)) == (1010, {NOTE})
        assert enabled.admission.startswith("pods get a modelcar with")
        assert not controllers(kserve) & pods
        killed = _dies(k, **there, undo=True) or killed
        assert enable_modelcars(**there, undo=True).admission == "pods get no modelcar"
        assert (section(kserve), notes(kserve)) == (before, set())
        k += 1
    assert k > 4, "the configuration, the pods that have to go, the pod, the end of the restart"


def _dies(k: int, **parameters: Any) -> bool:
    exit_code, output = run_flow("flows.enable_modelcars:enable_modelcars", parameters, MODELYARD_KUBE_DIE_AFTER=str(k))
    assert exit_code in {0, -9}, output
    return exit_code == -9
