"""What KServe's tests share: applying, waiting, asking a served model, and what a right answer is."""

import json
import subprocess
from typing import Any

import httpx
import pytest

import devcluster
from devcluster.probes import listens
from tests.cluster.support import wait_until

#: The example of the library that the model was published with, and the cosine similarities that its documentation prints for it
#: (sentence-transformers, "Quickstart", all-MiniLM-L6-v2): an answer that no other weights give.
TEXTS = ("The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.")
SIMILARITIES = (1.0000, 0.6660, 0.1046, 0.6660, 1.0000, 0.1411, 0.1046, 0.1411, 1.0000)
SECONDS = 300
#: A module's first test waits until those that change KServe, or that it would change, have ended: whole modules of minutes each.
TURN = pytest.mark.timeout(3600)


def apply_all(cluster: devcluster.Cluster, *manifests: dict[str, Any]) -> None:
    """Apply them as a user does; KServe's webhooks are asked."""
    _kubectl(cluster, "apply", "--server-side", "--filename=-", stdin="\n---\n".join(map(json.dumps, manifests)))


def ask(cluster: devcluster.Cluster, namespace: str, name: str) -> list[float]:
    """The similarities of TEXTS, from the model behind the predictor's Service, by the Open Inference Protocol."""
    service = json.loads(_kubectl(cluster, f"--namespace={namespace}", "get", "service", f"{name}-predictor", "--output=json"))
    (port,) = service["spec"]["ports"]
    address = service["spec"]["clusterIP"]
    assert address not in {None, "None"}, service["spec"]
    request = {
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [len(TEXTS)], "data": list(TEXTS)}],
        "outputs": [{"name": "similarity"}],
    }
    wait_until(listens(address, int(port["port"])))  # kube-proxy learns of a pod that is Ready a moment after KServe
    answer = httpx.post(f"http://{address}:{port['port']}/v2/models/{name}/infer", json=request, timeout=SECONDS, trust_env=False)
    assert answer.is_success, answer.text
    (output,) = answer.json()["outputs"]
    return list(output["data"])


def wait_pod(cluster: devcluster.Cluster, namespace: str, pod: str) -> None:
    """Until the pod is Ready."""
    _kubectl(cluster, f"--namespace={namespace}", "wait", "--for=condition=Ready", f"pod/{pod}", f"--timeout={SECONDS}s")


def digests_in(cluster: devcluster.Cluster, namespace: str, pod: str, container: str, directory: str) -> dict[str, str]:
    """SHA-256 of each file below the directory, as the container sees it.

    Not by `kubectl exec`: where the cluster itself runs in a chroot, runc's exec ends in that one's root and not in the container's.
    """
    script = f"cd {directory} && find . -type f -exec sha256sum {{}} +"
    entered = ["nsenter", "--target", _pid_of(cluster, namespace, pod, container), "--mount", "--root", "--pid"]
    done = cluster.enter([*entered, "sh", "-c", script])
    assert done.returncode == 0, done.stderr
    return {path: digest for digest, path in (line.split("  ./", 1) for line in done.stdout.splitlines())}


def _pid_of(cluster: devcluster.Cluster, namespace: str, pod: str, container: str) -> str:
    live = json.loads(_kubectl(cluster, f"--namespace={namespace}", "get", "pod", pod, "--output=json"))
    (task,) = (each["containerID"].rpartition("/")[2] for each in live["status"]["containerStatuses"] if each["name"] == container)
    listed = cluster.enter(["ctr", "--namespace", "k8s.io", "tasks", "ls"]).stdout
    return next(line.split()[1] for line in listed.splitlines() if line.startswith(task))


def _kubectl(cluster: devcluster.Cluster, *arguments: str, stdin: str | None = None) -> str:
    command = [str(cluster.kubectl), f"--kubeconfig={cluster.kubeconfig}", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=SECONDS + 30)
    assert done.returncode == 0, done.stderr
    return done.stdout
