"""Apply against a real API server: what is written, what is not, and whose fields are whose."""

import pytest

from modelyard.errors import ClusterRefused
from modelyard.kube.apply import OWNERSHIP, Action, Change, apply
from modelyard.kube.client import Kube
from modelyard.kube.failures import Changed, NotFound
from tests.cluster.support import config_map

pytestmark = pytest.mark.cluster


def version(kube: Kube, namespace: str) -> str:
    live = kube.get("ConfigMap", "c", namespace)
    assert live
    return str(live["metadata"]["resourceVersion"])


def test_creates_then_leaves_alone_then_configures(kube: Kube, namespace: str) -> None:
    subject = f"ConfigMap/{namespace}/c"
    assert apply(kube, config_map("c", namespace, a="1")) == Change(subject, Action.CREATED)
    before = version(kube, namespace)
    assert apply(kube, config_map("c", namespace, a="1")) == Change(subject, Action.UNCHANGED)
    assert version(kube, namespace) == before
    assert apply(kube, config_map("c", namespace, a="2")) == Change(subject, Action.CONFIGURED)
    live = kube.get("ConfigMap", "c", namespace)
    assert live
    assert live["data"] == {"a": "2"}
    assert live["metadata"]["labels"] == OWNERSHIP


def test_a_field_no_longer_stated_goes(kube: Kube, namespace: str) -> None:
    apply(kube, config_map("c", namespace, a="1", b="2"))
    assert apply(kube, config_map("c", namespace, a="1")).action is Action.CONFIGURED
    live = kube.get("ConfigMap", "c", namespace)
    assert live
    assert live["data"] == {"a": "1"}


def test_a_dry_run_writes_nothing(kube: Kube, namespace: str) -> None:
    assert apply(kube, config_map("c", namespace, a="1"), dry_run=True).action is Action.CREATED
    assert kube.get("ConfigMap", "c", namespace) is None
    apply(kube, config_map("c", namespace, a="1"))
    before = version(kube, namespace)
    assert apply(kube, config_map("c", namespace, a="2"), dry_run=True).action is Action.CONFIGURED
    assert version(kube, namespace) == before


@pytest.mark.usefixtures("kubectl_made")
def test_a_field_of_another_manager_is_refused_by_name_and_taken_by_force(kube: Kube, namespace: str) -> None:
    with pytest.raises(
        Changed, match=r'apply ConfigMap/test-\w+/c failed: .*another field manager owns \.data\.a \(conflict with "kubectl"'
    ):
        apply(kube, config_map("c", namespace, a="ours"))
    assert apply(kube, config_map("c", namespace, a="ours"), force=True).action is Action.CONFIGURED


@pytest.fixture
def kubectl_made(kube: Kube, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ConfigMap that someone made by kubectl."""
    monkeypatch.setattr("modelyard.kube.client.FIELD_MANAGER", "kubectl")
    kube.create(config_map("c", namespace, a="theirs"))
    monkeypatch.undo()


def test_a_namespace_that_is_not_there(kube: Kube) -> None:
    with pytest.raises(NotFound, match=r'apply ConfigMap/nowhere/c failed: namespaces "nowhere" not found \(404\)'):
        apply(kube, config_map("c", "nowhere"))


def test_a_refused_secret_is_not_quoted(kube: Kube, namespace: str) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": namespace}, "data": {"no key": "aHVudGVyMg=="}}
    with pytest.raises(ClusterRefused, match="withheld") as refusal:
        apply(kube, secret)
    assert "no key" not in str(refusal.value)
