"""Why an InferenceService does not become Ready: its own status, then its pods', in their own words. Pure."""

from collections.abc import Iterable
from typing import Any

from modelyard.kube.diagnosis import Diagnosis
from modelyard.kube.resources import Manifest

#: Reasons of KServe's own that nothing but another spec, or another runtime, helps against (inference_service_status.go).
_SPEC = {
    "NoSupportingRuntime": "make a ServingRuntime for this format (autoSelect), or name one (runtime)",
    "RuntimeNotRecognized": "make that ServingRuntime in this namespace, or a ClusterServingRuntime, or name another (runtime)",
    "RuntimeDisabled": "enable that runtime, or name another (runtime)",
    "InvalidPredictorSpec": "correct what the message names",
}
_MODELCAR = "modelcar"
#: Enough restarts that a server which only came before its files would have met them.
_MANY = 5


def diagnose_service(service: Manifest) -> Diagnosis | None:
    """What KServe itself has against the service."""
    model = (service.get("status") or {}).get("modelStatus") or {}
    failure = model.get("lastFailureInfo") or {}
    if model.get("transitionStatus") != "InvalidSpec" or failure.get("reason") not in _SPEC:
        return None
    reason = failure["reason"]
    return Diagnosis(f"KServe refuses the service ({reason})", failure.get("message", ""), _SPEC[reason], permanent=True)


def diagnose_crash(pod: Manifest) -> Diagnosis | None:
    """A container of the pod that ends again and again."""
    status = pod.get("status") or {}
    for each in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        ended = _ended(each)
        if ended is None:
            continue
        if each["name"].startswith(_MODELCAR):
            return _modelcar(each["name"], ended)
        return Diagnosis(
            f"container {each['name']} ends again and again (exit code {ended.get('exitCode')})",
            (ended.get("message") or ended.get("reason") or "").strip(),
            "look at its log; a server that starts before its files are there does so once or twice",
            permanent=each.get("restartCount", 0) >= _MANY,
        )
    return None


def _ended(status: dict[str, Any]) -> dict[str, Any] | None:
    """How a container ended that waits for its next start, or did not start at all."""
    state = status.get("state") or {}
    now: dict[str, Any] | None = state.get("terminated")
    if now and now.get("exitCode"):
        return now
    if (state.get("waiting") or {}).get("reason") in {"CrashLoopBackOff", "RunContainerError"}:
        before: dict[str, Any] = (status.get("lastState") or {}).get("terminated") or state["waiting"]
        return before
    return None


def _modelcar(container: str, ended: dict[str, Any]) -> Diagnosis:
    detail = (ended.get("message") or ended.get("reason") or "").strip()
    summary = f"container {container} of the model's image does not do its part"
    if "executable file not found" in detail or "no such file or directory" in detail:
        return Diagnosis(summary, detail, "the image has no shell: serve it natively, or give it a base with one", permanent=True)
    if "/models does not exist or is empty" in detail:
        return Diagnosis(summary, detail, "the image holds no files below /models: build it with build-modelcar", permanent=True)
    if "OOMKilled" in {ended.get("reason"), detail}:
        return Diagnosis(summary, detail, "raise memoryModelcar (enable-modelcars)", permanent=True)
    return Diagnosis(summary, detail, "look at its log", permanent=True)


def diagnose_creation(events: Iterable[Manifest], prefix: str) -> list[Manifest]:
    """The events that tell why a ReplicaSet of the service makes no pod."""
    return [each for each in events if str((each.get("involvedObject") or {}).get("name", "")).startswith(prefix)]
