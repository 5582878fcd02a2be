"""A registry's password in a Secret of a real API server, which a real registry asks for: changed, taken away, and not to be read."""

import base64
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

import devcluster
from blocks import Cluster, OciRegistry, load_block
from modelyard.errors import RegistryDenied
from modelyard.kube.client import Call, Kube
from modelyard.kube.registry_secret import TYPE
from modelyard.kube.resources import ObjectRef
from modelyard.oci.environment import keychain_of, secret_of
from modelyard.oci.http import Patience
from modelyard.oci.registry import Repository
from tests.cluster.support import until_allowed
from tests.services.oci.registries import Registry, running_registry
from tests.services.oci.test_access import HTPASSWD
from tests.services.oci.token_server import USER
from tests.services.test_blocks import api_text

pytestmark = pytest.mark.cluster
NAME = "push"
WRONG = "0f-yesterday"
TOKEN = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """One that asks for a password."""
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    settings = {"auth": {"htpasswd": {"realm": "tests", "path": str(tmp_path / "htpasswd")}}}
    with running_registry("docker-registry-2.8", tmp_path / "registry", settings=settings) as running:
        yield running


def put(kube: Kube, namespace: str, host: str, password: str, **fields: Any) -> None:
    """The Secret as it is from now on."""
    config = json.dumps({"auths": {host: {"username": USER.username, "password": password}}})
    data = {".dockerconfigjson": base64.b64encode(config.encode()).decode()}
    metadata = {"name": NAME, "namespace": namespace}
    kube.delete("Secret", NAME, namespace)
    kube.create({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": TYPE, "data": data} | fields)


def block(registry: Registry, namespace: str, cluster: Cluster) -> OciRegistry:
    return OciRegistry(host=registry.host, plain_http=True, docker_config_secret=f"{namespace}/{NAME}", cluster=cluster)


def ask(registry: OciRegistry) -> None:
    with Repository(registry.keychain().main, "m", Patience(attempts=1)) as repository:
        assert repository.find("v1") is None


def test_a_password_is_the_one_that_the_secret_holds_now(
    kube: Kube, kubeconfig: str, namespace: str, registry: Registry, prefect_server: str
) -> None:
    block(registry, namespace, Cluster(kubeconfig=SecretStr(Path(kubeconfig).read_text()))).save(f"of-{namespace}")
    loaded = load_block(OciRegistry, f"of-{namespace}")
    with pytest.raises(RegistryDenied, match=rf"^Secret/{namespace}/{NAME}: is not there; make it \(kubectl -n {namespace} create secret"):
        loaded.keychain()
    put(kube, namespace, registry.host, WRONG)
    with pytest.raises(RegistryDenied, match="check the user name and password") as caught:
        ask(loaded)
    assert WRONG not in str(caught.value)
    put(kube, namespace, registry.host, USER.password)
    ask(loaded)
    assert keychain_of(secret_of(loaded.keychain()), registry.host, plain_http=True).main.credentials == USER, "what a Job gets"
    assert USER.password not in repr(loaded) + repr(loaded.keychain()) + api_text(prefect_server)

    put(kube, namespace, "other.example", USER.password)
    with pytest.raises(RegistryDenied, match=rf"has credentials for other.example, not for {registry.host}; add {registry.host} to it"):
        loaded.keychain()
    put(kube, namespace, registry.host, USER.password, type="Opaque")
    with pytest.raises(RegistryDenied, match=rf"is of type Opaque, and only {TYPE} is read"):
        loaded.keychain()


def test_an_account_that_may_read_this_secret_alone(
    kube: Kube, cluster: devcluster.Cluster | None, namespace: str, registry: Registry
) -> None:
    assert cluster, "its authority is needed"
    put(kube, namespace, registry.host, USER.password)
    account, others = f"robot-{secrets.token_hex(2)}", {"namespace": namespace}
    kube.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, **others}})
    call = Call("create token of", "POST", ObjectRef("ServiceAccount", account, namespace), "token", body=TOKEN)
    token = kube.send(call)["status"]["token"]
    limited = block(registry, namespace, Cluster(server=kube.host, token=SecretStr(token), ca_certificate=cluster.ca_bundle.read_text()))
    with pytest.raises(
        RegistryDenied,
        match=rf"{account} lacks the verb 'get' on 'secrets' in namespace {namespace}.*verbs \[get\], resourceNames \[{NAME}\]",
    ) as caught:
        limited.keychain()
    assert token not in str(caught.value)

    rule = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": [NAME]}
    rbac = "rbac.authorization.k8s.io"
    kube.create({"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": {"name": NAME, **others}, "rules": [rule]})
    subject = {"kind": "ServiceAccount", "name": account, **others}
    reference = {"apiGroup": rbac, "kind": "Role", "name": NAME}
    binding = {"apiVersion": f"{rbac}/v1", "kind": "RoleBinding", "metadata": {"name": NAME, **others}}
    kube.create({**binding, "roleRef": reference, "subjects": [subject]})
    until_allowed(lambda: limited.cluster and Kube(limited.cluster.get_client()).get("Secret", NAME, namespace))
    ask(limited)
