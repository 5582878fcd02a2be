"""The protocol of an order: one Job by its name, which every run that wants the same done shares.

    create suspended -> Secret owned by the Job -> unsuspend -> follow -> read the report -> delete

A run may be killed between any two steps. The next one finds the Job by its name and goes on: it makes the Secret that is
missing, lets the Job go, or follows the one that runs. A finished Job is replaced: its loader checks what is on the volume.

A Job of the same content with another pod (image, resources, credentials) is replaced while no container of it began. One
that runs is joined, for its result is the same version; unless it checks less than is wanted: then its end is awaited.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto

from modelyard.caches import CacheSpec
from modelyard.errors import ClusterRefused, LoaderInterrupted, ModelyardError, VersionConflict
from modelyard.kube.apply import apply, is_owned, patiently
from modelyard.kube.client import Kube, Manifests
from modelyard.kube.failures import AlreadyExists, Changed, NotFound
from modelyard.kube.follow import Follower, OnNote, OnProgress, Stuck, log_of, pods_of, tail_of
from modelyard.kube.loader_job import (
    CONTENT_ANNOTATION,
    DEADLINE,
    REREAD_ANNOTATION,
    RUN_LABEL,
    SPEC_ANNOTATION,
    loader_job,
    loader_secret,
)
from modelyard.kube.loader_report import finished, load_error, newest_pod, read_entries, reported_result
from modelyard.kube.resources import Manifest, ObjectRef, ref_of
from modelyard.kube.wait import Ends, wait_for
from modelyard.names import label_value
from modelyard.orders import Order, Progress, Report, Result

_REPLACE_TRIES, _REPLACE_PAUSE = 240, 0.5
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
    ABANDONED = auto()  # of other content or another pod, and never began
    OTHER_CONTENT = auto()
    SAME = auto()
    EQUIVALENT = auto()  # of the same content, by another pod
    WEAKER = auto()  # of the same content, and checks less than is wanted


def relation(live: Manifest, wanted: Manifest, pods: Sequence[Manifest] = ()) -> Relation:
    """What ``live``, which made ``pods``, is to ``wanted``. Pure."""
    if not is_owned(live):
        return Relation.FOREIGN
    if live["metadata"].get("deletionTimestamp"):
        return Relation.LEAVING
    if finished(live):
        return Relation.FINISHED
    if _mark(live, CONTENT_ANNOTATION) != _mark(wanted, CONTENT_ANNOTATION):
        return Relation.ABANDONED if _suspended(live) and not _started(live) else Relation.OTHER_CONTENT
    return Relation.SAME if _same_pod(live, wanted) else _by_another_pod(live, wanted, pods)


def _by_another_pod(live: Manifest, wanted: Manifest, pods: Sequence[Manifest]) -> Relation:
    if _suspended(live) or all((pod.get("status") or {}).get("phase") == "Pending" for pod in pods):
        return Relation.ABANDONED
    return Relation.WEAKER if _reads_again(wanted) and not _reads_again(live) else Relation.EQUIVALENT


def _suspended(job: Manifest) -> bool:
    return bool(job["spec"].get("suspend"))


def _started(job: Manifest) -> bool:
    return bool((job.get("status") or {}).get("startTime"))


def _same_pod(live: Manifest, wanted: Manifest) -> bool:
    return _mark(live, SPEC_ANNOTATION) == _mark(wanted, SPEC_ANNOTATION)


def _reads_again(job: Manifest) -> bool:
    return _mark(job, REREAD_ANNOTATION) == "true"


def ensure_job(
    kube: Kube,
    order: Order,
    cache: CacheSpec,
    secret_data: Mapping[str, str],
    run_id: str,
    *,
    deadline: timedelta = DEADLINE,
    node: str | None = None,
) -> JobHandle:
    """A Job that carries out ``order``, started: a new one, or the one that another run made for the same content.

    Raises:
        VersionConflict: a Job of this name with other content is running.
        TimedOut: one that checks less than is wanted still runs after ``deadline``.
    """
    wanted = loader_job(order, cache, run_id=run_id, secret_keys=secret_data.keys(), deadline=deadline, node=node)
    job, adopted = _create_or_adopt(kube, wanted, deadline)
    if _same_pod(job, wanted):  # another pod has a Secret of its own shape, which is not ours to change under it
        _let_go(kube, job, secret_data)
    return JobHandle(cache.namespace, job["metadata"]["name"], job["metadata"]["uid"], adopted)


def _let_go(kube: Kube, job: Manifest, secret_data: Mapping[str, str]) -> None:
    """Give the Job its Secret, owned by this very Job, and start it if it has not been."""
    if secret_data:
        apply(kube, loader_secret(job, secret_data))
    if _suspended(job):
        _start(kube, job)


def _create_or_adopt(kube: Kube, wanted: Manifest, deadline: timedelta) -> tuple[Manifest, bool]:
    ref = ref_of(wanted)
    for _ in range(_REPLACE_TRIES):
        with suppress(AlreadyExists):
            return kube.create(wanted), False
        live = kube.get("Job", ref.name, ref.namespace)
        if live and (taken := _take_over(kube, live, wanted, deadline)):
            return taken, True
        time.sleep(_REPLACE_PAUSE)
    raise LoaderInterrupted(f"{ref}: an earlier Job of this name is still not gone after {_REPLACE_TRIES * _REPLACE_PAUSE:.0f} s")


def _take_over(kube: Kube, live: Manifest, wanted: Manifest, deadline: timedelta) -> Manifest | None:
    """``live`` as this run's own; None where it has to go first."""
    match relation(live, wanted, pods_of(kube, live)):
        case Relation.FOREIGN:
            raise ClusterRefused(f"{ref_of(live)} was not made by Modelyard and has the name that this load needs; delete or rename it")
        case Relation.OTHER_CONTENT:
            raise _conflict(live, wanted)
        case Relation.FINISHED | Relation.ABANDONED:
            _delete(kube, live)
            return None
        case Relation.LEAVING:
            return None
        case Relation.WEAKER:
            _outwait(kube, live, deadline)
            return None
        case Relation.SAME | Relation.EQUIVALENT:
            return _adopt(kube, live, wanted)


def _conflict(live: Manifest, wanted: Manifest) -> VersionConflict:
    ref, run = ref_of(live), _mark(live, RUN_LABEL)
    theirs, ours = _mark(live, CONTENT_ANNOTATION), _mark(wanted, CONTENT_ANNOTATION)
    return VersionConflict(
        f"{ref} is at work on the same with other content: its listing is {theirs}, this plan's is {ours};"
        f" wait for it, or stop it: cancel flow run {run}, or `kubectl -n {ref.namespace} delete job {ref.name}`"
    )


def _delete(kube: Kube, live: Manifest) -> None:
    ref = ref_of(live)
    with suppress(Changed):
        kube.delete("Job", ref.name, ref.namespace, propagation="Foreground", uid=live["metadata"]["uid"])


def _outwait(kube: Kube, live: Manifest, deadline: timedelta) -> None:
    """Wait until ``live`` has ended or is gone: it goes on for the run that made it."""
    ref, uid = ref_of(live), live["metadata"]["uid"]
    over: Ends[bool] = Ends(
        done=lambda job: bool(finished(job)) or job["metadata"]["uid"] != uid or None,
        failed=lambda _: None,
        deleted=lambda: NotFound(f"{ref} is gone"),
    )
    with suppress(NotFound):
        wait_for(kube, ref, over, deadline.total_seconds())


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


def wait_for_job(  # noqa: PLR0913 - what is awaited, who hears of it, and for how long
    kube: Kube,
    handle: JobHandle,
    result: type[Result],
    on_progress: OnProgress,
    timeout: float,
    *,
    on_note: OnNote = lambda _: None,
    patience: float = 60.0,
    hurried: bool = False,
) -> Report[Result]:
    """Follow the Job to its end and give what its loader reported as ``result``; ``on_note`` hears why it does not get on, once a reason.

    Raises:
        LoaderInterrupted: it was deleted, or stopped from outside more often than it is allowed.
        LoaderFailed: its limit is over, or a reason that only a person can remove held for ``patience`` seconds (any reason, if
            ``hurried``): then it is deleted.
        TimedOut: ``timeout`` is over; the Job goes on, and another run adopts it.
        ModelyardError: what the loader reported.
    """
    follower = Follower(kube, handle.ref, on_progress, on_note, patience, hurried=hurried)
    ends = Ends(done=lambda job: job if finished(job) else None, failed=_replaced(handle), deleted=lambda: _deleted(handle))
    try:
        job = wait_for(kube, handle.ref, ends, timeout, on_tick=follower.tick)
    except Stuck:
        remove_job(kube, handle)  # its loader never ran, and a Job left behind would be adopted with its fault
        raise
    return _report(kube, job, result, follower.progress)


def _replaced(handle: JobHandle) -> Callable[[Manifest], ModelyardError | None]:
    def check(job: Manifest) -> ModelyardError | None:
        return None if job["metadata"]["uid"] == handle.uid else _deleted(handle)

    return check


def _deleted(handle: JobHandle) -> LoaderInterrupted:
    return LoaderInterrupted(f"{handle.ref} was deleted while it ran; what it fetched is kept, run again to go on")


def _report(kube: Kube, job: Manifest, result: type[Result], seen: Progress | None) -> Report[Result]:
    pods = patiently(lambda: pods_of(kube, job))
    if (finished(job) or {}).get("type") == "Complete":
        pod, reported = reported_result(job, pods, result)
        return Report(reported, read_entries(pod, reported, lambda: patiently(lambda: log_of(kube, pod))))
    newest = newest_pod(pods)
    raise load_error(job, pods, patiently(lambda: tail_of(kube, newest)) if newest else "", seen)


def remove_job(kube: Kube, handle: JobHandle) -> None:
    """Delete the Job, and with it its pods and its Secret. Another Job of this name stays."""
    with suppress(Changed):
        patiently(lambda: kube.delete("Job", handle.name, handle.namespace, uid=handle.uid))


def end_jobs_of_run(kube: Kube, namespace: str, run_id: str) -> tuple[str, ...]:
    """Delete the loader Jobs that belong to a flow run, for its cancellation; gives their names. Jobs that others adopted stay."""
    return tuple(job["metadata"]["name"] for job in _jobs_of_run(kube, namespace, run_id) if _end(kube, job, run_id))


def end_never_started(kube: Kube, namespace: str, run_id: str) -> tuple[str, ...]:
    """Delete this run's Jobs that it made and never let go, for its crash; gives their names.

    A suspended Job has no deadline and no end, so no TTL removes it. One that runs stays: the next run joins it.
    """
    mine = _jobs_of_run(kube, namespace, run_id)
    return tuple(job["metadata"]["name"] for job in mine if _end(kube, job, run_id, spare=_started))


def _jobs_of_run(kube: Kube, namespace: str, run_id: str) -> Manifests:
    return patiently(lambda: kube.list("Job", namespace, label_selector=f"{RUN_LABEL}={label_value(run_id)}"))


def _end(kube: Kube, job: Manifest | None, run_id: str, spare: Callable[[Manifest], bool] = lambda _: False) -> bool:
    """Delete ``job`` if it is still this run's: the version precondition holds off a run that adopts or starts it meanwhile."""
    for _ in range(_CANCEL_TRIES):
        if job is None or _mark(job, RUN_LABEL) != run_id or spare(job):
            return False
        ref, version = ref_of(job), job["metadata"]["resourceVersion"]
        with suppress(Changed):
            return kube.delete("Job", ref.name, ref.namespace, uid=job["metadata"]["uid"], resource_version=version)
        job = kube.get("Job", ref.name, ref.namespace)
    return False


def _mark(job: Manifest, key: str) -> str | None:
    value: str | None = (job["metadata"].get("annotations") or {}).get(key)
    return value
