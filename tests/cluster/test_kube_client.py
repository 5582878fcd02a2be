"""The verbs against a real API server: absence, preconditions, pages, watches, and refusals in words."""

import socket
from itertools import islice

import pytest

from modelyard.errors import ClusterRefused, ClusterUnavailable
from modelyard.kube.client import Call, Kube
from modelyard.kube.failures import AlreadyExists, Changed, NotFound
from modelyard.kube.resources import ObjectRef
from tests.cluster.support import config_map, connect

pytestmark = pytest.mark.cluster


def test_absence_is_none_or_false(kube: Kube, namespace: str) -> None:
    assert kube.get("ConfigMap", "c", namespace) is None
    assert kube.delete("ConfigMap", "c", namespace) is False
    assert kube.pod_log("p", namespace) == ""


def test_a_name_is_taken_once(kube: Kube, namespace: str) -> None:
    kube.create(config_map("c", namespace))
    with pytest.raises(AlreadyExists, match=rf"create ConfigMap/{namespace}/c failed"):
        kube.create(config_map("c", namespace))


def test_preconditions_hold(kube: Kube, namespace: str) -> None:
    made = kube.create(config_map("c", namespace))["metadata"]
    with pytest.raises(Changed):
        kube.delete("ConfigMap", "c", namespace, uid="another")
    with pytest.raises(Changed):
        kube.patch_merge("ConfigMap", "c", namespace, {"metadata": {"uid": "another"}, "data": {"a": "1"}})
    patched = kube.patch_merge("ConfigMap", "c", namespace, {"metadata": {"uid": made["uid"]}, "data": {"a": "1"}})
    assert patched["data"] == {"a": "1"}
    with pytest.raises(Changed):
        kube.delete("ConfigMap", "c", namespace, uid=made["uid"], resource_version=made["resourceVersion"])
    assert kube.delete("ConfigMap", "c", namespace, uid=made["uid"]) is True


def test_lists_all_pages(kube: Kube, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelyard.kube.client._PAGE", 2)
    for number in range(5):
        kube.create(config_map(f"c{number}", namespace))
    listed = [each for each in kube.list("ConfigMap", namespace) if each["metadata"]["name"].startswith("c")]
    assert [each["metadata"]["name"] for each in listed] == ["c0", "c1", "c2", "c3", "c4"]
    assert {(each["apiVersion"], each["kind"]) for each in listed} == {("v1", "ConfigMap")}


def test_a_watch_tells_what_happens_after_a_list(kube: Kube, namespace: str) -> None:
    since = kube.collection("ConfigMap", namespace).resource_version
    kube.create(config_map("c", namespace))
    kube.delete("ConfigMap", "c", namespace)
    events = kube.watch("ConfigMap", namespace, field_selector="metadata.name=c", resource_version=since, timeout_seconds=60)
    told = (kind for kind, _ in events if kind != "BOOKMARK")
    assert list(islice(told, 2)) == ["ADDED", "DELETED"]


def test_forbidden_names_account_verb_and_resource(kubeconfig: str, namespace: str) -> None:
    stranger = connect(kubeconfig, impersonate="stranger")
    with pytest.raises(ClusterRefused, match=r"account stranger lacks the verb 'create' on 'jobs' in namespace test-\w+; grant it"):
        stranger.create({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": namespace}, "spec": {}})


def test_a_service_accounts_token_is_sent(kube: Kube, kubeconfig: str, namespace: str) -> None:
    kube.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot", "namespace": namespace}})
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    call = Call("create token of", "POST", ObjectRef("ServiceAccount", "robot", namespace), "token", body=request)
    token = kube.send(call)["status"]["token"]
    robot = connect(kubeconfig, cert_file=None, key_file=None, api_key={"authorization": f"Bearer {token}"})
    with pytest.raises(ClusterRefused, match=rf"system:serviceaccount:{namespace}:robot lacks the verb 'get' on 'secrets'") as refusal:
        robot.get("Secret", "s", namespace)
    assert token not in str(refusal.value)


def test_an_invalid_object_is_told_in_the_servers_words(kube: Kube, namespace: str) -> None:
    with pytest.raises(ClusterRefused, match=rf"create ConfigMap/{namespace}/No_Name failed: .*lower case alphanumeric"):
        kube.create(config_map("No_Name", namespace))


def test_a_kind_that_is_not_installed(kube: Kube, namespace: str) -> None:
    with pytest.raises(NotFound, match=rf"list InferenceService/{namespace} failed"):
        kube.list("InferenceService", namespace)


def test_no_answer_is_temporary(kubeconfig: str) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # it is nobody else's meanwhile, and nobody listens
        port = silent.getsockname()[1]
        with pytest.raises(ClusterUnavailable, match=rf"list Node failed: no answer from https://127.0.0.1:{port}"):
            connect(kubeconfig, host=f"https://127.0.0.1:{port}").list("Node")
