"""An account with just the rights of deployments/kubernetes: a real service account in a test's namespace, and a real token of it."""

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import SecretStr

import devcluster
from blocks import Cluster
from modelyard.kube.client import Kube
from tests.cluster.kserve.support import apply_all
from tests.cluster.test_rights import Right, granted, kubectl
from tests.manifests import ACCOUNTS, CACHE, TARGET, Manifest, read, renamed

KSERVE = "kserve"
_RIGHTS = {"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}


@contextmanager
def limited_account(cluster: devcluster.Cluster, kube: Kube, namespace: str, *roots: str, controller: str = KSERVE) -> Iterator[None]:
    """Save a Cluster block, named as the namespace, with a token of an account that has the rights of these directories there.

    ``controller``: the namespace that an overlay names for KServe's controller.
    """
    places = {ACCOUNTS: namespace, CACHE: namespace, TARGET: namespace, KSERVE: controller}
    made = [_own(renamed(each, places, namespace), controller, namespace) for each in _manifests(*roots)]
    apply_all(cluster, *made)
    token = kubectl(cluster, "create", "token", "modelyard", f"--namespace={namespace}").strip()
    Cluster(server=kube.host, token=SecretStr(token), ca_certificate=cluster.ca_bundle.read_text()).save(namespace, overwrite=True)
    yield
    for each in made:
        if each["metadata"].get("namespace") != namespace:
            kube.delete(each["kind"], each["metadata"]["name"], each["metadata"].get("namespace"))


def rights_in(*roots: str) -> set[Right]:
    """The rights that these directories grant."""
    return granted(_manifests(*roots))


def _manifests(*roots: str) -> list[Manifest]:
    return [each for root in roots for each in read(root) if each["kind"] in _RIGHTS]


def _own(manifest: Manifest, controller: str, suffix: str) -> Manifest:
    """Tests beside each other have accounts of their own in KServe's namespace."""
    metadata = manifest["metadata"]
    if metadata.get("namespace") != controller:
        return manifest
    changed: Manifest = {**manifest, "metadata": {**metadata, "name": f"{metadata['name']}-{suffix}"}}
    if manifest["kind"] == "RoleBinding":
        changed["roleRef"] = {**manifest["roleRef"], "name": f"{manifest['roleRef']['name']}-{suffix}"}
    return changed
