"""The procedures with exactly the rights of deployments/kubernetes: a real service account, and a real token of it."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

import devcluster
from blocks import Cluster, load_block
from flows.check_storage import check_storage
from flows.preload import preload_model
from flows.reconcile import reconcile_caches
from flows.share import share_cache, unshare_cache
from flows.storage_class import clone_storage_class
from flows.verify import verify_cache
from modelyard.errors import ClusterRefused, Refused
from modelyard.kube.apply import Action
from modelyard.kube.client import Call, Kube
from modelyard.kube.resources import resource
from modelyard.volumes.expansion import expand_claim
from tests.cluster.catalogue import install
from tests.cluster.preload import conftest
from tests.cluster.preload.conftest import Stack
from tests.cluster.support import SECONDS, cache_spec
from tests.cluster.test_claim_kinds import MIB, planned, provided, volume
from tests.manifests import ACCOUNTS, CACHE, DIRECTORY, TARGET, Manifest, read, renamed

pytestmark = pytest.mark.cluster
stack, image = conftest.stack, conftest.image
#: Whose rights are tried beside KServe (tests/cluster/kserve).
_SERVING = ("enable-modelcars", "enable-modelcars/probe", "serve-modelcar", "prepull")
_ROOTS = ("accounts", "cache", "check-storage", "expand-claims", "share", "target", "clone-storage-class", *_SERVING)
_PLAIN = ("accounts", "cache")
_RIGHTS = {"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
_CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding"}


def kubectl(cluster: devcluster.Cluster, *arguments: str, stdin: str | None = None) -> str:
    command = [str(cluster.kubectl), f"--kubeconfig={cluster.kubeconfig}", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True, timeout=SECONDS).stdout


@pytest.mark.parametrize("root", _ROOTS)
def test_kustomize_builds_what_these_tests_read(root: str, cluster: devcluster.Cluster) -> None:
    built = list(yaml.safe_load_all(kubectl(cluster, "kustomize", str(DIRECTORY / root))))
    named = [sorted(((each["kind"], each["metadata"]["name"]) for each in some), key=str) for some in (built, read(root))]
    assert named[0] == named[1]
    assert [each for each in built if each["kind"] in _RIGHTS and each not in read(root)] == []


def test_an_overlay_moves_the_cache_to_another_namespace(cluster: devcluster.Cluster, tmp_path: Path) -> None:
    base = os.path.relpath(DIRECTORY / "cache", tmp_path.resolve())
    (tmp_path / "kustomization.yaml").write_text(f"namespace: llms\nresources: [{base}]\n")
    built = list(yaml.safe_load_all(kubectl(cluster, "kustomize", str(tmp_path))))
    assert {each["metadata"].get("namespace", each["metadata"]["name"]) for each in built} == {"llms"}
    bindings = [each for each in built if each["kind"] == "RoleBinding"]
    assert bindings
    assert {each["namespace"] for binding in bindings for each in binding["subjects"]} == {ACCOUNTS}


def test_the_api_server_takes_the_manifests(cluster: devcluster.Cluster) -> None:
    for root in _ROOTS:
        text = yaml.safe_dump_all([each for each in read(root) if "namespace" not in each["metadata"]])
        if text:
            kubectl(cluster, "apply", "--server-side", "--dry-run=server", "--filename=-", stdin=text)


@dataclass
class Account:
    """The flows' account with its rights in the stack's namespace, and in one that the cache is shared with."""

    stack: Stack
    target: str
    made: list[Manifest] = field(default_factory=list)

    def grant(self, *roots: str) -> set["Right"]:
        """Install what users install of these directories; the rights that they give. The policy of share/ has tests of its own."""
        namespaces = {ACCOUNTS: self.stack.name, CACHE: self.stack.name, TARGET: self.target}
        manifests = [each for root in roots for each in read(root) if each["kind"] in _RIGHTS]
        installed = [renamed(each, namespaces, self.stack.name) for each in manifests]
        kubectl(self.stack.cluster, "apply", "--server-side", "--filename=-", stdin=yaml.safe_dump_all(installed))
        self.made += installed
        return granted(manifests)

    def save(self) -> str:
        """The name of a Cluster block that holds a token of the account."""
        token = kubectl(self.stack.cluster, "create", "token", "modelyard", f"--namespace={self.stack.name}").strip()
        ca = self.stack.cluster.ca_bundle.read_text()
        Cluster(server=self.stack.kube.host, token=SecretStr(token), ca_certificate=ca).save(f"{self.stack.name}-limited")
        return f"{self.stack.name}-limited"

    def remove(self) -> None:
        """Remove what is cluster-wide; the rest goes with its namespaces."""
        for each in self.made:
            if each["kind"] in _CLUSTER_WIDE:
                kubectl(self.stack.cluster, "delete", each["kind"], each["metadata"]["name"])


@pytest.fixture
def account(stack: Stack) -> Iterator[Account]:
    """An account that has been granted nothing yet, and a namespace beside the cache's."""
    target = f"{stack.name}-target"
    stack.kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": target}})
    made = Account(stack, target)
    yield made
    made.remove()
    stack.kube.delete("Namespace", target)


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

    def hold(self, rights: set[Right], of: str) -> None:
        """Assert that just these rights were needed."""
        assert sorted(self.used - rights) == [], f"used, and not granted by {of}"
        assert sorted(rights - self.used - OTHERWISE) == [], f"granted by {of}, and not used"


def rights_of(call: Call) -> set[Right]:
    """Group, resource and verb of a request. https://kubernetes.io/docs/reference/access-authn-authz/authorization/"""
    kind = resource(call.ref.kind)
    path = f"{kind.plural}/{call.subresource}" if call.subresource else kind.plural
    if "apply-patch" in call.content_type and not call.subresource:
        return {(kind.group, path, "patch"), (kind.group, path, "create")}  # the second if there is no such object yet
    verbs = {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}
    reading = "watch" if call.query.get("watch") else "get" if call.ref.name else "list"
    return {(kind.group, path, verbs.get(call.method, reading))}


def granted(manifests: list[Manifest]) -> set[Right]:
    roles = [rule for each in manifests for rule in each.get("rules", ())]
    return {(group, path, verb) for rule in roles for group in rule["apiGroups"] for path in rule["resources"] for verb in rule["verbs"]}


#: Needed when something goes wrong, or by a run that finds another's work; which runs that go well do not show each time.
OTHERWISE = {
    ("", "events", "list"),  # why a pod or a claim waits: test_kube_loader, test_claims
    ("batch", "jobs", "get"),  # a Job that is there already: test_kube_loader, by an account of these rights
    ("", "persistentvolumeclaims", "watch"),  # a claim that is not bound, or gone, at the first look
    ("", "persistentvolumes", "watch"),  # the same
    ("storage.k8s.io", "storageclasses", "get"),  # the same
    ("", "pods/log", "get"),  # progress of a load that lasts
    ("", "namespaces", "list"),  # patterns of shareOnDemand: test_sharing
    ("", "nodes", "list"),  # volumes of one zone: test_check_storage, test_placement
    ("policy.modelyard.dev", "shareablevolumes", "share"),  # asked for by the policy: test_volume_policy
    ("modelyard.dev", "cachedmodels", "delete"),  # a mirror beside a declared object: test_reconcile
}


def test_the_procedures_need_each_of_their_rights_and_no_other(stack: Stack, account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user comes to them: a preload, the catalogue, a check of what is there, and sharing it."""
    install(stack.cluster, str(stack.cluster.kubeconfig))
    rights = account.grant(*_PLAIN)
    limited: Any = {"cluster": account.save(), "cache": stack.name}
    stack.put(config__json=b"{}", model__safetensors=b"weights")
    recorder = Recorder(monkeypatch)
    load: Any = {**stack.parameters(), **limited}
    assert preload_model(**load).result.fetched_bytes == len(b"{}weights")
    reconcile_caches(cluster=limited["cluster"], caches=[stack.name])
    verify_cache(**limited)
    recorder.hold(rights, "accounts and cache")
    rights |= account.grant("share", "target")
    share_cache(**limited, namespaces=[account.target])
    unshare_cache(**limited, namespaces=[account.target])
    recorder.hold(rights, "share and target")


@pytest.mark.faults
def test_the_optional_procedures_need_each_of_their_rights_and_no_other(
    stack: Stack, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    rights = account.grant(*_PLAIN)
    limited: Any = {"cluster": account.save(), "cache": stack.name}
    recorder = Recorder(monkeypatch)
    clone = f"clone-{stack.name}"
    with pytest.raises(ClusterRefused, match="lacks the verb 'create' on 'storageclasses'"):
        clone_storage_class("devcluster-shared", clone, cluster=limited["cluster"])
    asked: Any = {**limited, "storage_class": "devcluster-shared", "size": "96Mi", "measured": "2Mi"}
    with pytest.raises(Refused, match=r"lacks the verb 'delete' on 'persistentvolumeclaims'.*deployments/kubernetes/check-storage"):
        check_storage(**asked)
    assert stack.kube.list("PersistentVolumeClaim", stack.name) == []
    new = account.grant("clone-storage-class", "check-storage")
    clone_storage_class("devcluster-shared", clone, cluster=limited["cluster"])
    kubectl(stack.cluster, "delete", "storageclass", clone)  # not by the client whose requests are counted
    check_storage(**asked)
    assert sorted(recorder.used - rights - new) == [], "used, and not granted"
    assert sorted(new - recorder.used) == [], "granted, and not used"


@pytest.mark.faults
def test_an_expansion_needs_its_right(stack: Stack, account: Account) -> None:
    """Of a class whose driver does not run: the claim is asked to be larger, and no volume grows here."""
    account.grant(*_PLAIN)
    limited, name = Kube(load_block(Cluster, account.save()).get_client()), f"expand-{stack.name}"
    head = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}}
    stack.kube.create({**head, "provisioner": "acme.example/fs", "allowVolumeExpansion": True})
    source = {"csi": {"driver": "acme.example", "volumeHandle": name}}
    stack.kube.create(volume(name, source, storageClassName=name, claimRef={"namespace": stack.name, "name": "cache"}))
    try:
        cache = cache_spec(stack.name, storage_class_name=name, storage_size=MIB, allow_expansion=True)
        provided(limited, cache)
        plan = planned(limited, cache.model_copy(update={"storage_size": 2 * MIB}))
        with pytest.raises(ClusterRefused, match="lacks the verb 'patch' on 'persistentvolumeclaims'"):
            expand_claim(limited, plan)
        account.grant("expand-claims")
        assert expand_claim(limited, plan).action is Action.CONFIGURED
    finally:
        stack.kube.delete("PersistentVolumeClaim", "cache", stack.name)
        stack.kube.delete("PersistentVolume", name)
        stack.kube.delete("StorageClass", name)


def test_the_account_reaches_nothing_else(stack: Stack, account: Account) -> None:
    account.grant(*_PLAIN)
    limited = Kube(load_block(Cluster, account.save()).get_client())
    closed = [
        ("Secret", stack.name),
        ("Secret", None),
        ("Job", "kube-system"),
        ("Pod", "kube-system"),
        ("Pod", None),
        ("Job", account.target),
    ]
    for kind, namespace in closed:
        with pytest.raises(ClusterRefused, match="lacks the verb 'list'"):
            limited.list(kind, namespace)
