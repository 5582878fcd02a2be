"""What is told while a loader's Job goes on: its progress, and why it does not get on."""

from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

from modelyard.errors import ClusterRefused, ClusterUnavailable, LoaderFailed
from modelyard.kube.client import Kube, Manifests
from modelyard.kube.diagnosis import Course, Diagnosis
from modelyard.kube.explain import explain_claim, explain_job, explain_pod
from modelyard.kube.loader_report import newest_pod, progress_in, retries_in
from modelyard.kube.resources import Manifest, ObjectRef
from modelyard.orders import Progress

#: Beside progress, once a second, they may hold what sixteen transfers try again.
_LOG_LINES = 100
OnProgress: TypeAlias = Callable[[Progress], None]
OnNote: TypeAlias = Callable[[str], None]


class Stuck(LoaderFailed):
    """A reason that only a person can remove keeps the loader from starting; one in a hurry gives up for any."""


class Follower:
    """Looks at a Job's newest pod at each tick, and tells what is new.

    Following is a courtesy: an API server that is away for a moment, or a log that may not be read, ends no load.
    """

    def __init__(
        self, kube: Kube, ref: ObjectRef, on_progress: OnProgress, on_note: OnNote, patience: float, *, hurried: bool = False
    ) -> None:
        self._kube = kube
        self._ref = ref
        self._on_progress = on_progress
        self._on_note = on_note
        self._patience = patience
        self._hurried = hurried
        self.progress: Progress | None = None
        self._course = Course()
        self._may_read_log = True
        self._retries = set[str]()

    def tick(self, job: Manifest) -> None:
        """Tell what changed.

        Raises:
            Stuck: a permanent diagnosis (any, for one in a hurry) has not changed for as long as we have patience.
        """
        with suppress(ClusterUnavailable):
            pod = newest_pod(pods_of(self._kube, job))
            self._diagnose(_hindrance(self._kube, job, pod))
            if pod and _phase(pod) == "Running":
                self._read_progress(pod)

    def _diagnose(self, diagnosis: Diagnosis | None) -> None:
        if self._course.see(diagnosis):
            self._on_note(f"{self._ref}: {diagnosis}")
        if diagnosis and (diagnosis.permanent or self._hurried) and self._course.seconds >= self._patience:
            raise Stuck(f"{self._ref} does not start: {diagnosis}")

    def _read_progress(self, pod: Manifest) -> None:
        if not self._may_read_log:
            return
        try:
            log = tail_of(self._kube, pod)
        except ClusterRefused as error:
            self._may_read_log = False
            self._on_note(f"{self._ref}: its progress cannot be read: {error}")
            return
        progress = progress_in(log)
        if progress and progress != self.progress:
            self.progress = progress
            self._on_progress(progress)
        for retry in retries_in(log):
            if retry not in self._retries:
                self._retries.add(retry)
                self._on_note(f"{self._ref}: {retry}")


def _hindrance(kube: Kube, job: Manifest, pod: Manifest | None) -> Diagnosis | None:
    """Why no pod runs now; None while one does."""
    if pod is None:
        return explain_job(kube, job)
    if _phase(pod) != "Pending":
        return explain_pod(kube, pod) if _phase(pod) == "Failed" else None
    return _unbound_claim(kube, pod) or explain_pod(kube, pod)


def _unbound_claim(kube: Kube, pod: Manifest) -> Diagnosis | None:
    """The first claim of the pod that is not bound: the scheduler's own words say less."""
    for volume in pod["spec"].get("volumes", []):
        name = volume.get("persistentVolumeClaim", {}).get("claimName")
        claim = kube.get("PersistentVolumeClaim", name, pod["metadata"]["namespace"]) if name else None
        if claim and _phase(claim) != "Bound":
            return explain_claim(kube, claim)
    return None


def _phase(live: Manifest) -> str:
    return str((live.get("status") or {}).get("phase"))


def pods_of(kube: Kube, job: Manifest) -> Manifests:
    """The pods that this very Job made."""
    metadata = job["metadata"]
    return kube.list("Pod", metadata["namespace"], label_selector=f"batch.kubernetes.io/controller-uid={metadata['uid']}")


def tail_of(kube: Kube, pod: Manifest) -> str:
    """The last lines of the pod's log."""
    return kube.pod_log(pod["metadata"]["name"], pod["metadata"]["namespace"], tail_lines=_LOG_LINES)


def log_of(kube: Kube, pod: Manifest) -> str:
    """The pod's log from its first line on, as far as the kubelet kept it."""
    return kube.pod_log(pod["metadata"]["name"], pod["metadata"]["namespace"])
