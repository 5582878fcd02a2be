"""Pre-pulling by the flow: an image is on the node before a pod asks for it, held once whatever the runs, and let go again."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import devcluster
from blocks import OciRegistry
from flows.prepull import PrepullReport, prepull_image
from modelyard.errors import ServingFailed
from modelyard.images.references import Reference
from modelyard.kube.client import Kube
from modelyard.plans.prepull import Form, PrepullPlan, PrepullRequest
from modelyard.serving.prepull import ensure_jobs, let_go, wait_pulled
from tests.cluster.faults.support import run_flow, wait_until
from tests.cluster.kserve.images import push_model
from tests.cluster.kserve.rights import limited_account, rights_in
from tests.cluster.kserve.support import SECONDS, TURN, wait_pod
from tests.cluster.test_rights import Recorder

pytestmark = [pytest.mark.cluster, TURN]
HOLDER = "busybox:1.36"


@dataclass(frozen=True)
class Pulling:
    """A namespace under restricted Pod Security, and blocks of its name."""

    kube: Kube
    cluster: devcluster.Cluster
    name: str

    @property
    def node(self) -> str:
        (node,) = self.kube.list("Node")
        return str(node["metadata"]["name"])

    def parameters(self, image: str, **more: Any) -> dict[str, Any]:
        return {"image": image, "namespace": self.name, "holder": HOLDER, "registry": self.name, "cluster": self.name, **more}

    def prepull(self, image: str, **more: Any) -> PrepullReport:
        report: PrepullReport = prepull_image(**self.parameters(image, **more))
        return report

    def pods(self) -> list[dict[str, Any]]:
        return self.kube.list("Pod", self.name, label_selector="app.kubernetes.io/name=modelyard-prepull")


@pytest.fixture
def pulling(prefect_server: str, kserve: Kube, kserve_cluster: devcluster.Cluster, kserve_namespace: str) -> Iterator[Pulling]:
    assert prefect_server
    restricted = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    kserve.patch_merge("Namespace", kserve_namespace, None, restricted)
    OciRegistry(host=kserve_cluster.registry, plain_http=True).save(kserve_namespace)
    with limited_account(kserve_cluster, kserve, kserve_namespace, "accounts", "prepull"):
        yield Pulling(kserve, kserve_cluster, kserve_namespace)


def test_an_image_without_a_shell_is_on_the_node_held_once_and_let_go(pulling: Pulling, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    image = push_model(pulling.cluster, pulling.kube, f"models/{pulling.name}", based=False)
    parameters = pulling.parameters(image)
    exit_code, _ = run_flow("flows.prepull:prepull_image", parameters, MODELYARD_KUBE_DIE_AFTER="1")  # its Job is made
    assert exit_code == -9
    report = pulling.prepull(image)
    assert [(state.node, state.there) for state in report.nodes] == [(pulling.node, True)]
    [pod] = pulling.pods()
    assert pulling.prepull(image, keep="2d").nodes == report.nodes
    assert [each["metadata"]["uid"] for each in pulling.pods()] == [pod["metadata"]["uid"]]
    [job] = pulling.kube.list("Job", pulling.name)
    assert job["spec"]["activeDeadlineSeconds"] >= 2 * 86400
    assert push_model(pulling.cluster, pulling.kube, f"models/{pulling.name}", based=False, files={"config.json": b"[]"}) == image
    assert pulling.prepull(image).digest != report.digest, "the tag was moved, and the node pulls what it names now"
    wait_until(lambda: len(pulling.pods()) == 1)
    assert pulling.pods()[0]["metadata"]["uid"] != pod["metadata"]["uid"]
    pulling.kube.create(never_pulls(image, pulling.name))
    wait_pod(pulling.cluster, pulling.name, "serves")
    node = pulling.node
    assert [state.node for state in pulling.prepull(image, remove=True).nodes] == [node]
    assert (pulling.pods(), pulling.kube.list("Job", pulling.name)) == ([], [])
    recorder.used.discard(("", "pods", "create"))  # the test's own
    recorder.hold({("", "nodes", "list")} | rights_in("prepull"), "prepull")


def never_pulls(image: str, namespace: str) -> dict[str, Any]:
    """A pod that starts only where the image is already."""
    container = {
        "name": "main",
        "image": HOLDER,
        "command": ["sleep", "600"],
        "volumeMounts": [{"name": "model", "mountPath": "/models", "subPath": "models"}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {
        "terminationGracePeriodSeconds": 0,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "model", "image": {"reference": image, "pullPolicy": "Never"}}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "serves", "namespace": namespace}, "spec": spec}


@pytest.fixture
def plan(pulling: Pulling) -> PrepullPlan:
    """Of a cluster without image volumes."""
    image = Reference.parse(push_model(pulling.cluster, pulling.kube, f"models/{pulling.name}", based=True))
    request = PrepullRequest(image=image, namespace=pulling.name, holder=HOLDER, keep_seconds=600)
    return PrepullPlan(request, None, Form.CONTAINER, (pulling.node,))


def test_where_there_are_no_image_volumes_the_image_runs(pulling: Pulling, plan: PrepullPlan) -> None:
    assert len(ensure_jobs(pulling.kube, plan)) == 1
    states = wait_pulled(pulling.kube, plan, SECONDS, lambda _: None)
    [pod] = pulling.pods()
    assert [state.there for state in states] == [True]
    assert pod["spec"]["containers"][0]["image"] == str(plan.request.image)
    assert let_go(pulling.kube, plan.request, SECONDS) == (pulling.node,)


def test_a_node_that_cannot_pull_is_told_of_and_nothing_goes_on_trying(
    pulling: Pulling, plan: PrepullPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelyard.serving.prepull._PATIENCE_SECONDS", 2.0)
    missing = plan.request.model_copy(update={"image": plan.request.image.at(tag="v9")})
    lost = PrepullPlan(missing, None, Form.VOLUME, plan.nodes)
    ensure_jobs(pulling.kube, lost)
    with pytest.raises(ServingFailed, match=rf"node {pulling.node}: .*:v9"):
        wait_pulled(pulling.kube, lost, SECONDS, lambda _: None)
    wait_until(lambda: not pulling.pods())
