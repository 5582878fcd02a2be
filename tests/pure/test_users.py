"""Who names a claim: every kind of workload, and what names it no longer."""

from typing import Any

import pytest

from modelyard.kube.apply import OWNERSHIP
from modelyard.volumes.users import is_active, users_among

MOUNTED = {"volumes": [{"name": "m", "persistentVolumeClaim": {"claimName": "cache"}}]}
TEMPLATE = {"template": {"spec": MOUNTED}}


def an_object(kind: str, spec: dict[str, Any] | None, name: str = "w", **metadata: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name, "namespace": "team-a", "uid": f"{kind}-{name}", **metadata}, "spec": spec}


@pytest.mark.parametrize(
    ("kind", "spec", "named"),
    [
        pytest.param("Pod", MOUNTED, True, id="pod"),
        pytest.param("Pod", {"volumes": [{"persistentVolumeClaim": {"claimName": "cache-2"}}]}, False, id="another claim"),
        pytest.param("Deployment", TEMPLATE, True, id="workload"),
        pytest.param("CronJob", {"jobTemplate": {"spec": TEMPLATE}}, True, id="between its runs"),
        pytest.param("DaemonSet", TEMPLATE, True, id="on no node yet"),
        pytest.param("ReplicaSet", {"replicas": 0, **TEMPLATE}, True, id="a ReplicaSet of its own"),
        pytest.param("Rollout", TEMPLATE, True, id="Rollout"),
        pytest.param("InferenceService", {"predictor": {"model": {"storageUri": "pvc://cache/llama/v1"}}}, True, id="KServe"),
        pytest.param("InferenceService", {"predictor": {"model": {"storageUri": "pvc://cache"}}}, True, id="KServe, whole claim"),
        pytest.param(
            "InferenceService", {"predictor": {"model": {"storageUris": [{"uri": "pvc://cache/a/1"}]}}}, True, id="KServe, several"
        ),
        pytest.param(
            "InferenceService", {"predictor": {"model": {"storageUri": "pvc://cache-2/llama"}}}, False, id="KServe, another claim"
        ),
        pytest.param("InferenceService", {"predictor": {"model": {"storageUri": "s3://cache/llama"}}}, False, id="KServe, a bucket"),
        pytest.param("MLService", {"releases": [{"storage": {"pvc": {"name": "cache"}}}]}, True, id="T9k"),
        pytest.param("Pod", {"containers": [{"args": ["cache"]}]}, False, id="a word"),
        pytest.param("Pod", None, False, id="no spec"),
    ],
)
def test_who_names_a_claim(kind: str, spec: dict[str, Any] | None, named: bool) -> None:  # noqa: FBT001
    assert users_among([an_object(kind, spec)], "team-a", "cache") == ((f"{kind}/team-a/w",) if named else ())


def test_a_deployments_history_holds_no_claim() -> None:
    elsewhere = {"volumes": [{"persistentVolumeClaim": {"claimName": "other"}}]}
    objects = [
        an_object("Deployment", {"template": {"spec": elsewhere}}),
        an_object("ReplicaSet", {"replicas": 0, **TEMPLATE}, ownerReferences=[{"uid": "Deployment-w"}]),
    ]
    assert users_among(objects, "team-a", "cache") == ()


def test_a_load_of_ours_holds_the_claim_and_a_look_does_not() -> None:
    loader = {**OWNERSHIP, "app.kubernetes.io/component": "loader"}
    objects = [
        an_object("Job", TEMPLATE, command, labels={**loader, "modelyard.dev/command": command, "pvc": "cache"})
        for command in ("preload", "inspect")
    ]
    assert users_among(objects, "team-a", "cache") == ("Job/team-a/preload",)


def test_what_has_ended_and_our_own_looks_use_nothing() -> None:
    pod = {"kind": "Pod", "metadata": {}}
    phases = {phase: is_active({**pod, "status": {"phase": phase}}) for phase in ("Pending", "Running", "Succeeded", "Failed")}
    assert phases == {"Pending": True, "Running": True, "Succeeded": False, "Failed": False}
    job: dict[str, Any] = {"kind": "Job", "metadata": {}, "spec": {"suspend": True}}
    assert is_active(job), "a suspended Job may go on at any time"
    assert not is_active({**job, "status": {"conditions": [{"type": "Complete", "status": "True"}]}})
    assert is_active({**job, "metadata": {"labels": {**OWNERSHIP, "modelyard.dev/command": "preload"}}})
    assert not is_active({**job, "metadata": {"labels": {**OWNERSHIP, "modelyard.dev/command": "inspect", "pvc": "cache"}}})
    assert is_active({"kind": "Deployment", "metadata": {}, "spec": {"replicas": 0}})
