"""CachedModel on a real API server: what it refuses, what people see of it, and whose field is whose."""

from dataclasses import replace
from typing import Any

import pytest

import devcluster
from flows.reconcile_tasks import read_all
from modelyard.errors import ClusterRefused
from modelyard.kube.client import Kube
from modelyard.kube.failures import Changed, NotFound
from modelyard.names import cached_model_name
from modelyard.orders import Progress
from modelyard.plans.catalogue import CachedModel, Source
from modelyard.plans.catalogue_status import Content, Context, Finding, Phase, Usage, next_status, ready
from modelyard.volumes.catalogue import Entry, drop, find, now, project, read_catalogue, write_finding, write_status
from tests.cluster.catalogue import cached, change, condition, declaration, install, kubectl, row
from tests.cluster.preload.test_flow import wait_until
from tests.cluster.shared_cluster import COMPONENTS, run_directory, steady
from tests.cluster.support import connect

pytestmark = pytest.mark.cluster
NAME = cached_model_name("main", "m", "v1")
CONTENT = Content(bytes=14_000_000_000, files=4, digest="sha256:0a")
SOURCE = {"block": "default", "path": "m/v1"}


@pytest.fixture(scope="module", autouse=True)
def crd(cluster: devcluster.Cluster | None, kubeconfig: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The kind. No test that kills the API server comes between."""
    with steady(run_directory(tmp_path_factory), COMPONENTS):
        install(cluster, kubeconfig)


def model(namespace: str, **more: Any) -> CachedModel:
    fixed = CachedModel("", namespace, "m", "v1", "main", projected=True, source=Source("default", "m/v1"))
    return replace(fixed, **more)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        pytest.param({"model": "../m"}, "spec.model", id="a hostile model"),
        pytest.param({"version": "v1/"}, "spec.version", id="a hostile version"),
        pytest.param({"model": "a" * 101}, "spec.model", id="a long model"),
        pytest.param({"cache": ""}, "spec.cache", id="no cache"),
        pytest.param({"state": "absent"}, 'supported values: "Present", "Absent"', id="another state"),
        pytest.param({"source": {"block": "default"}}, "spec.source.path", id="half a source"),
        pytest.param(
            {"state": "Absent", "pinned": True}, "a pinned model cannot be Absent; set pinned to false first", id="pinned and absent"
        ),
    ],
)
def test_refused(kube: Kube, namespace: str, spec: dict[str, Any], words: str) -> None:
    with pytest.raises(ClusterRefused, match="(?i)" + words.replace(".", r"\.")):
        kube.create(declaration(namespace, **spec))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        pytest.param({"model": "n"}, "model cannot be changed; declare another CachedModel", id="model"),
        pytest.param({"version": "v2"}, "version cannot be changed", id="version"),
        pytest.param({"cache": "other"}, "cache cannot be changed", id="cache"),
        pytest.param({"source": {"path": "m/v2"}}, "source cannot be changed once it is set", id="source"),
        pytest.param({"source": None}, "source cannot be changed once it is set", id="no source any more"),
        pytest.param({"pinned": True, "state": "Absent"}, "a pinned model cannot be Absent", id="pinned and absent"),
    ],
)
def test_what_cannot_be_changed(kube: Kube, namespace: str, spec: dict[str, Any], words: str) -> None:
    kube.create(declaration(namespace, source=SOURCE))
    with pytest.raises(ClusterRefused, match=words):
        change(kube, namespace, "mine", **spec)


def test_what_can_be_changed(kube: Kube, namespace: str) -> None:
    kube.create(declaration(namespace))
    change(kube, namespace, "mine", source=SOURCE)
    change(kube, namespace, "mine", pinned=True)
    change(kube, namespace, "mine", pinned=False, state="Absent")
    change(kube, namespace, "mine", state=None)
    assert kube.delete("CachedModel", "mine", namespace)
    assert kube.get("CachedModel", "mine", namespace) is None, "no finalizer holds it"


def test_kubectl_explains_itself(kube: Kube, cluster: devcluster.Cluster | None, kubeconfig: str, namespace: str) -> None:
    entry = project(kube, model(namespace))
    seen = Progress(bytes=6_000_000_000, total_bytes=14_000_000_000, files=1, total_files=4, bytes_per_second=1e8, seconds_left=80)
    entry = write_finding(kube, entry, Finding(Phase.LOADING, "Loading", "bytes are on their way", progress=seen))
    line = row(kubectl(cluster, kubeconfig, "get", "cmodel", "-n", namespace))
    assert list(line) == ["NAME", "MODEL", "VERSION", "CACHE", "PHASE", "PROGRESS", "SIZE", "LAST-USED", "AGE"]
    assert (line["MODEL"], line["VERSION"], line["CACHE"], line["PHASE"], line["PROGRESS"]) == ("m", "v1", "main", "Loading", "42 %")
    usage = Usage(("Deployment/web/llm",))
    entry = write_status(kube, entry, next_status(ready(CONTENT, "cache", "m/v1"), Context(entry.model.status, 1, now(), usage)))
    line = row(kubectl(cluster, kubeconfig, "get", "modelyard", "-n", namespace))
    assert (line["NAME"], line["PHASE"], line["PROGRESS"], line["SIZE"]) == (NAME, "Ready", "", "13.0 GiB")
    assert line["LAST-USED"].endswith("s"), line
    told = kubectl(cluster, kubeconfig, "describe", "cachedmodel", NAME, "-n", namespace)
    for words in ("mount claim cache read-only, they are in m/v1", "Deployment/web/llm", "sha256:0a", "used by Deployment/web/llm"):
        assert words in " ".join(told.split())
    explained = kubectl(cluster, kubeconfig, "explain", "cachedmodel", "--recursive", "--api-version=modelyard.dev/v1alpha1")
    assert "pinned" in explained


def test_every_field_is_described(cluster: devcluster.Cluster | None, kubeconfig: str) -> None:
    for path in ("spec", "spec.source", "status", "status.progress", "status.conditions"):
        told = kubectl(cluster, kubeconfig, "explain", f"cachedmodel.{path}", "--api-version=modelyard.dev/v1alpha1")
        assert "<no description>" not in told, told


def test_what_people_set_stays_theirs(kube: Kube, namespace: str) -> None:
    entry = project(kube, model(namespace))
    change(kube, namespace, NAME, pinned=True)
    again = project(kube, model(namespace))
    assert (again.model.pinned, again.model.state) == (True, None)
    told = write_finding(kube, entry, ready(CONTENT, "cache", "m/v1"))
    assert (told.model.pinned, told.model.status["phase"]) == (True, "Ready")
    managers = {each["manager"] for each in cached(kube, namespace, NAME)["metadata"]["managedFields"]}
    assert "modelyard" in managers


def test_what_has_not_changed_is_not_written(kube: Kube, namespace: str) -> None:
    entry = write_finding(kube, project(kube, model(namespace)), ready(CONTENT, "cache", "m/v1"))
    before = cached(kube, namespace, NAME)["metadata"]["resourceVersion"]
    write_finding(kube, entry, ready(CONTENT, "cache", "m/v1"))
    project(kube, model(namespace))
    assert cached(kube, namespace, NAME)["metadata"]["resourceVersion"] == before


def test_a_status_is_written_only_on_what_it_was_decided_on(kube: Kube, namespace: str) -> None:
    entry = project(kube, model(namespace))
    change(kube, namespace, NAME, pinned=True)
    status = next_status(ready(CONTENT, "cache", "m/v1"), Context(now=now()))
    with pytest.raises(Changed):
        write_status(kube, entry, status)
    kube.delete("CachedModel", NAME, namespace)
    with pytest.raises((NotFound, Changed)):
        write_status(kube, entry, status)
    project(kube, model(namespace))
    with pytest.raises(NotFound, match="is gone"):
        write_finding(kube, entry, ready(CONTENT, "cache", "m/v1"))


def test_an_object_that_a_person_declared_gets_the_status_whatever_its_name(kube: Kube, namespace: str) -> None:
    kube.create(declaration(namespace, "mine"))
    kube.create(declaration(namespace, "other", version="v2"))
    found = find(read_catalogue(kube, namespace), model(namespace))
    assert found
    told = write_finding(kube, found, ready(CONTENT, "cache", "m/v1"))
    assert (told.model.name, told.model.projected) == ("mine", False)
    assert "labels" not in cached(kube, namespace, "mine")["metadata"]


def test_a_superfluous_projection_is_dropped_unless_somebody_changed_it(kube: Kube, namespace: str) -> None:
    entry = project(kube, model(namespace))
    change(kube, namespace, NAME, pinned=True)
    assert not drop(kube, entry)
    live = cached(kube, namespace, NAME)
    assert drop(kube, Entry(entry.model, live))
    assert kube.get("CachedModel", NAME, namespace) is None


def test_conditions_are_written_whole(kube: Kube, namespace: str) -> None:
    refused = Finding(Phase.READY, "OnVolume", "w", CONTENT, refusal=("InUse", "in use by Pod/a/b"))
    entry = write_finding(kube, project(kube, model(namespace)), refused)
    assert condition(cached(kube, namespace, NAME), "RemovalRefused")["reason"] == "InUse"
    write_finding(kube, entry, ready(CONTENT, "cache", "m/v1"))
    assert condition(cached(kube, namespace, NAME), "RemovalRefused") == {}


def test_an_account_without_the_right_is_told(kubeconfig: str, namespace: str) -> None:
    account = connect(kubeconfig, impersonate=f"nobody-{namespace}")
    with pytest.raises(ClusterRefused, match="lacks the verb 'list' on 'cachedmodels'"):
        read_catalogue(account, namespace)


def test_a_namespace_whose_objects_may_not_be_listed_holds_up_no_other(kube: Kube, kubeconfig: str, namespace: str) -> None:
    group, user = "rbac.authorization.k8s.io", f"lister-{namespace}"
    head = {"apiVersion": f"{group}/v1", "metadata": {"name": "list", "namespace": namespace}}
    kube.create({**head, "kind": "Role", "rules": [{"apiGroups": ["modelyard.dev"], "resources": ["cachedmodels"], "verbs": ["list"]}]})
    role, subjects = {"apiGroup": group, "kind": "Role", "name": "list"}, [{"apiGroup": group, "kind": "User", "name": user}]
    kube.create({**head, "kind": "RoleBinding", "roleRef": role, "subjects": subjects})
    kube.create(declaration(namespace))
    lister, namespaces = connect(kubeconfig, impersonate=user), frozenset({namespace, "default"})
    wait_until(lambda: namespace not in read_all.fn(lister, namespaces).unread)  # the server learns of rights late
    seen = read_all.fn(lister, namespaces)
    assert [entry.model.name for entry in seen.entries] == ["mine"]
    assert list(seen.unread) == ["default"]
    assert "forbidden" in seen.unread["default"]
