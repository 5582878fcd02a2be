"""The procedures with exactly the rights of deployments/kubernetes: a real service account, and a real token of it."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

import devcluster
from blocks import Cluster, load_block
from flows.preload import preload_model
from modelyard.errors import ClusterRefused
from modelyard.kube.client import Call, Kube
from modelyard.kube.resources import resource
from tests.cluster.preload import conftest
from tests.cluster.preload.conftest import Stack
from tests.manifests import ACCOUNTS, DIRECTORY, Manifest, read, renamed

pytestmark = pytest.mark.cluster
stack, image = conftest.stack, conftest.image
_ROOTS = ("accounts", "cache")
_CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding"}


def kubectl(cluster: devcluster.Cluster, *arguments: str, stdin: str | None = None) -> str:
    command = [str(cluster.kubectl), f"--kubeconfig={cluster.kubeconfig}", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("root", _ROOTS)
def test_kustomize_builds_what_these_tests_read(root: str, cluster: devcluster.Cluster) -> None:
    built = list(yaml.safe_load_all(kubectl(cluster, "kustomize", str(DIRECTORY / root))))
    assert sorted(built, key=str) == sorted(read(root), key=str)


def test_an_overlay_moves_the_cache_to_another_namespace(cluster: devcluster.Cluster, tmp_path: Path) -> None:
    base = os.path.relpath(DIRECTORY / "cache", tmp_path.resolve())
    (tmp_path / "kustomization.yaml").write_text(f"namespace: llms\nresources: [{base}]\n")
    built = list(yaml.safe_load_all(kubectl(cluster, "kustomize", str(tmp_path))))
    assert {each["metadata"].get("namespace", each["metadata"]["name"]) for each in built} == {"llms"}
    [binding] = [each for each in built if each["kind"] == "RoleBinding"]
    assert [each["namespace"] for each in binding["subjects"]] == [ACCOUNTS]


def test_the_api_server_takes_the_manifests(cluster: devcluster.Cluster) -> None:
    for root in _ROOTS:
        text = yaml.safe_dump_all([each for each in read(root) if each["kind"] in _CLUSTER_WIDE | {"Namespace"}])
        kubectl(cluster, "apply", "--server-side", "--dry-run=server", "--filename=-", stdin=text)


@pytest.fixture
def account(stack: Stack) -> Iterator[str]:
    """The flows' account with its rights in the stack's namespace: the name of a Cluster block that holds its token."""
    installed = [renamed(each, stack.name) for root in _ROOTS for each in read(root) if each["kind"] != "Namespace"]
    kubectl(stack.cluster, "apply", "--server-side", "--filename=-", stdin=yaml.safe_dump_all(installed))
    token = kubectl(stack.cluster, "create", "token", "modelyard", f"--namespace={stack.name}").strip()
    name = f"{stack.name}-limited"
    Cluster(server=stack.kube.host, token=SecretStr(token), ca_certificate=stack.cluster.ca_bundle.read_text()).save(name)
    yield name
    for each in installed:
        if each["kind"] in _CLUSTER_WIDE:
            kubectl(stack.cluster, "delete", each["kind"], each["metadata"]["name"])


Right = tuple[str, str, str]


class Recorder:
    """The rights that requests of this process needed, as the API server reckons them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.used: set[Right] = set()
        plain = Kube._open

        def opened(kube: Kube, call: Call, subject: Any) -> Any:
            self.used.update(rights_of(call))
            return plain(kube, call, subject)

        monkeypatch.setattr(Kube, "_open", opened)


def rights_of(call: Call) -> set[Right]:
    """Group, resource and verb of a request. https://kubernetes.io/docs/reference/access-authn-authz/authorization/"""
    kind = resource(call.ref.kind)
    path = f"{kind.plural}/{call.subresource}" if call.subresource else kind.plural
    if "apply-patch" in call.content_type:
        return {(kind.group, path, "patch"), (kind.group, path, "create")}  # the second if there is no such object yet
    verbs = {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}
    reading = "watch" if call.query.get("watch") else "get" if call.ref.name else "list"
    return {(kind.group, path, verbs.get(call.method, reading))}


def granted(manifests: list[Manifest]) -> set[Right]:
    roles = [rule for each in manifests for rule in each.get("rules", ())]
    return {(group, path, verb) for rule in roles for group in rule["apiGroups"] for path in rule["resources"] for verb in rule["verbs"]}


def run(stack: Stack, account: str, **more: Any) -> Any:
    return preload_model(**{**stack.parameters(**more), "cluster": account})


#: Needed when something goes wrong, or by a run that finds another's work; which a load that goes well does not show each time.
OTHERWISE = {
    ("", "events", "list"),  # why a pod or a claim waits: test_kube_loader, test_claims
    ("batch", "jobs", "get"),  # a Job that is there already: test_kube_loader, by an account of these rights
    ("", "persistentvolumeclaims", "watch"),  # a claim that is not bound at the first look
    ("storage.k8s.io", "storageclasses", "get"),  # the same
    ("", "pods/log", "get"),  # progress of a load that lasts
}


def test_a_preload_needs_each_of_its_rights_and_no_other(stack: Stack, account: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.put(config__json=b"{}", model__safetensors=b"weights")
    recorder = Recorder(monkeypatch)
    report = run(stack, account)
    assert report.result.fetched_bytes == len(b"{}weights")
    assert run(stack, account).result.fetched_bytes == 0
    rights = granted([each for root in _ROOTS for each in read(root)])
    assert sorted(recorder.used - rights) == [], "used, and not granted"
    assert sorted(rights - recorder.used - OTHERWISE) == [], "granted, and not used"


def test_the_account_reaches_nothing_else(stack: Stack, account: str) -> None:
    limited = Kube(load_block(Cluster, account).get_client())
    for kind, namespace in [("Secret", stack.name), ("Secret", None), ("ConfigMap", "kube-system"), ("Job", "kube-system"), ("Pod", None)]:
        with pytest.raises(ClusterRefused, match="lacks the verb 'list'"):
            limited.list(kind, namespace)
