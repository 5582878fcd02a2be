"""KServe in the cluster, on request: its controller as a Deployment with webhooks, from the release's own manifest.

What differs from a cluster of the world, and why: the webhooks' certificate is the cluster's own, for cert-manager is not
there; the deployment mode is Standard and no ingress is made, for Knative and a gateway are not there; one replica without
leader election, for a new pod would wait a quarter of a minute for the lease of the one before; no proxy for metrics, no
controllers of LLMInferenceService and LocalModel. The ConfigMap is written once: it is the administrator's from then on.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from devcluster.build import KSERVE
from devcluster.cluster import Cluster
from devcluster.commands import progress, run
from devcluster.errors import CommandError, StartError
from devcluster.paths import Layout
from devcluster.pki import Certificate, issue
from devcluster.programs import provide_modules
from devcluster.registry import Registry, program_layer

NAMESPACE = "kserve"
CONTROLLER = "kserve-controller-manager"
_SERVICE = f"kserve-webhook-server-service.{NAMESPACE}.svc"
_CERTIFICATE = Certificate("kserve-webhook", f"/CN={_SERVICE}", (f"DNS:{_SERVICE}", f"DNS:{_SERVICE}.cluster.local"))
_CERTIFICATE_SECRET = "kserve-webhook-server-cert"  # noqa: S105 - a Secret's name
_LABEL = "devcluster.modelyard/part=kserve"
_MARK = "devcluster.modelyard/installed"
_USER = "1000:1000"
_START_TIMEOUT = 300.0

#: Parts of the release that have a controller of their own, which is not installed.
_OTHERS = ("llm", "localmodel")
_KIND_DEFINITION = "CustomResourceDefinition"
Object = dict[str, Any]


def install_kserve(here: Layout, cluster: Cluster) -> None:
    """Install it, or make what is there as it should be; returns when the webhooks answer.

    Raises:
        DevclusterError: the build failed, or the controller did not become ready.
    """
    given = provide_modules([KSERVE])
    mark = _fingerprint(here, given)
    begun = time.monotonic()
    found = _installed(cluster) == mark
    if not found:
        progress(f"installing KServe into cluster {cluster.name!r}")
        _install(here, cluster, given, mark)
    _wait_ready(cluster)
    if not found:
        progress(f"KServe is ready after {time.monotonic() - begun:.1f} s")


def _fingerprint(here: Layout, given: dict[str, Path]) -> str:
    """Of all that decides what is installed; the program by its size and time, which a build or a copy sets."""
    program = given["manager"].stat()
    parts = (Path(__file__).read_bytes(), given["kserve.yaml"].read_bytes(), (here.pki / "ca.crt").read_bytes())
    return hashlib.sha256(b"\0".join((*parts, f"{program.st_size} {program.st_mtime_ns}".encode()))).hexdigest()[:16]


def _installed(cluster: Cluster) -> str:
    """The fingerprint that an installation ended with; empty without one."""
    path = "{.metadata.annotations." + _MARK.replace(".", "\\.") + "}"
    return _kubectl(cluster, "get", "deployment", CONTROLLER, f"--namespace={NAMESPACE}", "--ignore-not-found", f"--output=jsonpath={path}")


def _install(here: Layout, cluster: Cluster, given: dict[str, Path], mark: str) -> None:
    objects = list(_read_manifest(cluster, given["kserve.yaml"]))
    image = next(container["image"] for entry in objects if entry["kind"] == "Deployment" for container in _containers(entry))
    _push_controller(cluster.registry, image, given["manager"])
    wanted = [_adjusted(entry, here) for entry in objects]
    kinds = [entry for entry in wanted if entry["kind"] == _KIND_DEFINITION]
    _apply(cluster, [_namespace(), _certificate_secret(here), *kinds])
    _wait_kinds(cluster)
    configurations = [entry for entry in wanted if entry["kind"] == "ConfigMap"]
    for entry in configurations:
        _create_once(cluster, entry)
    _apply(cluster, [entry for entry in wanted if entry not in (*kinds, *configurations)])
    _kubectl(cluster, "annotate", "--overwrite", "deployment", CONTROLLER, f"--namespace={NAMESPACE}", f"{_MARK}={mark}")


def _read_manifest(cluster: Cluster, manifest: Path) -> Iterator[Object]:
    """Its objects that belong to the InferenceService controller; kubectl is the reader of YAML, and labels them."""
    text = _kubectl(cluster, "label", "--local", "--filename", str(manifest), _LABEL, "--output=json")
    decoder, at = json.JSONDecoder(), 0
    while at < len(text.rstrip()):
        entry, at = decoder.raw_decode(text, at)
        at += len(text[at:]) - len(text[at:].lstrip())
        if _is_ours(entry):
            yield entry


def _is_ours(entry: Object) -> bool:
    name = entry["metadata"]["name"]
    if entry["apiVersion"].startswith("cert-manager.io/") or any(other in name for other in _OTHERS):
        return False
    return bool(entry["kind"] != _KIND_DEFINITION or name.endswith(".serving.kserve.io"))


def _adjusted(entry: Object, here: Layout) -> Object:
    adjust: Callable[[Object, Layout], None] | None = {
        "Deployment": _adjust_deployment,
        "ConfigMap": _adjust_configuration,
        "MutatingWebhookConfiguration": _trust_webhooks,
        "ValidatingWebhookConfiguration": _trust_webhooks,
    }.get(entry["kind"])
    if adjust:
        adjust(entry, here)
    return entry


def _containers(deployment: Object) -> list[Object]:
    found: list[Object] = [entry for entry in deployment["spec"]["template"]["spec"]["containers"] if entry["name"] == "manager"]
    return found


def _adjust_deployment(deployment: Object, _here: Layout) -> None:
    containers = _containers(deployment)
    deployment["spec"]["template"]["spec"]["containers"] = containers
    for container in containers:
        container["args"] = [argument for argument in container["args"] if argument != "--leader-elect"]
        # A tenth of a core makes its start take a minute; and it is asked at once and often, for tests wait for it.
        del container["resources"]["limits"]["cpu"]
        container["readinessProbe"] |= {"initialDelaySeconds": 1, "periodSeconds": 1}


def _adjust_configuration(configuration: Object, _here: Layout) -> None:
    changes = {"deploy": {"defaultDeploymentMode": "Standard"}, "ingress": {"disableIngressCreation": True}}
    for key, change in changes.items():
        configuration["data"][key] = json.dumps(json.loads(configuration["data"][key]) | change, indent=2)


def _trust_webhooks(configuration: Object, here: Layout) -> None:
    for webhook in configuration["webhooks"]:
        webhook["clientConfig"]["caBundle"] = _inline(here.pki / "ca.crt")


def _namespace() -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}


def _certificate_secret(here: Layout) -> Object:
    certificate, key = issue(here, _CERTIFICATE)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": _CERTIFICATE_SECRET, "namespace": NAMESPACE},
        "type": "kubernetes.io/tls",
        "data": {"tls.crt": _inline(certificate), "tls.key": _inline(key)},
    }


def _inline(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _push_controller(registry: str, image: str, program: Path) -> None:
    """The program as an image of the name that the manifest asks for; what is there already is not sent again."""
    repository, _, tag = image.rpartition(":")
    Registry(registry).push_image(repository, tag, program_layer(program), ["/manager"], _USER)


def _apply(cluster: Cluster, objects: list[Object]) -> None:
    _kubectl(cluster, "apply", "--server-side", "--force-conflicts", "--filename=-", stdin=_list(objects))


def _create_once(cluster: Cluster, entry: Object) -> None:
    there = _kubectl(
        cluster, "get", entry["kind"], entry["metadata"]["name"], f"--namespace={NAMESPACE}", "--ignore-not-found", "--output=name"
    )
    if not there.strip():
        _kubectl(cluster, "create", "--filename=-", stdin=_list([entry]))


def _list(objects: list[Object]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})


def _wait_kinds(cluster: Cluster) -> None:
    """The API server serves them. Not by `kubectl wait`, which fails when it meets a definition that has no conditions yet."""
    deadline = time.monotonic() + _START_TIMEOUT
    while waiting := [entry["metadata"]["name"] for entry in _kinds(cluster) if not _is_established(entry)]:
        if time.monotonic() > deadline:
            raise StartError(f"cluster {cluster.name!r}: the API server did not take up {', '.join(waiting)} in time")
        time.sleep(0.2)


def _kinds(cluster: Cluster) -> list[Object]:
    found: list[Object] = json.loads(_kubectl(cluster, "get", "crd", f"--selector={_LABEL}", "--output=json"))["items"]
    return found


def _is_established(kind: Object) -> bool:
    conditions = kind.get("status", {}).get("conditions") or []
    return any(entry["type"] == "Established" and entry["status"] == "True" for entry in conditions)


def _wait_ready(cluster: Cluster) -> None:
    """The pod is ready, and the API server reaches the webhooks: it would accept an InferenceService."""
    deadline = time.monotonic() + _START_TIMEOUT
    _kubectl(cluster, "rollout", "status", f"deployment/{CONTROLLER}", f"--namespace={NAMESPACE}", f"--timeout={_START_TIMEOUT:.0f}s")
    while True:
        try:
            _kubectl(cluster, "create", "--dry-run=server", "--filename=-", stdin=json.dumps(_probe()))
        except CommandError as error:
            if time.monotonic() > deadline:
                raise StartError(f"cluster {cluster.name!r}: KServe's webhooks did not answer in time: {error}") from error
            time.sleep(0.5)
        else:
            return


def _probe() -> Object:
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "probe", "namespace": NAMESPACE},
        "spec": {"predictor": {"containers": [{"name": "kserve-container", "image": "busybox:1.36"}]}},
    }


def _kubectl(cluster: Cluster, *arguments: str, stdin: str | None = None) -> str:
    return run([cluster.kubectl, "--kubeconfig", cluster.kubeconfig, *arguments], stdin=stdin)
