"""An InferenceService: what stands around it, applying it, and waiting until pods that serve this very image are Ready."""

import base64
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from modelyard.errors import ClusterRefused, ClusterUnavailable, Refused, RegistryDenied, ServingFailed
from modelyard.kube.apply import Change, apply, is_owned, patiently
from modelyard.kube.client import Kube, Manifests
from modelyard.kube.diagnose import diagnose_job
from modelyard.kube.diagnosis import Course, Diagnosis
from modelyard.kube.explain import explain_pod
from modelyard.kube.resources import Manifest
from modelyard.kube.wait import TimedOut, status_text
from modelyard.oci.access import read_docker_config
from modelyard.plans.kserve_config import ConfigFacts, read_section
from modelyard.plans.model_image import ImageFacts
from modelyard.plans.nodes import NodeFacts
from modelyard.plans.serving import PullSecret, ServeFacts, ServePlan, ServeRequest
from modelyard.plans.serving_pods import serves
from modelyard.serving.controller import find_namespace, is_ready, read_config
from modelyard.serving.diagnose import diagnose_crash, diagnose_creation, diagnose_service

_KIND = "InferenceService"
_PAUSE = 2.0
#: A diagnosis that only a person can remove is believed when it has held this long.
_PATIENCE_SECONDS = 60.0
OnNote = Callable[[str], None]


# Facts ------------------------------------------------------------------------------------------------------------------


def read_facts(
    kube: Kube, request: ServeRequest, kserve_namespace: str | None, image: ImageFacts | None, nodes: tuple[NodeFacts, ...] | None
) -> ServeFacts:
    """What stands around the service, as far as this account may see it."""
    config, notes = _config(kube, kserve_namespace)
    section, problems = read_section(config) if config else (None, [])
    live = patiently(lambda: kube.get(_KIND, request.name, request.namespace))
    exists, named = _account(kube, request)
    return ServeFacts(
        image=image,
        section=None if problems else section,
        config_problems=tuple(problems),
        account_exists=exists,
        pull_secrets=tuple(_pull_secret(kube, request.namespace, name) for name in dict.fromkeys((*request.pull_secrets, *named))),
        nodes=nodes,
        live=live,
        live_is_ours=live is not None and is_owned(live),
        notes=notes,
    )


def _config(kube: Kube, namespace: str | None) -> tuple[ConfigFacts | None, tuple[str, ...]]:
    """KServe's settings, where this account may find and read them: serving works without."""
    try:
        return read_config(kube, namespace or find_namespace(kube)), ()
    except (ClusterRefused, Refused) as error:
        return None, (f"whether modelcars are enabled is not known: {error}",)


def _account(kube: Kube, request: ServeRequest) -> tuple[bool | None, tuple[str, ...]]:
    """Whether the pods' service account is there, and the names of its pull secrets: names alone, no Secret is read for it."""
    try:
        live = patiently(lambda: kube.get("ServiceAccount", request.account, request.namespace))
    except ClusterRefused:
        return None, ()
    return live is not None, tuple(each["name"] for each in (live or {}).get("imagePullSecrets") or ())


def _pull_secret(kube: Kube, namespace: str, name: str) -> PullSecret:
    """The registries that a pull secret covers, where this account was given the right to read that one; it is not kept."""
    try:
        live = patiently(lambda: kube.get("Secret", name, namespace))
    except ClusterRefused:
        return PullSecret(name)
    return PullSecret(name, hosts_of(live) if live else ())


def hosts_of(secret: Manifest) -> tuple[str, ...] | None:
    """The registries that a Secret has credentials for; None: it is written in a way that others may read. Pure."""
    data = secret.get("data") or {}
    if ".dockercfg" in data:  # the older kind
        return None
    if (text := data.get(".dockerconfigjson")) is None:
        return ()
    try:
        return tuple(sorted(read_docker_config(base64.b64decode(text).decode())))
    except (RegistryDenied, ValueError):
        return None


# Applying, and waiting --------------------------------------------------------------------------------------------------


def apply_service(kube: Kube, plan: ServePlan) -> Change:
    """Make the InferenceService as planned.

    Raises:
        ServingFailed: one that Modelyard did not make came to be there since the plan.
        ClusterRefused: KServe's webhook or an admission policy refuses it.
    """
    request = plan.request
    live = patiently(lambda: kube.get(_KIND, request.name, request.namespace))
    if live is not None and not is_owned(live):
        raise ServingFailed(f"{_KIND}/{request.namespace}/{request.name} is there and was not made by Modelyard, so it is not changed")
    return apply(kube, plan.manifest)


def wait_serving(kube: Kube, request: ServeRequest, timeout: float, on_note: OnNote, *, changed: bool) -> Manifests:
    """The pods that serve as asked for, once the service is Ready and enough of them are; none but these, if it was ``changed``.

    Raises:
        ServingFailed: a reason that only a person can remove, for a minute; or the service was deleted.
        TimedOut: ``timeout`` seconds are over; the service goes on trying.
    """
    deadline, follower = time.monotonic() + timeout, _Follower(on_note)
    while True:
        with suppress(ClusterUnavailable):
            service = kube.get(_KIND, request.name, request.namespace)
            if service is None:
                raise ServingFailed(f"{_KIND}/{request.namespace}/{request.name} was deleted while its pods were waited for")
            pods = pods_of(kube, request)
            current = [pod for pod in pods if serves(pod, request)]
            ready = [pod for pod in current if is_ready(pod)]
            if is_ready(service) and is_served(pods, request, changed=changed):
                return ready
            told = f"{status_text(service)}; {len(ready)} of {max(request.replicas, len(current))} pods ready"
            told += f", {len(pods) - len(current)} of before are there" if len(pods) > len(current) else ""
            follower.tell(_diagnose(kube, request, service, current), told)
        if time.monotonic() > deadline:
            raise TimedOut(f"waited {timeout:.0f} s for {_KIND}/{request.namespace}/{request.name}: {follower.last}")
        time.sleep(_PAUSE)


def is_served(pods: Manifests, request: ServeRequest, *, changed: bool) -> bool:
    """Whether enough of the predictor's pods serve as asked for. Pure.

    After a change there must be no others: the service says Ready of the pods of before, too, until KServe has taken it up.
    """
    ready = [pod for pod in pods if serves(pod, request) and is_ready(pod)]
    return len(ready) >= request.replicas and (not changed or len(ready) == len(pods))


def pods_of(kube: Kube, request: ServeRequest) -> Manifests:
    """The predictor's pods that live and are not going."""
    selector = f"serving.kserve.io/inferenceservice={request.name},component=predictor"
    return [pod for pod in kube.list("Pod", request.namespace, label_selector=selector) if lives(pod)]


def lives(pod: Manifest) -> bool:
    """Whether the pod is not going, and did not end: one that was evicted is only remembered. Pure."""
    return not pod["metadata"].get("deletionTimestamp") and (pod.get("status") or {}).get("phase") not in {"Succeeded", "Failed"}


def _diagnose(kube: Kube, request: ServeRequest, service: Manifest, pods: Iterable[Manifest]) -> Diagnosis | None:
    if found := diagnose_service(service):
        return found
    unready = [pod for pod in pods if not is_ready(pod)]
    for pod in unready:
        if found := diagnose_crash(pod) or explain_pod(kube, pod):
            return found
    return None if unready else diagnose_job(_creation_events(kube, request))


def _creation_events(kube: Kube, request: ServeRequest) -> Manifests:
    try:
        events = kube.list("Event", request.namespace, field_selector="reason=FailedCreate")
    except ClusterRefused:  # events are a courtesy
        return []
    return diagnose_creation(events, f"{request.name}-predictor")


@dataclass
class _Follower:
    """Tells what is new, and gives up on what a person must remove."""

    on_note: OnNote
    last: str = ""
    course: Course = field(default_factory=Course)

    def tell(self, diagnosis: Diagnosis | None, progress: str) -> None:
        """Tell the diagnosis, or else the progress."""
        text = f"{diagnosis}" if diagnosis else progress
        if text != self.last:
            self.on_note(text)
            self.last = text
        self.course.see(diagnosis)
        if diagnosis and diagnosis.permanent and self.course.seconds >= _PATIENCE_SECONDS:
            raise ServingFailed(f"the service does not come up: {diagnosis}")
