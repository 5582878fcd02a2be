"""What the catalogue's tests share: the kind installed, objects declared, and kubectl as people use it."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import devcluster
from modelyard.errors import ClusterUnavailable
from modelyard.kube.client import Kube
from modelyard.kube.failures import NotFound
from tests.cluster.support import SECONDS, Manifest, connect, wait_until

CRD = Path(__file__).resolve().parents[2] / "deployments" / "kubernetes" / "crd"


def kubectl(cluster: devcluster.Cluster | None, kubeconfig: str, *arguments: str) -> str:
    """What kubectl prints."""
    program = str(cluster.kubectl) if cluster else "kubectl"
    environment = {**os.environ, "KUBECONFIG": kubeconfig}
    done = subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    return done.stdout


def install(cluster: devcluster.Cluster | None, kubeconfig: str) -> None:
    """The kind, as users install it. It stays: it is the whole cluster's."""
    kubectl(cluster, kubeconfig, "apply", "--server-side", "--force-conflicts", "-k", str(CRD))
    kube = connect(kubeconfig)
    wait_until(lambda: _is_served(kube))


def _is_served(kube: Kube) -> bool:
    """Not by `kubectl wait`, which fails when it meets a definition that has no conditions yet, and knows nothing of what is served."""
    try:
        kube.list("CachedModel")
    except (NotFound, ClusterUnavailable):
        return False
    return True


def declaration(namespace: str, name: str = "mine", **spec: Any) -> Manifest:
    """A CachedModel as a person declares it."""
    fixed = {"model": "m", "version": "v1", "cache": "main"}
    head = {"apiVersion": "modelyard.dev/v1alpha1", "kind": "CachedModel", "metadata": {"name": name, "namespace": namespace}}
    return {**head, "spec": {**fixed, **spec}}


def change(kube: Kube, namespace: str, name: str, **spec: Any) -> None:
    """Change an object as ``kubectl patch`` does."""
    kube.patch_merge("CachedModel", name, namespace, {"spec": spec})


def cached(kube: Kube, namespace: str, name: str) -> Manifest:
    """The object."""
    live = kube.get("CachedModel", name, namespace)
    assert live, name
    return live


def condition(live: Manifest, kind: str) -> dict[str, Any]:
    """One condition of its status, empty if there is none."""
    return next((each for each in live["status"]["conditions"] if each["type"] == kind), {})


def row(text: str) -> dict[str, str]:
    """The one object of ``kubectl get -o wide`` by its columns; a cell's words are held together by less than two spaces."""
    head, line = text.rstrip("\n").split("\n")
    starts = [index for index, char in enumerate(head) if char != " " and (index == 0 or head[index - 1] == " ")]
    cells = [line[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)]
    return dict(zip(head.split(), cells, strict=True))


def shown(live: Manifest) -> str:
    """For messages of failing assertions."""
    return json.dumps(live.get("status"), indent=1)
