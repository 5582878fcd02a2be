"""The protocol of a load: one Job per claim, model and version, which every run that wants this load shares.

    create suspended -> Secret owned by the Job -> unsuspend -> follow -> read the report -> delete

A run may be killed between any two steps. The next one finds the Job by its name and goes on: it makes the Secret that is
missing, lets the Job go, or follows the one that runs. A finished Job is replaced: its loader checks what is on the volume.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto

from modelyard.caches import CacheSpec
from modelyard.errors import ClusterRefused, LoaderInterrupted, ModelyardError, VersionConflict
from modelyard.kube.apply import apply, is_owned, patiently
from modelyard.kube.client import Kube
from modelyard.kube.failures import AlreadyExists, Changed, NotFound
from modelyard.kube.follow import Follower, OnNote, OnProgress, Stuck, pods_of, tail_of
from modelyard.kube.loader_job import DEADLINE, DIGEST_ANNOTATION, RUN_LABEL, loader_job, loader_secret
from modelyard.kube.loader_report import finished, load_error, load_result, newest_pod
from modelyard.kube.resources import Manifest, ObjectRef, ref_of
from modelyard.kube.wait import Ends, wait_for
from modelyard.models import LoadResult, LoadSpec, Progress
from modelyard.names import label_value, preload_job_name

_REPLACE_SECONDS = 120.0
_CANCEL_TRIES = 5


@dataclass(frozen=True, slots=True)
class JobHandle:
    """One Job, this very one: another of the same name has another uid."""

    namespace: str
    name: str
    uid: str
    adopted: bool

    @property
    def ref(self) -> ObjectRef:
        """The Job by name."""
        return ObjectRef("Job", self.name, self.namespace)


class Relation(Enum):
    """What a Job that has our name is to the one that we want."""

    FOREIGN = auto()
    LEAVING = auto()
    FINISHED = auto()
    ABANDONED = auto()  # of other content, and never started
    OTHER_CONTENT = auto()
    SAME = auto()


def relation(live: Manifest, wanted: Manifest) -> Relation:
    """What ``live`` is to ``wanted``. Pure."""
    if not is_owned(live):
        return Relation.FOREIGN
    if live["metadata"].get("deletionTimestamp"):
        return Relation.LEAVING
    if finished(live):
        return Relation.FINISHED
    if _mark(live, DIGEST_ANNOTATION) == _mark(wanted, DIGEST_ANNOTATION):
        return Relation.SAME
    never_started = live["spec"].get("suspend") and not (live.get("status") or {}).get("startTime")
    return Relation.ABANDONED if never_started else Relation.OTHER_CONTENT


def ensure_job(
    kube: Kube, spec: LoadSpec, cache: CacheSpec, secret_data: Mapping[str, str], run_id: str, *, deadline: timedelta = DEADLINE
) -> JobHandle:
    """A Job that loads ``spec``, started: a new one, or the one that another run made for the same content.

    Raises:
        VersionConflict: a load of this version with other content is running.
    """
    name = preload_job_name(cache.claim, spec.model.name, spec.model.version)
    wanted = loader_job(spec, cache, run_id=run_id, secret_name=name if secret_data else None, deadline=deadline)
    job, adopted = _create_or_adopt(kube, wanted)
    if secret_data:
        apply(kube, loader_secret(job, secret_data))
    if job["spec"].get("suspend"):
        _start(kube, job)
    return JobHandle(cache.namespace, name, job["metadata"]["uid"], adopted)


def _create_or_adopt(kube: Kube, wanted: Manifest) -> tuple[Manifest, bool]:
    limit = time.monotonic() + _REPLACE_SECONDS
    while time.monotonic() < limit:
        with suppress(AlreadyExists):
            return kube.create(wanted), False
        ref = ref_of(wanted)
        live = kube.get("Job", ref.name, ref.namespace)
        if live and (adopted := _take_over(kube, live, wanted)):
            return adopted, True
        time.sleep(0.5)
    raise LoaderInterrupted(f"{ref_of(wanted)}: an earlier Job of this name is still not gone after {_REPLACE_SECONDS:.0f} s")


def _take_over(kube: Kube, live: Manifest, wanted: Manifest) -> Manifest | None:
    """``live`` as this run's own; None where it has to go first."""
    match relation(live, wanted):
        case Relation.FOREIGN:
            raise ClusterRefused(f"{ref_of(live)} was not made by Modelyard and has the name that this load needs; delete or rename it")
        case Relation.OTHER_CONTENT:
            raise _conflict(live, wanted)
        case Relation.FINISHED | Relation.ABANDONED:
            _delete(kube, live)
            return None
        case Relation.LEAVING:
            return None
        case Relation.SAME:
            return _adopt(kube, live, wanted)


def _conflict(live: Manifest, wanted: Manifest) -> VersionConflict:
    ref, run = ref_of(live), _mark(live, RUN_LABEL)
    theirs, ours = _mark(live, DIGEST_ANNOTATION), _mark(wanted, DIGEST_ANNOTATION)
    return VersionConflict(
        f"{ref} is loading this version with other content: its listing is {theirs}, this plan's is {ours};"
        f" wait for it, or stop it: cancel flow run {run}, or `kubectl -n {ref.namespace} delete job {ref.name}`"
    )


def _delete(kube: Kube, live: Manifest) -> None:
    ref = ref_of(live)
    with suppress(Changed):
        kube.delete("Job", ref.name, ref.namespace, propagation="Foreground", uid=live["metadata"]["uid"])


def _adopt(kube: Kube, live: Manifest, wanted: Manifest) -> Manifest | None:
    ref, marks = ref_of(live), wanted["metadata"]
    metadata = {
        "uid": live["metadata"]["uid"],
        "labels": {RUN_LABEL: marks["labels"][RUN_LABEL]},
        "annotations": {RUN_LABEL: marks["annotations"][RUN_LABEL]},
    }
    with suppress(NotFound, Changed):
        return kube.patch_merge("Job", ref.name, ref.namespace, {"metadata": metadata})
    return None


def _start(kube: Kube, job: Manifest) -> None:
    ref = ref_of(job)
    try:
        kube.patch_merge("Job", ref.name, ref.namespace, {"metadata": {"uid": job["metadata"]["uid"]}, "spec": {"suspend": False}})
    except (NotFound, Changed) as error:
        raise LoaderInterrupted(f"{ref} was deleted before it was started: {error}") from error


def wait_for_job(
    kube: Kube,
    handle: JobHandle,
    on_progress: OnProgress,
    timeout: float,
    *,
    on_note: OnNote = lambda _: None,
    patience: float = 60.0,
) -> LoadResult:
    """Follow the Job to its end and give what its loader reported; ``on_note`` hears why it does not get on, once a reason.

    Raises:
        LoaderInterrupted: it was deleted, or stopped from outside more often than it is allowed.
        LoaderFailed: its limit is over, or a reason that only a person can remove held for ``patience`` seconds: then it is deleted.
        TimedOut: ``timeout`` is over; the Job goes on, and another run adopts it.
        ModelyardError: what the loader reported.
    """
    follower = Follower(kube, handle.ref, on_progress, on_note, patience)
    ends = Ends(done=lambda job: job if finished(job) else None, failed=_replaced(handle), deleted=lambda: _deleted(handle))
    try:
        job = wait_for(kube, handle.ref, ends, timeout, on_tick=follower.tick)
    except Stuck:
        remove_job(kube, handle)  # its loader never ran, and a Job left behind would be adopted with its fault
        raise
    return _report(kube, job, follower.progress)


def _replaced(handle: JobHandle) -> Callable[[Manifest], ModelyardError | None]:
    def check(job: Manifest) -> ModelyardError | None:
        return None if job["metadata"]["uid"] == handle.uid else _deleted(handle)

    return check


def _deleted(handle: JobHandle) -> LoaderInterrupted:
    return LoaderInterrupted(f"{handle.ref} was deleted while it ran; what it fetched is kept, run again to go on")


def _report(kube: Kube, job: Manifest, seen: Progress | None) -> LoadResult:
    pods = patiently(lambda: pods_of(kube, job))
    if (finished(job) or {}).get("type") == "Complete":
        return load_result(job, pods)
    pod = newest_pod(pods)
    raise load_error(job, pods, patiently(lambda: tail_of(kube, pod)) if pod else "", seen)


def remove_job(kube: Kube, handle: JobHandle) -> None:
    """Delete the Job, and with it its pods and its Secret. Another Job of this name stays."""
    with suppress(Changed):
        patiently(lambda: kube.delete("Job", handle.name, handle.namespace, uid=handle.uid))


def end_jobs_of_run(kube: Kube, namespace: str, run_id: str) -> tuple[str, ...]:
    """Delete the loader Jobs that belong to a flow run, for its cancellation; gives their names. Jobs that others adopted stay."""
    mine = patiently(lambda: kube.list("Job", namespace, label_selector=f"{RUN_LABEL}={label_value(run_id)}"))
    return tuple(job["metadata"]["name"] for job in mine if _end(kube, job, run_id))


def _end(kube: Kube, job: Manifest | None, run_id: str) -> bool:
    """Delete ``job`` if it is still this run's: the version precondition holds off a run that adopts it meanwhile."""
    for _ in range(_CANCEL_TRIES):
        if job is None or _mark(job, RUN_LABEL) != run_id:
            return False
        ref, version = ref_of(job), job["metadata"]["resourceVersion"]
        with suppress(Changed):
            return kube.delete("Job", ref.name, ref.namespace, uid=job["metadata"]["uid"], resource_version=version)
        job = kube.get("Job", ref.name, ref.namespace)
    return False


def _mark(job: Manifest, key: str) -> str | None:
    value: str | None = (job["metadata"].get("annotations") or {}).get(key)
    return value
