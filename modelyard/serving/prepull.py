"""Jobs that hold an image on nodes: made or joined, followed until the image is there, and taken away.

That the Job's pod runs is the knowledge that its node has the image: the kubelet starts no container before the image that it mounts,
or runs, is pulled and unpacked. While the pod lives the kubelet's garbage collection leaves the image alone.
"""

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from modelyard.errors import ClusterRefused, ClusterUnavailable, LoaderInterrupted, ServingFailed
from modelyard.images.references import Reference
from modelyard.kube.apply import is_owned, owned, patiently
from modelyard.kube.client import Kube, Manifests
from modelyard.kube.diagnosis import Course, Diagnosis, latest
from modelyard.kube.explain import events_of, explain_job, explain_pod
from modelyard.kube.failures import AlreadyExists, Changed
from modelyard.kube.loader_job import on_node
from modelyard.kube.loader_report import finished
from modelyard.kube.resources import GROUP, Manifest
from modelyard.kube.wait import TimedOut
from modelyard.names import label_value
from modelyard.plans.prepull import Form, NodeState, PrepullPlan, PrepullRequest

NAME = "modelyard-prepull"
IMAGE_LABEL = f"{GROUP}/image"
NODE_ANNOTATION = f"{GROUP}/node"
SPEC_ANNOTATION = f"{GROUP}/spec-digest"
DIGEST_ANNOTATION = f"{GROUP}/image-digest"
_CONTAINER = "hold"
_BACKOFF_LIMIT = 6
_NOBODY = 65534
_PAUSE = 1.0
_TRIES = 120
#: A diagnosis that only a person can remove is believed when it has held this long.
_PATIENCE_SECONDS = 60.0
OnStates = Callable[[Sequence[NodeState]], None]


# Jobs as values ---------------------------------------------------------------------------------------------------------


def prepull_job(request: PrepullRequest, node: str, form: Form, image_digest: str = "") -> Manifest:
    """The Job that holds the image on ``node``, which has ``image_digest`` in its registry now. Pure."""
    labels = {"app.kubernetes.io/name": NAME, IMAGE_LABEL: label_value(str(request.image))}
    pod = _pod(request, node, form)
    told = {IMAGE_LABEL: str(request.image), NODE_ANNOTATION: node, DIGEST_ANNOTATION: image_digest}
    digest = hashlib.sha256(json.dumps(pod, sort_keys=True).encode()).hexdigest()
    return owned(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {
                "name": request.job_name(node),
                "namespace": request.namespace,
                "labels": labels,
                "annotations": {**told, SPEC_ANNOTATION: digest},
            },
            "spec": {
                "backoffLimit": _BACKOFF_LIMIT,
                "activeDeadlineSeconds": request.keep_seconds,
                "ttlSecondsAfterFinished": 0,
                "podFailurePolicy": {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]},
                "template": {"metadata": {"labels": labels, "annotations": told}, "spec": pod},
            },
        }
    )


def _pod(request: PrepullRequest, node: str, form: Form) -> Manifest:
    image = str(request.image)
    # A tag is asked of the registry again: the node shall have what it names now. A digest names the same for ever.
    policy = "IfNotPresent" if request.image.digest else "Always"
    mounted = form is Form.VOLUME
    container = {
        "name": _CONTAINER,
        "image": request.holder if mounted else image,
        "imagePullPolicy": "IfNotPresent" if mounted else policy,
        "command": ["sleep", "infinity"],
        "resources": {"requests": {"cpu": "1m", "memory": "8Mi"}, "limits": {"memory": "32Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
        **({"volumeMounts": [{"name": "image", "mountPath": "/image", "readOnly": True}]} if mounted else {}),
    }
    return {
        **({"serviceAccountName": request.service_account} if request.service_account else {}),  # for its pull secrets
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _NOBODY,
            "runAsGroup": _NOBODY,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": on_node(node),
        "tolerations": [dict(each) for each in request.tolerations],
        "imagePullSecrets": [{"name": name} for name in request.pull_secrets],
        "containers": [container],
        "volumes": [{"name": "image", "image": {"reference": image, "pullPolicy": policy}}] if mounted else [],
    }


# The cluster ------------------------------------------------------------------------------------------------------------


def has_image_volumes(kube: Kube, request: PrepullRequest) -> bool:
    """Whether the API server knows image volumes: one without them drops the field, as a dry run shows."""
    probe = prepull_job(request, "modelyard-probe", Form.VOLUME)
    try:
        made = patiently(lambda: kube.create({**probe, "metadata": {**probe["metadata"], "name": "modelyard-probe"}}, dry_run=True))
    except ClusterRefused as error:
        if "volume type" in str(error):
            return False
        raise
    return all("image" in volume for volume in made["spec"]["template"]["spec"]["volumes"])


def ensure_jobs(kube: Kube, plan: PrepullPlan) -> tuple[str, ...]:
    """A Job for each node: a new one, or the one that another run made; gives the names of the new."""
    return tuple(name for node in plan.nodes if (name := _ensure(kube, prepull_job(plan.request, node, plan.form, plan.digest))))


def _ensure(kube: Kube, wanted: Manifest) -> str | None:
    metadata = wanted["metadata"]
    for _ in range(_TRIES):
        with suppress(AlreadyExists):
            patiently(lambda: kube.create(wanted))
            return str(metadata["name"])
        live = patiently(lambda: kube.get("Job", metadata["name"], metadata["namespace"]))
        if live and not is_owned(live):
            raise ServingFailed(f"Job/{metadata['namespace']}/{metadata['name']} was not made by Modelyard; delete or rename it")
        if live and not live["metadata"].get("deletionTimestamp"):
            if not _is_stale(kube, live, wanted):
                _prolong(kube, live, wanted)
                return None
            _delete(kube, live)
        time.sleep(_PAUSE)
    raise LoaderInterrupted(f"Job/{metadata['namespace']}/{metadata['name']} of an earlier run does not go")


def _is_stale(kube: Kube, live: Manifest, wanted: Manifest) -> bool:
    metadata = live["metadata"]
    return is_stale(live, wanted, _pods(kube, metadata["namespace"], metadata["labels"][IMAGE_LABEL]).get(metadata["name"], []))


def is_stale(live: Manifest, wanted: Manifest, pods: Manifests) -> bool:
    """Whether the Job does not do: it is over, it holds what the tag named before it was moved, or it waits in vain in another shape
    (other pull secrets or tolerations). One whose pod runs will do in any. Pure.
    """
    there, asked = live["metadata"]["annotations"], wanted["metadata"]["annotations"]
    if finished(live) or there.get(DIGEST_ANNOTATION) != asked[DIGEST_ANNOTATION]:
        return True
    return there.get(SPEC_ANNOTATION) != asked[SPEC_ANNOTATION] and not any(map(is_running, pods))


def _prolong(kube: Kube, live: Manifest, wanted: Manifest) -> None:
    """The image is held for as long from now on as this run wants, and never shorter than another wanted."""
    start = (live.get("status") or {}).get("startTime")
    passed = (datetime.now(UTC) - datetime.fromisoformat(start)).total_seconds() if start else 0.0
    deadline = round(passed) + wanted["spec"]["activeDeadlineSeconds"]
    if deadline > live["spec"]["activeDeadlineSeconds"] + _PATIENCE_SECONDS:
        metadata = live["metadata"]
        patch = {"metadata": {"uid": metadata["uid"]}, "spec": {"activeDeadlineSeconds": deadline}}
        patiently(lambda: kube.patch_merge("Job", metadata["name"], metadata["namespace"], patch))


def _delete(kube: Kube, job: Manifest) -> None:
    metadata = job["metadata"]
    with suppress(Changed):
        patiently(lambda: kube.delete("Job", metadata["name"], metadata["namespace"], uid=metadata["uid"]))


def _pods(kube: Kube, namespace: str, label: str) -> dict[str, Manifests]:
    """The pods that hold images of this label, by the names of their Jobs."""
    found: dict[str, Manifests] = {}
    for pod in kube.list("Pod", namespace, label_selector=f"app.kubernetes.io/name={NAME},{IMAGE_LABEL}={label}"):
        found.setdefault(pod["metadata"]["labels"].get("batch.kubernetes.io/job-name", ""), []).append(pod)
    return found


def of_digest(pods: Manifests, plan: PrepullPlan) -> Manifests:
    """The pods of the image as it is now: those of a Job that held another one under its tag go a moment after the Job. Pure."""
    return [pod for pod in pods if (pod["metadata"].get("annotations") or {}).get(DIGEST_ANNOTATION) == plan.digest]


def is_running(pod: Manifest) -> bool:
    """Whether the container that holds the image runs; one that others put beside it (a mesh's sidecar) says nothing of the image. Pure."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    gone = pod["metadata"].get("deletionTimestamp")
    return not gone and any(each["name"] == _CONTAINER and "running" in (each.get("state") or {}) for each in statuses)


def of_holder(diagnosis: Diagnosis, plan: PrepullPlan) -> Diagnosis:
    """The diagnosis, with what to do if the image that cannot be pulled is not the model's, but the one that sleeps beside it. Pure."""
    is_holder = plan.form is Form.VOLUME and diagnosis.permanent and f"image {plan.request.holder} " in diagnosis.summary
    step = "it only sleeps beside the model's image: name one that the nodes can pull as the holder"
    return replace(diagnosis, next_step=step) if is_holder else diagnosis


# Following --------------------------------------------------------------------------------------------------------------


def wait_pulled(kube: Kube, plan: PrepullPlan, timeout: float, on_states: OnStates) -> tuple[NodeState, ...]:
    """Wait until each node has the image, or why it never will is known; tells all states whenever one changes.

    Raises:
        ServingFailed: nodes that will not get it; Jobs of theirs that never ran are gone, the other nodes hold the image.
        TimedOut: ``timeout`` seconds are over; the Jobs go on, and the next run joins them.
    """
    deadline, follower, told = time.monotonic() + timeout, _Follower(kube, plan), None
    while True:
        with suppress(ClusterUnavailable):
            states = follower.look()
            if states != told:
                on_states(states)
                told = states
            if follower.settled(states):
                break
        if time.monotonic() > deadline:
            lacking = "; ".join(f"{state.node}: {state.told}" for state in told or () if not state.there)
            raise TimedOut(f"waited {timeout:.0f} s for {plan.request.image}: {lacking or 'the API server does not answer'}")
        time.sleep(_PAUSE)
    if follower.given_up:
        follower.clear()
        raise ServingFailed("\n".join(f"node {node}: {why}" for node, why in sorted(follower.given_up.items())))
    return states


@dataclass
class _Follower:
    kube: Kube
    plan: PrepullPlan
    courses: defaultdict[str, Course] = field(default_factory=lambda: defaultdict(Course))
    given_up: dict[str, str] = field(default_factory=dict)

    def look(self) -> tuple[NodeState, ...]:
        """Each node's state now."""
        request = self.plan.request
        pods = _pods(self.kube, request.namespace, label_value(str(request.image)))
        return tuple(self._state(node, of_digest(pods.get(request.job_name(node), []), self.plan)) for node in self.plan.nodes)

    def settled(self, states: Sequence[NodeState]) -> bool:
        """Whether nothing more is to be waited for."""
        return all(state.there or state.node in self.given_up for state in states)

    def clear(self) -> None:
        """Take away what would go on trying in vain."""
        for node in self.given_up:
            live = patiently(lambda node=node: self.kube.get("Job", self.plan.request.job_name(node), self.plan.request.namespace))  # type: ignore[misc]  # bound now
            if live and is_owned(live):
                _delete(self.kube, live)

    def _state(self, node: str, pods: Manifests) -> NodeState:
        there = any(is_running(pod) for pod in pods)
        diagnosis = None if there else self._diagnosis(node, pods)
        course = self.courses[node]
        course.see(diagnosis)
        if there:
            self.given_up.pop(node, None)
            return NodeState(node=node, there=True, told="there")
        if diagnosis and diagnosis.permanent and course.seconds >= _PATIENCE_SECONDS:
            self.given_up[node] = str(diagnosis)
        return NodeState(node=node, there=False, told=str(diagnosis) if diagnosis else _progress(self.kube, pods))

    def _diagnosis(self, node: str, pods: Manifests) -> Diagnosis | None:
        if pods:
            found = next((found for pod in pods if (found := explain_pod(self.kube, pod))), None)
            return found and of_holder(found, self.plan)
        job = self.kube.get("Job", self.plan.request.job_name(node), self.plan.request.namespace)
        if job is None:
            return Diagnosis("its Job was taken away, or its time is over", "", "run again", permanent=True)
        return explain_job(self.kube, job)


def _progress(kube: Kube, pods: Manifests) -> str:
    """What the kubelet told last; it tells no bytes."""
    events = [event for pod in pods for event in events_of(kube, pod)]
    event = latest(events, frozenset({"Pulling", "Pulled", "Scheduled"}))
    return str(event.get("message", "")) if event else "waits for its pod"


# Taking away ------------------------------------------------------------------------------------------------------------


def holds(held: Manifest, image: Reference) -> bool:
    """Whether a Job, or its pod, holds the image: named as it is or, if that is a tag, by a digest behind it (a verified one). Pure."""
    told = str((held["metadata"].get("annotations") or {}).get(IMAGE_LABEL, ""))
    return told == str(image) or told.startswith(f"{image}@")


def _held(kube: Kube, kind: str, request: PrepullRequest) -> Manifests:
    found = kube.list(kind, request.namespace, label_selector=f"app.kubernetes.io/name={NAME}")
    return [each for each in found if holds(each, request.image)]


def held_on(kube: Kube, request: PrepullRequest) -> Manifests:
    """The Jobs that hold the image."""
    return [job for job in patiently(lambda: _held(kube, "Job", request)) if is_owned(job)]


def let_go(kube: Kube, request: PrepullRequest, timeout: float) -> tuple[str, ...]:
    """Delete the Jobs that hold the image and see their pods go; the nodes that are free to remove the image now.

    Raises:
        TimedOut: pods are still there.
    """
    held = held_on(kube, request)
    for job in held:
        _delete(kube, job)
    deadline = time.monotonic() + timeout
    while True:
        with suppress(ClusterUnavailable):
            if not _held(kube, "Pod", request):
                return tuple(sorted({job["metadata"]["annotations"].get(NODE_ANNOTATION, "") for job in held}))
        if time.monotonic() > deadline:
            raise TimedOut(f"waited {timeout:.0f} s for the pods that hold {request.image} to go")
        time.sleep(_PAUSE)
