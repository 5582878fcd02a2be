"""What KServe's webhook would make of a pod with a modelcar: asked of the API server in a dry run, so that nothing is made.

This is the exact test that the controller that answers has the settings: its webhook reads them and writes them into the pod.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelyard.errors import ClusterRefused, ClusterUnavailable, ServingFailed
from modelyard.kube.client import Kube
from modelyard.kube.resources import Manifest
from modelyard.plans.kserve_config import CPU, DEFAULTS, MEMORY, UID, oci_mode
from modelyard.quantities import same_amount

_IMAGE = "modelyard.invalid/probe:v1"  # a name that no registry has: the pod is never made
_URI_ANNOTATION = "internal.serving.kserve.io/storage-initializer-sourceuri"
_SERVICE_LABEL = "serving.kserve.io/inferenceservice"
_WEBHOOK = "kserve-webhook-server"  # in the names of all of KServe's webhooks: inferenceservice.kserve-webhook-server.pod-mutator
_PAUSE = 1.0
#: What an account needs to try it.
RIGHTS = "deployments/kubernetes/enable-modelcars/probe"


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a pod was admitted as the settings say; None: it could not be tried, for the reason told."""

    works: bool | None
    told: str


def probe_pod(namespace: str) -> Manifest:
    """The least pod that the webhook takes for one of an InferenceService with a modelcar."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "modelyard-probe",
            "namespace": namespace,
            "labels": {_SERVICE_LABEL: "modelyard-probe"},
            "annotations": {_URI_ANNOTATION: f"oci://{_IMAGE}"},
        },
        "spec": {"containers": [{"name": "kserve-container", "image": _IMAGE}]},
    }


def wait_admission(kube: Kube, namespace: str, section: Mapping[str, Any], timeout: float) -> Admission:
    """Ask until the webhook answers as the settings in ``section`` say.

    Raises:
        ServingFailed: it answers otherwise, or not at all, for ``timeout`` seconds.
    """
    deadline, told = time.monotonic() + timeout, "no answer"
    while True:
        try:
            found = judge_admission(kube.create(probe_pod(namespace), dry_run=True), section)
        except ClusterUnavailable as error:  # so the API server tells of a webhook that does not answer
            told = str(error)
        except ClusterRefused as error:
            found = judge_refusal(str(error), namespace)
            if found.works is None:
                return found
            told = found.told
        else:
            if found.works:
                return found
            told = found.told
        if time.monotonic() > deadline:
            raise ServingFailed(
                f"KServe's webhook does not do in namespace {namespace} what its settings say: {told}; look at the controller's log"
            )
        time.sleep(_PAUSE)


def judge_refusal(told: str, namespace: str) -> Admission:
    """What it means that the pod was refused: by KServe's own webhook, that it does not work; by anything else, nothing.

    Where the account may not try it, it is told which rights it needs, and where. Pure.
    """
    if _WEBHOOK in told:
        return Admission(works=False, told=f"it refuses a pod: {told}")
    step = f"{RIGHTS} is one, for a namespace where models are served; give that as probe_namespace (now {namespace})"
    lacking = f": {step}" if "lacks the verb" in told else ""
    return Admission(None, f"an admission could not be tried in namespace {namespace}: {told}{lacking}")


def judge_admission(pod: Manifest, section: Mapping[str, Any]) -> Admission:
    """Whether the admitted pod is what the settings say. Pure."""
    modelcar = next((each for each in pod["spec"]["containers"] if each["name"] == "modelcar"), None)
    if oci_mode(section) != "modelcar":
        return Admission(modelcar is None, "pods get no modelcar" if modelcar is None else "pods get a modelcar all the same")
    if modelcar is None:
        return Admission(works=False, told="pods get no modelcar")
    limits = modelcar["resources"]["limits"]
    user = (modelcar.get("securityContext") or {}).get("runAsUser")
    seen = {UID: user, CPU: limits["cpu"], MEMORY: limits["memory"]}
    differing = [f"{key} {value!r}" for key, value in seen.items() if not _is_same(value, _expected(section, key))]
    shares = pod["spec"].get("shareProcessNamespace") is True
    if differing or not shares:
        return Admission(works=False, told=", ".join([*differing, *([] if shares else ["shareProcessNamespace is not set"])]))
    return Admission(works=True, told=f"pods get a modelcar with {limits['cpu']} CPU, {limits['memory']}, uid {user}")


def _is_same(there: Any, expected: Any) -> bool:  # noqa: ANN401 - JSON values
    """Amounts come back in the API's own spelling: 0.05 as 50m."""
    return there == expected or (isinstance(there, str) and isinstance(expected, str) and same_amount(there, expected))


def _expected(section: Mapping[str, Any], key: str) -> Any:  # noqa: ANN401 - a JSON value
    value = section.get(key)
    return DEFAULTS[key] if value in {None, ""} else value
