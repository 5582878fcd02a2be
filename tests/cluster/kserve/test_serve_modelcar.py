"""Serving by the flow: each mode to a Ready service whose files were seen; what does not come up is told, and what is not ours is left."""

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

import devcluster
from blocks import OciRegistry
from flows.serve_modelcar import ServeReport, serve_modelcar
from modelyard.errors import Refused, ServingFailed
from modelyard.images.references import Reference
from modelyard.kube.client import Kube
from modelyard.serving.image import read_image
from modelyard.signing.keys import SigningKey
from modelyard.signing.sign import sign_image
from tests.cluster.faults.support import run_flow, wait_until
from tests.cluster.kserve.images import FILES, push_model
from tests.cluster.kserve.rights import limited_account, rights_in
from tests.cluster.kserve.support import TURN, apply_all
from tests.cluster.test_rights import Recorder

pytestmark = [pytest.mark.cluster, TURN]
FORMAT = "modelyard-test"
ROOTS = ("serve-modelcar", "enable-modelcars")
#: Of enable-modelcars, which serving needs only to read KServe's configuration; and of a look that finds one of a killed run.
NOT_NEEDED = {("", "pods", "delete"), ("", "configmaps", "patch"), ("batch", "jobs", "get")}
NODES = ("", "nodes", "list")  # of accounts


@dataclass(frozen=True)
class Serving:
    """A namespace with a runtime that needs no more than the files, blocks, and images."""

    kube: Kube
    name: str
    image: str  # with a shell
    bare: str  # without

    def serve(self, name: str, image: str, **more: Any) -> ServeReport:
        told = {"model_format": FORMAT, "registry": self.name, "cluster": self.name, "patience": "5m", **more}
        report: ServeReport = serve_modelcar(name=name, namespace=self.name, image=image, **told)
        return report


@pytest.fixture(scope="module")
def serving(prefect_server: str, kserve: Kube, kserve_cluster: devcluster.Cluster) -> Iterator[Serving]:
    assert prefect_server
    name = f"serve-{secrets.token_hex(4)}"
    OciRegistry(host=kserve_cluster.registry, plain_http=True).save(name)
    image = push_model(kserve_cluster, kserve, f"models/{name}", based=True)
    bare = push_model(kserve_cluster, kserve, f"models/{name}-bare", based=False)
    apply_all(kserve_cluster, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    apply_all(kserve_cluster, runtime(name))
    with limited_account(kserve_cluster, kserve, name, "accounts", "prepull", *ROOTS):
        yield Serving(kserve, name, image, bare)
    kserve.delete("Namespace", name)


def runtime(namespace: str) -> dict[str, Any]:
    """A server of files: it is the flow that is tested here, and inference elsewhere."""
    container = {
        "name": "kserve-container",
        "image": "busybox:1.36",
        "command": ["httpd", "-f", "-p", "8080", "-h", "/mnt"],
        "readinessProbe": {"httpGet": {"path": "/models/config.json", "port": 8080}, "periodSeconds": 1},
        "ports": [{"containerPort": 8080, "protocol": "TCP"}],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
    }
    spec = {"supportedModelFormats": [{"name": FORMAT, "autoSelect": True}], "containers": [container]}
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": {"name": FORMAT, "namespace": namespace},
        "spec": spec,
    }


def test_a_modelcar_is_served_its_files_are_seen_and_a_second_run_changes_nothing(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch)
    served = serving.serve("car", serving.image)
    [pod] = served.pods
    assert (served.action, served.uri, pod.notes) == ("created", f"oci://{serving.image}", ())
    assert (pod.files, pod.bytes) == (len(FILES), sum(map(len, FILES.values())))
    again = serving.serve("car", serving.image)
    assert (again.action, [each.name for each in again.pods]) == ("unchanged", [pod.name])
    recorder.hold({NODES} | rights_in(*ROOTS) - NOT_NEEDED, "serve-modelcar")
    left = [job["metadata"]["name"] for job in serving.kube.list("Job", serving.name) if not job["metadata"].get("deletionTimestamp")]
    assert left == []


def test_pods_of_before_do_not_count_nor_does_what_the_tag_named_before(serving: Serving, kserve_cluster: devcluster.Cluster) -> None:
    repository = f"models/{serving.name}-moved"
    image = push_model(kserve_cluster, serving.kube, repository, based=True)
    [before] = serving.serve("moved", image).pods
    changed = serving.serve("moved", image, resources={"cpu": "0.1", "memory": "65536Ki"}, look_at_files=False)
    assert (changed.action, [pod.name == before.name for pod in changed.pods]) == ("configured", [False])
    same_sizes = {path: bytes(len(body)) for path, body in FILES.items()}
    assert push_model(kserve_cluster, serving.kube, repository, based=True, files=same_sizes) == image
    with pytest.raises(ServingFailed, match=r"the tag was moved after the node pulled it; serve it by digest"):
        serving.serve("moved", image, resources={"cpu": "0.1", "memory": "65536Ki"})


def test_a_mounted_image_with_other_files_than_the_registry_tells_of_fails_and_names_them(
    serving: Serving, kserve_cluster: devcluster.Cluster
) -> None:
    """Nothing in a pod's status says which image is mounted: it is the look at the files that finds out."""
    repository = f"models/{serving.name}-mounted"
    image = push_model(kserve_cluster, serving.kube, repository, based=False)
    [before] = serving.serve("mounted", image, mode="native").pods
    other = {"config.json": b"{} ", "sub/model.safetensors": FILES["sub/model.safetensors"], "tokenizer.json": b"{}"}
    assert push_model(kserve_cluster, serving.kube, repository, based=False, files=other) == image
    told = rf"node {before.node}: the files are not those of the image: tokenizer\.json is not there; config\.json has 2 bytes, not 3$"
    with pytest.raises(ServingFailed, match=told):
        serving.serve("mounted", image, mode="native")


def test_an_image_without_a_shell_is_served_natively_and_refused_as_a_modelcar(serving: Serving) -> None:
    with pytest.raises(Refused, match="has no sh, ln, ls, sleep, which a modelcar runs"):
        serving.serve("bare", serving.bare)
    assert serving.kube.get("InferenceService", "bare", serving.name) is None
    serving.kube.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "serves", "namespace": serving.name}})
    told: dict[str, Any] = {"mode": "native", "service_account": "serves", "prepull": True, "holder": "busybox:1.36"}
    [pod] = serving.serve("bare", serving.bare, **told).pods
    assert (pod.files, pod.bytes) == (len(FILES), sum(map(len, FILES.values())))
    [held] = serving.kube.list("Pod", serving.name, label_selector="app.kubernetes.io/name=modelyard-prepull")
    assert held["spec"]["volumes"][0]["image"]["reference"] == serving.bare
    assert held["spec"]["serviceAccountName"] == "serves"


def test_a_signed_image_is_served_by_the_digest_that_was_verified(serving: Serving, kserve_cluster: devcluster.Cluster) -> None:
    key, trusting = SigningKey(ec.generate_private_key(ec.SECP256R1())), f"{serving.name}-trusting"
    registry = OciRegistry(host=kserve_cluster.registry, plain_http=True, trusted_keys=key.public.pem)
    registry.save(trusting)
    with pytest.raises(Refused, match="is not signed"):
        serving.serve("signed", serving.image, registry=trusting)
    tagged = Reference.parse(serving.image)
    image = read_image(tagged, registry.keychain())
    assert image
    pinned = tagged.model_copy(update={"digest": image.digest})
    sign_image(registry.keychain(), pinned, key)
    served = serving.serve("signed", serving.image, registry=trusting)
    [pod] = served.pods
    assert (served.uri, pod.files, pod.notes) == (f"oci://{pinned}", len(FILES), ())


def test_what_keeps_a_service_from_ready_is_told(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelyard.serving.service._PATIENCE_SECONDS", 2.0)
    with pytest.raises(ServingFailed, match=r"NoSupportingRuntime.*make a ServingRuntime for this format"):
        serving.serve("none", serving.image, model_format="unheard-of")


def test_an_image_without_models_is_told_of(serving: Serving, kserve_cluster: devcluster.Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelyard.serving.service._PATIENCE_SECONDS", 2.0)
    empty = push_model(kserve_cluster, serving.kube, f"models/{serving.name}-empty", based=True, files={})
    with pytest.raises(ServingFailed, match="holds no files below /models"):
        serving.serve("empty", empty)


def test_the_service_of_others_is_left_alone(serving: Serving, kserve_cluster: devcluster.Cluster) -> None:
    model = {"modelFormat": {"name": FORMAT}, "storageUri": "pvc://theirs/m"}
    theirs = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "theirs", "namespace": serving.name},
        "spec": {"predictor": {"minReplicas": 1, "model": model}},
    }
    apply_all(kserve_cluster, theirs)
    with pytest.raises(Refused, match="was not made by Modelyard, so it is not changed"):
        serving.serve("theirs", serving.image)
    live = serving.kube.get("InferenceService", "theirs", serving.name)
    assert live
    assert live["spec"]["predictor"]["model"]["storageUri"] == "pvc://theirs/m", json.dumps(live["spec"])


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_serving_killed_after_each_of_its_writes(serving: Serving) -> None:
    """Wherever it was killed, the next run serves, and leaves no look of the killed one."""
    parameters = {"name": "killed", "namespace": serving.name, "image": serving.image, "model_format": FORMAT}
    names = {"registry": serving.name, "cluster": serving.name}
    k, killed = 1, True
    while killed:
        exit_code, output = run_flow("flows.serve_modelcar:serve_modelcar", {**parameters, **names}, MODELYARD_KUBE_DIE_AFTER=str(k))
        assert exit_code in {0, -9}, output
        killed = exit_code == -9
        assert [pod.files for pod in serving.serve("killed", serving.image).pods] == [len(FILES)]
        wait_until(lambda: not serving.kube.list("Job", serving.name, label_selector="app.kubernetes.io/name=modelyard-look"))
        serving.kube.delete("InferenceService", "killed", serving.name)
        wait_until(lambda: not serving.kube.list("Pod", serving.name, label_selector="serving.kserve.io/inferenceservice=killed"))
        k += 1
    assert k > 3, "the service, the look, its end"
