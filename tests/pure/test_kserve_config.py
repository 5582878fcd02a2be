"""Enabling modelcars: what is merged into KServe's configuration, what is refused, and what an undo puts back."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import flows
from modelyard.errors import ClusterRefused, Refused
from modelyard.kube.failures import Answer, failure
from modelyard.kube.resources import ObjectRef
from modelyard.plans.kserve_config import (
    ConfigAction,
    ConfigFacts,
    ConfigPlan,
    ModelcarSettings,
    Noted,
    describe_config,
    oci_mode,
    plan_enable,
    plan_undo,
    settings_problems,
)
from modelyard.serving.admission import RIGHTS, judge_admission, judge_refusal
from modelyard.serving.controller import is_restarted, to_restart

#: As shipped, with a key that no release knows.
LIVE = """{
    "image" : "kserve/storage-initializer:v0.20.0",
    "memoryLimit": "1Gi",
    "cpuModelcar": "10m",
    "ours": [1.50, {"a": null}]
}"""


def facts(text: str | None = LIVE, **more: Any) -> ConfigFacts:
    return ConfigFacts("kserve", text, **more)


def after(plan: ConfigPlan, before: ConfigFacts) -> ConfigFacts:
    """What the live ConfigMap is once ``plan`` is carried out and the controller was restarted."""
    return replace(before, text=plan.text, noted=plan.noted.model_dump_json() if plan.noted else None)


def test_a_merge_keeps_every_other_key_and_value() -> None:
    plan = plan_enable(ModelcarSettings(uid=1010, memory="20Mi"), facts())
    expected = {**json.loads(LIVE), "enableModelcar": True, "uidModelcar": 1010, "memoryModelcar": "20Mi"}
    assert plan.action is ConfigAction.CHANGE
    assert plan.text is not None
    assert json.loads(plan.text) == expected
    assert list(json.loads(plan.text)) == list(expected)
    assert plan.changes == ("enableModelcar: not set -> true", "uidModelcar: not set -> 1010", 'memoryModelcar: not set -> "20Mi"')
    assert "uidModelcar: not set -> 1010" in describe_config(plan)


def test_enabled_is_left_alone_and_undone_to_the_values_before_the_first_change() -> None:
    first = plan_enable(ModelcarSettings(uid=1010), facts())
    enabled = after(first, facts())
    assert plan_enable(ModelcarSettings(uid=1010), enabled).action is ConfigAction.NOTHING
    second = plan_enable(ModelcarSettings(uid=0, cpu="50m"), enabled)
    changed = after(second, enabled)
    assert second.noted == Noted(
        before={"enableModelcar": None, "uidModelcar": None, "cpuModelcar": "10m"},
        set={"enableModelcar": True, "uidModelcar": 0, "cpuModelcar": "50m"},
    )
    undone = plan_undo(changed)
    assert undone.text is not None
    assert json.loads(undone.text) == json.loads(LIVE)
    assert undone.noted is None
    assert plan_undo(after(undone, changed)).action is ConfigAction.NOTHING


def test_an_undo_leaves_what_others_changed_since() -> None:
    plan = plan_enable(ModelcarSettings(uid=1010), facts())
    edited = replace(after(plan, facts()), text=json.dumps({**json.loads(plan.text or ""), "uidModelcar": 7}))
    undone = plan_undo(edited)
    assert json.loads(undone.text or "") == {**json.loads(LIVE), "uidModelcar": 7}
    assert undone.notes == ("uidModelcar is 7 and was not set by Modelyard: it stays",)


def test_a_restart_that_a_killed_run_owes_is_made_good() -> None:
    plan = plan_enable(ModelcarSettings(uid=1010), facts())
    killed = replace(after(plan, facts()), restart_due=True)
    assert plan_enable(ModelcarSettings(uid=1010), killed).action is ConfigAction.RESTART


def test_one_and_true_are_two_values() -> None:
    assert plan_enable(ModelcarSettings(), facts('{"enableModelcar": 1}')).changes == ("enableModelcar: 1 -> true",)


def test_who_would_put_the_values_back_is_named() -> None:
    plan = plan_enable(ModelcarSettings(), facts(marks={"argocd.argoproj.io/instance": "kserve"}))
    assert plan.notes == ("the ConfigMap is kept by Argo CD, which may put the values back: change them there, too",)


@pytest.mark.parametrize(
    ("live", "words"),
    [
        pytest.param(facts(None, exists=False), "is not there", id="no ConfigMap"),
        pytest.param(facts(None), "has no key storageInitializer", id="no section"),
        pytest.param(facts('{"image": "x",}'), "is not JSON", id="a comma too many"),
        pytest.param(facts('{"image": NaN}'), "is not JSON", id="what only Python reads"),
        pytest.param(facts("[]"), "no object", id="a list"),
        pytest.param(facts('{"EnableModelcar": false}'), "takes for 'enableModelcar'", id="a key that Go reads in any case"),
    ],
)
def test_a_configuration_that_cannot_be_merged_is_refused(live: ConfigFacts, words: str) -> None:
    with pytest.raises(Refused, match=words):
        plan_enable(ModelcarSettings(), live).approved()
    with pytest.raises(Refused, match=words):
        plan_undo(live).approved()


@pytest.mark.parametrize(
    ("settings", "subjects"),
    [
        pytest.param({"uid": 0, "cpu": "1m", "memory": "12Mi"}, [], id="the least"),
        pytest.param({"uid": 2**31 - 1, "cpu": "0.5", "memory": "64Gi"}, [], id="the most"),
        pytest.param({"uid": -1, "cpu": "0", "memory": "1Mi"}, ["uidModelcar", "cpuModelcar", "memoryModelcar"], id="below"),
        pytest.param({"uid": 2**31, "cpu": "65", "memory": "65Gi"}, ["uidModelcar", "cpuModelcar", "memoryModelcar"], id="above"),
        pytest.param({"cpu": "ten", "memory": "15 MB"}, ["cpuModelcar", "memoryModelcar"], id="no quantities"),
        pytest.param({"cpu": "0m"}, ["cpuModelcar"], id="nothing at all"),
    ],
)
def test_values_out_of_range_are_refused_all_at_once(settings: dict[str, Any], subjects: list[str]) -> None:
    assert [problem.subject for problem in settings_problems(ModelcarSettings(**settings))] == subjects


@pytest.mark.parametrize(
    ("section", "mode"),
    [
        ({}, None),
        ({"enableModelcar": False}, None),
        ({"enableModelcar": True}, "modelcar"),
        ({"enableOciModelSupport": True}, "modelcar"),
        ({"enableModelcar": True, "ociModelMode": "native"}, "native"),
    ],
)
def test_what_oci_means(section: dict[str, Any], mode: str | None) -> None:
    assert oci_mode(section) == mode


def admitted(**container: Any) -> dict[str, Any]:
    modelcar = {"name": "modelcar", "resources": {"limits": {"cpu": "10m", "memory": "15Mi"}}, **container}
    return {"spec": {"shareProcessNamespace": True, "containers": [{"name": "kserve-container"}, modelcar]}}


@pytest.mark.parametrize(
    ("section", "pod", "works"),
    [
        pytest.param({"enableModelcar": True}, admitted(), True, id="with KServe's defaults"),
        pytest.param({"enableModelcar": True, "uidModelcar": 5}, admitted(securityContext={"runAsUser": 5}), True, id="with the uid"),
        pytest.param(
            {"enableModelcar": True, "cpuModelcar": "0.05", "memoryModelcar": "1024Mi"},
            admitted(resources={"limits": {"cpu": "50m", "memory": "1Gi"}}),
            True,
            id="the same amounts in other words",
        ),
        pytest.param({"enableModelcar": True, "cpuModelcar": "0.05"}, admitted(), False, id="with another amount"),
        pytest.param({"enableModelcar": True, "uidModelcar": 5}, admitted(), False, id="the old controller still answers"),
        pytest.param({}, admitted(), False, id="undone, and the old controller still answers"),
        pytest.param({}, {"spec": {"containers": []}}, True, id="undone"),
    ],
)
def test_whether_the_webhook_does_as_the_settings_say(section: dict[str, Any], pod: dict[str, Any], works: bool) -> None:  # noqa: FBT001
    assert judge_admission(pod, section).works is works


@pytest.mark.parametrize(
    ("told", "works"),
    [
        pytest.param('admission webhook "inferenceservice.kserve-webhook-server.pod-mutator" denied the request: no', False, id="KServe"),
        pytest.param('admission webhook "policies.example.org" denied the request: no such registry', None, id="another's webhook"),
        pytest.param('pods is forbidden: User "x" cannot create resource "pods"', None, id="no right"),
    ],
)
def test_whose_refusal_is_a_failure(told: str, works: bool | None) -> None:  # noqa: FBT001
    found = judge_refusal(told, "team")
    assert found.works is works
    assert RIGHTS not in found.told


def test_a_probe_without_the_right_names_the_rights_and_the_parameter() -> None:
    words = b'{"message": "pods is forbidden: User \\"sa\\" cannot create resource \\"pods\\" in API group \\"\\""}'
    refused = failure("create", ObjectRef("Pod", "modelyard-probe", "default"), Answer(403, words, {}))
    assert isinstance(refused, ClusterRefused)
    told = judge_refusal(str(refused), "default").told
    assert told.endswith(
        f"grant it by a Role: {RIGHTS} is one, for a namespace where models are served; give that as probe_namespace (now default)"
    )
    assert (Path(flows.__path__[0]).parent / RIGHTS / "kustomization.yaml").exists()


# The controller's restart -----------------------------------------------------------------------------------------------


def controller(uid: str, *, ready: bool = True, going: bool = False) -> dict[str, Any]:
    metadata = {"uid": uid, "name": f"controller-{uid}", **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if going else {})}
    return {"metadata": metadata, "status": {"conditions": [{"type": "Ready", "status": str(ready)}]}}


def test_a_pod_that_is_going_need_not_be_deleted() -> None:
    assert to_restart([controller("a", going=True), controller("b")]) == {"b": "controller-b"}


@pytest.mark.parametrize(
    ("pods", "done"),
    [
        pytest.param([controller("c")], True, id="one, where two were noted during a rollout"),
        pytest.param([controller("c"), controller("d")], True, id="more"),
        pytest.param([], False, id="none yet"),
        pytest.param([controller("c"), controller("b")], False, id="an old one"),
        pytest.param([controller("c"), controller("x", going=True)], False, id="one that is going"),
        pytest.param([controller("c"), controller("d", ready=False)], False, id="one that is not Ready"),
    ],
)
def test_restarted_is_when_new_pods_alone_are_there_all_ready(pods: list[dict[str, Any]], done: bool) -> None:  # noqa: FBT001
    assert is_restarted(pods, {"a": "controller-a", "b": "controller-b"}) is done
