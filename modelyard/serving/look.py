"""Looking at the files as a server sees them, without entering its pod: from a twin of the pod on the same node.

The twin has what KServe's webhook gave the pod (the modelcars, the volumes and mounts, users and security contexts) and runs ``ls``
where the server would run. So no right to run commands in pods of others is asked for: who may make an InferenceService may run a pod
of his own there anyway. It is a Job with a short life and a name that is a function of the service: a killed run leaves nothing that
the next one, or Kubernetes itself, does not remove.
"""

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from modelyard.errors import ClusterUnavailable, LoaderInterrupted, ServingFailed
from modelyard.kube.apply import is_owned, owned, patiently
from modelyard.kube.client import Kube
from modelyard.kube.explain import explain_job, explain_pod
from modelyard.kube.failures import AlreadyExists, Changed
from modelyard.kube.follow import pods_of
from modelyard.kube.loader_job import on_node
from modelyard.kube.resources import Manifest
from modelyard.names import job_name
from modelyard.plans.serving_pods import MODEL_PATH, MODELCAR, SERVER, Seen, parse_look

_LIFE_SECONDS = 300
_KEPT_SECONDS = 60
_PAUSE = 1.0
_GONE_TRIES = 120
#: A modelcar links its files a moment after it starts. Every file is opened: that is what permissions decide.
#: A server's image may have a shell and nothing else: 127 is what a missing program ends with, before anything is said of the files.
_SCRIPT = """
set -e
for program in find head stat sort wc sha256sum cut sleep; do
  command -v "$program" >/dev/null 2>&1 || { echo "the image has no $program" >/dev/termination-log; exit 127; }
done
i=0
until cd "$1" 2>/dev/null; do i=$((i+1)); [ "$i" -lt 120 ] || { echo "$1 is not there" >/dev/termination-log; exit 3; }; sleep 1; done
find . -type f -exec head -c 1 {} + >/dev/null 2>/tmp/unread || { head -c 2000 /tmp/unread >/dev/termination-log; exit 4; }
find . -type f -exec stat -c '%s %n' {} + | LC_ALL=C sort >/tmp/seen
{ echo "$(wc -l </tmp/seen) $(sha256sum </tmp/seen | cut -d' ' -f1)"; head -c 3500 /tmp/seen; } >/dev/termination-log
"""
_NOT_STARTED = frozenset({"StartError", "ContainerCannotRun"})
_NO_PROGRAM = frozenset({126, 127})
_COPIED = ("shareProcessNamespace", "securityContext", "serviceAccountName", "imagePullSecrets", "tolerations", "runtimeClassName")


class NoShell(ServingFailed):
    """The image has no shell to look with, or not the programs."""


def twin_job(pod: Manifest, service: str, image: str | None = None) -> Manifest:
    """The Job that looks where ``pod`` serves; ``image`` runs in the server's place (None: the server's own). Pure."""
    spec, namespace = pod["spec"], pod["metadata"]["namespace"]
    server = next(each for each in spec["containers"] if each["name"] == SERVER)
    volumes = [each for each in spec.get("volumes", ()) if _is_model(each)]
    kept = {each["name"] for each in volumes}
    labels = {"app.kubernetes.io/name": "modelyard-look"}
    return owned(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": job_name("look", service, namespace, service), "namespace": namespace, "labels": labels},
            "spec": {
                "backoffLimit": 0,
                "activeDeadlineSeconds": _LIFE_SECONDS,
                "ttlSecondsAfterFinished": _KEPT_SECONDS,
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        **{key: spec[key] for key in _COPIED if key in spec},
                        "automountServiceAccountToken": False,
                        "enableServiceLinks": False,
                        "restartPolicy": "Never",
                        "terminationGracePeriodSeconds": 1,
                        "affinity": on_node(spec["nodeName"]),
                        "initContainers": [_modelcar(each, kept) for each in _modelcars(spec.get("initContainers", ()))],
                        "containers": [_looker(server, kept, image), *(_modelcar(each, kept) for each in _modelcars(spec["containers"]))],
                        "volumes": [*volumes, {"name": "look", "emptyDir": {"sizeLimit": "64Mi"}}],
                    },
                },
            },
        }
    )


def _is_model(volume: Mapping[str, Any]) -> bool:
    """Whether the webhook added the volume for the model: a mounted image, or the directory that a modelcar links into."""
    return "image" in volume or str(volume["name"]).startswith("kserve-provision-location")


def _modelcars(containers: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [each for each in containers if str(each["name"]).startswith(MODELCAR)]


def _modelcar(container: Mapping[str, Any], volumes: set[str]) -> Manifest:
    """As it is, less the token of its pod's account."""
    return {**container, "volumeMounts": _mounts(container, volumes)}


def _mounts(container: Mapping[str, Any], volumes: set[str]) -> list[Manifest]:
    return [each for each in container.get("volumeMounts", ()) if each["name"] in volumes]


def _looker(server: Mapping[str, Any], volumes: set[str], image: str | None) -> Manifest:
    context = {"securityContext": server["securityContext"]} if "securityContext" in server else {}
    return {
        "name": SERVER,
        "image": image or server["image"],
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", _SCRIPT, "look", MODEL_PATH],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "200m", "memory": "256Mi"}},
        "volumeMounts": [*_mounts(server, volumes), {"name": "look", "mountPath": "/tmp"}],  # noqa: S108 - the twin's own emptyDir
        **context,
    }


def look(kube: Kube, pod: Manifest, service: str, image: str | None = None) -> Seen:
    """What a twin of ``pod`` sees; the twin is gone, or going, afterwards.

    Raises:
        NoShell: the image cannot run the look.
        ServingFailed: the files are not to be seen or read, or the twin does not start; the message says why.
        LoaderInterrupted: it was taken away, or Kubernetes did not come to it in time.
    """
    job = _make(kube, twin_job(pod, service, image))
    try:
        return _await(kube, job)
    finally:
        with suppress(ClusterUnavailable, Changed):
            _delete(kube, job)


def _make(kube: Kube, wanted: Manifest) -> Manifest:
    """The Job, after one that a killed run left is gone."""
    metadata = wanted["metadata"]
    for _ in range(_GONE_TRIES):
        with suppress(AlreadyExists):
            return patiently(lambda: kube.create(wanted))
        live = patiently(lambda: kube.get("Job", metadata["name"], metadata["namespace"]))
        if live and not is_owned(live):
            raise ServingFailed(f"Job/{metadata['namespace']}/{metadata['name']} was not made by Modelyard; delete or rename it")
        if live and not live["metadata"].get("deletionTimestamp"):
            with suppress(Changed):
                _delete(kube, live)
        time.sleep(_PAUSE)
    raise LoaderInterrupted(f"Job/{metadata['namespace']}/{metadata['name']} of an earlier look does not go")


def _delete(kube: Kube, job: Manifest) -> None:
    metadata = job["metadata"]
    patiently(lambda: kube.delete("Job", metadata["name"], metadata["namespace"], propagation="Background", uid=metadata["uid"]))


def _await(kube: Kube, job: Manifest) -> Seen:
    deadline, hindrance = time.monotonic() + _LIFE_SECONDS, "its pod was not made"
    while time.monotonic() < deadline:
        with suppress(ClusterUnavailable):
            pods = pods_of(kube, job)
            ended = next((end for pod in pods if (end := _ended(pod))), None)
            if ended:
                return _seen(ended)
            hindrances = [explain_pod(kube, pod) for pod in pods] or [explain_job(kube, job)]
            hindrance = "; ".join(str(each) for each in hindrances if each) or "it runs"
        time.sleep(_PAUSE)
    raise LoaderInterrupted(f"the look at the files did not end within {_LIFE_SECONDS} s: {hindrance}")


def _ended(pod: Manifest) -> dict[str, Any] | None:
    """How the looking container ended; the modelcar beside it runs on."""
    status = pod.get("status") or {}
    statuses = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    ended: list[tuple[str, dict[str, Any]]] = [
        (each["name"], end) for each in statuses if (end := (each.get("state") or {}).get("terminated"))
    ]
    return next((end for name, end in ended if name == SERVER or end.get("exitCode")), None)


def _seen(ended: Mapping[str, Any]) -> Seen:
    message = str(ended.get("message") or "")
    if ended.get("reason") in _NOT_STARTED or ended.get("exitCode") in _NO_PROGRAM:
        raise NoShell(f"the look at the files did not start: {message.strip()}")
    if ended.get("exitCode"):
        raise ServingFailed(f"a pod like the server's cannot read the files: {message.strip() or ended.get('reason')}")
    try:
        return parse_look(message)
    except ValueError as error:
        raise ServingFailed(f"the look at the files told something else than files: {message[:200]!r}") from error
