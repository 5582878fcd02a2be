"""KServe's controller: where it runs, its configuration, and its restart.

A change notes on the ConfigMap itself, in the same write, that the controller has to be restarted. The note goes only when new pods
are Ready, so a run that was killed in between is finished by the next one, and none restarts a controller twice for one change.
"""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from modelyard.errors import ClusterRefused, ClusterUnavailable, Problem, Refused
from modelyard.kube.apply import patiently
from modelyard.kube.client import Kube, Manifests
from modelyard.kube.explain import explain_pod
from modelyard.kube.failures import Changed
from modelyard.kube.resources import GROUP, Manifest
from modelyard.kube.wait import TimedOut
from modelyard.plans.kserve_config import CONFIG_MAP, SECTION, ConfigAction, ConfigFacts, ConfigPlan

SELECTOR = "control-plane=kserve-controller-manager"
#: Where the controller is by KServe's own manifests, those of Open Data Hub, and those of OpenShift AI.
USUAL = ("kserve", "opendatahub", "redhat-ods-applications")
NOTE = f"{GROUP}/modelcars-before"
RESTART = f"{GROUP}/modelcars-restart"
_PAUSE = 1.0
_TRIES = 5
OnNote = Callable[[str], None]


def find_namespace(kube: Kube, named: str | None = None) -> str:
    """The namespace of KServe's controller: the one that is named, or the only one where it runs.

    An account that may not look everywhere, as ours need not, looks where the controller usually is.

    Raises:
        Refused: it runs nowhere there, or in several.
    """
    if named:
        return _only(_homes(kube, named), f"namespace {named}")
    try:
        return _only(_homes(kube), "the cluster")
    except ClusterRefused as error:
        return _only(_usual_homes(kube, error), " and ".join(USUAL))


def _homes(kube: Kube, namespace: str | None = None) -> set[str]:
    """Where pods of the controller are, of one namespace or of all."""
    pods = patiently(lambda: kube.list("Pod", namespace, label_selector=SELECTOR))
    return {pod["metadata"]["namespace"] for pod in pods}


def _usual_homes(kube: Kube, refusal: ClusterRefused) -> set[str]:
    """As ``_homes``, of the usual namespaces that this account may look into."""
    found, facts = set[str](), []
    for namespace in USUAL:
        try:
            homes = _homes(kube, namespace)
        except ClusterRefused:
            facts.append(f"{namespace} may not be looked into")
        else:
            found |= homes
            facts.append(f"{namespace} has no pod with the label {SELECTOR}")
    if not found:
        what = f"is not found: not all namespaces may be looked through ({refusal}); {'; '.join(facts)}"
        step = "give its namespace, and the account the rights there (deployments/kubernetes/enable-modelcars)"
        raise Refused([Problem("controller of KServe", what, step)]) from refusal
    return found


def _only(found: set[str], where: str) -> str:
    if not found:
        step = "install KServe, scale its controller up, or name the namespace that it runs in"
        raise Refused([Problem(where, f"has no pod with the label {SELECTOR}", step)])
    if len(found) > 1:
        what = f"has controllers of KServe in {', '.join(sorted(found))}"
        raise Refused([Problem(where, what, "name the one that is meant (namespace)")])
    return min(found)


def read_config(kube: Kube, namespace: str) -> ConfigFacts:
    """KServe's settings as they are."""
    return _facts(namespace, patiently(lambda: kube.get("ConfigMap", CONFIG_MAP, namespace)))


def _facts(namespace: str, live: Manifest | None) -> ConfigFacts:
    if live is None:
        return ConfigFacts(namespace, None, exists=False)
    annotations = live["metadata"].get("annotations") or {}
    marks = {**(live["metadata"].get("labels") or {}), **annotations}
    return ConfigFacts(namespace, (live.get("data") or {}).get(SECTION), annotations.get(NOTE), RESTART in annotations, marks)


def write_config(kube: Kube, namespace: str, planned: Callable[[ConfigFacts], ConfigPlan]) -> ConfigPlan:
    """Make the change that ``planned`` makes of the live settings, guarded by their version: who writes meanwhile is read again.

    Raises:
        Refused: the plan holds problems.
        Changed: others write all the time.
    """
    for last in (*[False] * (_TRIES - 1), True):
        live = patiently(lambda: kube.get("ConfigMap", CONFIG_MAP, namespace))
        plan = planned(_facts(namespace, live)).approved()
        if plan.action is not ConfigAction.CHANGE or live is None:
            return plan
        note = plan.noted.model_dump_json() if plan.noted else None
        restart = {} if not plan.changes else {RESTART: "{}"}
        metadata = {"resourceVersion": live["metadata"]["resourceVersion"], "annotations": {NOTE: note, **restart}}
        try:
            kube.patch_merge("ConfigMap", CONFIG_MAP, namespace, {"metadata": metadata, "data": {SECTION: plan.text}})
        except Changed:
            if last:
                raise
        else:
            return plan
    raise AssertionError  # the last round returns or raises


def restart_controller(kube: Kube, namespace: str, timeout: float, on_note: OnNote) -> tuple[str, ...]:
    """Delete the controller's pods if a change asks for it, and wait until there are new ones alone, all Ready; the names of the deleted.

    Raises:
        TimedOut: the new pods are not Ready; the message says what is known of them. The next run goes on.
    """
    old = _noted_pods(kube, namespace)
    if old is None:
        return ()
    for uid, name in old.items():
        with suppress(Changed):  # a new pod of that name (a StatefulSet's)
            patiently(lambda name=name, uid=uid: kube.delete("Pod", name, namespace, uid=uid))  # type: ignore[misc]  # bound now
    _wait_ready(kube, namespace, old, timeout, on_note)
    _mark(kube, namespace, lambda text: None if text is None or _read(text) == old else text)
    return tuple(sorted(old.values()))


def _noted_pods(kube: Kube, namespace: str) -> dict[str, str] | None:
    """The pods that have to go, name by uid: noted by the first run that comes this far; None if no restart is due."""

    def noted(text: str | None) -> str | None:
        if text is None or _read(text):
            return text
        return json.dumps(to_restart(_pods(kube, namespace)))

    text = _mark(kube, namespace, noted)
    return None if text is None else _read(text)


def _mark(kube: Kube, namespace: str, marked: Callable[[str | None], str | None]) -> str | None:
    """Make the restart's note what ``marked`` makes of it, and give that. Guarded: another run may owe a restart of its own meanwhile."""
    for last in (*[False] * (_TRIES - 1), True):
        live = patiently(lambda: kube.get("ConfigMap", CONFIG_MAP, namespace)) or {"metadata": {}}
        text = (live["metadata"].get("annotations") or {}).get(RESTART)
        wanted = marked(text)
        if wanted == text:
            return text
        metadata = {"resourceVersion": live["metadata"]["resourceVersion"], "annotations": {RESTART: wanted}}
        try:
            patiently(lambda metadata=metadata: kube.patch_merge("ConfigMap", CONFIG_MAP, namespace, {"metadata": metadata}))  # type: ignore[misc]  # bound now
        except Changed:
            if last:
                raise
        else:
            return wanted
    raise AssertionError  # the last round returns or raises


def _read(text: str) -> dict[str, str]:
    try:
        noted: Any = json.loads(text)
    except ValueError:
        return {}
    return {str(uid): str(name) for uid, name in noted.items()} if isinstance(noted, dict) else {}


def _wait_ready(kube: Kube, namespace: str, old: dict[str, str], timeout: float, on_note: OnNote) -> None:
    deadline, told = time.monotonic() + timeout, ""
    while True:
        seen = "the API server does not answer"
        with suppress(ClusterUnavailable):
            pods = _pods(kube, namespace)
            if is_restarted(pods, old):
                return
            new = [pod for pod in pods if _is_new(pod, old)]
            seen = "; ".join(filter(None, (_told(kube, pod) for pod in new))) or f"{len(pods) - len(new)} old pods, {len(new)} new ones"
        if seen != told:
            on_note(f"controller of KServe in namespace {namespace}: {seen}")
            told = seen
        if time.monotonic() > deadline:
            raise TimedOut(f"waited {timeout:.0f} s for the controller of KServe in namespace {namespace}: {seen}")
        time.sleep(_PAUSE)


def to_restart(pods: Manifests) -> dict[str, str]:
    """Of the controller's pods those to be deleted, name by uid; one that is going needs no help. Pure."""
    return {pod["metadata"]["uid"]: pod["metadata"]["name"] for pod in pods if not pod["metadata"].get("deletionTimestamp")}


def is_restarted(pods: Manifests, old: Mapping[str, str]) -> bool:
    """Whether new pods alone are there, all Ready. How many is the Deployment's to say: there were more during a rollout. Pure."""
    return bool(pods) and all(_is_new(pod, old) and is_ready(pod) for pod in pods)


def _is_new(pod: Manifest, old: Mapping[str, str]) -> bool:
    return pod["metadata"]["uid"] not in old and not pod["metadata"].get("deletionTimestamp")


def _told(kube: Kube, pod: Manifest) -> str:
    if is_ready(pod):
        return ""
    diagnosis = explain_pod(kube, pod)
    return f"{pod['metadata']['name']}: {diagnosis or 'is starting'}"


def is_ready(pod: Manifest) -> bool:
    """Whether the kubelet says that the pod is Ready."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _pods(kube: Kube, namespace: str) -> Manifests:
    """The controller's pods that live; those that ended are only remembered."""
    pods = patiently(lambda: kube.list("Pod", namespace, label_selector=SELECTOR))
    return [pod for pod in pods if (pod.get("status") or {}).get("phase") not in {"Succeeded", "Failed"}]
