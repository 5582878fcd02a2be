"""Why a pod, a Job or a claim does not get on: dicts of the API in, frozen diagnoses out. Pure.

A diagnosis reports what was observed, in the cluster's own words, and what the API documents that to mean; it guesses no
cause. ``permanent`` says that nothing but a person's change will help; ``interrupted``, that the pod was stopped from outside.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from modelyard.kube.diagnose_mount import diagnose_mount
from modelyard.kube.diagnosis import Diagnosis, latest
from modelyard.kube.resources import Manifest

#: The kubelet's word for a registry that does not answer, which passes; a back-off quotes it.
_NO_REGISTRY = "RegistryUnavailable"
_PULL = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", _NO_REGISTRY})
_CONFIG = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_KILLED_BY_MEMORY = "OOMKilled"
#: What a healthy claim's events say while its volume is made.
_ROUTINE = frozenset({"ExternalProvisioning", "Provisioning", "WaitForFirstConsumer", "WaitForPodScheduled"})
_STOPPING_SIGNALS = frozenset({9, 15})


def diagnose_pod(pod: Manifest, events: Iterable[Manifest] = (), neighbours: Sequence[Manifest] = ()) -> Diagnosis | None:
    """Why the pod does not run, or how it died; None if there is nothing to say. ``neighbours`` are pods that may have its volume."""
    return _disrupted(pod) or _died(pod) or _waiting(pod) or _mounting(pod, events, neighbours) or _unscheduled(pod)


def _disrupted(pod: Manifest) -> Diagnosis | None:
    status = pod.get("status") or {}
    if status.get("reason") == "Evicted":
        step = "the node ran short of what the message names"
        return Diagnosis("the kubelet evicted the pod", status.get("message", ""), step, interrupted=True)
    if condition := _condition(pod, "DisruptionTarget"):
        summary = f"the pod was taken away ({condition.get('reason', 'DisruptionTarget')})"
        return Diagnosis(summary, condition.get("message", ""), "", interrupted=True)
    return None


def _died(pod: Manifest) -> Diagnosis | None:
    for container, ended in _terminations(pod):
        if ended.get("reason") == _KILLED_BY_MEMORY:
            return Diagnosis(
                f"container {container} was killed for using more memory than its limit (OOMKilled)",
                f"memory limit {_memory_limit(pod, container)}",
                "raise loaderMemoryLimit of the cache",
            )
        if code := ended.get("exitCode"):
            return _exited(container, code, (ended.get("message") or "").strip())
    return None


def _exited(container: str, code: int, message: str) -> Diagnosis:
    """By shell convention a code above 128 is 128 plus the signal that killed the process."""
    if code - 128 in _STOPPING_SIGNALS:
        return Diagnosis(f"container {container} was stopped by signal {code - 128} (exit code {code})", message, "", interrupted=True)
    return Diagnosis(f"container {container} ended with exit code {code}", message, "")


def _waiting(pod: Manifest) -> Diagnosis | None:
    for status in _container_statuses(pod):
        waiting = (status.get("state") or {}).get("waiting") or {}
        reason, detail = waiting.get("reason", ""), waiting.get("message", "")
        if reason in _PULL:
            return _not_pulled(_image_of(pod, status, detail), f"{reason}: {detail}")
        if reason in _CONFIG:
            step = "check what the container refers to (Secret, ConfigMap, user)"
            return Diagnosis(f"container {status['name']} cannot be made ({reason})", detail, step, permanent=True)
    return None


def _image_of(pod: Manifest, status: dict[str, Any], detail: str) -> str:
    """The image that the words are about: the kubelet tells of one that a container only mounts as if it were the container's own."""
    own = str(status["image"])
    mounted = [str((volume.get("image") or {}).get("reference", "")) for volume in (pod.get("spec") or {}).get("volumes") or ()]
    return max((image for image in (own, *mounted) if image and image in detail), key=len, default=own)


def _not_pulled(image: str, detail: str) -> Diagnosis:
    if _NO_REGISTRY in detail:
        summary = f"image {image} cannot be pulled, its registry is not available"  # words of its own: patience with the others starts anew
        return Diagnosis(summary, detail, "the kubelet tries again by itself; look at the registry")
    step = "check the image's name and tag, and that the node may pull it (pull secrets are its account's)"
    return Diagnosis(f"image {image} cannot be pulled", detail, step, permanent=True)


def _mounting(pod: Manifest, events: Iterable[Manifest], neighbours: Sequence[Manifest]) -> Diagnosis | None:
    started = any((status.get("state") or {}).get("waiting") is None for status in _container_statuses(pod))
    return None if started else diagnose_mount(pod, events, neighbours)


def _unscheduled(pod: Manifest) -> Diagnosis | None:
    condition = _condition(pod, "PodScheduled", "False")
    if condition is None or condition.get("reason") != "Unschedulable":
        return None
    return Diagnosis("no node takes the pod (Unschedulable)", condition.get("message", ""), "")


def diagnose_job(events: Iterable[Manifest]) -> Diagnosis | None:
    """Why a Job has no pod, from the Job's own events."""
    event = latest(events, frozenset({"FailedCreate"}))
    if event is None:
        return None
    detail = event.get("message", "")
    if "violates PodSecurity" in detail:
        return Diagnosis("the namespace's Pod Security level refuses the pod", detail, "", permanent=True)
    if "exceeded quota" in detail:
        return Diagnosis("the namespace's ResourceQuota leaves no room for the pod", detail, "ask for less, or raise the quota")
    return Diagnosis("the pod cannot be created", detail, "")


def diagnose_claim(claim: Manifest, classes: Sequence[Manifest] | None, events: Iterable[Manifest] = ()) -> Diagnosis:
    """Why a claim is not bound. ``classes`` are all StorageClasses of the cluster, None if not readable; ``events`` the claim's own."""
    if claim["metadata"].get("deletionTimestamp"):
        return Diagnosis("the claim is being deleted", "pods that use it hold it", "wait, or set another pvcNameSuffix", permanent=True)
    if (claim.get("status") or {}).get("phase") == "Lost":
        return Diagnosis("the claim's PersistentVolume is gone (Lost)", "", "set another pvcNameSuffix for a new claim", permanent=True)
    found = list(events)
    if volume := claim["spec"].get("volumeName"):
        step = f"compare class, access modes, size and claimRef of PersistentVolume {volume} with the claim"
        return _unbound(f"the claim names PersistentVolume {volume} and is not bound to it", found, step)
    if classes is None:
        return _unbound("the claim is not bound", found, "its StorageClass cannot be read by this account")
    return _unprovisioned(claim, classes, found)


def _unbound(summary: str, events: Sequence[Manifest], step: str) -> Diagnosis:
    """A claim that may only have been made a moment ago, unless an event says more."""
    return Diagnosis(summary, _words(latest(events)), step, usual=all(event.get("reason") in _ROUTINE for event in events))


def _unprovisioned(claim: Manifest, classes: Sequence[Manifest], events: list[Manifest]) -> Diagnosis:
    name = claim["spec"].get("storageClassName")
    existing = ", ".join(sorted(each["metadata"]["name"] for each in classes)) or "none"
    if name is None:
        step = f"set storageClassName to one of the classes: {existing}"
        return Diagnosis("the claim names no StorageClass and no class is the default", _words(latest(events)), step, permanent=True)
    found = next((each for each in classes if each["metadata"]["name"] == name), None)
    if found is not None:
        return _with_class(claim, found, events)
    summary = f"there is no StorageClass {name!r}" if name else "the claim asks for no class, so only a PersistentVolume made by hand fits"
    step = f"classes that exist: {existing}; or make a PersistentVolume with storageClassName {name!r} by hand"
    return Diagnosis(summary, _words(latest(events)), step, permanent=bool(name))


def _with_class(claim: Manifest, storage_class: Manifest, events: list[Manifest]) -> Diagnosis:
    name, provisioner = storage_class["metadata"]["name"], storage_class["provisioner"]
    selected = (claim["metadata"].get("annotations") or {}).get("volume.kubernetes.io/selected-node")
    if event := latest(events, frozenset({"ProvisioningFailed"})):
        step = f"StorageClass {name}: look at its parameters and at the log of provisioner {provisioner}, which goes on trying"
        return Diagnosis(f"provisioner {provisioner} could not make the volume", event.get("message", ""), step)
    if waits_for_consumer(storage_class) and not selected:
        return Diagnosis("the claim waits for the first pod that uses it (WaitForFirstConsumer)", "this is not a fault", "")
    if provisioner == "kubernetes.io/no-provisioner":
        step = f"make a PersistentVolume with storageClassName {name!r}"
        return Diagnosis(f"StorageClass {name} makes no volumes and none fits", _words(latest(events)), step, permanent=True)
    step = f"see that a pod of provisioner {provisioner} runs"
    return _unbound(f"provisioner {provisioner} has made no volume yet", events, step)


def waits_for_consumer(storage_class: Manifest) -> bool:
    """Whether claims of this class are bound only when a pod uses them."""
    return bool(storage_class.get("volumeBindingMode") == "WaitForFirstConsumer")


def _words(event: Manifest | None) -> str:
    return f"{event.get('reason', '')}: {event.get('message', '')}" if event else "no event says why"


def _condition(live: Manifest, kind: str, status: str = "True") -> dict[str, Any] | None:
    conditions: list[dict[str, Any]] = (live.get("status") or {}).get("conditions") or []
    return next((each for each in conditions if each.get("type") == kind and each.get("status") == status), None)


def _container_statuses(pod: Manifest) -> list[dict[str, Any]]:
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def _terminations(pod: Manifest) -> Iterator[tuple[str, dict[str, Any]]]:
    for status in _container_statuses(pod):
        if ended := (status.get("state") or {}).get("terminated"):
            yield status["name"], ended


def _memory_limit(pod: Manifest, container: str) -> str:
    specs = [each for each in pod["spec"].get("containers", []) if each["name"] == container]
    limits = (specs[0].get("resources") or {}).get("limits") or {} if specs else {}
    return str(limits.get("memory", "unknown"))
