"""Stacks with neighbours: whatever goes wrong, what is theirs stays as it is, and the auditor sees to it."""

from collections.abc import Callable, Iterator

import pytest

from modelyard.kube.apply import patiently
from modelyard.kube.client import Kube
from tests.cluster.faults.support import FOREIGN, Audit, bound_claim, path_of, plant, volume_of, wait_until
from tests.cluster.preload.conftest import FrozenLoader, Stack, frozen, image, stack
from tests.cluster.support import config_map

__all__ = ["FrozenLoader", "frozen", "image", "stack"]


@pytest.fixture
def bystander(stack: Stack) -> Iterator[str]:
    """A namespace of somebody else's with a claim of the same name and files on it; gives its volume. There are things of theirs
    in the cache's namespace, too: a Job with labels like ours, a Secret, a ConfigMap.
    """
    name = f"bystander-{stack.name}"
    stack.kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    spec = {"accessModes": ["ReadWriteMany"], "storageClassName": "devcluster-shared", "resources": {"requests": {"storage": "1Gi"}}}
    metadata = {"name": "modelyard-models-cache", "namespace": name}
    stack.kube.create({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec})
    stack.kube.create(config_map("theirs", stack.name, key="value"))
    secret = {"metadata": {"name": "theirs", "namespace": stack.name}, "stringData": {"AWS_ACCESS_KEY_ID": "theirs"}}
    stack.kube.create({"apiVersion": "v1", "kind": "Secret", **secret})
    stack.kube.create(_foreign_job(stack.name))
    wait_until(lambda: _bound(stack, metadata["name"], name) and _settled(stack.kube, stack.name) and _settled(stack.kube, name))
    volume = volume_of(stack, metadata["name"], name)
    plant(path_of(stack, volume), FOREIGN)
    yield volume
    patiently(lambda: stack.kube.delete("Namespace", name))  # the server may be another than the one that connections are open to


def _bound(stack: Stack, claim: str, namespace: str) -> bool:
    live = stack.kube.get("PersistentVolumeClaim", claim, namespace) or {}
    return bool(live.get("status", {}).get("phase") == "Bound")


def _settled(kube: Kube, namespace: str) -> bool:
    """Whether the controllers have made what each namespace has and seen its Jobs: a picture taken before would differ by that later."""
    standard = kube.get("ServiceAccount", "default", namespace) and kube.get("ConfigMap", "kube-root-ca.crt", namespace)
    return bool(standard) and all((job.get("status") or {}).get("conditions") for job in kube.list("Job", namespace))


def _foreign_job(namespace: str) -> dict[str, object]:
    """A suspended Job that calls itself a loader, and was not made by Modelyard."""
    labels = {"job-type": "modelyard-loader", "modelyard.dev/command": "preload"}
    container = {"name": "loader", "image": "busybox:1.36"}
    pod = {"restartPolicy": "Never", "containers": [container]}
    spec = {"suspend": True, "template": {"metadata": {"labels": labels}, "spec": pod}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "theirs", "namespace": namespace, "labels": labels}, "spec": spec}


@pytest.fixture
def audit(stack: Stack, bystander: str) -> Callable[[], Audit]:
    """Take the picture before: of a cache whose claim is bound, with files of others beside ours on it."""

    def begin() -> Audit:
        volume = bound_claim(stack)
        plant(path_of(stack, volume), FOREIGN)
        return Audit(stack, {"cache": volume, "bystander": bystander})

    return begin
