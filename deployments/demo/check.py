"""The demo's proof: a pod that mounts the claim read-only compares every file with the publisher's digests, by coreutils."""

import time
from typing import Any

from modelyard.errors import LoaderFailed, ModelyardError
from modelyard.kube.apply import apply
from modelyard.kube.client import Kube
from modelyard.kube.diagnose import diagnose_pod
from modelyard.kube.resources import ObjectRef
from modelyard.kube.wait import Ends, wait_for

NAME = "modelyard-demo-check"
#: Every file of the list has its digest, and there is no file besides. A SHA256SUMS that came with the model is the list, and must be
#: the same as on the publisher's disk.
_SCRIPT = """set -eu
cd "/models/$MODEL"
sums=/sums/SHA256SUMS
others=0
if [ -e SHA256SUMS ]; then
  [ "$(sha256sum < SHA256SUMS)" = "$(sha256sum < $sums)" ] || { echo "SHA256SUMS is not the publisher's"; exit 1; }
  sums=SHA256SUMS
  others=1
fi
sha256sum --check --strict --quiet "$sums"
test "$(find . -type f | wc -l)" -eq "$(($(wc -l < "$sums") + others))"
echo "$(find . -type f | wc -l) files, $(du -sb . | cut -f1) bytes: every SHA-256 is the publisher's"
"""


def check_files(kube: Kube, namespace: str, claim: str, image: str, model: str, digests: dict[str, str]) -> str:
    """What the pod said.

    Raises:
        LoaderFailed: a file is missing, foreign or different; with the pod's own words.
    """
    sums = "".join(f"{digest}  {path}\n" for path, digest in sorted(digests.items()))
    _remove(kube, namespace)
    apply(kube, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME, "namespace": namespace}, "data": {"SHA256SUMS": sums}})
    kube.create(_pod(namespace, claim, image, model))
    ends = Ends(done=_ended, failed=_stuck, deleted=lambda: LoaderFailed(f"Pod/{namespace}/{NAME} was deleted"))
    pod = wait_for(kube, ObjectRef("Pod", NAME, namespace), ends, timeout=300)
    said = kube.pod_log(NAME, namespace).strip()
    if pod["status"]["phase"] != "Succeeded":
        raise LoaderFailed(f"the files on {namespace}/{claim} are not the publisher's: {said}")
    _remove(kube, namespace)
    return said


def _ended(pod: dict[str, Any]) -> dict[str, Any] | None:
    return pod if pod.get("status", {}).get("phase") in {"Succeeded", "Failed"} else None


def _stuck(pod: dict[str, Any]) -> ModelyardError | None:
    diagnosis = diagnose_pod(pod)
    return LoaderFailed(str(diagnosis)) if diagnosis and diagnosis.permanent and not _ended(pod) else None


def _remove(kube: Kube, namespace: str) -> None:
    kube.delete("Pod", NAME, namespace)
    kube.delete("ConfigMap", NAME, namespace)
    deadline = time.monotonic() + 60
    while kube.get("Pod", NAME, namespace) and time.monotonic() < deadline:
        time.sleep(0.3)


def _pod(namespace: str, claim: str, image: str, model: str) -> dict[str, Any]:
    unprivileged = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True}
    container = {
        "name": "check",
        "image": image,
        "command": ["sh", "-c", _SCRIPT],
        "env": [{"name": "MODEL", "value": model}],
        "securityContext": unprivileged,
        "volumeMounts": [
            {"name": "models", "mountPath": "/models", "readOnly": True},
            {"name": "sums", "mountPath": "/sums", "readOnly": True},
        ],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": NAME, "namespace": namespace},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 20002, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": [
                {"name": "models", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}},
                {"name": "sums", "configMap": {"name": NAME}},
            ],
        },
    }
