"""The flow's plan by what a pod on the volume sees: capacity, running loads, and where the loader goes."""

import os
from typing import Any

import pytest

from flows.preload import PreloadReport, preload_model
from modelyard.errors import Refused
from modelyard.volumes.claims import read_claim
from tests.cluster.preload.conftest import CLAIM, FrozenLoader, Stack
from tests.cluster.preload.test_flow import in_background, run, wait_until

pytestmark = pytest.mark.cluster

MIB = 2**20


def put(stack: Stack, model: str, size: int) -> None:
    stack.s3.put_object(Bucket=stack.name, Key=f"{model}/v1/weights.safetensors", Body=os.urandom(size), ChecksumAlgorithm="CRC64NVME")


def preload(stack: Stack, model: str, **more: Any) -> PreloadReport:
    report = preload_model(**stack.parameters(**{"model": model, "path": f"{model}/v1", **more}))
    assert isinstance(report, PreloadReport)
    return report


def test_what_lies_there_is_named_where_a_model_does_not_fit(stack: Stack) -> None:
    stack.cache(storageClassName="devcluster-limited", storageSize="64Mi")
    put(stack, "m", 30 * MIB)
    put(stack, "big", 40 * MIB)
    run(stack)
    planned = preload(stack, "big", dry_run=True)
    (told,) = planned.problems
    assert "the model needs 40.0 MiB more" in told
    assert "remove versions from it: m/v1 (ready, 30.0 MiB)" in told
    assert run(stack, dry_run=True).problems == (), "what is there needs no room"
    assert stack.jobs() == []


def test_what_a_running_load_will_write_is_not_free(stack: Stack, frozen: FrozenLoader) -> None:
    stack.cache(storageClassName="devcluster-limited", storageSize="64Mi")
    put(stack, "tiny", 1000)
    preload(stack, "tiny")  # binds the claim
    put(stack, "m", 30 * MIB)
    put(stack, "other", 31 * MIB)
    running = in_background(stack)
    frozen.freeze()
    planned = preload(stack, "other", dry_run=True)
    frozen.thaw()
    output, _ = running.communicate(timeout=300)
    assert running.returncode == 0, output
    (told,) = planned.problems
    assert "the loads that run now will write 30.0 MiB" in told


def test_a_volume_that_nobody_can_look_at_is_a_note(stack: Stack) -> None:
    stack.put(config__json=b"{}")
    run(stack)
    stack.cache(nodeSelector={"modelyard.dev/nowhere": "true"})
    planned = run(stack, dry_run=True)
    assert planned.problems == ()
    assert any("free space was not measured: " in note and "no node takes the pod" in note for note in planned.notes), planned.notes
    assert stack.jobs() == []


def test_a_volume_that_enforces_no_size_is_told(stack: Stack) -> None:
    stack.put(config__json=b"{}")
    run(stack)
    notes = " ".join(run(stack).notes)
    assert "this volume does not enforce its size: the claim says 1.0 GiB" in notes


def workload(namespace: str, image: str) -> dict[str, Any]:
    """A pod under restricted Pod Security that mounts the claim and stays."""
    closed = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    mounts = [{"name": "models", "mountPath": "/models", "readOnly": True}]
    container = {"name": "main", "image": image, "command": ["sleep", "3600"], "securityContext": closed, "volumeMounts": mounts}
    spec = {
        "containers": [container],
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10002, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": CLAIM}}],
        "terminationGracePeriodSeconds": 0,
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": namespace}, "spec": spec}


@pytest.mark.parametrize("mode", ["ReadWriteOnce", "ReadWriteOncePod"])
def test_beside_a_workload(stack: Stack, image: str, mode: str) -> None:
    stack.put(config__json=b"{}")
    stack.cache(accessMode=mode)
    run(stack)
    left = read_claim(stack.kube, stack.name, CLAIM)
    assert left
    assert left.mounted_by == (), "the loader is gone before the flow ends"
    stack.kube.create(workload(stack.name, image))
    wait_until(lambda: ((stack.kube.get("Pod", "web", stack.name) or {}).get("status") or {}).get("phase") == "Running")
    put(stack, "second", 1000)
    if mode == "ReadWriteOncePod":
        with pytest.raises(Refused, match=f"is ReadWriteOncePod and mounted by Pod/{stack.name}/web"):
            preload(stack, "second")
        return
    report = preload(stack, "second")
    node = (stack.kube.get("Pod", "web", stack.name) or {})["spec"]["nodeName"]
    assert any(f"the loader runs on node {node}, where Pod/{stack.name}/web mounts it" in note for note in report.notes)
    assert report.result


def test_the_first_pod_on_a_claim_goes_where_its_workload_will(stack: Stack, image: str, frozen: FrozenLoader) -> None:
    """The workload is scaled to 0: its template says where. The class binds a claim at its first pod (WaitForFirstConsumer)."""
    stack.put(config__json=b"{}")
    stack.cache(storageClassName="devcluster-limited", storageSize="96Mi", accessMode="ReadWriteOnce")
    labels = {"kubernetes.io/os": "linux"}
    pod = {**workload(stack.name, image)["spec"], "nodeSelector": labels}
    template = {"metadata": {"labels": {"app": "web"}}, "spec": pod}
    spec = {"replicas": 0, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    stack.kube.create({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": stack.name}, "spec": spec})
    running = in_background(stack)
    frozen.freeze()
    [job] = stack.jobs()
    frozen.thaw()
    output, _ = running.communicate(timeout=300)
    assert running.returncode == 0, output
    assert job["spec"]["template"]["spec"]["nodeSelector"] == labels
    assert f"as Deployment/{stack.name}/web will, on a node with kubernetes.io/os=linux" in output
