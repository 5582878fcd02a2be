"""A registry that asks pods for a password: refused in the plan where no secret has it, told by the kubelet's words, served with one."""

import base64
import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

import devcluster
from blocks import OciRegistry
from devcluster.paths import Layout
from flows.prepull import PrepullReport, prepull_image
from flows.serve_modelcar import ServeReport, serve_modelcar
from modelyard.errors import Refused, ServingFailed
from modelyard.kube.client import Kube
from tests.cluster.kserve.images import FILES, push_model
from tests.cluster.kserve.rights import limited_account
from tests.cluster.kserve.support import TURN, apply_all
from tests.cluster.kserve.test_serve_modelcar import FORMAT, runtime
from tests.services.oci.registries import Registry
from tests.services.oci.test_access import HTPASSWD
from tests.services.oci.token_server import USER
from tests.services.ports import free_port

pytestmark = [pytest.mark.cluster, TURN]


class HostsRegistry(Registry):
    """On the host's end of the cluster's wire, where the node reaches it as the test does."""

    address = ""

    @property
    def host(self) -> str:
        return f"{self.address}:{self.port}"


@contextmanager
def password_registry(cluster: devcluster.Cluster, data: Path) -> Iterator[Registry]:
    """A registry with one user, which the node's containerd asks for images that are named by it, and not the cluster's own."""
    passwords = data / "htpasswd"
    passwords.write_text(HTPASSWD)
    settings = {"auth": {"htpasswd": {"realm": "tests", "path": str(passwords)}}}
    registry = HostsRegistry("docker-registry-2.8", free_port(), data / "registry", settings=settings, credentials=USER)
    registry.address = cluster.host_ip
    hosts = Layout(cluster.state_dir).config / "certs.d" / registry.host
    hosts.mkdir(parents=True)
    (hosts / "hosts.toml").write_text(f'server = "{registry.url}"\n[host."{registry.url}"]\n  capabilities = ["pull", "resolve"]\n')
    try:
        registry.start()
        yield registry
    finally:
        registry.kill()
        shutil.rmtree(hosts)


@dataclass(frozen=True)
class Serving:
    """A namespace, blocks of its name, and an image that only the registry's user may pull."""

    kube: Kube
    cluster: devcluster.Cluster
    name: str
    host: str
    image: str

    def serve(self, name: str, **more: Any) -> ServeReport:
        told = {"model_format": FORMAT, "registry": self.name, "cluster": self.name, "patience": "5m", **more}
        report: ServeReport = serve_modelcar(name=name, namespace=self.name, image=self.image, **told)
        return report

    def prepull(self, **more: Any) -> PrepullReport:
        told = {"holder": "busybox:1.36", "registry": self.name, "cluster": self.name, "patience": "5m", **more}
        report: PrepullReport = prepull_image(image=self.image, namespace=self.name, **told)
        return report

    def add_secret(self, name: str, host: str) -> None:
        """A Secret as `kubectl create secret docker-registry` makes it, and an account of its name that has it."""
        login = base64.b64encode(f"{USER.username}:{USER.password}".encode()).decode()
        config = json.dumps({"auths": {host: {"auth": login}}})
        metadata = {"name": name, "namespace": self.name}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "kubernetes.io/dockerconfigjson"}
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata, "imagePullSecrets": [{"name": name}]}
        apply_all(self.cluster, {**secret, "stringData": {".dockerconfigjson": config}}, account)

    def allow_reading(self, secret: str) -> None:
        """Let the account read this Secret."""
        metadata = {"name": f"reads-{secret}", "namespace": self.name}
        rule = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [secret], "verbs": ["get"]}
        group = "rbac.authorization.k8s.io"
        head = {"apiVersion": f"{group}/v1", "metadata": metadata}
        reference = {"apiGroup": group, "kind": "Role", "name": metadata["name"]}
        account = {"kind": "ServiceAccount", "name": "modelyard", "namespace": self.name}
        binding = {**head, "kind": "RoleBinding", "roleRef": reference, "subjects": [account]}
        apply_all(self.cluster, {**head, "kind": "Role", "rules": [rule]}, binding)


@pytest.fixture(scope="module")
def serving(
    prefect_server: str, kserve: Kube, kserve_cluster: devcluster.Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    assert prefect_server
    name = f"secret-{secrets.token_hex(4)}"
    apply_all(kserve_cluster, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    apply_all(kserve_cluster, runtime(name))
    with (
        password_registry(kserve_cluster, tmp_path_factory.mktemp("passwords")) as registry,
        limited_account(kserve_cluster, kserve, name, "accounts", "prepull", "serve-modelcar", "enable-modelcars"),
    ):
        image = push_model(kserve_cluster, kserve, f"models/{name}", based=True, elsewhere=registry.access)
        password = SecretStr(USER.password)
        OciRegistry(host=registry.host, plain_http=True, username=USER.username, password=password).save(name)
        yield Serving(kserve, kserve_cluster, name, registry.host, image)
    kserve.delete("Namespace", name)


def test_an_account_without_a_secret_is_refused_by_the_plan(serving: Serving) -> None:
    told = rf"ServiceAccount/{serving.name}/default: has no pull secret, and {serving.host} asks for one; add an imagePullSecret to it"
    with pytest.raises(Refused, match=told):
        serving.serve("refused")
    assert serving.kube.get("InferenceService", "refused", serving.name) is None


def test_a_secret_for_another_registry_is_refused_where_it_may_be_read(serving: Serving) -> None:
    """The right that deployments/kubernetes/serve-modelcar/services.yaml says to add: to this one Secret."""
    serving.add_secret("other", "other.example")
    serving.allow_reading("other")
    told = rf"ServiceAccount/{serving.name}/other: has pull secrets \(other\), and none for {serving.host}"
    with pytest.raises(Refused, match=told):
        serving.serve("refused", service_account="other")


def test_a_node_that_has_no_credentials_after_all_is_told_in_its_words(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelyard.serving.service._PATIENCE_SECONDS", 2.0)
    told = rf"does not come up: image {serving.image} cannot be pulled: .*authorization failed.*; check .* that the node may pull it"
    with pytest.raises(ServingFailed, match=told):
        serving.serve("denied", nodes_have_credentials=True)
    serving.kube.delete("InferenceService", "denied", serving.name)


def test_a_prepull_without_a_secret_is_told_of_the_model_and_not_of_what_sleeps_beside_it(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelyard.serving.prepull._PATIENCE_SECONDS", 2.0)
    told = rf"image {serving.image} cannot be pulled: .*authorization failed.*; check .* that the node may pull it"
    with pytest.raises(ServingFailed, match=told):
        serving.prepull()


def test_the_secret_of_the_service_account_pulls_the_image(serving: Serving) -> None:
    serving.add_secret("models", serving.host)
    served = serving.serve("served", service_account="models")
    [pod] = served.pods
    assert (pod.files, pod.bytes) == (len(FILES), sum(map(len, FILES.values())))
    assert served.notes == (
        f"whether models has credentials for {serving.host} is not known: this account may not read it, or cannot make it out",
    )
    assert [node.there for node in serving.prepull(service_account="models").nodes] == [True]
    serving.allow_reading("models")
    assert serving.serve("served", service_account="models", dry_run=True).notes == ()
