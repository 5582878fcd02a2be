"""The demo's model as a modelcar, in each way a cluster can use one: the same bytes in all, and answers computed from its weights."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prefect_aws.credentials import AwsCredentials
from pydantic import SecretStr

import devcluster
from blocks import Cluster, OciRegistry, S3Source
from deployments.demo import model
from deployments.demo.embedder import MODEL_FORMAT, embedder_image, serving_runtime
from flows.modelcar import build_modelcar
from flows.serve_modelcar import serve_modelcar
from modelyard.kube.apply import patiently
from modelyard.kube.client import Kube
from modelyard.plans.serving import Mode
from tests.cluster.kserve.support import SIMILARITIES, TURN, apply_all, ask, digests_in, wait_pod
from tests.cluster.shared_cluster import one_at_a_time, run_directory
from tests.cluster.support import make_namespace, s3_client

# The first test waits for a cluster with KServe, a model's download, an image's build and a Prefect server, too.
pytestmark = [pytest.mark.cluster, TURN]

MOUNTED = "mounted"


@dataclass(frozen=True)
class Served:
    """A namespace where an image is mounted and can be served; blocks have its name."""

    cluster: devcluster.Cluster
    namespace: str
    image: str
    digests: dict[str, str]  # SHA-256 of the publisher's files


@pytest.fixture(scope="module")
def served(
    prefect_server: str, kserve: Kube, kserve_cluster: devcluster.Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """The flow's image of the demo's model, a runtime that computes with it, and a pod that mounts it."""
    assert prefect_server
    files = model.obtain(tmp_path_factory.mktemp("model"))
    name = f"modes-{secrets.token_hex(4)}"
    image = _build(kserve, kserve_cluster, name, files)
    with one_at_a_time(run_directory(tmp_path_factory), "embedder-image"):
        runtime = serving_runtime(embedder_image(kserve_cluster), name)
    make_namespace(kserve, name)
    apply_all(kserve_cluster, runtime, _pod_with_volume(name, image))
    yield Served(kserve_cluster, name, image, model.digests(files))
    patiently(lambda: kserve.delete("Namespace", name))


@pytest.mark.parametrize("mode", Mode)
def test_the_answer_is_computed_from_the_weights_in_the_image(served: Served, mode: Mode) -> None:
    name = served.namespace
    report = serve_modelcar(
        name=mode, namespace=name, image=served.image, model_format=MODEL_FORMAT, mode=mode, registry=name, cluster=name, patience="8m"
    )
    assert ask(served.cluster, name, mode) == pytest.approx(SIMILARITIES, abs=1e-4)
    (pod,) = report.pods
    assert digests_in(served.cluster, name, pod.name, "kserve-container", "/mnt/models/") == served.digests


def test_an_image_volume_holds_the_same_files(served: Served) -> None:
    wait_pod(served.cluster, served.namespace, MOUNTED)
    assert digests_in(served.cluster, served.namespace, MOUNTED, "main", "/models") == served.digests


def _build(kube: Kube, cluster: devcluster.Cluster, name: str, files: Path) -> str:
    """Upload the files and let the flow make them an image; its reference."""
    access, secret = cluster.s3_keys()
    client = s3_client(cluster)
    client.create_bucket(Bucket=name)
    for path in files.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), name, f"{model.PATH}/{path.relative_to(files)}")
    keys = AwsCredentials(aws_access_key_id=access, aws_secret_access_key=SecretStr(secret))
    authority = cluster.ca_bundle.read_text()
    S3Source(bucket=name, endpoint_url=cluster.s3_endpoint, ca_certificate=authority, credentials=keys).save(name)
    OciRegistry(host=cluster.registry, plain_http=True).save(name)
    Cluster(kubeconfig=SecretStr(cluster.kubeconfig.read_text())).save(name)
    (node,) = kube.list("Node")
    report = build_modelcar(
        model=model.MODEL,
        path=model.PATH,
        repository=f"models/{name}",
        source=name,
        registry=name,
        base=f"{cluster.registry}/library/busybox:1.36",
        platforms=[f"linux/{node['metadata']['labels']['kubernetes.io/arch']}"],  # the devcluster's busybox is for no other
    )
    assert report.image
    return report.image.image


def _pod_with_volume(namespace: str, image: str) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": "busybox:1.36",
        "command": ["sleep", "3600"],
        "volumeMounts": [{"name": "model", "mountPath": "/models", "subPath": "models"}],
    }
    spec = {
        "terminationGracePeriodSeconds": 0,
        "containers": [container],
        "volumes": [{"name": "model", "image": {"reference": image, "pullPolicy": "IfNotPresent"}}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": MOUNTED, "namespace": namespace}, "spec": spec}
